"""What is in the packages, before anything is installed: places, modes, dependencies; the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.packaging.conftest import build
from tests.packaging.deb_host import NEXT, NOW

UNITS = Path(__file__).parents[2] / "packaging/systemd"
PLACES = re.compile(
    r"\./(etc/calico|usr/(bin|sbin|lib/(calico|cni|systemd/system|sysusers\.d|tmpfiles\.d)|share/doc))/"
)
"""Where files may be, by the standard of Linux's file hierarchy."""
PROGRAMS = ("./usr/lib/calico/bin/", "./usr/lib/calico/cni/")
NAMES = {"calico", "calico-bird", "calico-cni", "calico-common", "calico-felix", "calico-libnetwork", "calicoctl"}
SECRET = ("./etc/calico/calico.env",)
"""It may hold etcd's password."""
OF_DCOS = {"dcos-calico", "dcos-calico-bird"}
"""Programs that only its package has."""
OF_LIBRARY = re.compile(r"^([a-z0-9.+-]+):amd64: ", re.MULTILINE)


class Deb(NamedTuple):
    """A package's control file, the other control files by name, and its files."""

    control: str
    scripts: dict[str, str]
    files: list[tarfile.TarInfo]


def tar(path: Path, kind: str) -> bytes:
    return subprocess.check_output(["dpkg-deb", f"--{kind}-tarfile", str(path)])


def read(path: Path) -> Deb:
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(tar(path, "ctrl"))) as members:
        for one in members:
            file = members.extractfile(one)
            if file is not None:
                texts[Path(one.name).name] = file.read().decode()
    with tarfile.open(fileobj=io.BytesIO(tar(path, "fsys"))) as members:
        return Deb(texts.pop("control"), texts, members.getmembers())


@pytest.fixture(scope="module")
def contents(debs: Mapping[str, Path]) -> dict[str, Deb]:
    return {path.name.partition("_")[0]: read(path) for path in sorted(debs[NOW].glob("*.deb"))}


def test_files_are_in_their_places_with_their_modes(contents: dict[str, Deb]) -> None:
    assert set(contents) == NAMES
    for name, deb in contents.items():
        for one in deb.files:
            assert ((one.uid, one.gid) == (0, 0) and one.mode & 0o7022 == 0) or one.issym(), f"{name}: {one.name}"
            assert one.isdir() or PLACES.match(one.name), f"{name}: {one.name}"
            is_program = one.isfile() and one.name.startswith(PROGRAMS)
            usual = 0o755 if one.isdir() or is_program else 0o640 if one.name in SECRET else 0o644
            assert one.issym() or one.mode == usual, f"{name}: {one.name}"
        assert any(one.name == f"./usr/share/doc/{name}/copyright" for one in deb.files)


def test_no_file_is_in_two_packages(contents: dict[str, Deb]) -> None:
    paths = [one.name for deb in contents.values() for one in deb.files if not one.isdir()]
    assert len(paths) == len(set(paths)) > 1000


def test_every_program_of_the_runtime_is_in_a_package(contents: dict[str, Deb], runtime: Path) -> None:
    programs = {line.split()[0] for line in (runtime / "programs.txt").read_text().splitlines()}
    links = {Path(one.name).name for deb in contents.values() for one in deb.files if one.issym()}
    assert programs - OF_DCOS == links - {"calico", "calico-ipam"}


def test_every_unit_is_in_a_package(contents: dict[str, Deb]) -> None:
    shipped = {Path(one.name).name for deb in contents.values() for one in deb.files if one.name.endswith(".service")}
    assert shipped == {path.name for path in UNITS.glob("*.service")}


def test_files_that_people_change_are_conffiles(contents: dict[str, Deb]) -> None:
    for deb in contents.values():
        in_etc = {one.name.removeprefix(".") for one in deb.files if one.name.startswith("./etc/") and one.isfile()}
        assert in_etc == set(deb.scripts.get("conffiles", "").split())
    assert "/etc/calico/calico.env" in contents["calico-common"].scripts["conffiles"]


def test_packages_need_what_their_programs_load(contents: dict[str, Deb], runtime: Path) -> None:
    control = contents["calico-common"].control
    names = (runtime / "host-libraries.txt").read_text().split()
    found = subprocess.run(
        ["dpkg", "-S", *(f"*/{name}" for name in names)], capture_output=True, text=True, check=False
    )
    direct = set(OF_LIBRARY.findall(found.stdout)) - {
        "libgmp10",
        "libjansson4",
        "libmnl0",
        "libnftnl11",
        "libxtables12",
    }
    assert direct and [one for one in sorted(direct) if f" {one}," not in control and f" {one} (" not in control] == []
    for name in NAMES - {"calico-common", "calico"}:
        assert f"calico-common (= {NOW})" in contents[name].control


def test_scripts_name_only_units_that_the_package_has(contents: dict[str, Deb]) -> None:
    for name, deb in contents.items():
        for kind in ("postinst", "prerm", "postrm"):
            text = deb.scripts.get(kind, "")
            assert "@" not in text
            for unit in re.findall(r"\bcalico-[a-z]+\.service", text):
                assert any(one.name.endswith(f"/{unit}") for one in deb.files), f"{name}: {unit}"
            done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
            assert done.stderr == ""


def test_equal_sources_give_equal_bytes(debs: Mapping[str, Path], runtime: Path, tmp_path: Path) -> None:
    build("calico_debian", "--out", str(tmp_path), "--version", NEXT, "--runtime", str(runtime))
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.deb")}
        for folder in (debs[NEXT], tmp_path)
    ]
    assert digests[0] == digests[1]


def test_a_version_that_dpkg_would_refuse_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        build("calico_debian", "--out", str(tmp_path), "--version", "next one")
    assert list(tmp_path.iterdir()) == []

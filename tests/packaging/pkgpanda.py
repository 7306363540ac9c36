"""A stand-in for DC/OS's pkgpanda (spec/dcos.md 15): lays packages down in a root, for one role, as it does.

    from tests.packaging import dcos_package, pkgpanda
    pkgpanda.activate(root, "slave", [dcos_package.archive()])

Every package goes to /opt/mesosphere/packages/<id>, active/<name> points there, files of its bin, etc, include and lib
(and <dir>_<role>) are linked below /opt/mesosphere, units are copied to /etc/systemd/system and linked from
dcos.target.wants."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROLES = ("master", "slave", "slave_public")
LINKED = ("bin", "etc", "include", "lib")
BASE = "/opt/mesosphere"
UNITS = "etc/systemd/system"
ENVIRONMENT = {
    "LD_LIBRARY_PATH": "/opt/mesosphere/lib",
    "PATH": "/opt/mesosphere/bin:/usr/bin:/bin:/sbin",
    "PYTHONPATH": "/opt/mesosphere/lib/python3.6/site-packages",
    "PYTHONUNBUFFERED": "true",
    "MESOS_IP_DISCOVERY_COMMAND": "/opt/mesosphere/bin/detect_ip",
    "PROVIDER": "onprem",
}
"""What a 2.x node's /opt/mesosphere/environment has (spec/dcos.md 1.1)."""
PKGINFO_KEYS = {"environment", "state_directory", "requires", "username", "group", "sysctl"}


class Conflict(Exception):
    """Two packages deliver one file."""


def activate(root: Path, role: str, archives: Sequence[Path]) -> list[Path]:
    """Lay the packages down for a host of this role; returns their folders below `root`."""
    assert role in ROLES
    (root / "etc/mesosphere/roles").mkdir(parents=True, exist_ok=True)
    (root / "etc/mesosphere/roles" / role).touch()
    folders = [_unpack(root, archive) for archive in archives]
    environment = dict(ENVIRONMENT)
    for folder in folders:
        environment |= link(root, role, folder)
    lines = "".join(f"{name}={value}\n" for name, value in environment.items())
    (root / "opt/mesosphere/environment").write_text(lines)
    return folders


def _unpack(root: Path, archive: Path) -> Path:
    name = archive.name.removesuffix(".tar.xz")
    assert name.count("--") == 1, f"{name} is no package id"
    folder = root / "opt/mesosphere/packages" / name
    if not folder.exists():
        shutil.copytree(_unpacked(archive), folder, symlinks=True, copy_function=os.link)
    return folder


@cache
def _unpacked(archive: Path) -> Path:
    """An archive's content, unpacked once: hosts have hard links to its files, so none may be changed in place."""
    folder = Path(tempfile.mkdtemp(prefix="pkgpanda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="tar")
    return folder


def link(root: Path, role: str, folder: Path) -> dict[str, str]:
    """Link one package, whose tree at `folder` is below /opt/mesosphere/packages in `root` too; returns what it adds to
    the environment."""
    info = json.loads((folder / "pkginfo.json").read_text())
    assert set(info) <= PKGINFO_KEYS
    inside = f"{BASE}/packages/{folder.name}"
    active = root / "opt/mesosphere/active" / folder.name.partition("--")[0]
    active.parent.mkdir(parents=True, exist_ok=True)
    active.unlink(missing_ok=True)
    active.symlink_to(inside)
    for name in LINKED:
        for source in (name, f"{name}_{role}"):
            _link_files(folder / source, f"{inside}/{source}", root / "opt/mesosphere" / name)
    for source in ("dcos.target.wants", f"dcos.target.wants_{role}"):
        for unit in sorted((folder / source).glob("*")) if (folder / source).is_dir() else ():
            _add_unit(root, unit)
    return dict(info["environment"])


def _link_files(folder: Path, inside: str, to: Path) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        link = to / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(link):
            raise Conflict(f"{link.relative_to(to.parent)} is in two packages: {os.readlink(link)}, {inside}")
        link.symlink_to(f"{inside}/{path.relative_to(folder)}")


def _add_unit(root: Path, unit: Path) -> None:
    to = root / UNITS / unit.name
    wants = root / UNITS / "dcos.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    if to.exists():
        raise Conflict(f"the unit {unit.name} is in two packages")
    shutil.copyfile(unit, to)
    (wants / unit.name).symlink_to(f"/{UNITS}/{unit.name}")

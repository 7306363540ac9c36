"""A folder for each package, laid out as on the host, and nfpm's call. Equal sources, equal bytes."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from calico_debian.parts import COMMON, LEFT_OUT, PARTS, PREFIX, SITE, Part
from calico_runtime import tree
from calico_runtime.commands import BUILD_ENVIRONMENT, BuildError, run, say

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
EPOCH = int(BUILD_ENVIRONMENT["SOURCE_DATE_EPOCH"])
VERSION = re.compile(r"^__version__ = \"([0-9][0-9.]*)\"", re.MULTILINE)
A_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]*")
SCRIPTS = ("postinst", "prerm", "postrm")


def own_version() -> str:
    """The version of the sources."""
    found = VERSION.search((ROOT / "libcalico/libcalico/__init__.py").read_text())
    if not found:
        raise BuildError("libcalico/libcalico/__init__.py names no __version__")
    return found[1]


def build(out: Path, version: str, runtime: Path | None) -> list[Path]:
    """The packages, in `out`. Without a `runtime` one is built. Raises `BuildError`."""
    if not A_VERSION.fullmatch(version):
        raise BuildError(f"--version {version!r}: begin with a digit, go on with letters, digits, '.', '+', '~'")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="calico-debian-") as folder:
        work = Path(folder)
        if runtime is None:
            runtime = work / "runtime"
            tree.build(tree.Plan(runtime, f"/{PREFIX}", with_libc=False))
        lay_out(runtime, work)
        return [_pack(name, work, out, version) for name in PARTS]


def lay_out(runtime: Path, work: Path) -> None:
    """The packages' folders, `etc` and `scripts` in `work`."""
    taken: set[Path] = set()
    for name, part in PARTS.items():
        if name != COMMON:
            taken |= _copy(runtime, list(_of_part(runtime, part)), work / name)
    rest = [path for path in _files(runtime) if path not in taken and not _is_left_out(path.relative_to(runtime))]
    _copy(runtime, rest, work / COMMON)
    for name, part in PARTS.items():
        _add(work / name, part)
        _file(HERE / "copyright", work / name / f"usr/share/doc/{name}/copyright")
    for kind in ("sysusers", "tmpfiles"):
        _file(ROOT / f"packaging/systemd/calico.{kind}", work / COMMON / f"usr/lib/{kind}.d/calico.conf")
    for path in (ROOT / "packaging/systemd/etc").glob("*.env"):
        _file(path, work / "etc" / path.name)
    _write_scripts(work / "scripts")
    for folder, _, files in os.walk(work, topdown=False):
        for one in (*(Path(folder, file) for file in files), Path(folder)):
            os.utime(one, (EPOCH, EPOCH), follow_symlinks=False)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _of_part(runtime: Path, part: Part) -> Iterator[Path]:
    places = [runtime / folder for folder in part.folders]
    for pattern in part.modules:
        found = sorted((runtime / SITE).glob(pattern))
        if not found:
            raise BuildError(f"the runtime has no {pattern} in {SITE}: mend calico_debian/parts.py")
        places += found
    for place in places:
        yield from _files(place) if place.is_dir() else (place,)


def _is_left_out(path: Path) -> bool:
    return path.is_relative_to(SITE) and any(fnmatchcase(path.relative_to(SITE).parts[0], one) for one in LEFT_OUT)


def _copy(runtime: Path, files: list[Path], root: Path) -> set[Path]:
    for path in files:
        _file(path, root / PREFIX / path.relative_to(runtime))
    return set(files)


def _file(source: Path, to: Path) -> None:
    """A copy with the mode that its kind has on a host."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    is_program = source.stat().st_mode & 0o100 and to.parent.name in ("bin", "cni")
    to.chmod(0o755 if is_program else 0o644)


def _add(root: Path, part: Part) -> None:
    for name, target in part.links:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    for source, folder in part.files:
        _file(ROOT / source, root / folder / Path(source).name)


def _write_scripts(folder: Path) -> None:
    """Those of a package with units are made of `service.*`; what is to be purged besides is in `<package>.purge`."""
    folder.mkdir()
    for name, part in PARTS.items():
        for kind in SCRIPTS:
            own, purge = HERE / f"scripts/{name}.{kind}", HERE / f"scripts/{name}.purge"
            if not own.exists() and not part.units:
                continue
            text = (own if own.exists() else HERE / f"scripts/service.{kind}").read_text()
            text = text.replace("@UNITS@", " ".join(part.units)).replace("@RESTARTED@", " ".join(part.restarted))
            if kind == "postrm" and purge.exists():
                text += purge.read_text()
            (folder / f"{name}.{kind}").write_text(text)


def _pack(name: str, work: Path, out: Path, version: str) -> Path:
    say(f"packaging: {name}")
    nfpm = Path(sys.prefix, "bin/nfpm")
    environment = {**BUILD_ENVIRONMENT, "VERSION": version}
    config = str(HERE / f"{name}.yaml")
    architecture = "all" if name == "calico" else "amd64"
    package = out / f"{name}_{version}_{architecture}.deb"
    run(
        [str(nfpm), "package", "-p", "deb", "-f", config, "-t", str(package)], folder=str(work), environment=environment
    )
    return package

"""What compiled files need: the closure of shared libraries, and which Debian package each comes from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from calico_runtime.commands import BuildError, run

FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
LOADER = "ld-linux-x86-64.so.2"
_NEEDED = re.compile(r"\(NEEDED\)[^\[\n]*\[([^\]\n]*)\]")
_MAGIC = b"\x7fELF"


def is_elf(path: Path) -> bool:
    """Is it a compiled program or library?"""
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def needed(path: Path) -> list[str]:
    """Names of the libraries that a compiled file asks the loader for."""
    return _NEEDED.findall(run(["readelf", "-d", str(path)]))


def find(soname: str) -> Path:
    """Where this machine has a library. Raises `BuildError`."""
    for folder in FOLDERS:
        if (path := Path(folder, soname)).exists():
            return path
    raise BuildError(f"the library {soname} is not in {' or '.join(FOLDERS)}: install its package")


def closure(files: Iterable[Path], more: Iterable[str] = ()) -> dict[str, Path]:
    """Every library that the files need, directly or through another, and the loader: {name: this machine's file}."""
    found: dict[str, Path] = {}
    waiting = [LOADER, *more, *(name for path in files for name in needed(path))]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = find(name)
            waiting += needed(found[name])
    return dict(sorted(found.items()))


def debian_packages(paths: Iterable[Path]) -> dict[str, str]:
    """{Debian package: its version} of files of this machine."""
    spellings = [str(spelling) for path in paths for spelling in _spellings(path)]
    listed = run(["sh", "-c", 'dpkg -S "$@" 2>/dev/null || true', "sh", *spellings])
    names = sorted({line.partition(":")[0] for line in listed.splitlines()})
    if not names:
        raise BuildError(
            "dpkg knows none of the files that the package takes from this machine: it has to be Debian 12"
        )
    shown = run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names])
    return dict(sorted(line.split(" ", 1) for line in shown.splitlines()))


def _spellings(path: Path) -> Iterable[Path]:
    """dpkg knows a file by the name that its package gave it: /lib or /usr/lib, a link or what it points to."""
    for one in {path, path.resolve()}:
        text = str(one)
        yield Path(text.removeprefix("/usr"))
        yield Path(text if text.startswith("/usr/") else f"/usr{text}")


def strip(path: Path) -> None:
    """Leave out what only a debugger reads."""
    run(["strip", "--strip-unneeded", "-R", ".comment", str(path)])


def place(patchelf: Path, program: Path, loader: str, libraries: str) -> None:
    """Have a program of Debian's use this loader, and only then the host's libraries."""
    run([str(patchelf), "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, str(program)])


def copy(source: Path, to: Path, mode: int = 0o644) -> None:
    """A file, links followed, with this mode."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    to.chmod(mode)

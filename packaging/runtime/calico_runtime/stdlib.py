"""The standard library of Debian's Python 3.11, without what a service never imports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from calico_runtime import elf
from calico_runtime.commands import PYTHON, run

SOURCE = Path("/usr/lib/python3.11")
LEFT_OUT = {
    "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "venv", "distutils", "pydoc_data", "turtledemo",
    "__pycache__", "dist-packages", "site-packages", "curses", "dbm", "EXTERNALLY-MANAGED", "sitecustomize.py",
    "turtle.py", "antigravity.py", "this.py", "LICENSE.txt", "msilib",
}  # fmt: skip
MODULES = {
    "_asyncio", "_bz2", "_contextvars", "_ctypes", "_decimal", "_hashlib", "_json", "_lsprof", "_lzma",
    "_multibytecodec", "_multiprocessing", "_posixshmem", "_queue", "_sqlite3", "_ssl", "_typing", "_uuid",
    "_zoneinfo", "mmap", "resource", "termios",
}  # fmt: skip
"""Compiled modules that go along; many others are in the interpreter. pyroute2 imports sqlite3."""


def files() -> Iterator[tuple[Path, str]]:
    """Each file to copy, with its name below lib/python3.11."""
    for folder, names, found in os.walk(SOURCE):
        names[:] = sorted(name for name in names if name not in LEFT_OUT and not name.startswith("config-3."))
        for name in sorted(found):
            path = Path(folder, name)
            compiled = path.suffix == ".so"
            if name in LEFT_OUT or path.suffix == ".pyc" or (compiled and name.partition(".")[0] not in MODULES):
                continue
            if path.exists():
                yield path, str(path.relative_to(SOURCE))


def lay_down(library: Path) -> list[Path]:
    """Copy it to `library` (lib/python3.11 of a runtime); returns what was copied from."""
    copied = []
    for path, name in files():
        elf.copy(path, library / name)
        copied.append(path)
    return copied


def compile_all(library: Path, shown_as: str) -> None:
    """A .pyc beside every module, valid for ever (neither time nor source is checked: nobody edits a package), with the
    file names that it will have on the host. A process of its own, files sorted: the same bytes every time."""
    run([PYTHON, "-s", "-S", str(Path(__file__).with_name("compile_modules.py")), str(library), shown_as])

"""`make vectors FILES="a b" [BACKEND=nftables|iptables]`: play vector files, print failures, count.

Closes with `N passed, M failed`, and exits 1 if any case failed or a file has no known format.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

from tests.compat import formats
from tests.compat.contract import Options, Result

HEAD_BYTES = 65536


def format_modules() -> list[ModuleType]:
    """Every module of `tests.compat.formats`, in name order."""
    names = sorted(info.name for info in pkgutil.iter_modules(formats.__path__))
    return [importlib.import_module(f"{formats.__name__}.{name}") for name in names]


def find_format(path: Path) -> ModuleType | None:
    """The first format that claims the file."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((module for module in format_modules() if module.claims(path, head)), None)


def show(path: Path, result: Result) -> None:
    """One line for each case that did not pass."""
    if result.error:
        print(f"FAIL {path.name} {result.name}: {result.error}")
    elif result.skipped:
        print(f"SKIP {path.name} {result.name}: {result.skipped}")


def run(path: Path, options: Options) -> Counter[str]:
    """Play one file; a file that is not there or that nobody claims is one failure."""
    if not path.is_file():
        print(f"FAIL {path}: no such file (docs/design/house.md says where vectors come from)")
        return Counter(failed=1)
    module = find_format(path)
    if module is None:
        print(f"FAIL {path.name}: no format in tests/compat/formats claims this file")
        return Counter(failed=1)
    counts: Counter[str] = Counter()
    for result in module.check(path, options):
        show(path, result)
        counts["failed" if result.error else "skipped" if result.skipped else "passed"] += 1
    return counts


def main(argv: list[str] | None = None) -> int:
    """Command line of the runner."""
    parser = argparse.ArgumentParser(description="play vector files against this tree")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--backend", choices=("nftables", "iptables"), default="nftables")
    parser.add_argument("--only", default="", help="run just the cases whose name contains this text")
    arguments = parser.parse_args(argv)
    options = Options(arguments.backend, arguments.only)
    counts: Counter[str] = Counter()
    for path in arguments.files:
        of_file = run(path, options)
        print(f"{path.name}: {of_file['passed']} passed, {of_file['failed']} failed, {of_file['skipped']} skipped")
        counts += of_file
    if counts["skipped"]:
        print(f"{counts['skipped']} skipped")
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make vectors [FILES="a b"] [BACKEND=nftables|iptables] [MODE=kernel|memory]`: play vector files.

Prints every difference of every case that failed, how many cases were skipped for which reason, and last
`N passed, M failed, K skipped`. Exits 1 if a case failed, or a file is missing, unknown, or has nothing to play.
Without FILES it plays all that `folders` finds.
"""

from __future__ import annotations

import argparse
import importlib
import lzma
import os
import pkgutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from tests.compat import formats
from tests.compat.contract import Options, Result

HEAD_BYTES = 65536
PACKED = Path(__file__).parent / "vectors"
UNPACKED = Path(__file__).parents[2] / "build" / "vectors"


@cache
def folders() -> list[Path]:
    """Where vector files lie: what CALICO_VECTORS names (with colons), else the repository's own, unpacked."""
    named = [Path(name) for name in os.environ.get("CALICO_VECTORS", "").split(os.pathsep) if name]
    return named or [unpacked()]


@cache
def unpacked() -> Path:
    """The folder of the repository's own files, unpacked."""
    for packed in PACKED.rglob("*.xz"):
        target = UNPACKED / packed.relative_to(PACKED).with_suffix("")
        if target.exists() and target.stat().st_mtime >= packed.stat().st_mtime:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_name(f".{target.name}.{os.getpid()}")
        whole.write_bytes(lzma.decompress(packed.read_bytes()))
        whole.replace(target)
    return UNPACKED


def format_modules() -> list[ModuleType]:
    """Every module of `tests.compat.formats`, in name order."""
    names = sorted(info.name for info in pkgutil.iter_modules(formats.__path__))
    return [importlib.import_module(f"{formats.__name__}.{name}") for name in names]


def find_format(path: Path) -> ModuleType | None:
    """The first format that claims the file by its beginning; where none does, by the whole of it."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        rest = file.read()
    for text in (head, head + rest):
        for module in format_modules():
            if module.claims(path, text):
                return module
    return None


@contextmanager
def plain(path: Path) -> Iterator[Path]:
    """The file itself, or what is packed in it, for as long as it is played."""
    if path.suffix != ".xz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, path.stem)
        target.write_bytes(lzma.decompress(path.read_bytes()))
        yield target


def find_files(where: Iterable[Path] | None = None) -> list[Path]:
    """Every vector file below these folders (default: `folders`), in name order, without those that are part of one."""
    found = [path for folder in where or folders() for path in sorted(folder.rglob("[!.]*.json*"))]
    companions: set[Path] = set()
    for module in format_modules():
        if hasattr(module, "companions"):
            for path in found:
                companions |= module.companions(path)
    return [path for path in found if path not in companions]


def play(path: Path, options: Options) -> Iterator[Result]:
    """Every result of a file; a file that cannot be played, or not to its end, is one failure."""
    if not path.is_file():
        yield Result("file", ("no such file (docs/design/vectors.md says where vectors come from)",))
        return
    try:
        with plain(path) as file:
            yield from _play_plain(file, options)
    except Exception:
        yield Result("file", (f"cannot be played to its end: {traceback.format_exc()}",))


def _play_plain(path: Path, options: Options) -> Iterator[Result]:
    module = find_format(path)
    if module is None:
        yield Result("file", ("no format in tests/compat/formats claims this file",))
        return
    count = 0
    for count, result in enumerate(module.check(path, options), 1):  # noqa: B007
        yield result
    if not count and not options.only:
        yield Result("file", ("there is no case in it",))


def run(path: Path, options: Options) -> Counter[str]:
    """Play one file, print what did not pass, and count `passed`, `failed`, `skipped`."""
    counts: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    reasons: Counter[str] = Counter()
    for result in play(path, options):
        if result.differences:
            counts["failed"] += 1
            print(f"FAIL {path.name} {result.name}")
            for text in result.differences:
                print("     " + text.rstrip().replace("\n", "\n       "))
        elif result.skipped:
            counts["skipped"] += 1
            reasons[result.skipped] += 1
        else:
            counts["passed"] += 1
        sys.stdout.flush()
    for reason, number in sorted(reasons.items()):
        print(f"SKIP {path.name}: {number} x {reason}")
    return counts


def summary(counts: Counter[str]) -> str:
    """`N passed, M failed, K skipped`."""
    return ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped"))


def main(argv: list[str] | None = None) -> int:
    """Command line of the runner."""
    parser = argparse.ArgumentParser(description="play vector files against this tree")
    parser.add_argument("files", nargs="*", type=Path, help="default: every file of tests/compat/vectors")
    parser.add_argument("--backend", choices=("nftables", "iptables"), default="nftables")
    parser.add_argument("--mode", choices=("kernel", "memory"), default="kernel", help="where verdicts are played")
    parser.add_argument("--only", default="", help="run just the cases whose name contains this text")
    arguments = parser.parse_args(argv)
    options = Options(arguments.backend, arguments.only, arguments.mode)
    files = arguments.files or find_files()
    total: Counter[str] = Counter()
    for path in files:
        of_file = run(path, options)
        print(f"{path.name}: {summary(of_file)}")
        total += of_file
    if not total["passed"] + total["skipped"] + total["failed"]:
        print(f"FAIL nothing was played: {len(files)} files, only={options.only!r}")
        total["failed"] += 1
    print(summary(total))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

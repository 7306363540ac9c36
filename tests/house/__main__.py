"""Size and style ratchets (docs/design/house.md): a function over 70 lines, a file over 800, or a broad `except`
outside the places that may have one, fails. Numbers may only go down."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("native", "libcalico", "components", "tests")
LONGEST_FUNCTION = 70
LONGEST_FILE = 800
BROAD = ("Exception", "BaseException")
# file -> how many broad excepts it may have: request handlers, tops of tasks and of commands, per-object steps
BROAD_ALLOWED = {
    "components/calicoctl/calicoctl/main.py": 1,
    "libcalico/libcalico/ipam/transaction.py": 1,
    "libcalico/libcalico/model/codec.py": 2,
    "libcalico/libcalico/calc/report.py": 1,
    "libcalico/libcalico/obs/http.py": 1,
    "libcalico/libcalico/cni/finish.py": 1,
    "libcalico/libcalico/cni/handler.py": 1,
}


def sources() -> Iterator[Path]:
    """Every Python file of ours."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")) and "build" not in path.parts:
                yield path


def is_broad(caught: ast.expr | None) -> bool:
    """Does an `except` catch everything, by itself or as one of several?"""
    if isinstance(caught, ast.Tuple):
        return any(is_broad(one) for one in caught.elts)
    return caught is None or getattr(caught, "id", "") in BROAD or getattr(caught, "attr", "") in BROAD


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one file."""
    name = str(path.relative_to(ROOT))
    text = path.read_text()
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{name}: {lines} lines, at most {LONGEST_FILE}"
    broad = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = (node.end_lineno or 0) - node.lineno + 1 - (ast.get_docstring(node) or "").count("\n")
            if size > LONGEST_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {size} lines, at most {LONGEST_FUNCTION}"
        elif isinstance(node, ast.ExceptHandler):
            broad += is_broad(node.type)
    allowed = BROAD_ALLOWED.get(name, 0)
    if broad > allowed and "tests" not in path.relative_to(ROOT).parts:
        yield f"{name}: {broad} broad excepts, {allowed} allowed"


def main() -> int:
    """Print problems; 1 if there are any."""
    found = [problem for path in sources() for problem in problems(path)]
    print("\n".join(found) if found else "house: sizes and excepts are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

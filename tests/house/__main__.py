"""Ratchets of size and style (docs/design/house.md): a function, file or class over its limit, a broad `except` outside
the places that may have one, and what is banned. Allowances only go down, and end with what they allow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.house.bans import banned
from tests.house.imports import stray_imports
from tests.house.sizes import ClassSize, Function, class_size, function_lines

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("native", "libcalico", "components", "packaging", "tests")
LONGEST_FUNCTION = 55
LONGEST_FILE = 650
LARGEST_CLASS = ClassSize(lines=300, methods=25, fields=15)
VALUES = {
    "libcalico/libcalico/cni/conf.py NetConf",
    "libcalico/libcalico/model/bgp.py BGPConfigurationSpec",
    "libcalico/libcalico/model/bgp.py BGPPeerSpec",
    "libcalico/libcalico/model/resources.py WorkloadEndpointSpec",
}
"""Classes without methods whose fields are those of a stored or received document: they may have as many as it has."""
CLASSES_ALLOWED = {
    "tests/compat/formats/ipam.py Player": ClassSize(300, 32, 15),
}
"""Classes that are larger today, and are to be split."""
BROAD = ("Exception", "BaseException")
OBJECT, REQUEST = "one object's step: its siblings go on", "one request or command: it is answered"
BROAD_ALLOWED = {
    "components/calicoctl/calicoctl/main.py": (REQUEST,),
    "components/libnetwork/calico_libnetwork/server.py": (REQUEST,),
    "libcalico/libcalico/ipam/transaction.py": (REQUEST,),
    "libcalico/libcalico/model/codec.py": (OBJECT, OBJECT),
    "libcalico/libcalico/calc/report.py": (OBJECT,),
    "libcalico/libcalico/obs/http.py": (REQUEST,),
    "libcalico/libcalico/cni/finisher.py": (OBJECT,),
    "libcalico/libcalico/cni/handler.py": (REQUEST,),
}
"""Files with broad `except` clauses, and what each clause is for. The top of a task, a third kind, has none: a task
that fails ends its daemon."""


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
    tree = ast.parse(text)
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{name}: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, Function) and (size := function_lines(node)) > LONGEST_FUNCTION:
            yield f"{name}:{node.lineno}: {node.name} has {size} lines, at most {LONGEST_FUNCTION}"
        elif isinstance(node, ast.ClassDef):
            yield from _class_problems(name, node)
    broad = sum(isinstance(node, ast.ExceptHandler) and is_broad(node.type) for node in ast.walk(tree))
    allowed = len(BROAD_ALLOWED.get(name, ()))
    if broad > allowed and "tests" not in path.relative_to(ROOT).parts:
        yield f"{name}: {broad} broad excepts, {allowed} allowed"
    for line, reason in (*banned(name, tree), *stray_imports(name, tree)):
        yield f"{name}:{line}: {reason}"


def _class_problems(name: str, node: ast.ClassDef) -> Iterator[str]:
    """A class over its limits; an allowance that it needs no more."""
    key, size = f"{name} {node.name}", class_size(node)
    limits = CLASSES_ALLOWED.get(key, LARGEST_CLASS)
    if key in VALUES and size.methods == 0:
        return
    for what, has, most in zip(ClassSize._fields, size, limits, strict=True):
        if has > most:
            yield f"{name}:{node.lineno}: {node.name} has {has} {what}, at most {most}"
    if key in CLASSES_ALLOWED and all(has <= most for has, most in zip(size, LARGEST_CLASS, strict=True)):
        yield f"{name}: {node.name} keeps the limits: take its line out of CLASSES_ALLOWED in tests/house/__main__.py"


def stale_allowances() -> Iterator[str]:
    """Allowances of what is gone."""
    allowed = VALUES | CLASSES_ALLOWED.keys()
    files = [ROOT / name for name in {key.partition(" ")[0] for key in allowed} if (ROOT / name).exists()]
    standing = {
        f"{path.relative_to(ROOT)} {node.name}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    for key in sorted(allowed - standing):
        yield f"{key} is gone: take its line out of tests/house/__main__.py"


def main() -> int:
    """Print problems; 1 if there are any."""
    found = [problem for path in sources() for problem in problems(path)]
    found += stale_allowances()
    print("\n".join(found) if found else "house: sizes and excepts are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

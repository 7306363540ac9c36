"""What test modules may import (docs/design/house.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

TEST_MODULE = re.compile(r"(.*\.)?test_\w+")


def stray_imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and reason of every import that a file may not have; `name` is its path from the root."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for module in _modules(node):
            if TEST_MODULE.fullmatch(module):
                yield node.lineno, f"{module}: no module imports a test module"
            if module.partition(".")[0] == "tests" and not name.startswith("tests/"):
                yield (
                    node.lineno,
                    f"{module}: a distribution's tests stand alone; libcalico.testing has what they share",
                )


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]

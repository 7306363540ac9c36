"""Every regular expression takes time in proportion to the text that it reads, whoever wrote that text.

Labels, names, settings and files come from people who may mean harm: an expression that tries again from every place
stops an agent's loop for minutes on a megabyte. All expressions are constants of their modules, so that they are found
here; each is fed what it repeats, many times over, with an end that does not match.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.house.__main__ import ROOT, sources

PACKAGES = ("libcalico", "calico_felix", "calicoctl", "calico_cni", "calico_bird", "calico_libnetwork")
CALLS = ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
COUNTS = (16, 22, 500, 5_000, 60_000)
"""How often the repeated text is repeated: an exponential expression is found by the first, a quadratic by the last."""
LIMIT_S = 1.0
PUMPS = ("a", "A", "0", "-", ".", "_", "a-", "0.", " ", "ms", ":", "[:", "\\Q", "\\", "(", "=,", "%", "\n", "é")
ENDS = ("", "!", "\x00")
RULES = re.compile(r"(\w+)\.(match|fullmatch|search|subn?|split|findall|finditer)\b")


@cache
def methods() -> dict[str, set[str]]:
    """Which of an expression's methods the code calls, by the constant's name."""
    found: dict[str, set[str]] = {}
    for path in sources():
        if "tests" not in path.relative_to(ROOT).parts:
            for name, method in RULES.findall(path.read_text()):
                found.setdefault(name, set()).add(method)
    return found


def expressions() -> Iterator[tuple[str, str, re.Pattern[Any]]]:
    """Module, constant and expression."""
    seen = set()
    for package in PACKAGES:
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if info.name.endswith(("_pb2", "_pb2_grpc", ".generate", "__main__")):
                continue
            for name, value in vars(importlib.import_module(info.name)).items():
                values = value.values() if isinstance(value, dict) else [value]
                for one in values:
                    if isinstance(one, re.Pattern) and one not in seen:
                        seen.add(one)
                        yield info.name, name, one


EXPRESSIONS = list(expressions())


def pumps(expression: re.Pattern[Any]) -> list[str]:
    """What the expression repeats, as short texts."""
    tree = re._parser.parse(expression.pattern, expression.flags)  # type: ignore[attr-defined]
    return list(dict.fromkeys([*_repeated(tree), *PUMPS]))


def _repeated(tree: Any) -> Iterator[str]:
    for kind, value in tree:
        if str(kind) in ("MAX_REPEAT", "MIN_REPEAT"):
            yield from _samples(value[2])
            yield from _repeated(value[2])
        elif str(kind) == "SUBPATTERN":
            yield from _repeated(value[-1])
        elif str(kind) == "BRANCH":
            for branch in value[1]:
                yield from _repeated(branch)


def _samples(tree: Any) -> list[str]:
    """Texts that a part matches: one for each branch, else the shortest."""
    texts = [""]
    for kind, value in tree:
        match str(kind):
            case "LITERAL":
                new = [chr(value)]
            case "IN":
                new = [_member(value)]
            case "BRANCH":
                new = [text for branch in value[1] for text in _samples(branch)]
            case "SUBPATTERN":
                new = _samples(value[-1])
            case "MAX_REPEAT" | "MIN_REPEAT":
                new = _samples(value[2]) if value[0] else ["", *_samples(value[2])]
            case "ANY" | "NOT_LITERAL":
                new = ["a"]
            case _:
                new = [""]
        texts = [one + other for one in texts for other in new][:8]
    return [text for text in texts if text]


def _member(choices: Any) -> str:
    for kind, value in choices:
        if str(kind) == "LITERAL":
            return chr(value)
        if str(kind) == "RANGE":
            return chr(value[0])
    return "0"


def test_all_expressions_are_found() -> None:
    assert len(EXPRESSIONS) > 40
    inline = []
    for path in sources():
        if "tests" in path.relative_to(ROOT).parts:
            continue
        tree = ast.parse(path.read_text())
        top = {id(node) for one in tree.body if isinstance(one, (ast.Assign, ast.AnnAssign)) for node in ast.walk(one)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_re(node.func.value):
                called = node.func.attr
                if called in CALLS or (called == "compile" and id(node) not in top and not _is_given(path)):
                    inline.append(
                        f"{path.relative_to(ROOT)}:{node.lineno}: re.{called}: make it a constant of the module"
                    )
    assert not inline


def _is_re(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "re"


def _is_given(path: Path) -> bool:
    """`matching` compiles what the tables of parameters give it."""
    return path.name == "config.py"


@pytest.mark.parametrize(("module", "name", "expression"), EXPRESSIONS, ids=[f"{m}.{n}" for m, n, _ in EXPRESSIONS])
def test_it_takes_time_in_proportion_to_the_text(module: str, name: str, expression: re.Pattern[Any]) -> None:
    called = methods().get(name, set()) | {"fullmatch"}
    for pump in pumps(expression):
        for end in ENDS:
            for count in COUNTS:
                text: Any = pump * count + end
                if isinstance(expression.pattern, bytes):
                    text = text.encode()
                for method in sorted(called):
                    _try(expression, method, text, f"{pump!r} * {count} + {end!r}")


def _try(expression: re.Pattern[Any], method: str, text: Any, shown: str) -> None:
    run = getattr(expression, method)
    arguments = (text[:0], text) if method.startswith("sub") else (text,)
    started = time.process_time()
    found = run(*arguments)
    if method == "finditer":
        list(found)
    taken = time.process_time() - started
    assert taken < LIMIT_S, f"{expression.pattern!r}.{method}({shown}): {taken:.1f} s"

"""How large a file, a function and a class are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef


class ClassSize(NamedTuple):
    """Lines, methods (one with overloads is one), and fields: names that are assigned on `self`, and annotated ones of
    the class itself."""

    lines: int
    methods: int
    fields: int


def function_lines(node: Function) -> int:
    """Lines of a function without its docstring's."""
    return (node.end_lineno or 0) - node.lineno + 1 - (ast.get_docstring(node) or "").count("\n")


def class_size(node: ast.ClassDef) -> ClassSize:
    """What there is of each."""
    methods = [inner for inner in node.body if isinstance(inner, Function)]
    declared = {ast.unparse(inner.target) for inner in node.body if _is_field(inner)}
    assigned = {name for method in methods for name in _assigned(method)}
    return ClassSize(
        (node.end_lineno or 0) - node.lineno + 1, len({method.name for method in methods}), len(declared | assigned)
    )


def _is_field(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    return isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)


def _assigned(method: Function) -> Iterator[str]:
    """Names that a method assigns on its first argument."""
    arguments = [*method.args.posonlyargs, *method.args.args]
    own = arguments[0].arg if arguments else ""
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == own:
            yield node.attr

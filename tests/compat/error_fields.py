"""Which parts of upstream's field errors bind us (spec/resources.md 1.5).

Errors of single fields and across fields do, by field and reason. Those of the schema, whose field is a JSON path
(`spec...`) or the name of the kind, say the same again under another name and need not appear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FieldReason = tuple[str, str]
_LINE = re.compile(r"(?s)(.*?)(?: = '(.*)')? \((.*)\)")
_ONE = "error with field "
_MANY = "error with the following fields:\n"


def is_schema_field(field: str, kind: str) -> bool:
    """A JSON path or the kind itself."""
    return field == kind or field.startswith(("spec.", "spec[", "status.")) or field in ("spec", "status", "")


def parse_fields(text: str) -> list[FieldReason]:
    """(field, reason) of every bad field that an error's text lists."""
    if _MANY in text:
        lines = text.split(_MANY, 1)[1].split("\n-  ")
        return [pair for line in lines if (pair := _parse(line.removeprefix("-  ").rstrip("\n]")))]
    if _ONE in text:
        pair = _parse(text.split(_ONE, 1)[1].rstrip("\n").removesuffix("]"))
        return [pair] if pair else []
    return []


def _parse(line: str) -> FieldReason | None:
    match = _LINE.fullmatch(line)
    return (match[1], match[3]) if match else None


def missing_fields(kind: str, wanted: Iterable[FieldReason], found: Iterable[FieldReason]) -> list[FieldReason]:
    """The binding errors of `wanted` that `found` lacks; schema errors do not bind."""
    there = set(found)
    return [pair for pair in wanted if not is_schema_field(pair[0], kind) and pair not in there]

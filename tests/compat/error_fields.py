"""Which parts of upstream's field errors bind us (spec/resources.md 1.5).

Errors of single fields and across fields do, by field and reason. Those of the schema, whose field is a JSON path
(`spec...`) or the name of the kind, say the same again under another name and need not appear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from libcalico.model.kinds import KINDS

FieldReason = tuple[str, str]
BEGIN = re.compile(r"error with (?:field |the following fields:\n-  )")
_LINE = re.compile(r"(?s)(.*?)(?: = '(.*)')? \((.*)\)")
_LIST = re.compile(r"(?<=: )\[[^\]]*\]")


def is_schema_field(field: str) -> bool:
    """A JSON path or the name of a kind."""
    return (
        field in KINDS or field.startswith(("spec.", "spec[", "status.", "status[")) or field in ("spec", "status", "")
    )


def parse_fields(text: str) -> list[FieldReason]:
    """(field, reason) of every bad field that an error's text lists, of all objects that it is about."""
    lines = [line for block in BEGIN.split(text)[1:] for line in block.split("\n-  ")]
    return [pair for line in lines if (pair := _parse(line.rstrip("\n] ")))]


def _parse(line: str) -> FieldReason | None:
    match = _LINE.fullmatch(line)
    return (match[1], match[3]) if match else None


def surroundings(text: str) -> tuple[str, str]:
    """What stands before the first field, and after the last one's reason and the end of a list of fields."""
    return BEGIN.split(text)[0], text.rpartition(")")[2].removeprefix("\n")


def missing_fields(wanted: Iterable[FieldReason], found: Iterable[FieldReason]) -> list[FieldReason]:
    """The binding errors of `wanted` that `found` lacks; a list that is printed inside a reason does not count."""
    there = {(field, _LIST.sub("[..]", reason)) for field, reason in found}
    binding = [pair for pair in wanted if not is_schema_field(pair[0])]
    return [(field, reason) for field, reason in binding if (field, _LIST.sub("[..]", reason)) not in there]

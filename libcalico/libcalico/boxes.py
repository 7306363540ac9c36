"""Boxed tables as upstream prints them (spec/calicoctl.md 6): header centred, text left, pure numbers right."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?")
WRAP_AT = 30


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The whole box with its final newline; cells longer than 30 characters are wrapped at blanks."""
    wrapped = [[_wrap(cell) for cell in row] for row in rows]
    widths = [
        max(len(title), *(len(line) for row in wrapped for line in row[place]), 0) for place, title in enumerate(header)
    ]
    border = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [border, _line([_centre(title, width) for title, width in zip(header, widths, strict=True)]), border]
    for row, cells in zip(rows, wrapped, strict=True):
        for place in range(max(len(cell) for cell in cells)):
            parts = [cell[place] if place < len(cell) else "" for cell in cells]
            lines.append(_line([_align(raw, part, width) for raw, part, width in zip(row, parts, widths, strict=True)]))
    return "\n".join([*lines, border]) + "\n"


def _wrap(cell: str) -> list[str]:
    return textwrap.wrap(cell, WRAP_AT, break_long_words=False, break_on_hyphens=False) or [""]


def _align(cell: str, part: str, width: int) -> str:
    return part.rjust(width) if NUMBER.fullmatch(cell) else part.ljust(width)


def _centre(title: str, width: int) -> str:
    left = (width - len(title)) // 2
    return " " * left + title + " " * (width - len(title) - left)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

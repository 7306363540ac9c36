"""Text from outside: made fit for a log line or a terminal (short, and without characters that act on either), and
remembered within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
LONGEST_SHOWN = 200
LARGEST_SHARE = 64
"""A text that would take more than this part of a cache is not kept."""


def shown(value: object, longest: int = LONGEST_SHOWN) -> str:
    """The text of a value, at most `longest` characters of it; what a terminal obeys or hides is escaped.

    Bytes are read as UTF-8, those that are none are escaped too."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return escaped(text) if len(text) <= longest else f"{escaped(text[:longest])}... ({len(text)} characters)"


def escaped(text: str, kept: str = "") -> str:
    """The text with every control, format and separator character but the blank and the `kept` as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Rows in columns, for people. Cells quote what is stored: a terminal must not obey it."""
    rows = [list(map(escaped, row)) for row in rows]
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines) + "\n"


def is_text(data: bytes) -> bool:
    """Is it UTF-8?"""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class TextCache(Generic[T]):
    """What was made of texts from outside: of `most` characters of them at most, those that were used last.

    Entries alone are no bound: one text may be a megabyte. What `make` raises is not kept."""

    def __init__(self, make: Callable[[str], T], most: int) -> None:
        self._make = make
        self._most = most
        self._young: dict[str, T] = {}
        self._old: dict[str, T] = {}
        self.characters = 0
        """Of the younger half."""

    def get(self, text: str) -> T:
        """What the text stands for."""
        found = self._young.get(text)
        if found is not None:
            return found
        found = self._old.get(text)
        if found is None:
            found = self._make(text)
        if len(text) * LARGEST_SHARE <= self._most:
            self.characters += len(text) + 1
            if self.characters > self._most // 2:
                self._old, self._young = self._young, {}
                self.characters = len(text) + 1
            self._young[text] = found
        return found

"""Text from outside, made fit for a log line or a terminal: short, and without characters that act on either."""

from __future__ import annotations

LONGEST_SHOWN = 200


def shown(value: object, longest: int = LONGEST_SHOWN) -> str:
    """The text of a value, at most `longest` characters of it; what a terminal obeys or hides is escaped.

    Bytes are read as UTF-8, those that are none are escaped too."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return escaped(text) if len(text) <= longest else f"{escaped(text[:longest])}... ({len(text)} characters)"


def escaped(text: str) -> str:
    """The text with every control, format and separator character but the blank as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)

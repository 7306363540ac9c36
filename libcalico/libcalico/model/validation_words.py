"""The words that several validators share."""

from __future__ import annotations

from libcalico.errors import FieldError
from libcalico.selector import is_valid

LONGEST_SELECTOR = 1024


def tag(field: str, value: str, name: str) -> FieldError:
    """The error of a single-field check, as upstream's validator library words it (note the trailing blank)."""
    return FieldError(field, value, f"Reason: failed to validate Field: {field} because of Tag: {name} ")


def is_selector(text: str) -> bool:
    """A selector within the length that policies allow."""
    return len(text) <= LONGEST_SELECTOR and is_valid(text)

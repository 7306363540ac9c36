"""The words that several validators share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.selector import is_valid

LONGEST_SELECTOR = 1024
LARGEST_ANNOTATIONS = 262144


def tag(field: str, value: str, name: str) -> FieldError:
    """The error of a single-field check, as upstream's validator library words it (note the trailing blank)."""
    return FieldError(field, value, f"Reason: failed to validate Field: {field} because of Tag: {name} ")


def is_selector(text: str) -> bool:
    """Text that parses as a selector; its length is another matter."""
    return is_valid(text)


def is_too_long(text: str) -> bool:
    """Longer than the selectors of policies and pools may be."""
    return len(text.encode()) > LONGEST_SELECTOR


def annotation_errors(annotations: Mapping[str, str]) -> Iterator[FieldError]:
    """Bad keys, and more than 256 KiB in all."""
    field = "Metadata.Annotations (key)"
    for key in annotations:
        for reason in scalars.label_key_errors(key.lower()):
            yield FieldError(field, key, reason)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > LARGEST_ANNOTATIONS:
        excess = size - LARGEST_ANNOTATIONS
        yield FieldError(field, None, f"total size of annotations is too large by {excess} bytes")

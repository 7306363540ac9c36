"""The CNI error object and its codes (spec/cni.md 3.2)."""

from __future__ import annotations

import json

from libcalico.errors import BadData

INCOMPATIBLE_VERSION = 1
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
BAD_CONFIG = 7
OWN_NAMESPACE = 8
TRY_AGAIN = 11
NOT_AVAILABLE = 50
FLAGS = 100
GENERAL = 999


LONGEST_SHOWN = 200


def shown(value: object) -> str:
    """A value from outside as an error or a note shows it: at most 200 characters, control characters escaped."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except (ValueError, TypeError, RecursionError):  # a number of thousands of digits, say
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class CniError(BadData):
    """What the caller gets on stdout: a code, a message and, where useful, details."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.code = code
        self.message = message
        self.details = details
        super().__init__(f"{message}: {details}" if details else message)

    def to_object(self) -> dict[str, object]:
        """The error object."""
        found: dict[str, object] = {"code": self.code, "msg": self.message}
        if self.details:
            found["details"] = self.details
        return found

"""Labels of a workload as the datastore allows them (spec/cni.md 5.5). Pure.

Long values are compressed first, on bytes, then keys and values are cleaned. Users write policies against the outcome,
so both recipes are a contract.
"""

from __future__ import annotations

import hashlib
import re

LONGEST_VALUE = 63
_TAIL_BYTES = 53
_FOREIGN = re.compile(r"[^-_.a-zA-Z0-9]+")
_RUN = re.compile(r"[-.]+")
LONGEST_KEY = 1024
"""Of what is cleaned at all. What may be stored is much shorter; the endpoint's own rules say so."""


def compress(value: str) -> str:
    """A value of more than 63 bytes: seven digits of its SHA-256, three dots, its last 53 bytes."""
    whole = value.encode("utf-8", "surrogatepass")
    if len(whole) <= LONGEST_VALUE:
        return value
    digest = hashlib.sha256(whole).hexdigest()
    return digest[:7] + "..." + whole[-_TAIL_BYTES:].decode("utf-8", "replace")


def sanitise(text: str) -> str:
    """A key or value with only letters, digits, `-`, `_` and `.`, none of `-` and `.` at an end."""
    clean = _FOREIGN.sub("-", text.replace("/", "."))
    return _RUN.sub(lambda run: "." if "." in run[0] else run[0], clean).strip(".-")

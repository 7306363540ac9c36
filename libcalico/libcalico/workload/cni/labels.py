"""Labels that Mesos hands over become Calico labels (spec/cni.md 5.5, dcos.md 9.5 and 9.6). Pure.

Long values are compressed first, on bytes, then keys and values are cleaned. Users write policies against the
outcome, so both recipes are a contract.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

NAMESPACE = "projectcalico.org/namespace"
POOLS_V4 = "projectcalico.org/ipv4pools"
POOLS_V6 = "projectcalico.org/ipv6pools"
LONGEST_VALUE = 63
_TAIL_BYTES = 53
_FOREIGN = re.compile(r"[^-_.a-zA-Z0-9]+")
_DOTTED = re.compile(r"[-.]*\.[-.]*")


class MesosLabels(NamedTuple):
    """What the labels say: labels to store, the endpoint's namespace ("" = default), pool lists as JSON text, notes."""

    labels: dict[str, str]
    namespace: str
    pools_v4: str
    pools_v6: str
    notes: tuple[str, ...]


def compress(value: str) -> str:
    """A value of more than 63 bytes: seven digits of its SHA-256, three dots, its last 53 bytes."""
    whole = value.encode("utf-8", "surrogatepass")
    if len(whole) <= LONGEST_VALUE:
        return value
    digest = hashlib.sha256(whole).hexdigest()
    return digest[:7] + "..." + whole[-_TAIL_BYTES:].decode("utf-8", "replace")


def sanitise(text: str) -> str:
    """A key or value with only letters, digits, `-`, `_` and `.`, none of `-` and `.` at an end."""
    return _DOTTED.sub(".", _FOREIGN.sub("-", text.replace("/", "."))).strip(".-")


def read(entries: Any) -> MesosLabels:
    """The labels of `network_info.labels.labels`: a list of `{key, value}`, or nothing; what is no label is skipped."""
    labels: dict[str, str] = {}
    special = {NAMESPACE: "", POOLS_V4: "", POOLS_V6: ""}
    notes: list[str] = []
    for entry in entries if isinstance(entries, list) else ():
        key, value = (entry.get("key"), entry.get("value", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, str) or not isinstance(value, str):
            notes.append(f"label {entry!r} left out: it has no text as key or value")
        elif key in special:
            special[key] = value
        elif clean := sanitise(key):
            labels[clean] = sanitise(compress(value))
        else:
            notes.append(f"label {key!r} left out: nothing of the key is a legal character")
    namespace = sanitise(special[NAMESPACE])
    return MesosLabels(labels, namespace, special[POOLS_V4], special[POOLS_V6], tuple(notes))

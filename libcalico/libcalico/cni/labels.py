"""Labels that a runtime hands over (Mesos, or in `args.cni.labels`) become Calico labels (spec/cni.md 5.5). Pure.

Long values are compressed first, on bytes, then keys and values are cleaned. Users write policies against the
outcome, so both recipes are a contract.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from libcalico.cni.errors import shown

NAMESPACE = "projectcalico.org/namespace"
POOLS_V4 = "projectcalico.org/ipv4pools"
POOLS_V6 = "projectcalico.org/ipv6pools"
LONGEST_VALUE = 63
_TAIL_BYTES = 53
_FOREIGN = re.compile(r"[^-_.a-zA-Z0-9]+")
_RUN = re.compile(r"[-.]+")
LONGEST_KEY = 1024
"""Of what is cleaned at all. What may be stored is much shorter; the endpoint's own rules say so."""


class MesosLabels(NamedTuple):
    """What the labels say: labels to store, the endpoint's namespace ("" = default), pool lists as JSON text, notes,
    and problems for which no container may be attached."""

    labels: dict[str, str]
    namespace: str
    pools_v4: str
    pools_v6: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]


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


def read(entries: Iterable[tuple[str, str]]) -> MesosLabels:
    """The labels of a list of key and value, of which of equal keys the last counts."""
    labels: dict[str, str] = {}
    special = {NAMESPACE: "", POOLS_V4: "", POOLS_V6: ""}
    notes: list[str] = []
    problems: list[str] = []
    for key, value in entries:
        if key in special:
            special[key] = value
        elif len(key) > LONGEST_KEY:
            problems.append(f"label key {shown(key)} has {len(key)} characters, at most 63 are possible")
        elif clean := sanitise(key):
            labels[clean] = sanitise(compress(value))
        else:
            notes.append(f"label {shown(key)} left out: nothing of the key is a legal character")
    namespace = sanitise(special[NAMESPACE][:LONGEST_KEY])
    return MesosLabels(labels, namespace, special[POOLS_V4], special[POOLS_V6], tuple(notes), tuple(problems))

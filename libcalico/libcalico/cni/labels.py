"""Labels that a runtime hands over (Mesos, or in `args.cni.labels`); some are requests (spec/cni.md 5.5). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from libcalico.cni.errors import shown
from libcalico.workload.labels import LONGEST_KEY, compress, sanitise

NAMESPACE = "projectcalico.org/namespace"
POOLS_V4 = "projectcalico.org/ipv4pools"
POOLS_V6 = "projectcalico.org/ipv6pools"


class MesosLabels(NamedTuple):
    """What the labels say: labels to store, the endpoint's namespace ("" = default), pool lists as JSON text, notes,
    and problems for which no container may be attached."""

    labels: dict[str, str]
    namespace: str
    pools_v4: str
    pools_v6: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]


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

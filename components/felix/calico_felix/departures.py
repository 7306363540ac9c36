"""Objects that vanish from the datastore while this host uses them: the loss is believed after a while.

When etcd is emptied, its keys go in one transaction or one by one, in any order, and ClusterInformation need not be the
first. So the deletion of an object without which running containers would be cut off waits for `HOLD_S`. Whoever
deletes one object on purpose waits those seconds; when ClusterInformation goes meanwhile, the agent ends with its rules
in force, as if nothing had been deleted (docs/design/felix.md, "What an absence means"). No I/O; the time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from libcalico.calc.graph import Graph
from libcalico.model.keys import BlockKey, Key, ResourceKey, parse_key

HOLD_S = 3.0
LONGEST_HOLD_S = 30.0
ALWAYS = ("FelixConfiguration", "IPPool", "Tier")


class _Held(NamedTuple):
    path: bytes
    revision: int
    since_s: float


class Departures:
    """Deletions that wait. `stands`: is there an interface of this name on the host?"""

    def __init__(self, graph: Graph, stands: Callable[[str], bool]) -> None:
        self._graph = graph
        self._stands = stands
        self._held: dict[Key, _Held] = {}
        self._newest_s = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def update(self, path: bytes, value: bytes | None, revision: int, now_s: float) -> None:
        """One key's news, for the graph: at once, or when `settle` believes it."""
        if value is None and self._graph.in_sync:
            key = parse_key(path)
            if key is not None and self._matters(key):
                self._held[key] = _Held(path, revision, now_s)
                self._newest_s = now_s
                return
        elif value is not None and self._held:
            key = parse_key(path)
            if key is not None:
                self._held.pop(key, None)
        self._graph.update(path, value, revision)

    def settle(self, now_s: float) -> None:
        """Believe what has waited long enough, and what nothing needs any more.

        A loss prolongs the others' time: they are signs of one event."""
        for key, held in list(self._held.items()):
            over_s = min(self._newest_s + HOLD_S, held.since_s + LONGEST_HOLD_S)
            if now_s >= over_s or not self._matters(key):
                del self._held[key]
                self._graph.update(held.path, None, held.revision)

    def waiting_s(self, now_s: float) -> float:
        """How long the first of them has waited."""
        return max((now_s - held.since_s for held in self._held.values()), default=0.0)

    def describe(self) -> dict[str, str]:
        """What waits, for people."""
        text = f"is gone from the datastore and in use here: what it says stays in force for {HOLD_S:.0f} s"
        return {str(key): text for key in self._held}

    def _matters(self, key: Key) -> bool:
        """Would the loss of this object cut off a container of this host?"""
        graph = self._graph
        if isinstance(key, BlockKey):
            return graph.routing.is_block_used(key.cidr)
        if not isinstance(key, ResourceKey):
            return False
        match key.kind:
            case "WorkloadEndpoint":
                interface = graph.sole_interface(key)
                return bool(interface) and self._stands(interface)
            case "Profile":
                return graph.profiles.is_used(key.name)
            case "Node":
                return graph.routing.is_node_used(key.name)
        return key.kind in ALWAYS and graph.knows(key)

"""Which endpoint each interface of the host belongs to. For any back end, and for all managers.

Several endpoints may name one interface (a container that was made again before its former endpoint went): the one
with the lowest key has it, whichever came first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from libcalico.calc.messages import Endpoint, Flush
from libcalico.model.keys import ResourceKey
from libcalico.policy.ir import PolicyId

log = logging.getLogger(__name__)


class Owners:
    """The local endpoints, by key, by interface and by the policies that act on them. No I/O.

    The back end's ruleset has it and hands each flush on to it before it renders; everybody else reads."""

    def __init__(self) -> None:
        self.endpoints: dict[ResourceKey, Endpoint] = {}
        self.touched: set[str] = set()
        """Interfaces that the last flush gave to another endpoint, or whose endpoint it changed."""
        self._by_interface: dict[str, set[ResourceKey]] = {}
        self._users: dict[PolicyId, set[ResourceKey]] = {}

    def on_flush(self, flush: Flush) -> None:
        """Take in the graph's changes."""
        self.touched = set()
        for key, endpoint in flush.endpoints.items():
            self._drop(key)
            if endpoint is not None:
                self._put(key, endpoint)

    def _drop(self, key: ResourceKey) -> None:
        former = self.endpoints.pop(key, None)
        if former is not None:
            self.touched.add(former.interface)
            _discard(self._by_interface, former.interface, key)
            for identity in _references(former):
                _discard(self._users, identity, key)

    def _put(self, key: ResourceKey, endpoint: Endpoint) -> None:
        self.endpoints[key] = endpoint
        self.touched.add(endpoint.interface)
        self._by_interface.setdefault(endpoint.interface, set()).add(key)
        for identity in _references(endpoint):
            self._users.setdefault(identity, set()).add(key)

    def active(self, interface: str) -> Endpoint | None:
        """The endpoint that an interface belongs to: of several the one with the lowest key."""
        keys = self._by_interface.get(interface)
        return self.endpoints[min(keys)] if keys else None

    def has_interface(self, endpoint: Endpoint) -> bool:
        """The interface that it names is its own, and not that of another."""
        return self.active(endpoint.interface) is endpoint

    def is_held(self, interface: str, own: ResourceKey) -> bool:
        """An endpoint other than `own` has this interface."""
        holder = self.active(interface)
        return holder is not None and holder.key != own

    def in_force(self) -> dict[ResourceKey, Endpoint]:
        """The endpoints whose policy an interface has."""
        return {key: endpoint for key, endpoint in self.endpoints.items() if self.has_interface(endpoint)}

    def users(self, policies: Iterable[PolicyId]) -> set[str]:
        """The interfaces of the endpoints on which one of these policies acts."""
        keys = {key for identity in policies for key in self._users.get(identity, ())}
        return {self.endpoints[key].interface for key in keys}


def admit(flush: Flush, prefixes: tuple[str, ...]) -> Flush:
    """Without endpoints on interfaces that are no workload's (the host's own, say): they must not rule those."""
    foreign = {k: e for k, e in flush.endpoints.items() if e is not None and not e.interface.startswith(prefixes)}
    for key, endpoint in foreign.items():
        text = "%s is ignored: interfaceName %r begins with none of %s"
        log.warning(text, key, endpoint.interface, ", ".join(prefixes))
    return flush._replace(endpoints={**flush.endpoints, **dict.fromkeys(foreign)}) if foreign else flush


def _discard(sets: dict[Any, set[Any]], name: object, key: object) -> None:
    sets[name].discard(key)
    if not sets[name]:
        del sets[name]


def _references(endpoint: Endpoint) -> set[PolicyId]:
    policies = {identity for tier in endpoint.policy.tiers for identity in (*tier.ingress, *tier.egress)}
    return policies | {PolicyId("Profile", "", name) for name in endpoint.policy.profiles}

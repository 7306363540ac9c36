"""The members of IP sets: which addresses the selectors of active rules stand for (spec/felix.md 3.4).

Members are counted: several endpoints may contribute the same address, which enters the set once and leaves it with
the last of them. A set goes out whole when a rule first needs it, and by its differences from then on, so that one more
endpoint costs the same however many there are.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from calico_felix.messages import IPSet, IPSetDelta
from libcalico.policy.compile import SetSpec
from libcalico.selector import LabelIndex

Member = tuple[int, ...]


class Contribution(NamedTuple):
    """What an endpoint or network set brings to the sets that it matches: networks, and named ports as
    (name, protocol, port)."""

    nets: tuple[tuple[int, int, int], ...]
    ports: tuple[tuple[str, int, int], ...] = ()


class SetMembers:
    """Active sets and their members. `parents` of items are profile names, whose labels both indexes share."""

    def __init__(self) -> None:
        self._index = LabelIndex(self._on_started, self._on_stopped)
        self._specs: dict[str, SetSpec] = {}
        self._users: dict[str, int] = {}
        self._items: dict[Hashable, Contribution] = {}
        self._counts: dict[str, dict[Member, int]] = {}
        self._sent: set[str] = set()
        self._new: dict[str, None] = {}
        self._changes: dict[str, dict[Member, bool]] = {}

    def use(self, spec: SetSpec) -> None:
        """One more rule names this set."""
        users = self._users.get(spec.id, 0)
        self._users[spec.id] = users + 1
        if users == 0:
            self._specs[spec.id] = spec
            self._counts[spec.id] = {}
            self._new[spec.id] = None
            self._index.update_selector(spec.id, spec.selector.node)

    def release(self, set_id: str) -> None:
        """One rule less names this set."""
        self._users[set_id] -= 1
        if self._users[set_id] == 0:
            del self._users[set_id]
            self._index.delete_selector(set_id)
            del self._specs[set_id], self._counts[set_id]
            self._new.pop(set_id, None)
            self._changes.pop(set_id, None)

    def update_item(self, key: Hashable, labels: dict[str, str], parents: tuple[str, ...], what: Contribution) -> None:
        """An endpoint or network set is there, or has changed."""
        former = self._items.get(key)
        if former is not None and former != what:
            for set_id in self._index.matches(key):
                self._add(str(set_id), what)
                self._remove(str(set_id), former)
        self._items[key] = what
        self._index.update_labels(key, labels, parents)

    def has_item(self, key: Hashable) -> bool:
        """Is it there?"""
        return key in self._items

    def remove_item(self, key: Hashable) -> None:
        """It is gone."""
        if key in self._items:
            self._index.delete_labels(key)
            del self._items[key]

    def update_profile_labels(self, profile: str, labels: dict[str, str]) -> None:
        """What endpoints inherit from a profile."""
        if labels:
            self._index.update_parent_labels(profile, labels)
        else:
            self._index.delete_parent(profile)

    def flush(self) -> dict[str, IPSet | IPSetDelta | None]:
        """Sets that have changed since the last flush."""
        out: dict[str, IPSet | IPSetDelta | None] = dict.fromkeys(self._sent - self._specs.keys())
        self._sent -= out.keys()
        for set_id, changes in self._changes.items():
            if changes:
                added = frozenset(member for member, present in changes.items() if present)
                out[set_id] = IPSetDelta(set_id, added, frozenset(changes.keys() - added))
        self._changes.clear()
        for set_id in self._new:
            out[set_id] = IPSet(set_id, bool(self._specs[set_id].ports), frozenset(self._counts[set_id]))
        self._sent.update(self._new)
        self._new.clear()
        return out

    def _on_started(self, set_id: Hashable, key: Hashable) -> None:
        assert isinstance(set_id, str)
        self._add(set_id, self._items[key])

    def _on_stopped(self, set_id: Hashable, key: Hashable) -> None:
        assert isinstance(set_id, str)
        if set_id in self._users:
            self._remove(set_id, self._items[key])

    def _members(self, set_id: str, what: Contribution) -> list[Member]:
        spec = self._specs[set_id]
        if not spec.ports:
            return list(what.nets)
        ports = [(protocol, port) for name, protocol, port in what.ports if (protocol, name) in spec.ports]
        return [(family, address, *port) for family, address, _ in what.nets for port in ports]

    def _add(self, set_id: str, what: Contribution) -> None:
        counts = self._counts[set_id]
        for member in self._members(set_id, what):
            count = counts.get(member, 0)
            counts[member] = count + 1
            if count == 0:
                self._change(set_id, member, True)

    def _remove(self, set_id: str, what: Contribution) -> None:
        counts = self._counts[set_id]
        for member in self._members(set_id, what):
            counts[member] -= 1
            if counts[member] == 0:
                del counts[member]
                self._change(set_id, member, False)

    def _change(self, set_id: str, member: Member, present: bool) -> None:
        """Two opposite changes of one member between flushes cancel out."""
        if set_id not in self._new:
            changes = self._changes.setdefault(set_id, {})
            if changes.pop(member, None) is None:
                changes[member] = present

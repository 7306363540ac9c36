"""The members of IP sets: which addresses the selectors of active rules stand for (spec/felix.md 3.4).

Several endpoints may contribute the same address, which enters the set once and leaves it with the last of them. A set
goes out whole when a rule first needs it, and by its differences from then on, so that one more endpoint costs the same
however many there are. Members of a large item are compared and moved as sets, never one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from libcalico.calc.messages import IPSet, IPSetDelta, Member, PortMember
from libcalico.net import Cidr
from libcalico.policy.compile import SetSpec
from libcalico.selector import LabelIndex


class Contribution(NamedTuple):
    """What an endpoint or network set brings to the sets that it matches: networks, and named ports as
    (name, protocol, port)."""

    nets: tuple[Cidr, ...] | frozenset[Cidr]
    ports: tuple[tuple[str, int, int], ...] = ()


class _Members:
    """The members of one set, and by what they differ from those that were sent. `shared` counts the items of a member
    that several bring."""

    __slots__ = ("added", "all", "removed", "sent", "shared")

    def __init__(self) -> None:
        self.all: set[Member] = set()
        self.shared: dict[Member, int] = {}
        self.sent = False
        self.added: set[Member] = set()
        self.removed: set[Member] = set()

    def enter(self, members: frozenset[Member]) -> None:
        """An item brings these."""
        again = members & self.all
        for member in again:
            self.shared[member] = self.shared.get(member, 1) + 1
        fresh = members - again if again else members
        self.all |= fresh
        if self.sent:
            back = self.removed & fresh
            self.removed -= back
            self.added |= fresh - back

    def leave(self, members: frozenset[Member]) -> None:
        """An item brings these no longer."""
        kept = self.shared.keys() & members
        for member in kept:
            self.shared[member] -= 1
            if self.shared[member] == 1:
                del self.shared[member]
        gone = members - kept if kept else members
        self.all -= gone
        if self.sent:
            back = self.added & gone
            self.added -= back
            self.removed |= gone - back


class SetMembers:
    """Active sets and their members. `parents` of items are profile names, whose labels both indexes share."""

    def __init__(self) -> None:
        self._index = LabelIndex(self._on_started, self._on_stopped)
        self._specs: dict[str, SetSpec] = {}
        self._users: dict[str, int] = {}
        self._items: dict[Hashable, Contribution] = {}
        self._members: dict[str, _Members] = {}
        self._sent: set[str] = set()
        self._changed: dict[str, None] = {}

    def use(self, spec: SetSpec) -> None:
        """One more rule names this set."""
        users = self._users.get(spec.id, 0)
        self._users[spec.id] = users + 1
        if users == 0:
            self._specs[spec.id] = spec
            self._members[spec.id] = _Members()
            self._changed[spec.id] = None
            self._index.update_selector(spec.id, spec.selector.node)

    def release(self, set_id: str) -> None:
        """One rule less names this set."""
        self._users[set_id] -= 1
        if self._users[set_id] == 0:
            del self._users[set_id]
            self._index.delete_selector(set_id)
            del self._specs[set_id], self._members[set_id]
            self._changed.pop(set_id, None)

    def specs(self) -> dict[str, SetSpec]:
        """Who is in each set that rules name."""
        return dict(self._specs)

    def update_item(self, key: Hashable, labels: dict[str, str], parents: tuple[str, ...], what: Contribution) -> None:
        """An endpoint or network set is there, or has changed."""
        former = self._items.get(key)
        if former is not None and former != what:
            self._replace(key, former, what)
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

    def inherit(self, profile: str, labels: Mapping[str, str]) -> None:
        """What endpoints inherit from a profile."""
        if labels:
            self._index.update_parent_labels(profile, labels)
        else:
            self._index.delete_parent(profile)

    def flush(self) -> dict[str, IPSet | IPSetDelta | None]:
        """Sets that have changed since the last flush."""
        out: dict[str, IPSet | IPSetDelta | None] = dict.fromkeys(self._sent - self._specs.keys())
        self._sent -= out.keys()
        for set_id in self._changed:
            members = self._members[set_id]
            if not members.sent:
                out[set_id] = IPSet(set_id, bool(self._specs[set_id].ports), frozenset(members.all))
                members.sent = True
            elif members.added or members.removed:
                out[set_id] = IPSetDelta(set_id, frozenset(members.added), frozenset(members.removed))
                members.added, members.removed = set(), set()
        self._sent.update(self._changed)
        self._changed.clear()
        return out

    def _on_started(self, set_id: Hashable, key: Hashable) -> None:
        assert isinstance(set_id, str)
        self._members[set_id].enter(self._of_item(set_id, self._items[key]))
        self._changed[set_id] = None

    def _on_stopped(self, set_id: Hashable, key: Hashable) -> None:
        assert isinstance(set_id, str)
        if set_id in self._users:
            self._members[set_id].leave(self._of_item(set_id, self._items[key]))
            self._changed[set_id] = None

    def _replace(self, key: Hashable, former: Contribution, what: Contribution) -> None:
        """What differs leaves and enters the sets that the item is in: a large one is compared once for all of them."""
        nets = _differences(frozenset(former.nets), frozenset(what.nets))
        for set_id in map(str, self._index.matches(key)):
            gone, fresh = nets
            if self._specs[set_id].ports:
                gone, fresh = _differences(self._of_item(set_id, former), self._of_item(set_id, what))
            self._members[set_id].enter(fresh)
            self._members[set_id].leave(gone)
            self._changed[set_id] = None

    def _of_item(self, set_id: str, what: Contribution) -> frozenset[Member]:
        """The members that an item brings to a set."""
        spec = self._specs[set_id]
        if not spec.ports:
            return frozenset(what.nets)
        ports = [(protocol, port) for name, protocol, port in what.ports if (protocol, name) in spec.ports]
        return frozenset(PortMember(net.family, net.number, *port) for net in what.nets for port in ports)


def _differences(former: frozenset[Member], now: frozenset[Member]) -> tuple[frozenset[Member], frozenset[Member]]:
    """What is gone, and what is new."""
    return former - now, now - former

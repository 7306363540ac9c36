"""Which policies act on which local endpoint, and in what order (spec/felix.md 2.2, 3.3, 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from libcalico.calc.active import ActiveRules
from libcalico.calc.report import Report
from libcalico.model.keys import ResourceKey
from libcalico.model.resources import GlobalNetworkPolicy, NetworkPolicy, Tier
from libcalico.policy.compile import CompiledPolicy, compile_policy
from libcalico.policy.ir import Action, PolicyId, TierPolicies
from libcalico.selector import LabelIndex

INFINITY = float("inf")


class _TierFacts(NamedTuple):
    """Order and default action of an existing tier."""

    order: float
    end_action: Action


class Tiers:
    """Tiers by name; `on_change` is called when the order of policies may be another."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._tiers: dict[str, _TierFacts] = {}
        self._on_change = on_change

    def update(self, key: ResourceKey, tier: Tier | None, _revision: int) -> None:
        """A tier is there, has changed, or (None) is gone."""
        facts = None
        if tier is not None:
            order = INFINITY if tier.spec.order is None else float(tier.spec.order)
            facts = _TierFacts(order, Action.PASS if tier.spec.default_action == "Pass" else Action.DENY)
        if self._tiers.get(key.name) == facts:
            return
        if facts is None:
            del self._tiers[key.name]
        else:
            self._tiers[key.name] = facts
        self._on_change()

    def place(self, name: str) -> tuple[bool, float, str]:
        """What tiers are sorted by: those that do not exist come last."""
        tier = self._tiers.get(name)
        return (tier is None, 0.0 if tier is None else tier.order, name)

    def end_action(self, name: str) -> Action:
        """What becomes of a packet that no rule of the tier decides about."""
        tier = self._tiers.get(name)
        return Action.DENY if tier is None else tier.end_action

    def __contains__(self, name: str) -> bool:
        return name in self._tiers

    def __len__(self) -> int:
        return len(self._tiers)


class _Entry:
    """A policy, its place in its tier, and how many local endpoints it selects."""

    __slots__ = ("compiled", "endpoints", "place")

    def __init__(self) -> None:
        self.endpoints = 0

    def become(self, compiled: CompiledPolicy) -> None:
        """The policy is now this."""
        identity = compiled.policy.id
        self.compiled = compiled
        name = f"{identity.name}/{identity.namespace}/{identity.kind}".encode()
        self.place = (INFINITY if compiled.order is None else compiled.order, name)


class ActivePolicies:
    """Policies, and the local endpoints that they meet."""

    def __init__(self, rules: ActiveRules, report: Report) -> None:
        self.tiers = Tiers(self._mark_all)
        self._rules = rules
        self._report = report
        self._index = LabelIndex(self._on_started, self._on_stopped)
        self._entries: dict[PolicyId, _Entry] = {}
        self._endpoints: set[ResourceKey] = set()
        self._dirty: dict[ResourceKey, None] = {}

    def update(self, key: ResourceKey, resource: NetworkPolicy | GlobalNetworkPolicy | None, _revision: int) -> None:
        """A policy is there, has changed, or (None) is gone."""
        identity = PolicyId(key.kind, key.namespace, key.name)
        if resource is None:
            entry = self._entries.pop(identity, None)
            if entry is not None:
                self._index.delete_selector(entry)
            return
        compiled = compile_policy(resource)
        self._place(identity, compiled)
        self._report.note_refused(key, compiled.refused)

    def inherit(self, profile: str, labels: Mapping[str, str]) -> None:
        """What endpoints inherit from a profile."""
        if labels:
            self._index.update_parent_labels(profile, labels)
        else:
            self._index.delete_parent(profile)

    def update_endpoint(self, key: ResourceKey, labels: dict[str, str], profiles: tuple[str, ...]) -> None:
        """A local endpoint is there, or has changed."""
        self._endpoints.add(key)
        self._index.update_labels(key, labels, profiles)
        self._dirty[key] = None

    def remove_endpoint(self, key: ResourceKey) -> None:
        """A local endpoint is gone."""
        self._endpoints.discard(key)
        self._index.delete_labels(key)
        self._dirty.pop(key, None)

    def take_dirty(self) -> dict[ResourceKey, tuple[TierPolicies, ...]]:
        """Local endpoints that have changed, or whose policies have, since the last call: their tiers in order."""
        orders: dict[frozenset[Hashable], tuple[TierPolicies, ...]] = {}
        found = {}
        for key in self._dirty:
            matching = self._index.matches(key)
            if matching not in orders:  # endpoints that the same policies act on share one order
                orders[matching] = self._ordered(matching)
            found[key] = orders[matching]
        self._dirty.clear()
        return found

    def __len__(self) -> int:
        return len(self._entries)

    def _place(self, identity: PolicyId, compiled: CompiledPolicy) -> None:
        """File a policy that is new or has changed."""
        entry = self._entries.get(identity)
        was_active = False
        if entry is None:
            entry = self._entries[identity] = _Entry()
        elif entry.endpoints:
            was_active = True
            if _placing(entry.compiled) != _placing(compiled):
                self._mark_matching(entry)
        entry.become(compiled)
        if compiled.workload:
            self._index.update_selector(entry, compiled.selector.node)
        else:
            self._index.delete_selector(entry)
        if was_active and entry.endpoints:
            self._rules.put(identity, compiled)

    def _ordered(self, matching: frozenset[Hashable]) -> tuple[TierPolicies, ...]:
        tiers: dict[str, list[_Entry]] = {}
        for entry in matching:
            assert isinstance(entry, _Entry)
            tiers.setdefault(entry.compiled.tier, []).append(entry)
        return tuple(self._tier_policies(name, tiers[name]) for name in sorted(tiers, key=self.tiers.place))

    def _tier_policies(self, name: str, entries: list[_Entry]) -> TierPolicies:
        found = [entry.compiled for entry in sorted(entries, key=lambda entry: entry.place)]
        return TierPolicies(
            name,
            self.tiers.end_action(name),
            tuple(compiled.policy.id for compiled in found if compiled.ingress),
            tuple(compiled.policy.id for compiled in found if compiled.egress),
        )

    def _mark_matching(self, entry: _Entry) -> None:
        for key in self._endpoints:
            if entry in self._index.matches(key):
                self._dirty[key] = None

    def _mark_all(self) -> None:
        self._dirty.update(dict.fromkeys(self._endpoints))

    def _on_started(self, entry: Hashable, key: Hashable) -> None:
        assert isinstance(entry, _Entry) and isinstance(key, ResourceKey)
        entry.endpoints += 1
        self._dirty[key] = None
        if entry.endpoints == 1:
            self._rules.put(entry.compiled.policy.id, entry.compiled)

    def _on_stopped(self, entry: Hashable, key: Hashable) -> None:
        assert isinstance(entry, _Entry) and isinstance(key, ResourceKey)
        entry.endpoints -= 1
        if key in self._endpoints:
            self._dirty[key] = None
        if entry.endpoints == 0:
            self._rules.put(entry.compiled.policy.id, None)


def _placing(compiled: CompiledPolicy) -> tuple[str, float | None, bool, bool]:
    return (compiled.tier, compiled.order, compiled.ingress, compiled.egress)

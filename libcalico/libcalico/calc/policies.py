"""Which policies act on which local endpoint, and in what order (spec/felix.md 2.2, 2.3, 3.3, 3.5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from libcalico.calc.sets import SetMembers
from libcalico.model.keys import ResourceKey
from libcalico.policy.compile import CompiledPolicy, CompiledProfile, SetSpec
from libcalico.policy.ir import Action, EndpointPolicy, Policy, PolicyId, TierPolicies
from libcalico.selector import LabelIndex

INFINITY = float("inf")


class TierOrder(NamedTuple):
    """Order and default action of an existing tier."""

    order: float
    passes: bool


class ActivePolicies:
    """Policies, profiles and tiers, and the local endpoints that they meet."""

    def __init__(self, sets: SetMembers) -> None:
        self._sets = sets
        self._index = LabelIndex(self._on_started, self._on_stopped)
        self._policies: dict[PolicyId, CompiledPolicy] = {}
        self._profiles: dict[str, CompiledProfile] = {}
        self._tiers: dict[str, TierOrder] = {}
        self._matches: dict[PolicyId, int] = {}
        self._endpoint_profiles: dict[ResourceKey, tuple[str, ...]] = {}
        self._profile_users: dict[str, int] = {}
        self._active: dict[PolicyId, dict[str, SetSpec]] = {}
        self.changed: dict[PolicyId, None] = {}
        self.dirty: dict[ResourceKey, None] = {}

    def update_policy(self, compiled: CompiledPolicy) -> None:
        """A policy is there, or has changed."""
        identity = compiled.policy.id
        former = self._policies.get(identity)
        self._policies[identity] = compiled
        if former is not None and _placing(former) != _placing(compiled):
            self._mark_matching(identity)
        if compiled.workload:
            self._index.update_selector(identity, compiled.selector.node)
        else:
            self._index.delete_selector(identity)
        self._refresh(identity)

    def remove_policy(self, identity: PolicyId) -> None:
        """A policy is gone, or must be treated as absent."""
        self._index.delete_selector(identity)
        if self._policies.pop(identity, None) is not None:
            self._refresh(identity)

    def update_profile(self, name: str, compiled: CompiledProfile) -> None:
        """A profile's rules are there, or have changed."""
        self._profiles[name] = compiled
        self._refresh(PolicyId("Profile", "", name))

    def remove_profile(self, name: str) -> None:
        """A profile's rules are gone; endpoints that name it are closed by it."""
        if self._profiles.pop(name, None) is not None:
            self._refresh(PolicyId("Profile", "", name))

    def has_profile(self, name: str) -> bool:
        """Is there a profile of this name, with rules that can be used?"""
        return name in self._profiles

    @property
    def policy_count(self) -> int:
        """Policies."""
        return len(self._policies)

    @property
    def profile_count(self) -> int:
        """Profiles with rules that can be used."""
        return len(self._profiles)

    @property
    def tier_count(self) -> int:
        """Tiers."""
        return len(self._tiers)

    def is_profile_used(self, name: str) -> bool:
        """Is there a profile of this name that a local endpoint names?"""
        return name in self._profiles and name in self._profile_users

    def missing_profiles(self) -> dict[str, int]:
        """Names of profiles that are not there, or cannot be used, and how many local endpoints name each."""
        return {name: users for name, users in self._profile_users.items() if name not in self._profiles}

    def has_tier(self, name: str) -> bool:
        """Is there a tier of this name?"""
        return name in self._tiers

    def update_profile_labels(self, name: str, labels: dict[str, str]) -> None:
        """What endpoints inherit."""
        if labels:
            self._index.update_parent_labels(name, labels)
        else:
            self._index.delete_parent(name)

    def update_tier(self, name: str, tier: TierOrder | None) -> None:
        """A tier is there, has changed, or (None) is gone."""
        if self._tiers.get(name) == tier:
            return
        if tier is None:
            del self._tiers[name]
        else:
            self._tiers[name] = tier
        self.dirty.update(dict.fromkeys(self._endpoint_profiles))

    def update_endpoint(self, key: ResourceKey, labels: dict[str, str], profiles: tuple[str, ...]) -> None:
        """A local endpoint is there, or has changed."""
        former = self._endpoint_profiles.get(key, ())
        self._endpoint_profiles[key] = profiles
        for name in profiles:
            self._profile_users[name] = self._profile_users.get(name, 0) + 1
        self._drop_users(former)
        for name in {*former, *profiles}:
            self._refresh(PolicyId("Profile", "", name))
        self._index.update_labels(key, labels, profiles)
        self.dirty[key] = None

    def remove_endpoint(self, key: ResourceKey) -> None:
        """A local endpoint is gone."""
        former = self._endpoint_profiles.pop(key, None)
        if former is None:
            return
        self._index.delete_labels(key)
        self._drop_users(former)
        for name in former:
            self._refresh(PolicyId("Profile", "", name))
        self.dirty.pop(key, None)

    def active(self, identity: PolicyId) -> Policy | None:
        """The rules of a policy or profile that some local endpoint needs, None if none does."""
        if identity not in self._active:
            return None
        found = self._compiled(identity)
        return None if found is None else found.policy

    def endpoint_policy(self, key: ResourceKey) -> EndpointPolicy:
        """All that decides about an endpoint's packets, in order."""
        matching = [
            self._policies[i] for i in self._index.matches(key) if isinstance(i, PolicyId) and i in self._policies
        ]
        matching.sort(key=self._place)
        tiers: dict[str, list[CompiledPolicy]] = {}
        for compiled in matching:
            tiers.setdefault(compiled.tier, []).append(compiled)
        return EndpointPolicy(
            tuple(self._tier_policies(name, policies) for name, policies in tiers.items()), self._endpoint_profiles[key]
        )

    def _tier_policies(self, name: str, policies: list[CompiledPolicy]) -> TierPolicies:
        tier = self._tiers.get(name)
        return TierPolicies(
            name,
            Action.PASS if tier is not None and tier.passes else Action.DENY,
            tuple(compiled.policy.id for compiled in policies if compiled.ingress),
            tuple(compiled.policy.id for compiled in policies if compiled.egress),
        )

    def _place(self, compiled: CompiledPolicy) -> tuple[bool, float, str, float, bytes]:
        tier = self._tiers.get(compiled.tier)
        identity = compiled.policy.id
        name = f"{identity.name}/{identity.namespace}/{identity.kind}".encode()
        order = INFINITY if compiled.order is None else compiled.order
        return (tier is None, 0.0 if tier is None else tier.order, compiled.tier, order, name)

    def _compiled(self, identity: PolicyId) -> CompiledPolicy | CompiledProfile | None:
        return self._profiles.get(identity.name) if identity.kind == "Profile" else self._policies.get(identity)

    def _is_used(self, identity: PolicyId) -> bool:
        if identity.kind == "Profile":
            return identity.name in self._profile_users
        return identity in self._matches

    def _refresh(self, identity: PolicyId) -> None:
        """Sets are used before they are released, so that one that both versions need is not emptied."""
        compiled = self._compiled(identity) if self._is_used(identity) else None
        former = self._active.pop(identity, None)
        if compiled is not None:
            for spec in compiled.sets.values():
                self._sets.use(spec)
            self._active[identity] = compiled.sets
        for set_id in former or ():
            self._sets.release(set_id)
        if compiled is not None or former is not None:
            self.changed[identity] = None

    def _drop_users(self, profiles: tuple[str, ...]) -> None:
        for name in profiles:
            self._profile_users[name] -= 1
            if self._profile_users[name] == 0:
                del self._profile_users[name]

    def _mark_matching(self, identity: PolicyId) -> None:
        for key in self._endpoint_profiles:
            if identity in self._index.matches(key):
                self.dirty[key] = None

    def _on_started(self, identity: Hashable, key: Hashable) -> None:
        assert isinstance(identity, PolicyId) and isinstance(key, ResourceKey)
        self._matches[identity] = self._matches.get(identity, 0) + 1
        self.dirty[key] = None
        if self._matches[identity] == 1:
            self._refresh(identity)

    def _on_stopped(self, identity: Hashable, key: Hashable) -> None:
        assert isinstance(identity, PolicyId) and isinstance(key, ResourceKey)
        self._matches[identity] -= 1
        if key in self._endpoint_profiles:
            self.dirty[key] = None
        if self._matches[identity] == 0:
            del self._matches[identity]
            self._refresh(identity)


def _placing(compiled: CompiledPolicy) -> tuple[str, float | None, bool, bool]:
    return (compiled.tier, compiled.order, compiled.ingress, compiled.egress)

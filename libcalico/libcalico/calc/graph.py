"""The graph's front door: datastore updates in, changes for the dataplane out.

`update` takes one key's new value and hands it to the nodes that care; `flush` resolves what is dirty and returns the
changes since the last flush. A value that cannot be used counts as absent and is reported in `problems`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from libcalico.calc.messages import Endpoint, Flush, Pools, Route, Vtep
from libcalico.calc.outbox import Pending
from libcalico.calc.policies import INFINITY, ActivePolicies, TierOrder
from libcalico.calc.routes import Routing
from libcalico.calc.sets import Contribution, SetMembers
from libcalico.calc.settings import Settings, strange_members
from libcalico.calc.unsupported import KINDS as UNSUPPORTED_KINDS
from libcalico.calc.unsupported import unsupported
from libcalico.conventions import BUILT_IN_PROFILE
from libcalico.errors import BadData, ParsingDatastoreEntry
from libcalico.model import codec, defaults, scalars
from libcalico.model import ipam_data as ipam_model
from libcalico.model.keys import BLOCKS, RESOURCES, BlockKey, Key, ResourceKey, parse_key, split_workload_endpoint_name
from libcalico.model.resources import (
    ClusterInformation,
    FelixConfiguration,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    IPPool,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    Tier,
    WorkloadEndpoint,
)
from libcalico.net import Cidr, parse_cidrs
from libcalico.policy.compile import PROTOCOLS, compile_policy, compile_profile
from libcalico.policy.ir import Policy, PolicyId
from libcalico.selector.translate import NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL
from libcalico.text import is_text, shown

log = logging.getLogger(__name__)

PREFIXES = (
    RESOURCES,
    BLOCKS,
)
FORGED_PREFIXES = ("pcns.", "pcsa.")
CLUSTER_INFORMATION = "default"
KEPT_KINDS = ("ClusterInformation", "FelixConfiguration")
"""A value that cannot be used leaves the former one in force: the absence of these would end the agent."""


class Graph:
    """The calculation for one host. Nothing is flushed before `in_sync` is set."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.in_sync = False
        self.revision = 0
        self.datastore_ready: bool | None = None
        self.problems: dict[str, str] = {}
        self._endpoints = 0
        self.unsupported: dict[str, str] = {}
        """Objects that are in force, and what they demand in vain."""
        self._reported = False
        self._policies_out: Pending[PolicyId, Policy] = Pending()
        self._endpoints_out: Pending[ResourceKey, Endpoint] = Pending()
        self._routes_out: Pending[str, Route] = Pending()
        self._vteps_out: Pending[tuple[str, int], Vtep] = Pending()
        self._pools_sent: Pools | None = None
        self._settings = Settings(host)
        self._configuration_sent: dict[str, str] | None = None
        self.sets = SetMembers()
        self.policies = ActivePolicies(self.sets)
        self.routing = Routing(host, self._routes_out, self._vteps_out)
        self._local: dict[ResourceKey, tuple[WorkloadEndpoint, int]] = {}
        self._handlers: dict[str, Callable[[ResourceKey, Any, int], None]] = {
            "NetworkPolicy": self._on_policy,
            "GlobalNetworkPolicy": self._on_policy,
            "Tier": self._on_tier,
            "Profile": self._on_profile,
            "NetworkSet": self._on_network_set,
            "GlobalNetworkSet": self._on_network_set,
            "WorkloadEndpoint": self._on_endpoint,
            "IPPool": self._on_pool,
            "Node": self._on_node,
            "FelixConfiguration": self._on_configuration,
            "ClusterInformation": self._on_cluster_information,
        }
        self._on_profile(ResourceKey("Profile", BUILT_IN_PROFILE), _built_in_profile(), 0)

    def update(self, path: bytes, value: bytes | None, revision: int) -> None:
        """One key has a new value, or (None) is gone. Never raises: what cannot be used counts as absent."""
        key = parse_key(path)
        self.revision = max(self.revision, revision)
        self._reported = False
        if isinstance(key, BlockKey):
            step: Callable[[Any, bytes | None, int], None] = self._update_block
        elif isinstance(key, ResourceKey) and key.kind in self._handlers:
            step = self._update_resource
        else:
            if isinstance(key, ResourceKey) and key.kind in UNSUPPORTED_KINDS:
                self._note_unsupported(key, "" if value is None else "the whole object, which has no effect")
            if key is None and not is_text(path):
                self._note_stray(shown(path), value is not None)
            return
        if not self._attempt(key, partial(step, key, value, revision)) and not _is_kept(key):
            self._attempt(key, partial(step, key, None, revision))
        if self.problems and not self._reported:
            self.problems.pop(shown(key), None)

    def counts(self) -> dict[str, int]:
        """How many usable objects there are, by kind."""
        return {
            "WorkloadEndpoint": self._endpoints,
            "policy": self.policies.policy_count,
            "Profile": self.policies.profile_count - 1,  # one is built in
            "Tier": self.policies.tier_count,
            "IPPool": len(self.routing.pools),
            "Node": self.routing.node_count,
            "block": self.routing.block_count,
            "FelixConfiguration": self._settings.count,
        }

    def unmet(self) -> list[str]:
        """What local endpoints need and is not there, in words."""
        profiles = [
            f"Profile({shown(name)}): is missing or cannot be used; endpoints of this host that name it ({users}) are"
            " closed where no policy applies to them"
            for name, users in sorted(self.policies.missing_profiles().items())
        ]
        blocks = [
            f"block {cidr}: this host uses addresses of it and no IPPool contains it: they are neither masqueraded nor"
            " encapsulated"
            for cidr in self.routing.stray_blocks()
        ]
        return profiles + blocks

    def sole_interface(self, key: ResourceKey) -> str:
        """The interface of a local endpoint; empty when it is none, or when another one has its interface or an
        address of it."""
        if key not in self._local:
            return ""
        spec = self._local[key][0].spec
        for other, (endpoint, _) in self._local.items():
            same = endpoint.spec.interface_name == spec.interface_name
            if other != key and (same or not set(spec.ip_networks).isdisjoint(endpoint.spec.ip_networks)):
                return ""
        return spec.interface_name

    def knows(self, key: ResourceKey) -> bool:
        """Is this pool, tier or FelixConfiguration there, and usable?"""
        match key.kind:
            case "IPPool":
                return key.name in self.routing.pools
            case "Tier":
                return self.policies.has_tier(key.name)
        return self._settings.has(key.name)

    def flush(self, revision: int = 0) -> Flush | None:
        """The changes since the last flush; None as long as the datastore is not in sync."""
        if not self.in_sync:
            return None
        self.revision = max(self.revision, revision)
        self.routing.resolve(self._attempt)
        for identity in self.policies.changed:
            policy = self.policies.active(identity)
            if policy is None:
                self._policies_out.remove(identity)
            else:
                self._policies_out.put(identity, policy)
        self.policies.changed.clear()
        self._resolve_endpoints()
        return Flush(
            sets=self.sets.flush(),
            policies=self._policies_out.flush(),
            endpoints=self._endpoints_out.flush(),
            routes=self._routes_out.flush(),
            vteps=self._vteps_out.flush(),
            pools=self._flush_pools(),
            configuration=self._flush_configuration(),
            revision=self.revision,
        )

    def _attempt(self, key: Key, step: Callable[[], None]) -> bool:
        """Do a step of one object. Whatever it raises concerns that object alone: False, and a report."""
        try:
            step()
        except Exception as error:
            self._note(shown(key), shown(error.cause if isinstance(error, ParsingDatastoreEntry) else error))
            if not isinstance(error, BadData):
                log.error("a mistake of the agent's own with %s", shown(key), exc_info=error)
            return False
        return True

    def _note(self, name: str, problem: str, what: str = "counts as absent") -> None:
        self._reported = True
        if self.problems.get(name) != problem:
            log.warning("%s %s until it is mended: %s", name, what, problem)
        self.problems[name] = problem

    def _note_stray(self, name: str, is_there: bool) -> None:
        if is_there:
            self._note(name, "the key is not UTF-8")
        else:
            self.problems.pop(name, None)

    def _update_block(self, key: BlockKey, value: bytes | None, _revision: int) -> None:
        self.routing.update_block(key.cidr, None if value is None else ipam_model.decode_block(key, value))

    def _update_resource(self, key: ResourceKey, value: bytes | None, revision: int) -> None:
        found = None if value is None else codec.decode(key, value)
        self._handlers[key.kind](key, found, revision)
        self._note_unsupported(key, "" if found is None or value is None else unsupported(found, value))
        if key.kind == "FelixConfiguration" and value is not None and (strange := strange_members(value)):
            self._note(shown(key), strange, "is used in part")

    def _note_unsupported(self, key: ResourceKey, text: str) -> None:
        if not text:
            if self.unsupported:
                self.unsupported.pop(shown(key), None)
            return
        name, text = shown(key), f"not supported here: {shown(text)}"
        if self.unsupported.get(name) != text:
            log.warning("%s: %s", name, text)
        self.unsupported[name] = text

    def _note_refused(self, key: Key, refused: str) -> None:
        if refused:
            self._note(shown(key), shown(f"it denies all: {refused}"), "is not enforced")

    def _on_policy(
        self, key: ResourceKey, resource: NetworkPolicy | GlobalNetworkPolicy | None, _revision: int
    ) -> None:
        identity = PolicyId(key.kind, key.namespace, key.name)
        if resource is None:
            self.policies.remove_policy(identity)
            return
        compiled = compile_policy(resource)
        self.policies.update_policy(compiled)
        self._note_refused(key, compiled.refused)

    def _on_tier(self, key: ResourceKey, tier: Tier | None, _revision: int) -> None:
        facts = None
        if tier is not None:
            order = INFINITY if tier.spec.order is None else float(tier.spec.order)
            facts = TierOrder(order, tier.spec.default_action == "Pass")
        self.policies.update_tier(key.name, facts)

    def _on_profile(self, key: ResourceKey, profile: Profile | None, _revision: int) -> None:
        compiled = None if profile is None else compile_profile(profile)
        labels = {} if profile is None else profile.spec.labels_to_apply
        self.policies.update_profile_labels(key.name, labels)
        self.sets.update_profile_labels(key.name, labels)
        if compiled is None:
            self.policies.remove_profile(key.name)
        else:
            self.policies.update_profile(key.name, compiled)
            self._note_refused(key, compiled.refused)

    def _on_network_set(self, key: ResourceKey, found: NetworkSet | GlobalNetworkSet | None, _revision: int) -> None:
        if found is None:
            self.sets.remove_item(key)
            return
        labels, parents = dict(found.metadata.labels), ()
        if key.namespace:
            labels[NAMESPACE_LABEL] = key.namespace
            parents = (f"kns.{key.namespace}",)  # type: ignore[assignment]
        nets, refused = parse_cidrs(found.spec.nets)
        if refused:
            text = f"{len(refused)} of its nets cannot be read, first {shown(refused[0])!r}: they match nothing"
            self._note(shown(key), text, "is used without them")
        self.sets.update_item(key, labels, parents, Contribution(frozenset(nets)))

    def _on_endpoint(self, key: ResourceKey, endpoint: WorkloadEndpoint | None, revision: int) -> None:
        was_there = self.sets.has_item(key)
        if endpoint is None or not _has_addresses(endpoint):
            self._endpoints -= was_there
            self.sets.remove_item(key)
            if self._local.pop(key, None) is not None:
                self.policies.remove_endpoint(key)
                self._endpoints_out.remove(key)
            return
        spec = endpoint.spec
        labels = _endpoint_labels(key, endpoint)
        parents = tuple(spec.profiles)
        ports = tuple((p.name, number, p.port) for p in spec.ports if p.name and (number := _protocol(p.protocol)))
        self.sets.update_item(key, labels, parents, Contribution(_hosts(spec.ip_networks), ports))
        self._endpoints += not was_there
        if _node_of(key, endpoint) == self.host:
            self._local[key] = (endpoint, revision)
            self.policies.update_endpoint(key, labels, parents)

    def _on_pool(self, key: ResourceKey, pool: IPPool | None, _revision: int) -> None:
        filled = defaults.after_read(pool) if pool is not None else None
        self.routing.update_pool(key.name, filled if isinstance(filled, IPPool) else None)

    def _on_node(self, key: ResourceKey, node: Node | None, _revision: int) -> None:
        self.routing.update_node(key.name, node)
        if key.name == self.host:
            self._settings.labels = {} if node is None else node.metadata.labels

    def _on_configuration(self, key: ResourceKey, found: FelixConfiguration | None, _revision: int) -> None:
        self._settings.update(key.name, found)

    def _on_cluster_information(self, key: ResourceKey, found: ClusterInformation | None, _revision: int) -> None:
        if key.name == CLUSTER_INFORMATION:
            self.datastore_ready = None if found is None else found.spec.datastore_ready is not False

    def _resolve_endpoints(self) -> None:
        for key in self.policies.dirty:
            if not self._attempt(key, partial(self._resolve_endpoint, key)):
                self._endpoints_out.remove(key)
        self.policies.dirty.clear()

    def _resolve_endpoint(self, key: ResourceKey) -> None:
        endpoint, revision = self._local[key]
        spec = endpoint.spec
        policy = self.policies.endpoint_policy(key)
        hosts = _hosts(spec.ip_networks)
        self._endpoints_out.put(key, Endpoint(key, spec.interface_name, spec.mac, hosts, policy, revision))

    def _flush_pools(self) -> Pools | None:
        facts = [pool for pool in self.routing.pools.values() if not pool.load_balancer_only]
        pools = Pools(
            frozenset(str(pool.network) for pool in facts),
            frozenset(str(pool.network) for pool in facts if pool.nat_outgoing),
        )
        if pools == self._pools_sent:
            return None
        self._pools_sent = pools
        return pools

    def _flush_configuration(self) -> dict[str, str] | None:
        merged = self._settings.merged()
        if merged == self._configuration_sent:
            return None
        self._configuration_sent = merged
        return merged


def _is_kept(key: Key) -> bool:
    return isinstance(key, ResourceKey) and key.kind in KEPT_KINDS


def _has_addresses(endpoint: WorkloadEndpoint) -> bool:
    """False for one without any, which counts as absent; raises `BadData` for one that cannot be used."""
    spec = endpoint.spec
    if not spec.ip_networks:
        return False
    if not scalars.INTERFACE.fullmatch(spec.interface_name):
        raise BadData(f"interfaceName {shown(spec.interface_name)!r} is not an interface's name")
    if spec.allow_spoofed_source_prefixes:
        raise BadData("allowSpoofedSourcePrefixes needs WorkloadSourceSpoofing=Any, which is not set")
    bad = parse_cidrs(spec.ip_networks)[1]
    if bad:
        raise BadData(f"ipNetworks: {shown(bad[0])!r} is not an address")
    return True


def _built_in_profile() -> Profile:
    allow = [{"action": "Allow"}]
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": {"name": BUILT_IN_PROFILE},
        "spec": {"ingress": allow, "egress": allow},
    }
    profile = codec.from_input(document)
    assert isinstance(profile, Profile)
    return profile


def _hosts(nets: list[str]) -> tuple[Cidr, ...]:
    """An endpoint's addresses: whatever the length, each is one host."""
    return tuple(parse_cidrs([net.partition("/")[0] for net in nets])[0])


def _protocol(protocol: int | str) -> int:
    return protocol if isinstance(protocol, int) else PROTOCOLS.get(protocol.lower(), 0)


def _node_of(key: ResourceKey, endpoint: WorkloadEndpoint) -> str:
    """The name decides whose endpoint it is."""
    parts = split_workload_endpoint_name(key.name)
    return parts[0] if parts is not None else endpoint.spec.node


def _endpoint_labels(key: ResourceKey, endpoint: WorkloadEndpoint) -> dict[str, str]:
    labels = {k: v for k, v in endpoint.metadata.labels.items() if not k.startswith(FORGED_PREFIXES)}
    labels.setdefault(NAMESPACE_LABEL, key.namespace)
    if endpoint.spec.service_account_name:
        labels[SERVICE_ACCOUNT_LABEL] = endpoint.spec.service_account_name
    return labels

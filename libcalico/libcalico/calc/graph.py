"""The graph's front door: datastore updates in, changes for the dataplane out.

`update` takes one key's new value and hands it to the node of its kind; `flush` resolves what is dirty and returns the
changes since the last flush. A value that cannot be used counts as absent and is reported in `problems`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from libcalico.calc.active import ActiveRules
from libcalico.calc.endpoints import Endpoints, NetworkSets
from libcalico.calc.messages import Flush
from libcalico.calc.policies import ActivePolicies
from libcalico.calc.profiles import Profiles
from libcalico.calc.report import Report
from libcalico.calc.routes import Routing
from libcalico.calc.sets import SetMembers
from libcalico.calc.settings import Settings, strange_members
from libcalico.calc.unsupported import KINDS as UNSUPPORTED_KINDS
from libcalico.calc.unsupported import unsupported
from libcalico.model import codec, defaults
from libcalico.model import ipam_data as ipam_model
from libcalico.model.keys import BlockKey, Key, ResourceKey, parse_key
from libcalico.model.resources import ClusterInformation, FelixConfiguration, IPPool, Node, Profile
from libcalico.policy.compile import SetSpec
from libcalico.text import is_text, shown

PREFIXES = (
    "/calico/resources/v3/projectcalico.org/",
    "/calico/ipam/v2/assignment/",
)
BUILT_IN_PROFILE = "projectcalico-default-allow"
CLUSTER_INFORMATION = "default"
KEPT_KINDS = ("ClusterInformation", "FelixConfiguration")
"""A value that cannot be used leaves the former one in force: the absence of these would end the agent."""
Update = Callable[[ResourceKey, Any, int], None]
"""What a node does with an object of its kind, None when it is gone, and the datastore's revision."""


class Graph:
    """The calculation for one host. Nothing is flushed before `in_sync` is set."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.in_sync = False
        self.revision = 0
        self._cluster: ClusterInformation | None = None
        self._report = Report()
        self.problems, self.unsupported = self._report.problems, self._report.unsupported
        self._sets = SetMembers()
        self._rules = ActiveRules(self._sets)
        self._policies = ActivePolicies(self._rules, self._report)
        self.profiles = Profiles(self._rules, (self._policies.inherit, self._sets.inherit), self._report)
        self._endpoints = Endpoints(host, self._sets, self._policies, self.profiles, self._report)
        self.routing = Routing(host)
        self._settings = Settings(host)
        network_sets = NetworkSets(self._sets, self._report)
        self._nodes: dict[str, Update] = {
            "NetworkPolicy": self._policies.update,
            "GlobalNetworkPolicy": self._policies.update,
            "Tier": self._policies.tiers.update,
            "Profile": self.profiles.update,
            "NetworkSet": network_sets.update,
            "GlobalNetworkSet": network_sets.update,
            "WorkloadEndpoint": self._endpoints.update,
            "IPPool": self._on_pool,
            "Node": self._on_node,
            "FelixConfiguration": self._on_configuration,
            "ClusterInformation": self._on_cluster_information,
        }
        self.profiles.update(ResourceKey("Profile", BUILT_IN_PROFILE), _built_in_profile(), 0)

    @property
    def datastore_ready(self) -> bool | None:
        """False is the lock; None: the datastore is not initialised."""
        return None if self._cluster is None else self._cluster.spec.datastore_ready is not False

    @property
    def cluster_guid(self) -> str:
        """Which cluster the datastore is of; empty when it does not say."""
        return "" if self._cluster is None else self._cluster.spec.cluster_guid

    def update(self, path: bytes, value: bytes | None, revision: int) -> None:
        """One key has a new value, or (None) is gone. Never raises: what cannot be used counts as absent."""
        key = parse_key(path)
        self.revision = max(self.revision, revision)
        if isinstance(key, BlockKey):
            step: Callable[[Any, bytes | None, int], None] = self._update_block
        elif isinstance(key, ResourceKey) and key.kind in self._nodes:
            step = self._update_resource
        else:
            self._pass_over(path, key, value)
            return
        report = self._report
        report.begin()
        if not report.attempt(key, partial(step, key, value, revision)) and not _is_kept(key):
            report.attempt(key, partial(step, key, None, revision))
        report.end(key)

    def counts(self) -> dict[str, int]:
        """How many usable objects there are, by kind."""
        return {
            "WorkloadEndpoint": len(self._endpoints),
            "policy": len(self._policies),
            "Profile": len(self.profiles) - 1,  # one is built in
            "Tier": len(self._policies.tiers),
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
            for name, users in sorted(self.profiles.missing().items())
        ]
        blocks = [
            f"block {cidr}: this host uses addresses of it and no IPPool contains it: they are neither masqueraded nor"
            " encapsulated"
            for cidr in self.routing.stray_blocks()
        ]
        return profiles + blocks + self.routing.taken_addresses()

    def sole_interface(self, key: ResourceKey) -> str:
        """The interface of a local endpoint; empty when it is none, or when another one has its interface or an
        address of it."""
        return self._endpoints.sole_interface(key)

    def knows(self, key: ResourceKey) -> bool:
        """Is this pool, tier or FelixConfiguration there, and usable?"""
        match key.kind:
            case "IPPool":
                return key.name in self.routing.pools
            case "Tier":
                return key.name in self._policies.tiers
        return self._settings.has(key.name)

    def set_specs(self) -> dict[str, SetSpec]:
        """Who is in each set that active rules need."""
        return self._sets.specs()

    def flush(self, revision: int = 0) -> Flush | None:
        """The changes since the last flush; None as long as the datastore is not in sync."""
        if not self.in_sync:
            return None
        self.revision = max(self.revision, revision)
        routing = self.routing.flush(self._report.attempt)
        return Flush(
            sets=self._sets.flush(),
            policies=self._rules.flush(),
            endpoints=self._endpoints.flush(),
            routes=routing.routes,
            vteps=routing.vteps,
            pools=routing.pools,
            configuration=self._settings.flush(),
            revision=self.revision,
            hosts=routing.hosts,
        )

    def _pass_over(self, path: bytes, key: Key | None, value: bytes | None) -> None:
        """A key that no node takes: of a kind that has no effect here, or none of ours."""
        if isinstance(key, ResourceKey) and key.kind in UNSUPPORTED_KINDS:
            self._report.note_unsupported(key, "" if value is None else "the whole object, which has no effect")
        elif key is None and not is_text(path):
            if value is None:
                self.problems.pop(shown(path), None)
            else:
                self._report.note(shown(path), "the key is not UTF-8")

    def _update_block(self, key: BlockKey, value: bytes | None, _revision: int) -> None:
        self.routing.update_block(key.cidr, None if value is None else ipam_model.decode_block(key, value))

    def _update_resource(self, key: ResourceKey, value: bytes | None, revision: int) -> None:
        found = None if value is None else codec.decode(key, value)
        self._nodes[key.kind](key, found, revision)
        self._report.note_unsupported(key, "" if found is None or value is None else unsupported(found, value))
        if key.kind == "FelixConfiguration" and value is not None and (strange := strange_members(value)):
            self._report.note(key, strange, "is used in part")

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
            self._cluster = found


def _is_kept(key: Key) -> bool:
    return isinstance(key, ResourceKey) and key.kind in KEPT_KINDS


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

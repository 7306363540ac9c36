"""What BIRD on one node depends on: the state that `peers` and `render` read. Pure: stored bytes in, values kept.

A value that cannot be read is treated as absent, and named in `problems` until it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from calico_bird.grammar import NotBird, neighbor_address
from libcalico.errors import BadData
from libcalico.model.bgp import (
    BGPConfiguration,
    BGPConfigurationSpec,
    BGPFilter,
    BGPFilterSpec,
    BGPPeer,
    BGPPeerSpec,
)
from libcalico.model.codec import decode
from libcalico.model.keys import ROUTING_KINDS, AffinityKey, Key, ResourceKey
from libcalico.model.resources import IPPool, IPPoolSpec, Node
from libcalico.net import Cidr, bare_address, parse_cidr
from libcalico.text import shown

FAMILIES = (4, 6)
DEFAULT_AS = 64512
DEFAULT_PORT = 179


class Problem(NamedTuple):
    """Something stored that was left out or changed, and why: one clause."""

    subject: str
    reason: str


class Host(NamedTuple):
    """A Calico node as BGP sees it. `addresses` and `subnets` by family, only those that it has; AS 0: none of its
    own. `cluster_id` is unchecked text."""

    name: str
    labels: dict[str, str]
    addresses: dict[int, str]
    subnets: dict[int, Cidr]
    as_number: int
    cluster_id: str


class LocalWorkload(NamedTuple):
    """A workload of this node that speaks BGP: the BGPPeer that names it, and its addresses."""

    peer_name: str
    addresses: tuple[str, ...]


class Routing:
    """The state of one node's routing. `put` and `put_workload` change it; everything else only reads.

    `passwords` holds what the secret files say, by (name, key); a missing entry is a missing file. `router_id` is
    the operator's word: empty, `hash`, or an IPv4 address. A filter that cannot be read is None: it is there, and
    rejects everything. `mesh_version` grows with every change that the mesh can depend on."""

    def __init__(self, node: str, router_id: str = "") -> None:
        self.node = node
        self.router_id = router_id
        self.hosts: dict[str, Host] = {}
        self.peers: dict[str, BGPPeerSpec] = {}
        self.filters: dict[str, BGPFilterSpec | None] = {}
        self.pools: dict[str, IPPoolSpec] = {}
        self.configurations: dict[str, BGPConfigurationSpec] = {}
        self.affinities: dict[Cidr, str] = {}
        self.workloads: dict[str, LocalWorkload] = {}
        self.passwords: dict[tuple[str, str], str] = {}
        self.mesh_version = 0
        self._problems: dict[Key | str, tuple[Problem, ...]] = {}

    def put(self, key: Key, value: bytes | None) -> bool:
        """Take a stored value, None when it is gone. False: the key does not matter to this node."""
        if isinstance(key, AffinityKey):
            return self._put_affinity(key, value)
        if not isinstance(key, ResourceKey) or key.kind not in ROUTING_KINDS:
            return False
        self._drop(key)
        self.mesh_version += key.kind in ("Node", "BGPConfiguration")
        if value is None:
            return True
        try:
            resource = decode(key, value)
        except BadData as error:
            reason = shown(error)
            if key.kind == "BGPFilter":
                self.filters[key.name] = None
                reason += ": peers that name it exchange no routes"
            self._problems[key] = (Problem(str(key), reason),)
            return True
        match resource:
            case Node():
                self.hosts[key.name], self._problems[key] = _host(key, resource)
            case BGPPeer():
                self.peers[key.name] = resource.spec
            case BGPFilter():
                self.filters[key.name] = resource.spec
            case IPPool():
                self.pools[key.name] = resource.spec
            case BGPConfiguration():
                self.configurations[key.name] = resource.spec
        return True

    def _drop(self, key: ResourceKey) -> None:
        self._problems.pop(key, None)
        tables: dict[str, dict[str, Any]] = {
            "Node": self.hosts, "BGPPeer": self.peers, "BGPFilter": self.filters, "IPPool": self.pools,
            "BGPConfiguration": self.configurations,
        }  # fmt: skip
        tables[key.kind].pop(key.name, None)

    def _put_affinity(self, key: AffinityKey, value: bytes | None) -> bool:
        if key.host != self.node or key.type != "host":
            return False
        block = parse_cidr(key.cidr)
        assert block is not None, "a key's CIDR was read before"
        self._problems.pop(key, None)
        self.affinities.pop(block, None)
        if value is None:
            return True
        try:
            self.affinities[block] = _affinity_state(value)
        except ValueError as error:
            self._problems[key] = (Problem(str(key), shown(error)),)
        return True

    def put_passwords(self, passwords: Mapping[tuple[str, str], str]) -> bool:
        """Take what the secret files say now. False: nothing changed."""
        if self.passwords == passwords:
            return False
        self.passwords = dict(passwords)
        self.mesh_version += 1
        return True

    def put_workload(self, name: str, value: bytes | None) -> None:
        """Take an endpoint-status file by its name, None when it is gone."""
        subject = f"endpoint status {shown(name)}"
        self._problems.pop(subject, None)
        self.workloads.pop(name, None)
        if value is None:
            return
        try:
            status = msgspec.json.decode(value, type=_EndpointStatus)
        except (ValueError, RecursionError) as error:
            self._problems[subject] = (Problem(subject, shown(error)),)
            return
        nets = [parse_cidr(text) for text in status.ipv4_nets + status.ipv6_nets]
        addresses = tuple(str(net.address) for net in nets if net is not None and net.is_single)
        if status.bgp_peer_name and addresses:
            self.workloads[name] = LocalWorkload(status.bgp_peer_name, addresses)

    def problems(self) -> list[Problem]:
        """What is stored and cannot be read, sorted."""
        return sorted(problem for problems in self._problems.values() for problem in problems)

    @property
    def host(self) -> Host:
        """This node; one without addresses while its object is missing."""
        return self.hosts.get(self.node) or Host(self.node, {}, {}, {}, 0, "")

    @property
    def default(self) -> BGPConfigurationSpec:
        """The settings of all nodes."""
        return self.configurations.get("default") or BGPConfigurationSpec()

    @property
    def own(self) -> BGPConfigurationSpec:
        """The settings of this node."""
        return self.configurations.get(f"node.{self.node}") or BGPConfigurationSpec()

    @property
    def global_as(self) -> int:
        """The AS of nodes that have none of their own."""
        return self.default.as_number or DEFAULT_AS

    def listen_port(self, node: str) -> int:
        """The port on which a node's BIRD listens; 0: not set, which is 179."""
        own = self.configurations.get(f"node.{node}")
        return (own.listen_port if own else 0) or self.default.listen_port


class _EndpointStatus(msgspec.Struct, frozen=True):
    """What felix writes of a local endpoint, as far as it matters here."""

    ipv4_nets: list[str] = msgspec.field(default_factory=list, name="ipv4Nets")
    ipv6_nets: list[str] = msgspec.field(default_factory=list, name="ipv6Nets")
    bgp_peer_name: str = msgspec.field(default="", name="bgpPeerName")


class _Affinity(msgspec.Struct, frozen=True):
    state: str = ""


def _affinity_state(value: bytes) -> str:
    """Old data have an empty value: confirmed."""
    return (msgspec.json.decode(value, type=_Affinity).state if value.strip() else "") or "confirmed"


def _host(key: ResourceKey, node: Node) -> tuple[Host, tuple[Problem, ...]]:
    bgp = node.spec.bgp
    addresses: dict[int, str] = {}
    subnets: dict[int, Cidr] = {}
    problems = []
    for family, text in ((4, bgp.ipv4_address), (6, bgp.ipv6_address)) if bgp else ():
        if not text:
            continue
        try:
            address, subnet = neighbor_address(bare_address(text)), parse_cidr(text)
        except NotBird as error:
            problems.append(Problem(str(key), f"spec.bgp.ipv{family}Address {error}"))
            continue
        if subnet is None or address.family != family:
            problems.append(Problem(str(key), f'spec.bgp.ipv{family}Address "{shown(text)}" is no address'))
            continue
        addresses[family], subnets[family] = str(address), subnet
    host = Host(
        key.name, node.metadata.labels, addresses, subnets,
        (bgp.as_number or 0) if bgp else 0, bgp.route_reflector_cluster_id if bgp else "",
    )  # fmt: skip
    return host, tuple(problems)

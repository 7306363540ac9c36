"""What the calculation graph tells the dataplane.

Each message is the whole newest state of one object, except that a big set
which both sides know is sent as what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from libcalico.model.keys import ResourceKey
from libcalico.net import Cidr
from libcalico.policy.ir import EndpointPolicy, Policy, PolicyId


class PortMember(NamedTuple):
    """An address that has a named port: `number` is the address as an integer, `protocol` IP's number."""

    family: int
    number: int
    protocol: int
    port: int


Member = Cidr | PortMember


class IPSet(NamedTuple):
    """A set's members: networks, or with `ports` addresses with ports."""

    id: str
    ports: bool
    members: frozenset[Member]


class IPSetDelta(NamedTuple):
    """What has changed in a set whose members the receiver has."""

    id: str
    added: frozenset[Member]
    removed: frozenset[Member]


class Endpoint(NamedTuple):
    """A local workload endpoint; `nets` are single addresses. `revision` is the datastore's, of the endpoint itself."""

    key: ResourceKey
    interface: str
    mac: str
    nets: tuple[Cidr, ...]
    policy: EndpointPolicy
    revision: int


class Pools(NamedTuple):
    """All pools' networks, and those whose traffic to the outside is masqueraded, as CIDR text; the families in which
    pools use VXLAN, and the names of those that use IPIP."""

    networks: frozenset[str] = frozenset()
    masquerade: frozenset[str] = frozenset()
    vxlan: frozenset[int] = frozenset()
    ipip: tuple[str, ...] = ()


class NodeAddresses(NamedTuple):
    """A node's own addresses, IPv4's and IPv6's, and that of its IPIP device; empty text where it has none."""

    own: tuple[str, str]
    ipip: str = ""


class Vtep(NamedTuple):
    """The VXLAN end of a node, per family."""

    node: str
    family: int
    address: str
    mac: str
    parent: str


class Route(NamedTuple):
    """A destination that is not a local workload. `kind`: `vxlan`, `vxlan-direct` (the tunnel address itself), `ipip`,
    `same-subnet` (by way of the node, whose address is `gateway`) or `blackhole` (a block of ours)."""

    destination: str
    kind: str
    node: str = ""
    gateway: str = ""


class Flush(NamedTuple):
    """All that has changed since the last flush; None means "removed". `revision` is the datastore's newest."""

    sets: dict[str, IPSet | IPSetDelta | None]
    policies: dict[PolicyId, Policy | None]
    endpoints: dict[ResourceKey, Endpoint | None]
    routes: dict[str, Route | None]
    vteps: dict[tuple[str, int], Vtep | None]
    pools: Pools | None
    configuration: dict[str, str] | None
    revision: int
    hosts: Mapping[str, NodeAddresses | None] = MappingProxyType({})

    @property
    def empty(self) -> bool:
        """Nothing has changed."""
        return not any((self.sets, self.policies, self.endpoints, self.routes, self.vteps, self.hosts)) and (
            self.pools is None and self.configuration is None
        )

    def summary(self) -> str:
        """How many of each kind have changed."""
        counts = (
            (len(self.endpoints), "endpoints"), (len(self.policies), "policies"), (len(self.sets), "sets"),
            (len(self.routes), "routes"), (len(self.vteps), "vteps"), (len(self.hosts), "hosts"),
        )  # fmt: skip
        return ", ".join(f"{count} {kind}" for count, kind in counts if count) or "pools or settings"

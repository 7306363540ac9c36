"""The kinds by which routes reach other hosts and routers, and what a node reports of them (spec/resources.md 7-8).

Member order, JSON spelling and emptiness rules as in `resources`, which has the kinds that agents need.
"""

from __future__ import annotations

import msgspec

from libcalico.model.base import Metadata, Struct, always
from libcalico.model.wire_types import ASNumber, Duration, Flag, Int, Int32, Time, Uint8, Uint16, Uint32


class SecretKeySelector(Struct, frozen=True):
    """One value of a secret: here a file `<name>/<key>` that only root may read."""

    name: str = ""
    key: str = always("")
    optional: bool | None = None


class BGPPassword(Struct, frozen=True):
    """Where the password of a session is kept."""

    secret_key_ref: SecretKeySelector | None = None


class ServiceBlock(Struct, frozen=True):
    """A range of service addresses."""

    cidr: str = ""


class Community(Struct, frozen=True):
    """A name for `aa:nn` or `aa:nn:mm`."""

    name: str = ""
    value: str = ""


class PrefixAdvertisement(Struct, frozen=True):
    """Communities, by name or value, of the routes within a network."""

    cidr: str = always("")
    communities: list[str] | None = None


class BGPConfigurationSpec(Struct, frozen=True):
    """Settings of BGP for all nodes (`default`) or for one (`node.<name>`)."""

    log_severity_screen: str = ""
    node_to_node_mesh_enabled: bool | None = None
    as_number: ASNumber | None = None
    service_load_balancer_ips: list[ServiceBlock] = msgspec.field(default_factory=list, name="serviceLoadBalancerIPs")
    service_external_ips: list[ServiceBlock] = msgspec.field(default_factory=list, name="serviceExternalIPs")
    service_cluster_ips: list[ServiceBlock] = msgspec.field(default_factory=list, name="serviceClusterIPs")
    service_load_balancer_aggregation: str | None = None
    communities: list[Community] = []
    prefix_advertisements: list[PrefixAdvertisement] = []
    listen_port: Uint16 = 0
    node_mesh_password: BGPPassword | None = None
    node_mesh_max_restart_time: Duration | None = None
    bind_mode: str | None = None
    ignored_interfaces: list[str] = []
    local_workload_peering_ipv4: str = msgspec.field(default="", name="localWorkloadPeeringIPV4")
    local_workload_peering_ipv6: str = msgspec.field(default="", name="localWorkloadPeeringIPV6")
    program_cluster_routes: str | None = None
    ipv4_normal_route_priority: Int | None = None
    ipv6_normal_route_priority: Int | None = None


class BGPConfiguration(Struct, frozen=True):
    """Settings of BGP."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: BGPConfigurationSpec = BGPConfigurationSpec()


class BGPPeerSpec(Struct, frozen=True):
    """One peering, or with selectors many."""

    node: str = ""
    node_selector: str = ""
    peer_ip: str = msgspec.field(default="", name="peerIP")
    as_number: ASNumber = 0
    local_as_number: ASNumber | None = msgspec.field(default=None, name="localASNumber")
    peer_selector: str = ""
    keep_original_next_hop: bool = False
    next_hop_mode: str | None = None
    password: BGPPassword | None = None
    source_address: str = ""
    max_restart_time: Duration | None = None
    keepalive_time: Duration | None = None
    num_allowed_local_as_numbers: Int32 | None = msgspec.field(default=None, name="numAllowedLocalASNumbers")
    ttl_security: Uint8 | None = None
    reachable_by: str = ""
    filters: list[str] = []
    local_workload_selector: str = ""
    reverse_peering: str | None = None


class BGPPeer(Struct, frozen=True):
    """A BGP neighbour of one node, of some, or of all."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: BGPPeerSpec = BGPPeerSpec()


class PrefixLengthRange(Struct, frozen=True):
    """Least and greatest prefix length; None: the network's own, and the longest there is."""

    min: Int32 | None = None
    max: Int32 | None = None


class CommunityMatch(Struct, frozen=True):
    """Routes that have this community; one value."""

    values: list[str] | None = always(None)


class AddCommunity(Struct, frozen=True):
    """Add a community to the route."""

    value: str | None = always(None)


class PrependASPath(Struct, frozen=True):
    """AS numbers to put before the route's path."""

    prefix: list[ASNumber] | None = always(None)


class SetPriority(Struct, frozen=True):
    """The kernel's metric of the route."""

    value: Int | None = always(None)


class FilterOperation(Struct, frozen=True):
    """What an accepting rule does to a route: exactly one of these."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependASPath | None = msgspec.field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


class FilterRule(Struct, frozen=True):
    """Conditions that must all hold, and what is done then."""

    cidr: str = ""
    prefix_length: PrefixLengthRange | None = None
    source: str = ""
    interface: str = ""
    match_operator: str = ""
    peer_type: str = ""
    communities: CommunityMatch | None = None
    as_path_prefix: list[ASNumber] = []
    priority: Int | None = None
    action: str = always("")
    operations: list[FilterOperation] = []


class BGPFilterSpec(Struct, frozen=True):
    """Rules by direction and family; the first that matches decides."""

    export_v4: list[FilterRule] = msgspec.field(default_factory=list, name="exportV4")
    import_v4: list[FilterRule] = msgspec.field(default_factory=list, name="importV4")
    export_v6: list[FilterRule] = msgspec.field(default_factory=list, name="exportV6")
    import_v6: list[FilterRule] = msgspec.field(default_factory=list, name="importV6")


class BGPFilter(Struct, frozen=True):
    """Which routes a peering lets through."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: BGPFilterSpec = BGPFilterSpec()


class IPReservationSpec(Struct, frozen=True):
    """Networks whose addresses IPAM gives to nobody by itself."""

    reserved_cidrs: list[str] = msgspec.field(default_factory=list, name="reservedCIDRs")


class IPReservation(Struct, frozen=True):
    """Addresses that are kept back."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: IPReservationSpec = IPReservationSpec()


class BlockAffinitySpec(Struct, frozen=True):
    """A node's claim to a block. On etcd IPAM keeps its claims under keys of its own; this is stored only."""

    state: str = always("")
    node: str = always("")
    type: str = ""
    cidr: str = always("")
    deleted: Flag = always("false")


class BlockAffinity(Struct, frozen=True):
    """A claim to a block, as an object."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: BlockAffinitySpec = BlockAffinitySpec()


class BGPDaemonStatus(Struct, frozen=True):
    """State of one BIRD."""

    state: str = ""
    version: str = ""
    router_id: str = msgspec.field(default="", name="routerID")
    last_boot_time: str = ""
    last_reconfiguration_time: str = ""


class AgentStatus(Struct, frozen=True):
    """BIRD by family."""

    bird_v4: BGPDaemonStatus = always(BGPDaemonStatus(), "birdV4")
    bird_v6: BGPDaemonStatus = always(BGPDaemonStatus(), "birdV6")


class PeerStatus(Struct, frozen=True):
    """One session."""

    peer_ip: str = msgspec.field(default="", name="peerIP")
    type: str = ""
    state: str = ""
    since: str = ""


class BGPStatus(Struct, frozen=True):
    """Sessions, counted and listed."""

    number_established_v4: Int = always(0, "numberEstablishedV4")
    number_not_established_v4: Int = always(0, "numberNotEstablishedV4")
    number_established_v6: Int = always(0, "numberEstablishedV6")
    number_not_established_v6: Int = always(0, "numberNotEstablishedV6")
    peers_v4: list[PeerStatus] = msgspec.field(default_factory=list, name="peersV4")
    peers_v6: list[PeerStatus] = msgspec.field(default_factory=list, name="peersV6")


class LearnedFrom(Struct, frozen=True):
    """Where BIRD has a route from."""

    source_type: str = ""
    peer_ip: str = msgspec.field(default="", name="peerIP")


class RouteStatus(Struct, frozen=True):
    """One route of BIRD's."""

    type: str = ""
    destination: str = ""
    gateway: str = ""
    interface: str = ""
    learned_from: LearnedFrom = always(LearnedFrom())


class RoutesStatus(Struct, frozen=True):
    """Routes by family."""

    routes_v4: list[RouteStatus] = msgspec.field(default_factory=list, name="routesV4")
    routes_v6: list[RouteStatus] = msgspec.field(default_factory=list, name="routesV6")


class CalicoNodeStatusSpec(Struct, frozen=True):
    """Of which node, which parts of its status, and how often in seconds."""

    node: str = ""
    classes: list[str] | None = None
    update_period_seconds: Uint32 | None = None


class CalicoNodeStatusStatus(Struct, frozen=True):
    """What the node reports."""

    last_updated: Time | None = always(None)
    agent: AgentStatus = always(AgentStatus())
    bgp: BGPStatus = always(BGPStatus())
    routes: RoutesStatus = always(RoutesStatus())


class CalicoNodeStatus(Struct, frozen=True):
    """A request for a node's status, and the answer."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: CalicoNodeStatusSpec = CalicoNodeStatusSpec()
    status: CalicoNodeStatusStatus = always(CalicoNodeStatusStatus())

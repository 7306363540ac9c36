"""The v3 objects as structs: member order, JSON spelling and emptiness rules are those of upstream's Go types.

Objects are frozen; change one with `msgspec.structs.replace`. Sources: spec/resources.md 1-9, the stored bytes in
the golden vectors. Attribute names are the JSON names in snake case.
"""

from __future__ import annotations

from typing import Any

import msgspec

from libcalico.model.base import Metadata, Struct, always
from libcalico.model.bgp import BGPConfiguration, BGPFilter, BGPPeer, BlockAffinity, CalicoNodeStatus, IPReservation
from libcalico.model.wire_types import DSCP, ASNumber, Int, Number, Port, Protocol, Time, Uint16


class ICMP(Struct, frozen=True):
    """ICMP type and code; no code means every code of the type."""

    type: Int | None = None
    code: Int | None = None


class ServiceAccountMatch(Struct, frozen=True):
    """Service accounts by name, by selector, or both (ANDed)."""

    names: list[str] = []
    selector: str = ""


class ServiceMatch(Struct, frozen=True):
    """A Kubernetes service: accepted and stored, matches nothing here."""

    name: str = ""
    namespace: str = ""


class EntityRule(Struct, frozen=True):
    """One end of a rule (spec/resources.md 3)."""

    nets: list[str] = []
    selector: str = ""
    namespace_selector: str = ""
    services: ServiceMatch | None = None
    ports: list[Port] = []
    not_nets: list[str] = []
    not_selector: str = ""
    not_ports: list[Port] = []
    service_accounts: ServiceAccountMatch | None = None


class HTTPPath(Struct, frozen=True):
    """One path of an HTTP match."""

    exact: str = ""
    prefix: str = ""


class HTTPMatch(Struct, frozen=True):
    """Passed on to application layers only."""

    methods: list[str] = []
    paths: list[HTTPPath] = []


class RuleMetadata(Struct, frozen=True):
    """Notes on a rule."""

    annotations: dict[str, str] = {}


class Rule(Struct, frozen=True):
    """One rule; `protocol` is a name or a number."""

    action: str = ""
    ip_version: Int | None = msgspec.field(default=None, name="ipVersion")
    protocol: Protocol | None = None
    icmp: ICMP | None = None
    not_protocol: Protocol | None = None
    not_icmp: ICMP | None = msgspec.field(default=None, name="notICMP")
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HTTPMatch | None = None
    metadata: RuleMetadata | None = None


class NetworkPolicySpec(Struct, frozen=True):
    """Spec of a NetworkPolicy; `order` None is after all numbers."""

    tier: str = ""
    order: Number | None = None
    ingress: list[Rule] = []
    egress: list[Rule] = []
    selector: str = ""
    types: list[str] = []
    service_account_selector: str = ""
    performance_hints: list[str] = []


class GlobalNetworkPolicySpec(Struct, frozen=True):
    """Spec of a GlobalNetworkPolicy."""

    tier: str = ""
    order: Number | None = None
    ingress: list[Rule] = []
    egress: list[Rule] = []
    selector: str = ""
    types: list[str] = []
    do_not_track: bool = False
    pre_dnat: bool = msgspec.field(default=False, name="preDNAT")
    apply_on_forward: bool = False
    service_account_selector: str = ""
    namespace_selector: str = ""
    performance_hints: list[str] = []


class TierSpec(Struct, frozen=True):
    """Order and end of a tier."""

    order: Number | None = None
    default_action: str | None = None


class ProfileSpec(Struct, frozen=True):
    """Rules and labels that endpoints take from a profile."""

    ingress: list[Rule] = []
    egress: list[Rule] = []
    labels_to_apply: dict[str, str] = {}


class NetworkSetSpec(Struct, frozen=True):
    """Addresses and networks."""

    nets: list[str] = []


class GlobalNetworkSetSpec(NetworkSetSpec, frozen=True):
    """The same for the set of the whole cluster; error messages name the struct."""


class IPNAT(Struct, frozen=True):
    """A floating address of an endpoint."""

    internal_ip: str = msgspec.field(default="", name="internalIP")
    external_ip: str = msgspec.field(default="", name="externalIP")


class WorkloadEndpointPort(Struct, frozen=True, omit_defaults=False):
    """A named port; host port and address are always written."""

    name: str = ""
    protocol: Protocol = 0
    port: Uint16 = 0
    host_port: Uint16 = 0
    host_ip: str = msgspec.field(default="", name="hostIP")


class QoSControls(Struct, frozen=True):
    """Limits of an endpoint; 0 is none."""

    ingress_bandwidth: Int = 0
    ingress_burst: Int = 0
    ingress_peakrate: Int = 0
    ingress_minburst: Int = 0
    egress_bandwidth: Int = 0
    egress_burst: Int = 0
    egress_peakrate: Int = 0
    egress_minburst: Int = 0
    ingress_packet_rate: Int = 0
    ingress_packet_burst: Int = 0
    egress_packet_rate: Int = 0
    egress_packet_burst: Int = 0
    ingress_max_connections: Int = 0
    egress_max_connections: Int = 0
    dscp: DSCP | None = None


class WorkloadEndpointSpec(Struct, frozen=True):
    """One interface of one workload (spec/resources.md 5.3)."""

    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = msgspec.field(default="", name="containerID")
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    ip_networks: list[str] = msgspec.field(default_factory=list, name="ipNetworks")
    ip_nats: list[IPNAT] = msgspec.field(default_factory=list, name="ipNATs")
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: list[str] = []
    interface_name: str = ""
    mac: str = ""
    ports: list[WorkloadEndpointPort] = []
    allow_spoofed_source_prefixes: list[str] = []
    qos_controls: QoSControls | None = msgspec.field(default=None, name="qosControls")


class IPPoolSpec(Struct, frozen=True):
    """A range of addresses (spec/resources.md 6.1)."""

    cidr: str = ""
    vxlan_mode: str = ""
    ipip_mode: str = ""
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = msgspec.field(default=False, name="disableBGPExport")
    block_size: Int = 0
    node_selector: str = ""
    namespace_selector: str = ""
    allowed_uses: list[str] = []
    assignment_mode: str | None = None


class NodeBGPSpec(Struct, frozen=True):
    """Addresses of a node as its neighbours see them."""

    as_number: ASNumber | None = None
    ipv4_address: str = ""
    ipv6_address: str = ""
    ipv4_ipip_tunnel_addr: str = msgspec.field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = msgspec.field(default="", name="routeReflectorClusterID")


class OrchRef(Struct, frozen=True):
    """What an orchestrator calls the node."""

    node_name: str = ""
    orchestrator: str = always("")


class NodeWireguardSpec(Struct, frozen=True):
    """Addresses of the WireGuard interface."""

    interface_ipv4_address: str = msgspec.field(default="", name="interfaceIPv4Address")
    interface_ipv6_address: str = msgspec.field(default="", name="interfaceIPv6Address")


class NodeAddress(Struct, frozen=True):
    """An address of a node; `type` is CalicoNodeIP, InternalIP or ExternalIP."""

    address: str = always("")
    type: str = ""


class NodeInterface(Struct, frozen=True):
    """An interface of a node."""

    name: str = ""
    addresses: list[str] = []


class NodeSpec(Struct, frozen=True):
    """A host of the cluster (spec/resources.md 7.1)."""

    bgp: NodeBGPSpec | None = None
    ipv4_vxlan_tunnel_addr: str = msgspec.field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: str = msgspec.field(default="", name="vxlanTunnelMACAddr")
    ipv6_vxlan_tunnel_addr: str = msgspec.field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr_v6: str = msgspec.field(default="", name="vxlanTunnelMACAddrV6")
    orch_refs: list[OrchRef] = []
    wireguard: NodeWireguardSpec | None = None
    addresses: list[NodeAddress] = []
    interfaces: list[NodeInterface] = []


class NodeStatus(Struct, frozen=True):
    """What a node reports."""

    wireguard_public_key: str = ""
    wireguard_public_key_v6: str = msgspec.field(default="", name="wireguardPublicKeyV6")
    pod_cidrs: list[str] = msgspec.field(default_factory=list, name="podCIDRs")


class ClusterInformationSpec(Struct, frozen=True):
    """Facts about the cluster; `datastore_ready` False is the lock."""

    cluster_guid: str = msgspec.field(default="", name="clusterGUID")
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    variant: str = ""


class Condition(Struct, frozen=True, omit_defaults=False):
    """A fact about an object, as Kubernetes words it."""

    type: str = ""
    status: str = ""
    observed_generation: Int | msgspec.UnsetType = msgspec.UNSET
    last_transition_time: Time | None = None
    reason: str = ""
    message: str = ""


class ConditionsStatus(Struct, frozen=True):
    """Status of a kind that reports conditions."""

    conditions: list[Condition] = []


class NetworkPolicy(Struct, frozen=True):
    """A policy of one namespace."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: NetworkPolicySpec = NetworkPolicySpec()


class GlobalNetworkPolicy(Struct, frozen=True):
    """A policy of the whole cluster."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: GlobalNetworkPolicySpec = GlobalNetworkPolicySpec()


class Tier(Struct, frozen=True):
    """A group of policies that is evaluated together."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: TierSpec = TierSpec()
    status: ConditionsStatus = ConditionsStatus()


class Profile(Struct, frozen=True):
    """Rules and labels for the endpoints that name it."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: ProfileSpec = ProfileSpec()


class NetworkSet(Struct, frozen=True):
    """Networks with labels, seen by the policies of one namespace."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: NetworkSetSpec = NetworkSetSpec()


class GlobalNetworkSet(Struct, frozen=True):
    """Networks with labels, seen everywhere."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: GlobalNetworkSetSpec = GlobalNetworkSetSpec()


class WorkloadEndpoint(Struct, frozen=True):
    """One interface of one workload."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: WorkloadEndpointSpec = WorkloadEndpointSpec()


class IPPool(Struct, frozen=True):
    """A range that workloads get their addresses from."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: IPPoolSpec = IPPoolSpec()
    status: ConditionsStatus | None = None


class Node(Struct, frozen=True):
    """A host."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class FelixConfiguration(Struct, frozen=True):
    """Settings of the node agent: `spec` maps JSON names to values (`felix_fields.FIELDS` has them all)."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: dict[str, Any] = {}


class ClusterInformation(Struct, frozen=True):
    """Facts about the cluster."""

    kind: str = ""
    api_version: str = ""
    metadata: Metadata = Metadata()
    spec: ClusterInformationSpec = ClusterInformationSpec()


Resource = (
    NetworkPolicy
    | GlobalNetworkPolicy
    | Tier
    | Profile
    | NetworkSet
    | GlobalNetworkSet
    | WorkloadEndpoint
    | IPPool
    | Node
    | FelixConfiguration
    | ClusterInformation
    | BGPConfiguration
    | BGPPeer
    | BGPFilter
    | IPReservation
    | BlockAffinity
    | CalicoNodeStatus
)
STRUCTS: dict[str, type[Resource]] = {
    struct.__name__: struct
    for struct in (
        NetworkPolicy,
        GlobalNetworkPolicy,
        Tier,
        Profile,
        NetworkSet,
        GlobalNetworkSet,
        WorkloadEndpoint,
        IPPool,
        Node,
        FelixConfiguration,
        ClusterInformation,
        BGPConfiguration,
        BGPPeer,
        BGPFilter,
        IPReservation,
        BlockAffinity,
        CalicoNodeStatus,
    )
}

"""What upstream's client refuses, in its words (spec/resources.md 1.5, 3-9).

`validate` returns every bad field of an object, in upstream's order. Two layers are covered: the checks of single
fields (`Reason: failed to validate Field: ... because of Tag: ...`) and those across fields. The errors that
upstream's schema adds to them under JSON paths say the same again and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.bgp import BGPConfiguration, BGPFilter, BGPPeer, BlockAffinity, CalicoNodeStatus, IPReservation
from libcalico.model.numbers import go_number
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
    Resource,
    Tier,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from libcalico.model.validation import bgp
from libcalico.model.validation.common import annotation_errors, is_selector, tag
from libcalico.model.validation.felix import felix_errors
from libcalico.model.validation.limits import condition_errors, policy_limits
from libcalico.model.validation.pools import pool_errors
from libcalico.model.validation.rules import HTTP_WITHOUT_TCP, go_list, protocol_errors, rule_errors

FIXED_TIERS = {"default": (1_000_000, "Deny"), "kube-admin": (1000, "Pass"), "kube-baseline": (10_000_000, "Pass")}
GLOBAL_ONLY_IN_RULES = "global() can only be used in an EntityRule namespaceSelector"
Errors = Iterator[FieldError]


def validate(resource: Resource) -> list[FieldError]:
    """Every bad field; an empty list means that the object may be stored."""
    errors = [*_by_kind(resource), *_metadata_errors(resource)]
    if isinstance(resource, (NetworkPolicy, GlobalNetworkPolicy)):
        errors += policy_limits(resource.spec)
    if isinstance(resource, (IPPool, Tier)) and resource.status is not None:
        errors += condition_errors(resource.status.conditions)
    return errors


def _by_kind(resource: Resource) -> Errors:
    checks: dict[type, Callable[[Any], Errors]] = {
        NetworkPolicy: _network_policy_errors,
        GlobalNetworkPolicy: _global_policy_errors,
        Tier: _tier_errors,
        Profile: _profile_errors,
        NetworkSet: _set_errors,
        GlobalNetworkSet: _set_errors,
        WorkloadEndpoint: _endpoint_errors,
        IPPool: pool_errors,
        Node: _node_errors,
        FelixConfiguration: felix_errors,
        ClusterInformation: lambda _resource: iter(()),
        BGPConfiguration: bgp.configuration_errors,
        BGPPeer: bgp.peer_errors,
        BGPFilter: bgp.filter_errors,
        IPReservation: bgp.reservation_errors,
        BlockAffinity: bgp.affinity_errors,
        CalicoNodeStatus: bgp.status_errors,
    }
    return checks[type(resource)](resource)


def _metadata_errors(resource: Resource) -> Errors:
    metadata = resource.metadata
    yield from _name_errors(resource)
    namespaced_set = isinstance(resource, (NetworkSet, GlobalNetworkSet))
    for key in metadata.labels:
        for reason in scalars.label_key_errors(key):
            yield FieldError("Metadata.Labels (label)", key, reason)
        for reason in scalars.label_value_errors(metadata.labels[key]):
            yield FieldError("Metadata.Labels (value)", metadata.labels[key], reason)
        if namespaced_set and key == "projectcalico.org/namespace":
            yield FieldError("Metadata.Labels (label)", key, f"{key} is not a valid label name")
    yield from annotation_errors(metadata.annotations)


def _name_errors(resource: Resource) -> Errors:
    name = resource.metadata.name
    if len(name) > scalars.LONGEST_NAME:
        yield FieldError("Metadata.Name", name, f"name is too long by {len(name) - scalars.LONGEST_NAME} bytes")
    if not scalars.is_name(name):
        reason = (
            f"name must consist of lower case alphanumeric characters, '-' or '.' (regex: {scalars.SUBDOMAIN_PATTERN})"
        )
        yield FieldError("Metadata.Name", name, reason)
    if isinstance(resource, Tier):
        if len(name) > scalars.LONGEST_LABEL_VALUE:
            excess = len(name) - scalars.LONGEST_LABEL_VALUE
            yield FieldError("Metadata.Name", name, f"name is too long by {excess} bytes")
        bad = scalars.LABEL.fullmatch(name) is None
    elif isinstance(resource, (NetworkPolicy, GlobalNetworkPolicy)):
        bad = not _is_policy_name(name, isinstance(resource, NetworkPolicy))
    else:
        return
    if bad:
        reason = f"name must consist of lower case alphanumeric characters or '-' (regex: {scalars.LABEL_PATTERN})"
        yield FieldError("Metadata.Name", name, reason)


def _is_policy_name(name: str, namespaced: bool) -> bool:
    if namespaced and name.startswith(("knp.default.", "ossg.default.")):
        return scalars.is_name(name)
    parts = name.split(".")
    return len(parts) <= 2 and all(scalars.LABEL.fullmatch(part) for part in parts)


def _selector_field(field: str, value: str) -> Errors:
    if value and not is_selector(value):
        yield tag(field, value, "selector")


def _network_policy_errors(policy: NetworkPolicy) -> Errors:
    spec = policy.spec
    yield from _policy_fields(spec)
    yield from _types_errors("NetworkPolicySpec.Types", spec.types)
    yield from _no_global("NetworkPolicySpec", spec.selector, spec.service_account_selector)
    for rule in spec.egress:
        if rule.http is not None:
            yield FieldError("HTTP", _http(rule.http), "not allowed in egress rule")
    yield from _service_places(spec, needs_namespace=False)


def _global_policy_errors(policy: GlobalNetworkPolicy) -> Errors:
    spec = policy.spec
    yield from _policy_fields(spec)
    yield from _selector_field("NamespaceSelector", spec.namespace_selector)
    if spec.do_not_track and spec.pre_dnat:
        reason = "PreDNAT and DoNotTrack cannot both be true, for a given PolicySpec"
        yield FieldError("PolicySpec.PreDNAT", "true", reason)
    if spec.pre_dnat and spec.egress:
        shown = go_list([_rule(rule) for rule in spec.egress])
        yield FieldError("PolicySpec.Egress", shown, "PreDNAT PolicySpec cannot have any Egress rules")
    if spec.pre_dnat and "Egress" in spec.types:
        shown = go_list(spec.types)
        yield FieldError("PolicySpec.Types", shown, "PreDNAT PolicySpec cannot have 'egress' Type")
    if (spec.do_not_track or spec.pre_dnat) and not spec.apply_on_forward:
        reason = "ApplyOnForward must be true if either PreDNAT or DoNotTrack is true, for a given PolicySpec"
        yield FieldError("PolicySpec.ApplyOnForward", "false", reason)
    yield from _types_errors("GlobalNetworkPolicySpec.Types", spec.types)
    yield from _no_global("GlobalNetworkPolicySpec", spec.selector, spec.service_account_selector)
    if "global(" in spec.namespace_selector:
        yield FieldError("GlobalNetworkPolicySpec.NamespaceSelector", spec.selector, GLOBAL_ONLY_IN_RULES)
    for rule in spec.egress:
        if rule.http is not None:
            yield FieldError("HTTP", _http(rule.http), "not allowed in egress rules")
    yield from _service_places(spec, needs_namespace=True)


def _policy_fields(spec: Any) -> Errors:
    if spec.tier and not scalars.is_name(spec.tier):
        yield tag("Tier", spec.tier, "name")
    for rule in spec.ingress:
        yield from rule_errors(rule)
    for rule in spec.egress:
        yield from rule_errors(rule)
    yield from _selector_field("Selector", spec.selector)
    for place, direction in enumerate(spec.types):
        if direction not in ("Ingress", "Egress"):
            yield tag(f"Types[{place}]", direction, "policyType")
    yield from _selector_field("ServiceAccountSelector", spec.service_account_selector)
    if len(set(spec.performance_hints)) < len(spec.performance_hints):
        yield tag("PerformanceHints", go_list(spec.performance_hints), "unique")
    for place, hint in enumerate(spec.performance_hints):
        if hint != "AssumeNeededOnEveryNode":
            yield tag(f"PerformanceHints[{place}]", hint, "oneof")


def _types_errors(field: str, types: list[str]) -> Errors:
    for direction in ("Ingress", "Egress"):
        if types.count(direction) > 1:
            yield FieldError(field, go_list(types), f"'{direction}' type specified more than once")


def _no_global(prefix: str, selector: str, account_selector: str) -> Errors:
    if "global(" in selector:
        yield FieldError(f"{prefix}.Selector", selector, GLOBAL_ONLY_IN_RULES)
    if "global(" in account_selector:
        yield FieldError(f"{prefix}.ServiceAccountSelector", account_selector, GLOBAL_ONLY_IN_RULES)


def _service_places(spec: Any, needs_namespace: bool) -> Errors:
    for rules, wrong_side, text in (
        (spec.egress, "source", "not allowed in egress rule source"),
        (spec.ingress, "destination", "not allowed in ingress rule destination"),
    ):
        for rule in rules:
            services = getattr(rule, wrong_side).services
            if services is not None:
                yield FieldError("Services", f"&{{{services.name} {services.namespace}}}", text)
            for side in (rule.source, rule.destination):
                if needs_namespace and side.services is not None and not side.services.namespace:
                    yield FieldError("Namespace", "", "must specify a namespace")


def _http(match: Any) -> str:
    paths = go_list([f"{{{path.exact} {path.prefix}}}" for path in match.paths])
    return f"&{{{go_list(match.methods)} {paths}}}"


def _rule(rule: Any) -> str:
    empty = "{[]   <nil> [] []  [] <nil>}"
    return f"{{{rule.action} <nil> <nil> <nil> <nil> <nil> {empty} {empty} <nil> <nil>}}"


def _tier_errors(tier: Tier) -> Errors:
    spec = tier.spec
    if spec.default_action not in (None, "Deny", "Pass"):
        yield tag("DefaultAction", str(spec.default_action), "oneof")
    fixed = FIXED_TIERS.get(tier.metadata.name)
    if fixed is not None:
        order, action = fixed
        if spec.order is not None and spec.order != order:
            reason = f"{tier.metadata.name} tier order must be {go_number(order)}"
            yield FieldError("TierSpec.Order", str(spec.order), reason)
        if spec.default_action not in (None, action):
            reason = f"The '{tier.metadata.name}' tier must have default action '{action}'"
            yield FieldError("TierSpec.DefaultAction", str(spec.default_action), reason)


def _profile_errors(profile: Profile) -> Errors:
    spec = profile.spec
    for rule in [*spec.ingress, *spec.egress]:
        yield from rule_errors(rule)
        if rule.http is not None and rule.protocol == 6:
            yield FieldError("Protocol", "6", HTTP_WITHOUT_TCP)
    bad = any(
        scalars.label_key_errors(key) or scalars.label_value_errors(value)
        for key, value in spec.labels_to_apply.items()
    )
    if bad:
        pairs = " ".join(f"{key}:{spec.labels_to_apply[key]}" for key in sorted(spec.labels_to_apply))
        yield tag("LabelsToApply", f"map[{pairs}]", "labels")


def _set_errors(network_set: NetworkSet | GlobalNetworkSet) -> Errors:
    for place, net in enumerate(network_set.spec.nets):
        if net and not scalars.is_cidr(net):
            yield tag(f"Nets[{place}]", net, "cidr")


def _endpoint_errors(endpoint: WorkloadEndpoint) -> Errors:
    spec = endpoint.spec
    for field, value in (
        ("Orchestrator", spec.orchestrator), ("Workload", spec.workload), ("Node", spec.node), ("Pod", spec.pod),
        ("Endpoint", spec.endpoint), ("ServiceAccountName", spec.service_account_name),
    ):  # fmt: skip
        if value and not scalars.is_name(value):
            yield tag(field, value, "name")
    if spec.container_id and not scalars.CONTAINER_ID.fullmatch(spec.container_id):
        yield tag("ContainerID", spec.container_id, "containerID")
    yield from _endpoint_addresses(spec)
    for place, profile in enumerate(spec.profiles):
        if not scalars.is_name(profile):
            yield tag(f"Profiles[{place}]", profile, "name")
    if spec.interface_name != "*" and not scalars.INTERFACE.fullmatch(spec.interface_name):
        yield tag("InterfaceName", spec.interface_name, "interface")
    if spec.mac and not scalars.MAC.fullmatch(spec.mac):
        yield tag("MAC", spec.mac, "mac")
    for port in spec.ports:
        yield from _endpoint_port(port)
    for place, net in enumerate(spec.allow_spoofed_source_prefixes):
        if net and not scalars.is_cidr(net):
            yield tag(f"AllowSpoofedSourcePrefixes[{place}]", net, "cidr")


def _endpoint_addresses(spec: WorkloadEndpointSpec) -> Errors:
    for place, net in enumerate(spec.ip_networks):
        if net and not scalars.is_net(net):
            yield tag(f"IPNetworks[{place}]", net, "net")
    nets = [scalars.parse_net(net) for net in spec.ip_networks]
    for nat in spec.ip_nats:
        for field, value in (("InternalIP", nat.internal_ip), ("ExternalIP", nat.external_ip)):
            if value and not scalars.is_address(value):
                yield tag(field, value, "ip")
    gateways = (("IPv4Gateway", spec.ipv4_gateway, 4), ("IPv6Gateway", spec.ipv6_gateway, 6))
    for field, value, version in gateways:
        if value and not scalars.is_address(value, version):
            yield tag(field, value, f"ipv{version}")
    if any(net is not None and net.prefixlen < net.max_prefixlen for net in nets):
        yield FieldError("IPNetworks", go_list(spec.ip_networks), "IP network contains multiple addresses")
    yield from _nat_errors(spec, nets)
    for field, value, version in gateways:
        parsed = scalars.parse_net(value)
        if parsed is not None and parsed.version != version:
            yield FieldError(field, value, f"invalid IPv{version} gateway address specified")


def _nat_errors(spec: WorkloadEndpointSpec, nets: list[scalars.IPNetwork | None]) -> Errors:
    shown = go_list(f"{{{nat.internal_ip} {nat.external_ip}}}" for nat in spec.ip_nats)
    for nat in spec.ip_nats:
        internal, external = scalars.parse_net(nat.internal_ip), scalars.parse_net(nat.external_ip)
        if (nat.internal_ip and internal is None) or (nat.external_ip and external is None):
            continue
        # An address that is not there counts as IPv6, as it does upstream.
        if (internal.version if internal else 6) != (external.version if external else 6):
            yield FieldError("ExternalIP", nat.external_ip, "mismatched IP versions")
        if internal is None or not any(net is not None and _covers(net, internal) for net in nets):
            yield FieldError("IPNATs", shown, "NAT is not in the endpoint networks")


def _covers(net: scalars.IPNetwork, address: scalars.IPNetwork) -> bool:
    return net.version == address.version and net.overlaps(address) and net.prefixlen <= address.prefixlen


def _endpoint_port(port: Any) -> Errors:
    if port.name and not (len(port.name) <= 15 and scalars.PORT_NAME.fullmatch(port.name)):
        yield tag("Name", port.name, "portName")
    if not 1 <= port.port <= scalars.LARGEST_PORT:
        yield tag("Port", str(port.port), "gt")
    if port.host_ip and not scalars.is_net(port.host_ip):
        yield tag("HostIP", port.host_ip, "net")
    yield from protocol_errors(port.protocol)
    if scalars.protocol_number(port.protocol) not in scalars.PROTOCOLS_WITH_PORTS:
        reason = "WorkloadEndpointPort protocol does not support ports."
        yield FieldError("WorkloadEndpointPort.Protocol", str(port.protocol), reason)
    if not port.name and not port.host_port:
        reason = "WorkloadEndpointPort name must not be empty if no HostPort is specified"
        yield FieldError("WorkloadEndpointPort.Name", "", reason)


def _node_errors(node: Node) -> Errors:
    spec = node.spec
    routing = spec.bgp
    if routing is not None:
        if routing.ipv4_address and not scalars.is_cidr(routing.ipv4_address, 4):
            yield tag("IPv4Address", routing.ipv4_address, "cidrv4")
        if routing.ipv6_address and not scalars.is_cidr(routing.ipv6_address, 6):
            yield tag("IPv6Address", routing.ipv6_address, "cidrv6")
        if routing.ipv4_ipip_tunnel_addr and not scalars.is_address(routing.ipv4_ipip_tunnel_addr, 4):
            yield tag("IPv4IPIPTunnelAddr", routing.ipv4_ipip_tunnel_addr, "ipv4")
        if routing.route_reflector_cluster_id and not scalars.is_address(routing.route_reflector_cluster_id, 4):
            yield tag("RouteReflectorClusterID", routing.route_reflector_cluster_id, "ipv4")
    for field, value, good, name in (
        (
            "IPv4VXLANTunnelAddr",
            spec.ipv4_vxlan_tunnel_addr,
            scalars.is_address(spec.ipv4_vxlan_tunnel_addr, 4),
            "ipv4",
        ),
        ("VXLANTunnelMACAddr", spec.vxlan_tunnel_mac_addr, scalars.MAC.fullmatch(spec.vxlan_tunnel_mac_addr), "mac"),
        (
            "IPv6VXLANTunnelAddr",
            spec.ipv6_vxlan_tunnel_addr,
            scalars.is_address(spec.ipv6_vxlan_tunnel_addr, 6),
            "ipv6",
        ),
        (
            "VXLANTunnelMACAddrV6",
            spec.vxlan_tunnel_mac_addr_v6,
            scalars.MAC.fullmatch(spec.vxlan_tunnel_mac_addr_v6),
            "mac",
        ),
    ):
        if value and not good:
            yield tag(field, value, name)
    status = node.status
    for field, value in (
        ("WireguardPublicKey", status.wireguard_public_key), ("WireguardPublicKeyV6", status.wireguard_public_key_v6)
    ):  # fmt: skip
        if value and not scalars.is_base64_key(value):
            yield tag(field, value, "wireguardPublicKey")
    if spec.wireguard is not None:
        for field, value, version in (
            ("InterfaceIPv4Address", spec.wireguard.interface_ipv4_address, 4),
            ("InterfaceIPv6Address", spec.wireguard.interface_ipv6_address, 6),
        ):
            if value and not scalars.is_address(value, version):
                yield tag(field, value, f"ipv{version}")
    if routing is not None and not any(
        (routing.as_number is not None, routing.ipv4_address, routing.ipv6_address, routing.ipv4_ipip_tunnel_addr,
         routing.route_reflector_cluster_id)
    ):  # fmt: skip
        yield FieldError("BGP", "&{<nil>    }", "Spec.BGP should not be empty")

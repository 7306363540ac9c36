"""The checks of BGP's kinds, of reservations and of what nodes report (spec/resources.md 6.2, 6.4, 7.2-7.4, 8)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.bgp import (
    BGPConfiguration,
    BGPConfigurationSpec,
    BGPFilter,
    BGPPeer,
    BGPPeerSpec,
    BlockAffinity,
    CalicoNodeStatus,
    FilterOperation,
    FilterRule,
    IPReservation,
)
from libcalico.model.validation.common import LONGEST_SELECTOR, is_selector, is_too_long, tag
from libcalico.model.validation.rules import go_list
from libcalico.net import parse_address

DEPRECATED_NEXT_HOP = (
    "The KeepOriginalNextHop field is deprecated. It must not be set to true when NextHopMode is configured."
)
LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "fatal")
INTERFACE = re.compile(r"[a-zA-Z0-9_.*-]{1,15}")
SHORT_COMMUNITY, LARGE_COMMUNITY = re.compile(r"([0-9]+):([0-9]+)"), re.compile(r"([0-9]+):([0-9]+):([0-9]+)")
FILTER_COMMUNITY = re.compile(r"(0|[1-9][0-9]{0,9})(:(0|[1-9][0-9]{0,9})){1,2}")
ROUTE_MODES = ("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
LARGEST_PRIORITY = (1 << 31) - 2
LONGEST_PERIOD_S = 86400
MOST_COMMUNITIES = 500
MOST_OPERATIONS = 10
MOST_PREPENDED = 10
LARGEST_COUNT = 1 << 63
"""A count that a float64 rounds to this is no integer to upstream's schema."""
LONGEST_PEER_IP = 64
Errors = Iterator[FieldError]


def _enum(path: str, value: str | None, *words: str) -> Errors:
    """A schema's list of words; None is not given."""
    if value is not None and value not in words:
        yield FieldError(path, None, "supported values: " + ", ".join(f'"{word}"' for word in words))


def _selector(field: str, path: str, value: str) -> Errors:
    if value and not is_selector(value):
        yield tag(field, value, "selector")
    if is_too_long(value):
        yield FieldError(path, None, f"may not be more than {LONGEST_SELECTOR} bytes")


def _schema_cidr(path: str, value: str) -> Errors:
    """Where a bare address is none."""
    if "/" not in value:
        yield FieldError(path, None, f'{path} in body must be of type cidr: "{value}"')


def configuration_errors(configuration: BGPConfiguration) -> Errors:
    """Every bad field of a BGPConfiguration."""
    spec = configuration.spec
    if spec.log_severity_screen and spec.log_severity_screen.lower() not in LOG_LEVELS:
        yield tag("LogSeverityScreen", spec.log_severity_screen, "logLevel")
    for name, blocks in (
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceClusterIPs", spec.service_cluster_ips),
    ):
        for place, block in enumerate(blocks):
            if block.cidr and not scalars.is_net(block.cidr):
                yield tag("CIDR", block.cidr, "net")
            elif block.cidr:
                yield from _schema_cidr(f"spec.{name}[{place}].cidr", block.cidr)
    yield from _named_communities(spec)
    yield from _advertised(spec)
    for place, pattern in enumerate(spec.ignored_interfaces):
        if pattern == "*" or not INTERFACE.fullmatch(pattern):
            yield tag(f"IgnoredInterfaces[{place}]", pattern, "ignoredInterface")
    for field, address, version in (
        ("LocalWorkloadPeeringIPV4", spec.local_workload_peering_ipv4, 4),
        ("LocalWorkloadPeeringIPV6", spec.local_workload_peering_ipv6, 6),
    ):
        if address and not scalars.is_address(address, version):
            yield tag(field, address, f"ipv{version}")
    for field, number in (
        ("IPv4NormalRoutePriority", spec.ipv4_normal_route_priority),
        ("IPv6NormalRoutePriority", spec.ipv6_normal_route_priority),
    ):
        yield from _priority(field, number)
    yield from _for_default_only(configuration)
    yield from _mesh(spec)
    yield from _unused_communities(spec)
    for path, word, words in (
        ("serviceLoadBalancerAggregation", spec.service_load_balancer_aggregation, ("Enabled", "Disabled")),
        ("bindMode", spec.bind_mode, ("None", "NodeIP")),
        ("programClusterRoutes", spec.program_cluster_routes, ROUTE_MODES),
    ):
        yield from _enum(f"spec.{path}", word, *words)


def _priority(field: str, number: int | None) -> Errors:
    if number is not None and number < 1:
        yield tag(field, str(number), "gte")
    elif number is not None and number > LARGEST_PRIORITY:
        yield tag(field, str(number), "lte")


def _named_communities(spec: BGPConfigurationSpec) -> Errors:
    for community in spec.communities:
        if not community.name:
            yield tag("Name", "", "required")
        elif not scalars.is_name(community.name):
            yield tag("Name", community.name, "name")
        if not community.value:
            yield tag("Value", "", "required")
    if len(spec.communities) > MOST_COMMUNITIES:
        yield FieldError("spec.communities", None, f"must have at most {MOST_COMMUNITIES} items")


def _advertised(spec: BGPConfigurationSpec) -> Errors:
    for place, prefix in enumerate(spec.prefix_advertisements):
        if not prefix.cidr:
            yield tag("CIDR", "", "required")
        elif not scalars.is_net(prefix.cidr):
            yield tag("CIDR", prefix.cidr, "net")
        else:
            yield from _schema_cidr(f"spec.prefixAdvertisements[{place}].cidr", prefix.cidr)
        if prefix.communities is None:
            yield tag("Communities", "[]", "required")
    if len(spec.prefix_advertisements) > MOST_COMMUNITIES:
        yield FieldError("spec.prefixAdvertisements", None, f"must have at most {MOST_COMMUNITIES} items")


def _for_default_only(configuration: BGPConfiguration) -> Errors:
    if configuration.metadata.name == "default":
        return
    spec = configuration.spec
    for field, word, given in (
        ("NodeToNodeMeshEnabled", "nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled is not None),
        ("ASNumber", "ASNumber", spec.as_number is not None),
        ("ServiceLoadBalancerIPs", "ServiceLoadBalancerIPs", bool(spec.service_load_balancer_ips)),
        ("ServiceExternalIPs", "ServiceExternalIPs", bool(spec.service_external_ips)),
        ("ServiceClusterIPs", "ServiceClusterIPs", bool(spec.service_cluster_ips)),
        ("NodeMeshPassword", "nodeMeshPassword", spec.node_mesh_password is not None),
        ("NodeMeshMaxRestartTime", "nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time is not None),
    ):
        if given:
            yield FieldError(
                f"BGPConfiguration.Spec.{field}", None, f"Cannot set {word} on a non default BGP Configuration."
            )


def _mesh(spec: BGPConfigurationSpec) -> Errors:
    if spec.node_to_node_mesh_enabled is not False:
        return
    for field, value in (
        ("NodeMeshPassword", spec.node_mesh_password), ("NodeMeshMaxRestartTime", spec.node_mesh_max_restart_time)
    ):  # fmt: skip
        if value is not None:
            reason = f"spec.{field} cannot be set if spec.NodeToNodeMesh is disabled"
            yield FieldError(f"Spec.{field}", None, reason)


def _unused_communities(spec: BGPConfigurationSpec) -> Errors:
    if spec.communities and not spec.prefix_advertisements:
        shown = go_list(f"{{{community.name} {community.value}}}" for community in spec.communities)
        reason = "communities are defined but not used in Spec.PrefixAdvertisement[]."
        yield FieldError("Spec.Communities[]", shown, reason)
    for community in spec.communities:
        problem = _community_problem(community.value)
        if problem:
            yield FieldError("Spec.Communities[].Value", community.value, problem)
    names = {community.name for community in spec.communities}
    for prefix in spec.prefix_advertisements:
        if not scalars.is_cidr(prefix.cidr) or not prefix.cidr:
            yield FieldError("Spec.PrefixAdvertisement[].CIDR", prefix.cidr, "invalid CIDR value.")
        for word in prefix.communities or ():
            problem = "" if word in names else _community_problem(word, "community used is invalid or not defined.")
            if problem:
                yield FieldError("Spec.PrefixAdvertisement[].Communities[]", word, problem)


def _community_problem(value: str, otherwise: str = "invalid community value or format used.") -> str:
    """Why this is no `aa:nn` of 16 bits or `aa:nn:mm` of 32, "" when it is."""
    for form, bits in ((SHORT_COMMUNITY, 16), (LARGE_COMMUNITY, 32)):
        found = form.fullmatch(value)
        if found:
            fits = all(len(part) <= 20 and int(part) < 1 << bits for part in found.groups())
            return "" if fits else f"invalid community value, expected {bits} bit value"
    return otherwise


def peer_errors(peer: BGPPeer) -> Errors:
    """Every bad field of a BGPPeer; whether its filters are there is the client's to find out."""
    spec = peer.spec
    if spec.node and not scalars.is_name(spec.node):
        yield tag("Node", spec.node, "name")
    if len(spec.node) > scalars.LONGEST_NAME:
        yield FieldError("spec.node", None, f"may not be more than {scalars.LONGEST_NAME} bytes")
    yield from _selector("NodeSelector", "spec.nodeSelector", spec.node_selector)
    if spec.peer_ip and not _is_address_with_port(spec.peer_ip):
        yield tag("PeerIP", spec.peer_ip, "IP:port")
    yield from _selector("PeerSelector", "spec.peerSelector", spec.peer_selector)
    if spec.source_address not in ("", "UseNodeIP", "None"):
        yield tag("SourceAddress", spec.source_address, "sourceAddress")
    if spec.reachable_by and not scalars.is_address(spec.reachable_by):
        yield tag("ReachableBy", spec.reachable_by, "reachableBy")
    yield from _selector("LocalWorkloadSelector", "spec.localWorkloadSelector", spec.local_workload_selector)
    yield from _peer_selection(spec)
    yield from _reachable(spec)
    if spec.keep_original_next_hop and spec.next_hop_mode:
        yield FieldError("KeepOriginalNextHop", None, DEPRECATED_NEXT_HOP)
    yield from _enum("spec.reversePeering", spec.reverse_peering, "Auto", "Manual")
    yield from _enum("spec.nextHopMode", spec.next_hop_mode, "Auto", "Self", "Keep")


def _is_address_with_port(text: str) -> bool:
    """`a.b.c.d`, `v6`, `a.b.c.d:port`, `[v6]:port`."""
    if scalars.is_address(text):
        return True
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and len(port) <= 6 and 1 <= int(port) <= scalars.LARGEST_PORT):
        return False
    if host.startswith("[") and host.endswith("]"):
        return scalars.is_address(host[1:-1])
    return scalars.is_address(host, 4) and ":" not in host


def _address(text: str) -> str:
    """The address of a peer's IP and port."""
    if scalars.is_address(text):
        return text
    return text.rpartition(":")[0].strip("[]")


def _peer_selection(spec: BGPPeerSpec) -> Errors:
    if spec.node and spec.node_selector:
        yield FieldError("Node", spec.node, "Node field must be empty when NodeSelector is specified")
    if spec.peer_ip and spec.peer_selector:
        yield FieldError("PeerIP", spec.peer_ip, "PeerIP field must be empty when PeerSelector is specified")
    if spec.as_number and spec.peer_selector:
        reason = "ASNumber field must be empty when PeerSelector is specified"
        yield FieldError("ASNumber", str(spec.as_number), reason)
    if spec.local_workload_selector:
        if spec.peer_ip:
            reason = "PeerIP field must be empty when LocalWorkloadSelector is specified"
            yield FieldError("PeerIP", spec.peer_ip, reason)
        if spec.peer_selector:
            reason = "PeerSelector field must be empty when LocalWorkloadSelector is specified"
            yield FieldError("PeerSelector", spec.peer_ip, reason)
        if not spec.as_number:
            reason = "ASNumber field must NOT be empty when LocalWorkloadSelector is specified"
            yield FieldError("ASNumber", str(spec.as_number), reason)


def _reachable(spec: BGPPeerSpec) -> Errors:
    via = spec.reachable_by
    if not via:
        return
    if not spec.peer_ip:
        yield FieldError("ReachableBy", via, "ReachablyBy field must be empty when PeerIP is empty")
        return
    peer, gateway = parse_address(_address(spec.peer_ip)), parse_address(via)
    if gateway is None:
        yield FieldError("ReachableBy", via, "ReachableBy is invalid address")
    if peer is None:
        yield FieldError("ReachableBy", via, "PeerIP is invalid address")
    if peer is not None and gateway is not None and peer.family != gateway.family:
        yield FieldError("ReachableBy", via, "ReachableBy and PeerIP address family mismatched")


def filter_errors(bgp_filter: BGPFilter) -> Errors:
    """Every bad field of a BGPFilter."""
    spec = bgp_filter.spec
    for name, rules, version in (
        ("exportV4", spec.export_v4, 4), ("importV4", spec.import_v4, 4),
        ("exportV6", spec.export_v6, 6), ("importV6", spec.import_v6, 6),
    ):  # fmt: skip
        for place, rule in enumerate(rules):
            yield from _rule_fields(rule, version)
            yield from _rule_structure(rule, f"spec.{name}[{place}]")


def _rule_fields(rule: FilterRule, version: int) -> Errors:
    if rule.cidr and not (scalars.is_net(rule.cidr) and scalars.is_cidr(rule.cidr, version)):
        yield tag("CIDR", rule.cidr, f"netv{version}")
    longest = 32 if version == 4 else 128
    if rule.prefix_length is not None:
        for field, length in (("Min", rule.prefix_length.min), ("Max", rule.prefix_length.max)):
            if length is not None and not 0 <= length <= longest:
                yield tag(field, str(length), f"bgpFilterPrefixLengthV{version}")
    if rule.source not in ("", "RemotePeers"):
        yield tag("Source", rule.source, "oneof")
    if rule.interface and not INTERFACE.fullmatch(rule.interface):
        yield tag("Interface", rule.interface, "bgpFilterInterface")
    if rule.match_operator not in ("", "Equal", "NotEqual", "In", "NotIn"):
        yield tag("MatchOperator", rule.match_operator, "matchOperator")
    if rule.peer_type not in ("", "eBGP", "iBGP"):
        yield tag("PeerType", rule.peer_type, "oneof")
    if rule.communities is not None and rule.communities.values is None:
        yield tag("Values", "[]", "required")
    yield from _priority("Priority", rule.priority)
    if not rule.action:
        yield tag("Action", "", "required")
    elif rule.action not in ("Accept", "Reject"):
        yield tag("Action", rule.action, "filterAction")
    for operation in rule.operations:
        yield from _operation_fields(operation)


def _operation_fields(operation: FilterOperation) -> Errors:
    if operation.add_community is not None and operation.add_community.value is None:
        yield tag("Value", "<nil>", "required")
    if operation.prepend_as_path is not None and operation.prepend_as_path.prefix is None:
        yield tag("Prefix", "[]", "required")
    if operation.set_priority is not None:
        if operation.set_priority.value is None:
            yield tag("Value", "<nil>", "required")
        yield from _priority("Value", operation.set_priority.value)


def _rule_structure(rule: FilterRule, path: str) -> Errors:
    if rule.cidr and not rule.match_operator:
        yield FieldError("CIDR", rule.cidr, "MatchOperator cannot be empty when CIDR is not")
    if rule.match_operator and not rule.cidr:
        yield FieldError("MatchOperator", rule.match_operator, "CIDR cannot be empty when MatchOperator is not")
    if rule.prefix_length is not None and not rule.cidr:
        low, high = ("<nil>" if one is None else str(one) for one in (rule.prefix_length.min, rule.prefix_length.max))
        yield FieldError("PrefixLength", f"{{{low} {high}}}", "CIDR cannot be empty when PrefixLength is not")
    if rule.cidr:
        yield from _schema_cidr(f"{path}.cidr", rule.cidr)
    if rule.communities is not None and rule.communities.values is not None:
        yield from _filter_communities(f"{path}.communities.values", rule.communities.values)
    if rule.operations and rule.action != "Accept":
        yield FieldError(path, None, "operations may only be used with action Accept")
    if len(rule.operations) > MOST_OPERATIONS:
        yield FieldError(f"{path}.operations", None, f"must have at most {MOST_OPERATIONS} items")
    for place, operation in enumerate(rule.operations):
        yield from _operation_structure(operation, f"{path}.operations[{place}]")


def _operation_structure(operation: FilterOperation, path: str) -> Errors:
    given = [operation.add_community, operation.prepend_as_path, operation.set_priority]
    if sum(one is not None for one in given) != 1:
        shown = " ".join("<nil>" if one is None else "0xPTR" for one in given)
        yield FieldError("BGPFilterOperation", f"{{{shown}}}", "exactly one operation must be set")
    if operation.add_community is not None and operation.add_community.value is not None:
        yield from _filter_communities(f"{path}.addCommunity.value", [operation.add_community.value])
    if operation.prepend_as_path is not None and operation.prepend_as_path.prefix is not None:
        path = f"{path}.prependASPath.prefix"
        if not operation.prepend_as_path.prefix:
            yield FieldError(path, None, f"{path} in body should have at least 1 items")
        if len(operation.prepend_as_path.prefix) > MOST_PREPENDED:
            yield FieldError(path, None, f"must have at most {MOST_PREPENDED} items")


def _filter_communities(path: str, values: list[str]) -> Errors:
    if len(values) != 1:
        yield FieldError(path, None, f"{path} in body should have at {'least' if not values else 'most'} 1 items")
    for value in values:
        parts = value.split(":")
        limit = 1 << (16 if len(parts) == 2 else 32)
        if not FILTER_COMMUNITY.fullmatch(value) or any(int(part) >= limit for part in parts):
            yield FieldError(path, value, "invalid community: aa:nn of 16 bits or aa:nn:mm of 32, no leading zeros")


def reservation_errors(reservation: IPReservation) -> Errors:
    """Every bad field of an IPReservation."""
    cidrs = reservation.spec.reserved_cidrs
    if not all(not cidr or scalars.is_cidr(cidr) for cidr in cidrs):
        yield tag("ReservedCIDRs", go_list(cidrs), "cidrs")


def affinity_errors(affinity: BlockAffinity) -> Errors:
    """Every bad field of a BlockAffinity."""
    spec = affinity.spec
    if spec.deleted == "true":
        shown = f"{{{spec.state} {spec.node} {spec.type} {spec.cidr} {spec.deleted}}}"
        yield FieldError("Spec.Deleted", shown, 'spec.Deleted cannot be set to "true"')
    yield from _enum("spec.state", spec.state, "", "confirmed", "pending", "pendingDeletion")
    if not scalars.is_cidr(spec.cidr) or "/" not in spec.cidr:
        yield FieldError("spec.cidr", None, f'spec.cidr in body must be of type cidr: "{spec.cidr}"')


def status_errors(status: CalicoNodeStatus) -> Errors:
    """Every bad field of a CalicoNodeStatus."""
    spec = status.spec
    if not spec.node:
        yield tag("Node", "", "required")
    elif not scalars.is_name(spec.node):
        yield tag("Node", spec.node, "name")
    yield from _class_errors(spec.classes)
    if spec.update_period_seconds is None:
        yield tag("UpdatePeriodSeconds", "<nil>", "required")
    elif spec.update_period_seconds > LONGEST_PERIOD_S:
        yield tag("UpdatePeriodSeconds", str(spec.update_period_seconds), "lte")
    yield from _counts(
        {
            "numberEstablishedV4": status.status.bgp.number_established_v4,
            "numberNotEstablishedV4": status.status.bgp.number_not_established_v4,
            "numberEstablishedV6": status.status.bgp.number_established_v6,
            "numberNotEstablishedV6": status.status.bgp.number_not_established_v6,
        }.items()
    )


def _class_errors(classes: list[str] | None) -> Errors:
    if classes is None:
        yield tag("Classes", "[]", "required")
        return
    if len(set(classes)) < len(classes):
        yield tag("Classes", go_list(classes), "unique")
    for place, name in enumerate(classes):
        yield from _enum(f"spec.classes[{place}]", name, "Agent", "BGP", "Routes")


def _counts(counts: Iterable[tuple[str, int]]) -> Errors:
    for name, count in counts:
        if float(count) >= LARGEST_COUNT:
            path = f"status.bgp.{name}"
            yield FieldError(path, None, f'{path} in body must be of type integer: "number"')

"""What is refused, and in which words: one case for each rule; and no input makes validation itself fail."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libcalico.errors import BadData
from libcalico.model import codec, defaults
from libcalico.model.felix_fields import FIELDS
from libcalico.model.resources import STRUCTS
from libcalico.model.validation.objects import validate

LABEL_RULE = "name must consist of lower case alphanumeric characters or '-' (regex: [a-z0-9]([-a-z0-9]*[a-z0-9])?)"
WEP = {"orchestrator": "cni", "node": "a1", "containerID": "c1", "endpoint": "eth0", "interfaceName": "cali1"}


def _errors(kind: str, spec: dict[str, Any], name: str = "a", **metadata: Any) -> list[tuple[str, str]]:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    return [(error.field, error.reason) for error in validate(defaults.before_write(codec.from_input(document)))]


def _tag(field: str, name: str) -> tuple[str, str]:
    return field, f"Reason: failed to validate Field: {field} because of Tag: {name} "


def _rule(**members: Any) -> dict[str, Any]:
    return {"action": "Allow", **members}


RULES: list[tuple[dict[str, Any], str, str]] = [
    (_rule(protocol="ICMP", source={"ports": [80]}), "Source.Ports",
     "rules that specify ports must set protocol to TCP or UDP or SCTP"),
    (_rule(destination={"notPorts": ["80:90"]}), "Destination.NotPorts",
     "rules with numeric port or port range must set protocol to TCP or UDP or SCTP"),
    (_rule(protocol="TCP", icmp={"type": 8}), "ICMP", "rules that specify ICMP fields must set protocol to ICMP"),
    (_rule(protocol="ICMP", icmp={"code": 8}), "Code", "ICMP code specified without an ICMP type"),
    (_rule(protocol="ICMP", ipVersion=6), "IPVersion", "must set ipversion to '4' with protocol icmp"),
    (_rule(notProtocol="ICMPv6", ipVersion=4), "IPVersion", "must set ipversion to '6' with protocol icmpv6"),
    (_rule(source={"nets": ["10.0.0.0/8"]}, destination={"nets": ["fd00::/8"]}), "Destination.Nets",
     "rule contains both IPv4 and IPv6 CIDRs"),
    (_rule(ipVersion=6, source={"nets": ["10.0.0.0/8"]}), "Source.Nets",
     "rule IP version doesn't match CIDR version"),
    (_rule(source={"notNets": ["0.0.0.0/0"]}), "Source.NotNets",
     "catch-all CIDR in negation creates logical contradiction (matches no traffic)"),
    (_rule(source={"nets": ["10.0.0.1"]}), "Source.Nets", "invalid CIDR"),
    ({"action": "Deny", "protocol": "TCP", "http": {"methods": ["GET"]}}, "HTTP", "only valid for Allow rules"),
    (_rule(protocol="UDP", http={"methods": ["GET"]}), "Protocol",
     "rules that specify HTTP fields must set protocol to TCP or empty"),
    (_rule(http={"methods": ["GET", "GET"]}), "Methods", "Invalid methods (duplicates): [GET GET]"),
    (_rule(http={"paths": [{"exact": "/a", "prefix": "/b"}]}), "Paths",
     "Invalid path match. Both 'exact' and 'prefix' are set"),
    (_rule(protocol=0), "Protocol", "protocol number invalid"),
    (_rule(protocol="tcp"), "Protocol", "protocol name invalid"),
    (_rule(protocol="TCP", source={"ports": [0]}), "Port",
     "port range invalid, port number must be between 1 and 65535"),
    (_rule(source={"selector": "global()"}), "Selector field",
     "global() can only be used in an EntityRule namespaceSelector"),
    (_rule(source={"namespaceSelector": "global() && has(a)"}), "NamespaceSelector field",
     "global() cannot be combined with other selectors"),
    (_rule(source={"services": {"name": "s", "namespace": "n"}, "nets": ["10.0.0.0/8"]}), "Services field",
     "cannot specify Nets/NotNets and Services on the same rule"),
    (_rule(destination={"services": {"name": "s"}}), "Services", "not allowed in ingress rule destination"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "field", "reason"), RULES)
def test_rules_across_fields(rule: dict[str, Any], field: str, reason: str) -> None:
    assert (field, reason) in _errors("NetworkPolicy", {"ingress": [rule]})


TAGS: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    ("NetworkPolicy", {"ingress": [{"action": "allow"}]}, _tag("Action", "action")),
    ("NetworkPolicy", {"ingress": [_rule(ipVersion=5)]}, _tag("IPVersion", "ipVersion")),
    ("NetworkPolicy", {"ingress": [_rule(source={"nets": ["10.1.2.3/8"]})]}, _tag("Nets[0]", "net")),
    ("NetworkPolicy", {"ingress": [_rule(source={"notSelector": "a =="})]}, _tag("NotSelector", "selector")),
    ("NetworkPolicy", {"ingress": [_rule(protocol="TCP", source={"ports": ["HTTP"]})]}, _tag("PortName", "portName")),
    ("NetworkPolicy", {"types": ["ingress"]}, _tag("Types[0]", "policyType")),
    ("NetworkPolicy", {"tier": "A"}, _tag("Tier", "name")),
    ("Tier", {"defaultAction": "Allow"}, _tag("DefaultAction", "oneof")),
    ("Profile", {"labelsToApply": {"a/b/c": "d"}}, _tag("LabelsToApply", "labels")),
    ("NetworkSet", {"nets": ["10.0.0.0/33"]}, _tag("Nets[0]", "cidr")),
    ("WorkloadEndpoint", {**WEP, "interfaceName": "enp0s31f6-uplink0"}, _tag("InterfaceName", "interface")),
    ("WorkloadEndpoint", {**WEP, "mac": "a:b:c:d:e:f"}, _tag("MAC", "mac")),
    ("WorkloadEndpoint", {**WEP, "ipv4Gateway": "fd00::1"}, ("IPv4Gateway", "invalid IPv4 gateway address specified")),
    ("WorkloadEndpoint", {**WEP, "ipNetworks": ["10.0.0.0/31"]},
     ("IPNetworks", "IP network contains multiple addresses")),
    ("WorkloadEndpoint", {**WEP, "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "fd00::1"}]},
     ("ExternalIP", "mismatched IP versions")),
    ("WorkloadEndpoint", {**WEP, "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.2.3.4"}]},
     ("IPNATs", "NAT is not in the endpoint networks")),
    ("WorkloadEndpoint", {**WEP, "ports": [{"protocol": "TCP", "port": 80}]},
     ("WorkloadEndpointPort.Name", "WorkloadEndpointPort name must not be empty if no HostPort is specified")),
    ("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "always"}, _tag("IPIPMode", "ipIpMode")),
    ("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 19},
     ("IPPool.Spec.BlockSize", "IPv4 block size must be between 20 and 32")),
    ("IPPool", {"cidr": ""}, ("IPpool.CIDR", "IPPool CIDR must be specified")),
    ("IPPool", {"cidr": "::ffff:10.67.0.0/112"},
     ("IPPool.Spec.CIDR", "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than"
      " the block size.")),
    ("IPPool", {"cidr": "10.0.0.0/28"},
     ("IPPool.Spec.CIDR", "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than"
      " the block size.")),
    ("IPPool", {"cidr": "169.254.0.0/20"},
     ("IPPool.Spec.CIDR", "IPPool CIDR overlaps with IPv4 Link Local range 169.254.0.0/16")),
    ("IPPool", {"cidr": "10.0.0.0/16", "allowedUses": ["Workload", "Other"]},
     ("IPpool.AllowedUses", "unknown use: Other")),
    ("Node", {"bgp": {}}, ("BGP", "Spec.BGP should not be empty")),
    ("Node", {"bgp": {"ipv4Address": "fd00::1"}}, _tag("IPv4Address", "cidrv4")),
    ("FelixConfiguration", {"logSeverityFile": "Warn"}, _tag("LogSeverityFile", "logLevel")),
    ("FelixConfiguration", {"bpfConntrackMode": "auto"}, _tag("BPFConntrackCleanupMode", "oneof")),
    ("FelixConfiguration", {"mtuIfacePattern": "("}, _tag("MTUIfacePattern", "regexp")),
    ("FelixConfiguration", {"wireguardListeningPort": 0}, _tag("WireguardListeningPort", "gt")),
    ("FelixConfiguration", {"kubeNodePortRanges": ["http"]},
     ("KubeNodePortRanges", "node port ranges should not contain named ports")),
    ("FelixConfiguration", {"externalNodesList": ["fd00::/8"]}, ("ExternalNodesCIDRList", "has invalid IPv6 CIDR")),
    ("FelixConfiguration", {"routeTableRanges": [{"min": 5, "max": 4}]},
     ("RouteTableRange", "min value cannot be greater than max value")),
    ("FelixConfiguration", {"istioAmbientMode": "x"},
     ("spec.istioAmbientMode", 'supported values: "Enabled", "Disabled"')),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "error"), TAGS)
def test_single_fields(kind: str, spec: dict[str, Any], error: tuple[str, str]) -> None:
    assert error in _errors(kind, spec)


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("NetworkPolicy", {"ingress": [_rule(source={"ports": ["http"]})]}),
    ("NetworkPolicy", {"ingress": [_rule(protocol=132, source={"ports": [1, "2:3"]})]}),
    ("NetworkPolicy", {"ingress": [_rule(source={"namespaceSelector": "global()", "notSelector": "global()"})]}),
    ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "ingress": [_rule()]}),
    ("NetworkSet", {"nets": ["10.1.2.3/8", "fd00::1", ""]}),
    (
        "WorkloadEndpoint",
        {**WEP, "ipNetworks": ["10.0.0.1/32", ""], "ports": [{"protocol": "UDP", "port": 5, "hostPort": 5}]},
    ),
    ("IPPool", {"cidr": "10.0.0.0/28", "disabled": True}),
    ("IPPool", {"cidr": "fd00::/64", "vxlanMode": "Always"}),
    ("FelixConfiguration", {"logSeverityFile": "WARNING", "logPrefix": "", "bpfLogFilters": {"eth0": "tcp"}}),
    ("FelixConfiguration", {"failsafeInboundHostPorts": [{"protocol": "x", "net": "bad"}]}),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_what_is_accepted(kind: str, spec: dict[str, Any]) -> None:
    assert _errors(kind, spec) == []


def test_names() -> None:
    assert ("Metadata.Name", LABEL_RULE) in _errors("Tier", {}, "a.b")
    assert _errors("NetworkPolicy", {}, "default.web") == []
    assert ("Metadata.Name", LABEL_RULE) in _errors("NetworkPolicy", {}, "a.b.c")
    assert _errors("NetworkPolicy", {}, "knp.default.a.b.c") == []
    assert ("Metadata.Name", "name is too long by 2 bytes") in _errors("Node", {}, "a" * 255)
    assert [reason for _field, reason in _errors("NetworkPolicy", {}, "A")][1] == LABEL_RULE


def test_labels_and_annotations() -> None:
    fields = [field for field, _reason in _errors("Node", {}, labels={"a/": "b c"})]
    assert fields == ["Metadata.Labels (label)", "Metadata.Labels (label)", "Metadata.Labels (value)"]
    assert _errors("Node", {}, annotations={"UPPER/x": "any\ntext"}) == []
    too_large = ("Metadata.Annotations (key)", "total size of annotations is too large by 1 bytes")
    assert too_large in _errors("Node", {}, annotations={"a": "x" * 262144})


def test_fixed_tiers_keep_order_and_action() -> None:
    reasons = [reason for _field, reason in _errors("Tier", {"order": 5, "defaultAction": "Pass"}, "default")]
    assert reasons == ["default tier order must be 1e+06", "The 'default' tier must have default action 'Deny'"]


def test_errors_of_the_client_hide_those_of_the_validator() -> None:
    errors = _errors("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 19, "nodeSelector": "("})
    assert [field for field, _reason in errors] == ["IPPool.Spec.BlockSize"]


WORDS = ["", "a", "A", "a-", "10.0.0.0/8", "10.1.2.3/8", "fd00::1", "all()", "global()", "a ==", "TCP", "Allow", "5s"]
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.one_of(st.sampled_from(WORDS), st.text(max_size=5)),
    int: st.one_of(st.integers(-2, 300), st.just((1 << 63) - 1)),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    Any: st.just({}),
}


def _document(wanted: Any) -> st.SearchStrategy[Any]:
    """JSON of roughly the right shape for a member's type."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(_document(one) for one in arguments if one not in (type(None), msgspec.UnsetType)))
    if origin is list:
        return st.lists(_document(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(SCALARS[str], _document(arguments[1]), max_size=2)
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        hints = typing.get_type_hints(wanted)
        members = {f.encode_name: _document(hints[f.name]) for f in msgspec.structs.fields(wanted)}
        return st.fixed_dictionaries({}, optional=members)
    return SCALARS[wanted]


FELIX_VALUES = st.one_of(SCALARS[str], SCALARS[int], st.booleans(), st.lists(SCALARS[str], max_size=2))
SPECS = {
    kind: st.dictionaries(st.sampled_from(sorted(FIELDS)), FELIX_VALUES, max_size=4)
    if kind == "FelixConfiguration"
    else _document(typing.get_type_hints(struct)["spec"])
    for kind, struct in STRUCTS.items()
}


@pytest.mark.parametrize("kind", sorted(STRUCTS))
@given(data=st.data())
@settings(
    max_examples=settings().max_examples * 3 // 5,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_validation_itself_never_fails(kind: str, data: st.DataObject) -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": data.draw(SCALARS[str])},
        "spec": data.draw(SPECS[kind]),
    }
    try:
        filled = defaults.before_write(codec.from_input(document))
    except BadData:
        return
    validate(filled)
    codec.encode(defaults.for_storage(filled))

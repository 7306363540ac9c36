"""Stored bytes are Go's; whatever is stored decodes to an object or to one kind of error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.errors import BadData, ParsingDatastoreEntry
from libcalico.model import codec
from libcalico.model.base import Metadata
from libcalico.model.keys import ResourceKey
from libcalico.model.resources import (
    STRUCTS,
    EntityRule,
    FelixConfiguration,
    GlobalNetworkPolicy,
    NetworkPolicy,
    NetworkPolicySpec,
    Node,
    NodeAddress,
    NodeSpec,
    Rule,
    Tier,
    TierSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)

KEY = ResourceKey("NetworkPolicy", "web", "shop")
TEXT = st.text(max_size=12)
PORTS = st.one_of(st.integers(0, 65535), st.from_regex(r"[a-z]{1,5}", fullmatch=True))
SIDES = st.builds(
    EntityRule,
    nets=st.lists(TEXT, max_size=2),
    selector=TEXT,
    namespace_selector=TEXT,
    ports=st.lists(PORTS, max_size=2),
    not_nets=st.lists(TEXT, max_size=2),
    not_ports=st.lists(PORTS, max_size=2),
)
RULES = st.builds(
    Rule,
    action=st.sampled_from(("Allow", "Deny", "Log", "Pass")),
    ip_version=st.one_of(st.none(), st.sampled_from((4, 6))),
    protocol=st.one_of(st.none(), st.sampled_from(("TCP", "UDP", 47))),
    source=SIDES,
    destination=SIDES,
)
METADATA = st.builds(Metadata, name=TEXT, namespace=TEXT, uid=TEXT, labels=st.dictionaries(TEXT, TEXT, max_size=3))
ORDERS = st.one_of(st.none(), st.integers(-(10**6), 10**6), st.floats(-(2.0**53), 2.0**53))
POLICIES = st.builds(
    NetworkPolicy,
    metadata=METADATA,
    spec=st.builds(
        NetworkPolicySpec,
        tier=TEXT,
        order=ORDERS,
        ingress=st.lists(RULES, max_size=2),
        egress=st.lists(RULES, max_size=2),
        selector=TEXT,
        types=st.lists(st.sampled_from(("Ingress", "Egress")), max_size=2),
    ),
)


@given(POLICIES)
def test_what_is_stored_reads_back_equal(policy: NetworkPolicy) -> None:
    stored = codec.encode(policy)
    found = codec.decode(ResourceKey("NetworkPolicy", policy.metadata.name, policy.metadata.namespace), stored)
    assert msgspec.structs.replace(found, kind="", api_version="") == policy
    assert codec.encode(found) == stored


@given(POLICIES)
def test_member_names_match_in_any_case(policy: NetworkPolicy) -> None:
    stored = codec.encode(policy)
    shouted = stored.replace(b'"spec":', b'"SPEC":').replace(b'"metadata":', b'"MetaData":')
    assert codec.decode(KEY, shouted) == codec.decode(KEY, stored)


@given(st.one_of(st.binary(max_size=60), st.just(b"[" * 100_000), st.just(b'{"spec":' + b'{"a":' * 100_000)))
def test_garbage_is_one_kind_of_error(value: bytes) -> None:
    for kind in STRUCTS:
        try:
            codec.decode(ResourceKey(kind, "a"), value)
        except ParsingDatastoreEntry:
            pass


JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(("ingress", "source", "ports", "metadata", "labels", "order", "cidr", "ipNATs", "x")),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted(STRUCTS)), JSON, JSON)
def test_a_users_document_is_an_object_or_bad_data(kind: str, spec: Any, metadata: Any) -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}
    try:
        codec.encode(codec.from_input(document))
    except BadData:
        pass


def test_bytes_of_a_policy() -> None:
    policy = NetworkPolicy(
        metadata=Metadata(name="web", namespace="shop", labels={"b": "2", "a": "<1>"}, resource_version="17"),
        spec=NetworkPolicySpec(
            order=1e6, ingress=[Rule(action="Allow", protocol="TCP", source=EntityRule(ports=[80, "8000:8010"]))]
        ),
    )
    assert codec.encode(policy).decode() == (
        '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"web","namespace":"shop",'
        '"labels":{"a":"\\u003c1\\u003e","b":"2"}},"spec":{"order":1000000,"ingress":[{"action":"Allow",'
        '"protocol":"TCP","source":{"ports":[80,"8000:8010"]},"destination":{}}]}}'
    )


def test_empty_rules_are_stored_in_full_but_shown_bare() -> None:
    policy = GlobalNetworkPolicy(metadata=Metadata(name="a"))
    spec = msgspec.structs.replace(policy.spec, egress=[Rule(action="Deny")])
    policy = msgspec.structs.replace(policy, spec=spec)
    assert b'{"action":"Deny","source":{},"destination":{}}' in codec.encode(policy)
    assert codec.to_json(policy)["spec"]["egress"] == [{"action": "Deny"}]


def test_members_that_are_always_written() -> None:
    assert codec.encode(Tier(spec=TierSpec(order=5))).endswith(b'"spec":{"order":5},"status":{}}')
    node = Node(spec=NodeSpec(addresses=[NodeAddress()]))
    assert codec.encode(node).endswith(b'"spec":{"addresses":[{"address":""}]},"status":{}}')
    port = WorkloadEndpointPort(name="web", protocol="TCP", port=80)
    endpoint = WorkloadEndpoint(spec=WorkloadEndpointSpec(ports=[port]))
    assert b'"ports":[{"name":"web","protocol":"TCP","port":80,"hostPort":0,"hostIP":""}]' in codec.encode(endpoint)


def test_revision_becomes_the_resource_version_and_kind_is_the_keys() -> None:
    found = codec.decode(KEY, b'{"kind":"Nonsense","metadata":{"name":"web","resourceVersion":"4"},"spec":{}}', 9)
    assert (found.kind, found.api_version, found.metadata.resource_version) == (
        "NetworkPolicy",
        "projectcalico.org/v3",
        "9",
    )


def test_unknown_members_are_ignored_when_stored_and_refused_in_files() -> None:
    found = codec.decode(
        KEY, b'{"metadata":{"name":"web","fresh":1},"spec":{"newInTwoYears":{"a":1},"selector":"all()"}}'
    )
    assert isinstance(found, NetworkPolicy) and found.spec.selector == "all()"
    document = {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "spec": {"newInTwoYears": 1}}
    with pytest.raises(BadData, match="newInTwoYears"):
        codec.from_input(document)


def _input(kind: str, spec: dict[str, Any]) -> Any:
    return codec.from_input({"apiVersion": "projectcalico.org/v3", "kind": kind, "spec": spec}).spec


@pytest.mark.parametrize(
    ("given_port", "stored"),
    [
        (80, 80),
        ("80", 80),
        ("00080", 80),
        (80.0, 80),
        ("80:90", "80:90"),
        ("9000:9000", 9000),
        ("http-alt", "http-alt"),
    ],
)
def test_ports_are_read_into_their_canonical_form(given_port: Any, stored: Any) -> None:
    rule = {"action": "Allow", "source": {"ports": [given_port]}}
    assert _input("NetworkPolicy", {"ingress": [rule]}).ingress[0].source.ports == [stored]


@pytest.mark.parametrize("bad", ["", "5:4", "1:65536", "80,90", "a b", 65536, -1, 1.5, True, "99999999999999999999"])
def test_ports_that_cannot_be_read(bad: Any) -> None:
    with pytest.raises(BadData):
        _input("NetworkPolicy", {"ingress": [{"action": "Allow", "source": {"ports": [bad]}}]})


def test_felix_values_are_read_by_their_types() -> None:
    spec = _input(
        "FelixConfiguration",
        {
            "RouteRefreshInterval": "3600s",
            "logPrefix": "",
            "debugHost": "",
            "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": ""}, {}],
            "healthTimeoutOverrides": [{"name": "a"}],
            "natPortRange": "80:80",
        },
    )
    assert spec == {
        "routeRefreshInterval": "1h0m0s",
        "debugHost": "",
        "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22}, {"port": 0}],
        "healthTimeoutOverrides": [{"name": "a", "timeout": "0s"}],
        "natPortRange": 80,
    }


def test_felix_members_are_stored_in_gos_order() -> None:
    names = ["bpfEnabled", "nftablesMode", "floatingIPs", "logSeverityScreen", "ipv6Support", "bpfLogLevel"]
    stored = codec.encode(FelixConfiguration(spec=dict.fromkeys(names, "")))
    order = ["ipv6Support", "logSeverityScreen", "nftablesMode", "bpfEnabled", "bpfLogLevel", "floatingIPs"]
    assert list(msgspec.json.decode(stored)["spec"]) == order


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("IPPool", {"natOutgoing": "x"}, "cannot unmarshal string into Go struct field IPPoolSpec.spec.natOutgoing"),
        ("NetworkSet", {"nets": "x"}, r"field NetworkSetSpec.spec.nets of type \[\]string"),
        ("FelixConfiguration", {"reportingTTL": "1d"}, 'unknown unit "d" in duration "1d"'),
        ("FelixConfiguration", {"iptablesMarkMask": -1}, "cannot unmarshal number -1 into .* of type uint32"),
        ("Node", {"bgp": {"asNumber": "1.2.3"}}, r"invalid AS Number format \(1.2.3\)"),
    ],
)
def test_wrong_types_name_the_member(kind: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        _input(kind, spec)


@pytest.mark.parametrize(
    ("order", "shown"), [(float("inf"), "inf"), (float("nan"), "nan"), (10**400, "0x"), ("1e400", "string")]
)
def test_numbers_that_json_does_not_know_name_the_member(order: Any, shown: str) -> None:
    with pytest.raises(BadData, match=rf"cannot unmarshal .*{shown}.* into Go struct field TierSpec\.spec\.order"):
        _input("Tier", {"order": order})
    if not isinstance(order, str):
        with pytest.raises(BadData, match=r"of type string"):
            _input("GlobalNetworkPolicy", {"selector": order})


def test_values_of_python_are_taken_or_named() -> None:
    assert _input("NetworkSet", {"nets": ("10.0.0.0/8",)}).nets == ["10.0.0.0/8"]
    with pytest.raises(BadData, match=r"cannot unmarshal Python's set into Go struct field NetworkSetSpec\.spec\.nets"):
        _input("NetworkSet", {"nets": {"10.0.0.0/8"}})


@pytest.mark.parametrize(("kind", "shape"), [(["NetworkSet"], "array"), ({"a": "b"}, "object")])
def test_a_kind_must_be_text(kind: Any, shape: str) -> None:
    with pytest.raises(BadData, match=f"cannot unmarshal {shape} into Go struct field TypeMeta.kind of type string"):
        codec.from_input({"apiVersion": "projectcalico.org/v3", "kind": kind})


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2026-03-01T10:00:00.5+02:00", "2026-03-01T08:00:00Z"),
        ("0001-01-02T00:00:00+10:00", "0001-01-01T14:00:00Z"),
    ],
)
def test_times_are_whole_seconds_in_utc(given: str, stored: str) -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"creationTimestamp": given}}
    assert codec.from_input(document).metadata.creation_timestamp == stored


def test_a_time_out_of_range_is_refused_in_files_and_damaged_when_stored() -> None:
    metadata = {"name": "default", "creationTimestamp": "0001-01-01T00:00:00+10:00"}
    document = {"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": metadata, "spec": {}}
    with pytest.raises(
        BadData,
        match=r'metadata.creationTimestamp: parsing time "0001-01-01T00:00:00\+10:00": the year must be from 1 to 9999',
    ):
        codec.from_input(document)
    with pytest.raises(ParsingDatastoreEntry, match="the year must be"):
        codec.decode(ResourceKey("FelixConfiguration", "default"), msgspec.json.encode(document))


OWNED = (
    b'{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n",'
    b'"ownerReferences":[{"apiVersion":"v1","kind":"K","name":"","uid":"u","controller":true}],'
    b'"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","time":"2026-03-01T08:00:00Z",'
    b'"fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}}}]},"spec":{},"status":{}}'
)


def test_owners_and_managers_are_kept_and_their_members_are_known() -> None:
    assert codec.encode(codec.decode(ResourceKey("Node", "n"), OWNED)) == OWNED
    for member in ("ownerReferences", "managedFields"):
        document = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n", member: [{"a": 1}]}}
        with pytest.raises(BadData, match="not recognized or is in the wrong location: a"):
            codec.from_input(document)


def test_a_self_link_is_read_and_never_written() -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "t", "selfLink": "/x"}}
    for tier in (codec.from_input(document), codec.decode(ResourceKey("Tier", "t"), msgspec.json.encode(document))):
        assert tier.metadata.self_link == ""
    linked = Tier(metadata=Metadata(name="t", self_link="/x"))
    assert b"selfLink" not in codec.encode(linked)


@pytest.mark.parametrize("member", [{"ipip": {"enabled": True}}, {"nat-outgoing": True}, {"ipip": {}}])
def test_obsolete_members_of_a_pool_are_unknown(member: dict[str, Any]) -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "p"},
        "spec": {"cidr": "10.0.0.0/16", **member},
    }
    with pytest.raises(BadData, match=f"not recognized or is in the wrong location: {next(iter(member))}"):
        codec.from_input(document)
    stored = codec.decode(ResourceKey("IPPool", "p"), msgspec.json.encode(document))
    assert b"nat-outgoing" not in codec.encode(stored)
    assert b'"ipip"' not in codec.encode(stored)

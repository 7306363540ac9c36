"""From v3 policies to the IR: what each field means, and which objects are treated as absent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from libcalico.errors import BadData
from libcalico.model.codec import decode
from libcalico.model.keys import ResourceKey
from libcalico.net import Cidr
from libcalico.policy.compile import CompiledPolicy, compile_policy, compile_profile
from libcalico.policy.ir import DENY_ALL, Action, IcmpMatch, PortRange, Rule
from libcalico.policy.nft.rules import NftOptions, render_policy
from libcalico.selector import parse

TEN = Cidr(4, 10 << 24, 8)


def stored(kind: str, metadata: dict[str, str], spec: dict[str, Any]) -> Any:
    """A resource as the datastore gives it, without any check of the client's."""
    key = ResourceKey(kind, metadata["name"], metadata.get("namespace", ""))
    return decode(key, json.dumps({"kind": kind, "metadata": metadata, "spec": spec}).encode())


def policy(*ingress: dict[str, Any], kind: str = "GlobalNetworkPolicy", **spec: Any) -> CompiledPolicy:
    metadata = {"name": "p"} | ({"namespace": "shop"} if kind == "NetworkPolicy" else {})
    given = {"selector": "all()", "types": ["Ingress"], "ingress": list(ingress)} | spec
    return compile_policy(stored(kind, metadata, given))


def rules(*given: dict[str, Any], kind: str = "GlobalNetworkPolicy") -> tuple[Rule, ...]:
    return policy(*({"action": "Allow", **one} for one in given), kind=kind).policy.ingress


def source(kind: str = "GlobalNetworkPolicy", protocol: Any = "TCP", **side: Any) -> tuple[Any, dict[str, Any]]:
    one = policy({"action": "Allow", "protocol": protocol, "source": side}, kind=kind)
    return one.policy.ingress[0].source, one.sets


@pytest.mark.parametrize(
    ("rule", "family"),
    [
        ({}, 0),
        ({"ipVersion": 6}, 6),
        ({"protocol": "ICMP"}, 4),
        ({"protocol": "ICMPv6"}, 6),
        ({"protocol": 1}, 0),
        ({"notProtocol": "ICMP"}, 0),
        ({"source": {"nets": ["10.0.0.0/8"]}}, 4),
        ({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}, 0),
        ({"source": {"notNets": ["fd00::/8"]}}, 6),
        ({"source": {"notNets": ["0.0.0.0/0", "fd00::/8"]}}, 6),
        ({"source": {"nets": ["10.0.0.1"]}}, 4),
    ],
)
def test_the_family_that_a_rule_exists_in(rule: dict[str, Any], family: int) -> None:
    (one,) = rules(rule)
    assert one.family == family


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "ICMPv6", "ipVersion": 4},
        {"source": {"nets": ["10.0.0.0/8"]}, "destination": {"nets": ["fd00::/8"]}},
        {"source": {"notNets": ["0.0.0.0/0", "::/0"]}},
        {"source": {"nets": ["10.0.0.0/8"]}, "ipVersion": 6},
        {"protocol": "TCP", "icmp": {"type": 8}},
    ],
)
def test_a_rule_that_never_matches_vanishes_and_the_numbers_stay(rule: dict[str, Any]) -> None:
    assert [one.number for one in rules({}, rule, {})] == [0, 2]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"protocol": "TCP", "destination": {"ports": ["0:443"]}}, "rule 1"),
        ({"destination": {"ports": [80]}}, "needs protocol"),
        ({"protocol": "ICMP", "destination": {"notPorts": [80]}}, "needs protocol"),
        ({"protocol": "UDPLite", "destination": {"ports": ["http"]}}, "named port"),
        ({"protocol": "carrier-pigeon"}, "not known"),
        ({"action": "Maybe"}, "action 'Maybe'"),
        ({"source": {"selector": "has("}}, "rule 1"),
    ],
)
def test_a_bad_rule_takes_the_whole_policy_away(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(BadData, match=why):
        rules({}, rule)


def test_icmp_without_a_protocol_is_that_of_each_family() -> None:
    four, six = rules({"icmp": {"type": 8, "code": 0}})
    assert (four.family, four.protocol, four.icmp) == (4, 1, IcmpMatch(8, 0))
    assert (six.family, six.protocol, six.icmp) == (6, 58, IcmpMatch(8, 0))
    assert [(one.protocol, one.not_icmp) for one in rules({"notICMP": {"type": 8}})] == [
        (1, IcmpMatch(8, None)),
        (58, IcmpMatch(8, None)),
    ]


def test_a_negated_icmp_of_another_protocol_is_always_true() -> None:
    (one,) = rules({"protocol": "TCP", "notICMP": {"type": 8}})
    assert (one.protocol, one.not_icmp, one.family) == (6, None, 0)


def test_networks() -> None:
    side, _ = source(nets=["10.1.2.3/8", "nonsense", "::ffff:10.0.0.1/128", "::ffff:0:0/96"])
    assert side.nets == (TEN, Cidr(4, (10 << 24) + 1, 32), Cidr(4, 0, 0))


def test_actions() -> None:
    given = [{"action": word} for word in ("Allow", "Deny", "Log", "Pass", "")]
    assert [one.action for one in policy(*given).policy.ingress] == [
        Action.ALLOW, Action.DENY, Action.LOG, Action.PASS, Action.ALLOW,
    ]  # fmt: skip


def test_selector_and_not_selector_are_one_set() -> None:
    side, sets = source(selector="a == '1'", notSelector="b == '2'")
    (name,) = side.sets
    assert sets[name].selector.text == parse("(a == '1') && !(b == '2')").text
    assert side.not_sets == ()


def test_a_lone_not_selector_is_a_negated_set() -> None:
    side, sets = source(notSelector="b == '2'")
    assert (side.sets, side.not_sets) == ((), (parse("b == '2'").id,))
    assert set(sets) == set(side.not_sets)


def test_in_a_namespace_a_lone_not_selector_stays_inside() -> None:
    side, sets = source("NetworkPolicy", notSelector="b == '2'")
    (name,) = side.sets
    assert sets[name].selector.text == parse("projectcalico.org/namespace == 'shop' && !(b == '2')").text


def test_in_a_namespace_a_rule_without_selectors_is_not_limited() -> None:
    side, sets = source("NetworkPolicy", nets=["10.0.0.0/8"])
    assert side.sets == () and sets == {}


def test_only_named_ports_imply_the_selector() -> None:
    side, sets = source(selector="a == '1'", ports=["http"])
    (name,) = side.port_sets
    assert side.sets == () and set(sets) == {name}
    assert (sets[name].selector.id, sets[name].ports) == (parse("a == '1'").id, {(6, "http")})


def test_named_and_numbered_ports_keep_the_selector() -> None:
    side, _ = source(selector="a == '1'", ports=["http", 80, "90:99"])
    assert side.sets == (parse("a == '1'").id,)
    assert side.ports == (PortRange(80, 80), PortRange(90, 99)) and len(side.port_sets) == 1


def test_negated_named_ports_are_limited_by_the_selector() -> None:
    side, sets = source(selector="a == '1'", notPorts=["http"])
    (name,) = side.not_port_sets
    assert side.sets == (parse("a == '1'").id,) and sets[name].selector.id == parse("a == '1'").id


def test_the_id_of_a_named_port_is_upstreams() -> None:
    side, _ = source(selector='role == "db" && zone in {"a", "b"}', ports=["metrics"])
    assert side.port_sets == ("n:xKxA6X5YinW6GmIjNWS1cDS0GUfebWaudHYOTg",)


NAMES = [f"p{number}" for number in range(300)]


def kernel_rules(compiled: CompiledPolicy) -> int:
    return sum(len(rules) for rules in render_policy(compiled.policy, NftOptions())[0].values())


def test_named_ports_do_not_multiply() -> None:
    """All names of a list are one set, on each side and for all protocols."""
    for protocol in ({"protocol": "TCP"}, {}):
        compiled = policy(
            {"action": "Allow", **protocol, "source": {"ports": NAMES}, "destination": {"ports": NAMES[1:]}}
        )
        assert len(compiled.sets) == 2 and kernel_rules(compiled) == 2
        (ports,) = {one.ports for one in compiled.sets.values() if (6, "p0") in one.ports}
        assert len(ports) == (300 if protocol else 900)
    mixed = {"ports": [*NAMES, 80, "1000:2000"], "notPorts": [*NAMES, 81]}
    compiled = policy({"action": "Allow", "protocol": "TCP", "source": mixed, "destination": mixed})
    assert len(compiled.sets) == 1 and kernel_rules(compiled) == 8


def test_the_order_of_names_makes_no_other_set() -> None:
    one, other = source(ports=["a", "b"])[0], source(ports=["b", "a"])[0]
    assert one.port_sets == other.port_sets != source(ports=["a"])[0].port_sets


def allow(**side: Any) -> dict[str, Any]:
    return {"action": "Allow", "protocol": "TCP", "source": side}


NETS = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(60_000)]
TOO_LARGE = {
    "1001 selectors and named ports, the limit is 1000": [allow(selector=f"a == '{n}'") for n in range(1001)],
    "30008 rules in the kernel, the limit is 30000": [
        {**allow(ports=["a", 1], selector="all()"), "destination": {"ports": ["b", 2]}} for _ in range(3751)
    ],
    "3001 lists of networks or ports in these rules, the limit is 3000": [
        {**allow(ports=[80, 443]), "ipVersion": 4} for _ in range(3001)
    ],
    "240008 networks and ports in these rules, the limit is 200000": [
        {**allow(nets=NETS, ports=["a", 1]), "ipVersion": 4, "destination": {"ports": ["b", 2]}}
    ],
}


@pytest.mark.parametrize("why", TOO_LARGE)
def test_what_is_too_large_denies_all_and_needs_nothing(why: str) -> None:
    compiled = policy(*TOO_LARGE[why])
    assert compiled.refused.startswith(why)
    assert compiled.sets == {} and compiled.policy.ingress == compiled.policy.egress == DENY_ALL
    chains, _ = render_policy(compiled.policy, NftOptions())
    assert [rules[0].split(" comment")[0] for rules in chains.values()] == ["counter drop"] * 2
    assert all("|too large" in rules[0] for rules in chains.values())


def test_what_is_just_large_is_enforced() -> None:
    compiled = policy(*(allow(selector=f"a == '{number}'") for number in range(1000)))
    assert compiled.refused == "" and len(compiled.sets) == 1000


def test_the_sets_of_rules_that_vanish_are_not_needed() -> None:
    assert (
        policy({"action": "Allow", "protocol": "ICMPv6", "ipVersion": 4, "source": {"selector": "a == '1'"}}).sets == {}
    )


def test_policy_selectors() -> None:
    one = policy(kind="NetworkPolicy", selector="a == '1'", serviceAccountSelector="trust == 'high'")
    wanted = "((a == '1') && projectcalico.org/namespace == 'shop') && pcsa.trust == 'high'"
    assert one.selector.text == parse(wanted).text
    assert policy(namespaceSelector="all()").selector.text == parse(
        "(has(projectcalico.org/namespace)) && has(projectcalico.org/namespace)"
    ).text  # fmt: skip


@pytest.mark.parametrize(("flag", "workload"), [("doNotTrack", False), ("preDNAT", False), ("applyOnForward", True)])
def test_which_policies_act_on_workloads(flag: str, workload: bool) -> None:
    spec: dict[str, Any] = {flag: True, "types": ["Ingress"]}
    assert policy(**spec).workload is workload


def test_types_default_to_both_and_the_tier_to_default() -> None:
    one = policy(types=[], tier="", order=5)
    assert (one.ingress, one.egress, one.tier, one.order) == (True, True, "default", 5.0)
    assert policy().egress is False and policy().order is None
    assert policy(types=["egress"]).ingress is False and policy(types=["egress"]).egress is True


def test_profile() -> None:
    one = compile_profile(stored("Profile", {"name": "p"}, {"egress": [{"action": "Allow"}]})).policy
    assert (one.id.kind, one.tier, one.ingress, len(one.egress)) == ("Profile", "", (), 1)

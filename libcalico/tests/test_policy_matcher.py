"""The order of evaluation (spec/felix.md 2.4 and its acceptance list 8), over both builds of the native matcher."""

from __future__ import annotations

from typing import Any

import pytest

from calico_native import rules as chosen
from calico_native.py import rules as twin
from libcalico.net import Cidr
from libcalico.policy.ir import (
    Action,
    Direction,
    EndpointPolicy,
    Packet,
    Policy,
    PolicyId,
    PortRange,
    Rule,
    Side,
    TierPolicies,
    Verdict,
)
from libcalico.policy.matcher import Decision, Matcher

TCP, UDP = 6, 17
HTTP = Packet(4, TCP, 0x0A000001, 0x0A000002, 40000, 8080)
OTHER = HTTP._replace(destination_port=22)
TO_HTTP = Side(ports=(PortRange(8080, 8080),))
OPEN = Policy(PolicyId("Profile", "", "open"), "", (Rule(Action.ALLOW, 0),), (Rule(Action.ALLOW, 0),))


@pytest.fixture(params=["default", "twin"])
def matcher(request: pytest.FixtureRequest) -> Matcher:
    made = Matcher(twin if request.param == "twin" else chosen)
    made.add_policy(OPEN)
    return made


def policy(name: str, *rules: Rule, tier: str = "default") -> Policy:
    return Policy(PolicyId("GlobalNetworkPolicy", "", name), tier, rules, ())


def rule(action: Action, number: int = 0, **criteria: Any) -> Rule:
    return Rule(action, number, **criteria)


def to_http(action: Action, number: int = 0) -> Rule:
    return rule(action, number, protocol=TCP, destination=TO_HTTP)


def tier(*policies: Policy, end: Action = Action.DENY, name: str = "default") -> TierPolicies:
    return TierPolicies(name, end, tuple(one.id for one in policies), ())


def decide(
    matcher: Matcher, tiers: list[TierPolicies], *policies: Policy, packet: Packet = HTTP, profiles: Any = ("open",)
) -> Decision:
    for one in policies:
        matcher.add_policy(one)
    return matcher.decide(EndpointPolicy(tuple(tiers), tuple(profiles)), Direction.INGRESS, packet)


def test_without_policies_the_profiles_decide(matcher: Matcher) -> None:
    assert decide(matcher, []) == Decision(Verdict.ALLOW, "rule", "", OPEN.id, 0)
    assert decide(matcher, [], profiles=()).verdict is Verdict.DENY


def test_a_policy_without_rules_denies_its_direction_only(matcher: Matcher) -> None:
    empty = policy("p")
    assert decide(matcher, [tier(empty)], empty) == Decision(Verdict.DENY, "end of tier", "default")
    endpoint = EndpointPolicy((tier(empty),), ("open",))
    assert matcher.decide(endpoint, Direction.EGRESS, HTTP).verdict is Verdict.ALLOW


@pytest.mark.parametrize(("end", "verdict"), [(Action.DENY, Verdict.DENY), (Action.PASS, Verdict.ALLOW)])
def test_pass_goes_to_the_next_tier_and_the_rest_to_the_end(matcher: Matcher, end: Action, verdict: Verdict) -> None:
    outer, inner = policy("o", to_http(Action.PASS), tier="outer"), policy("i", rule(Action.ALLOW), tier="inner")
    tiers = [tier(outer, end=end, name="outer"), tier(inner, name="inner")]
    assert decide(matcher, tiers, outer, inner) == Decision(Verdict.ALLOW, "rule", "inner", inner.id, 0)
    assert decide(matcher, tiers, outer, inner, packet=OTHER).verdict is verdict


def test_pass_skips_the_rest_of_its_tier(matcher: Matcher) -> None:
    first, second = policy("a", rule(Action.PASS)), policy("b", rule(Action.DENY))
    assert decide(matcher, [tier(first, second)], first, second).policy == OPEN.id


def test_the_first_policy_that_decides_wins(matcher: Matcher) -> None:
    first, second = policy("a", to_http(Action.DENY)), policy("b", rule(Action.ALLOW))
    assert decide(matcher, [tier(first, second)], first, second).policy == first.id
    assert decide(matcher, [tier(first, second)], first, second, packet=OTHER).policy == second.id
    assert decide(matcher, [tier(second, first)]).policy == second.id


def test_log_goes_on_and_the_number_is_the_users(matcher: Matcher) -> None:
    one = policy("p", rule(Action.LOG), to_http(Action.ALLOW, 4))
    assert decide(matcher, [tier(one)], one).rule == 4


def test_pass_in_a_profile_ends_that_profile(matcher: Matcher) -> None:
    passing = Policy(PolicyId("Profile", "", "p"), "", (rule(Action.PASS), rule(Action.DENY, 1)), ())
    assert decide(matcher, [], passing, profiles=("p", "open")).policy == OPEN.id
    assert decide(matcher, [], passing, profiles=("p",)).verdict is Verdict.DENY


def test_what_is_missing_denies(matcher: Matcher) -> None:
    gone = policy("gone")
    assert decide(matcher, [tier(gone)]) == Decision(Verdict.DENY, "the policy is not there", "default", gone.id)
    assert decide(matcher, [], profiles=("gone", "open")).verdict is Verdict.DENY


def test_sets_and_named_ports(matcher: Matcher) -> None:
    side = Side(sets=("s:a",), ports=(PortRange(9000, 9100),), port_sets=("n:http",))
    one = policy("p", rule(Action.ALLOW, protocol=TCP, destination=side))
    assert decide(matcher, [tier(one)], one).verdict is Verdict.DENY
    matcher.set_addresses("s:a", [Cidr(4, 0x0A000002, 32)])
    assert decide(matcher, [tier(one)]).verdict is Verdict.DENY
    matcher.set_ports("n:http", [(4, 0x0A000002, TCP, 8080)])
    assert decide(matcher, [tier(one)]).verdict is Verdict.ALLOW
    assert decide(matcher, [tier(one)], packet=HTTP._replace(destination_port=9050)).verdict is Verdict.ALLOW
    assert decide(matcher, [tier(one)], packet=HTTP._replace(protocol=UDP)).verdict is Verdict.DENY
    matcher.set_addresses("s:a", [])
    assert decide(matcher, [tier(one)]).verdict is Verdict.DENY


def test_a_replaced_policy_is_the_new_one(matcher: Matcher) -> None:
    nets = Side(nets=(Cidr(4, 0x0B000000, 8),))
    assert decide(matcher, [tier(policy("p"))], policy("p", rule(Action.ALLOW))).verdict is Verdict.ALLOW
    assert decide(matcher, [tier(policy("p"))], policy("p", rule(Action.ALLOW, source=nets))).verdict is Verdict.DENY

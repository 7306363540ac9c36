"""The wanted nftables table, without a kernel."""

from __future__ import annotations

import random
from typing import Any

import pytest

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.messages import Endpoint, Flush, IPSet, IPSetDelta, Member, PortMember
from libcalico.model.keys import ResourceKey
from libcalico.net import Cidr
from libcalico.policy.ir import Action, EndpointPolicy, Policy, PolicyId, Rule, Side, TierPolicies
from libcalico.policy.nft.rules import NftOptions

P = PolicyId("GlobalNetworkPolicy", "", "p")
GOOD = Rule(Action.ALLOW, 0)
ALLOW = Rule(Action.ALLOW, 0, source=Side(sets=("s:one",)))


def flush(**changes: Any) -> Flush:
    nothing: dict[str, Any] = {"sets": {}, "policies": {}, "endpoints": {}, "routes": {}, "vteps": {}}
    return Flush(**{**nothing, "pools": None, "configuration": None, "revision": 1, **changes})


def endpoint(name: str = "w", interface: str = "cali1", *policies: PolicyId) -> Endpoint:
    policy = EndpointPolicy((TierPolicies("default", Action.DENY, policies, ()),) if policies else (), ())
    return Endpoint(ResourceKey("WorkloadEndpoint", name, "default"), interface, "", (), policy, 1)


def ruleset() -> Ruleset:
    made = Ruleset("here", NftOptions())
    one = endpoint("w", "cali1", P)
    members = IPSet("s:one", False, frozenset({Cidr(4, 0x0A000001, 32)}))
    made.on_flush(
        flush(sets={"s:one": members}, policies={P: Policy(P, "default", (ALLOW,), ())}, endpoints={one.key: one})
    )
    return made


def chain_of(made: Ruleset, start: str) -> str:
    (name,) = [name for name in made.table.chains if name.startswith(start)]
    return name


def test_a_set_becomes_an_interval_set_with_its_first_prefix() -> None:
    made = ruleset()
    (name,) = [name for name in made.table.sets if name.startswith("ip4-s-")]
    assert not made.table.sets[name].interval
    made.on_flush(flush(sets={"s:one": IPSet("s:one", False, frozenset({Cidr(4, 0x0A000000, 8)}))}))
    assert made.table.sets[name].interval
    made.on_flush(flush(sets={"s:one": None}))
    assert name not in made.table.sets


def test_differences_of_a_set_add_up_to_the_set() -> None:
    """Whatever the order of single addresses and prefixes: the kernel sets are those of the whole set."""
    dice = random.Random(7)
    others = [(4, 0x0A000000, 29), (6, 1, 128), (6, 2, 128), (6, 0, 64)]
    pool: list[Member] = [Cidr(*one) for one in others + [(4, 0x0A000000 + n, 32) for n in range(12)]]
    ports: list[Member] = [PortMember(4, 0x0A000000 + n, 6, 80) for n in range(6)]
    ports.append(PortMember(6, 1, 17, 53))
    for members, with_ports in ((pool, False), (ports, True)) * 20:
        made, known = Ruleset("here", NftOptions()), frozenset(dice.sample(members, 3))
        made.on_flush(flush(sets={"s:x": IPSet("s:x", with_ports, known)}))
        for _ in range(10):
            wanted = frozenset(dice.sample(members, dice.randrange(len(members))))
            made.on_flush(flush(sets={"s:x": IPSetDelta("s:x", wanted - known, known - wanted)}))
            known = wanted
            whole = Ruleset("here", NftOptions())
            whole.on_flush(flush(sets={"s:x": IPSet("s:x", with_ports, wanted)}))
            found = {n: s.elements for n, s in made.table.sets.items()}
            assert found == {n: s.elements for n, s in whole.table.sets.items()}


def test_dispatch_follows_the_endpoint() -> None:
    made = ruleset()
    assert made.table.maps["to-workload"].elements == {('"cali1"', f"jump {chain_of(made, 'tw-cali1')}")}
    key = endpoint().key
    made.on_flush(flush(endpoints={key: None}))
    assert made.table.maps["to-workload"].elements == frozenset()
    assert not [name for name in made.table.chains if "cali1" in name]


def test_of_two_endpoints_with_one_interface_the_lower_key_is_active() -> None:
    made = ruleset()
    other = endpoint("a", "cali1")
    made.on_flush(flush(endpoints={other.key: other}))
    assert made.owners.active("cali1") == other
    made.on_flush(flush(endpoints={other.key: None}))
    active = made.owners.active("cali1")
    assert active is not None and active.key.name == "w"


def test_a_missing_policy_closes_the_endpoint() -> None:
    made = ruleset()
    made.on_flush(flush(policies={P: None}))
    rules = made.table.chains[chain_of(made, "tw-cali1")].rules
    assert any("is not there" in rule and "drop" in rule for rule in rules)
    assert not any("jump pi-gnp" in rule for rule in rules)


def test_quarantine_denies_until_the_policy_changes() -> None:
    made = ruleset()
    name = chain_of(made, "pi-gnp/p")
    assert made.quarantine(name, "the kernel said no")
    assert made.table.chains[name].rules == ("counter drop",)
    assert not made.quarantine(name, "again")
    made.on_flush(flush(policies={P: Policy(P, "default", (ALLOW._replace(number=1),), ())}))
    assert name not in made.quarantined
    assert "accept" in made.table.chains[name].rules[0]


@pytest.mark.parametrize("part", ["sets", "not_sets", "port_sets", "not_port_sets"])
@pytest.mark.parametrize("action", [Action.ALLOW, Action.DENY])
def test_a_refused_set_closes_all_that_uses_it_until_it_loses_members(part: str, action: Action) -> None:
    """In a deny rule or negated, an incomplete set would open."""
    other, third = PolicyId("Profile", "", "other"), PolicyId("GlobalNetworkPolicy", "", "third")
    rule = Rule(action, 0, source=Side()._replace(**{part: ("s:bad",)}))  # type: ignore[arg-type]
    ports = part.endswith("port_sets")
    one: Member = PortMember(4, 0x0A000002, 6, 80) if ports else Cidr(4, 0x0A000002, 32)
    two: Member = PortMember(4, 0x0A000002, 6, 81) if ports else Cidr(4, 0x0A000002, 31)
    made = ruleset()
    bad = PolicyId("GlobalNetworkPolicy", "", "bad")
    made.on_flush(
        flush(
            sets={"s:bad": IPSet("s:bad", ports, frozenset({one}))},
            policies={bad: Policy(bad, "default", (), (rule,)), other: Policy(other, "", (rule, ALLOW), (ALLOW,))},
        )
    )
    assert made.quarantine_set("ip4-s-bad", "the kernel said no")
    assert not made.quarantine_set("ip6-s-bad", "again")
    assert not made.quarantine_set("masq-ipam-pools-4", "no selector's")
    made.on_flush(flush(policies={third: Policy(third, "default", (rule,), (ALLOW,))}))

    def closed() -> set[str]:
        return {name for name in made.quarantined if made.table.chains[name].rules == ("counter drop",)}

    assert closed() == set(made.quarantined) == {"po-gnp/bad", "pri-other", "pi-gnp/third"}
    assert made.quarantined["pri-other"] == "set s:bad: the kernel said no"
    assert "accept" in made.table.chains["pro-other"].rules[0]
    made.on_flush(flush(sets={"s:bad": IPSetDelta("s:bad", frozenset({two}), frozenset())}))
    assert len(closed()) == 3 and made.table.sets["ip4-s-bad"].elements == frozenset()
    made.on_flush(flush(sets={"s:bad": IPSetDelta("s:bad", frozenset(), frozenset({one}))}))
    assert made.quarantined == {}
    assert made.table.sets["ip4-s-bad"].elements == {"10.0.0.2 . 6 . 81" if ports else two}
    assert "@ip4-s-bad" in made.table.chains["po-gnp/bad"].rules[0]


def test_a_refused_set_that_nobody_needs_any_more_is_forgotten() -> None:
    made = ruleset()
    assert made.quarantine_set("ip4-s-one", "no")
    made.on_flush(flush(sets={"s:one": None}, policies={P: None}))
    assert made.quarantined == {} and "ip4-s-one" not in made.table.sets
    made.on_flush(flush(sets={"s:one": IPSet("s:one", False, frozenset())}, policies={P: Policy(P, "", (ALLOW,), ())}))
    assert made.quarantined == {}


def test_a_number_that_is_no_port_is_in_no_set() -> None:
    made = ruleset()
    members = frozenset(PortMember(4, 0x0A000001, 6, port) for port in (-1, 0, 80, 65535, 65536, 2**70))
    made.on_flush(flush(sets={"n:x": IPSet("n:x", True, members)}))
    assert made.table.sets["ip4-n-x"].elements == {f"10.0.0.1 . 6 . {port}" for port in (0, 80, 65535)}


Q = PolicyId("GlobalNetworkPolicy", "", "q")
NETS = Rule(Action.DENY, 0, source=Side(nets=(Cidr(4, 10 << 24, 8), Cidr(4, 12 << 24, 8))))


def lists(made: Ruleset) -> list[str]:
    return [name for name in made.table.sets if name.startswith("nets4-")]


def test_a_list_of_networks_lives_as_long_as_a_policy_uses_it() -> None:
    made = ruleset()
    made.on_flush(flush(policies={one: Policy(one, "default", (NETS,), ()) for one in (P, Q)}))
    (name,) = lists(made)
    assert made.table.sets[name].elements == {"10.0.0.0/8", "12.0.0.0/8"} and made.table.sets[name].interval
    assert f"ip saddr @{name} counter drop" in made.table.chains["pi-gnp/q"].rules[0]
    made.on_flush(flush(policies={P: Policy(P, "default", (ALLOW,), ())}))
    assert lists(made) == [name]
    made.on_flush(flush(policies={Q: None}))
    assert lists(made) == []


def test_a_list_that_the_kernel_refuses_closes_its_policies() -> None:
    made = ruleset()
    made.on_flush(flush(policies={P: Policy(P, "default", (NETS,), (GOOD,))}))
    (name,) = lists(made)
    assert made.quarantine_set(f"{name}/3", "no")
    assert not made.quarantine_set(name, "again")
    assert made.table.chains["pi-gnp/p"].rules == ("counter drop",) and "pi-gnp/p" in made.quarantined
    assert "accept" in made.table.chains["po-gnp/p"].rules[0] and made.table.sets[name].elements == frozenset()
    made.on_flush(flush(policies={Q: Policy(Q, "default", (), (NETS,))}))
    assert made.table.sets[name].elements, "another policy tries it again"
    assert made.quarantine_set(name, "no") and set(made.quarantined) == {"pi-gnp/p", "po-gnp/q"}
    made.on_flush(flush(policies={P: Policy(P, "default", (ALLOW,), ()), Q: None}))
    assert made.quarantined == {} and lists(made) == []


def test_a_delta_of_equal_tables_is_empty() -> None:
    made = ruleset()
    assert made.table.render_steps(made.table.copy()) == []

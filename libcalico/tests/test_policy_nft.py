"""The rendering as text: what each criterion becomes, names, the identity of rules, deltas of tables."""

from __future__ import annotations

import re

import pytest

from libcalico.net import Cidr
from libcalico.policy.ir import (
    Action,
    Direction,
    EndpointPolicy,
    IcmpMatch,
    Policy,
    PolicyId,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from libcalico.policy.nft.base import base_table, guard_text
from libcalico.policy.nft.names import (
    LONGEST_CHAIN,
    LONGEST_COMMENT,
    Identity,
    endpoint_chain,
    parse_identity,
    policy_chain,
    policy_word,
)
from libcalico.policy.nft.rules import NftOptions, endpoint_chains, render_policy, render_rule
from libcalico.policy.nft.table import Chain, ElementChange, Map, Set, Standing, Table

WEB = PolicyId("NetworkPolicy", "default", "web")
OPTIONS = NftOptions()
TEN, FD = Cidr(4, 10 << 24, 8), Cidr(6, 0xFD << 120, 8)


def ports(*given: int | tuple[int, int]) -> tuple[PortRange, ...]:
    return tuple(PortRange(*one) if isinstance(one, tuple) else PortRange(one, one) for one in given)


def matches(rule: Rule) -> list[str]:
    """The kernel rules of a rule, without what is the same in all."""
    sets: dict[str, Set] = {}
    texts = render_rule(rule, Policy(WEB, "default", (), ()), Direction.INGRESS, OPTIONS, sets)
    end = 'counter accept comment "np/default/web|default|ingress|0"'
    assert all(text.endswith(end) for text in texts)
    return [with_lists(text.removesuffix(end).strip(), sets) for text in texts]


def with_lists(text: str, sets: dict[str, Set]) -> str:
    """A list in a set of its own is written in parentheses."""
    for name, one in sets.items():
        assert one.interval
        entries = sorted(map(str, one.elements), key=lambda entry: [int(part) for part in re.findall("[0-9]+", entry)])
        text = text.replace(f"@{name}", f"( {', '.join(entries)} )")
    return text


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({}, [""]),
        ({"family": 6}, ["meta nfproto ipv6"]),
        ({"protocol": 6}, ["meta l4proto 6"]),
        ({"not_protocol": 17, "family": 4}, ["meta nfproto ipv4 meta l4proto != 17"]),
        (
            {"protocol": 1, "family": 4, "icmp": IcmpMatch(8, 0)},
            ["meta nfproto ipv4 meta l4proto 1 icmp type 8 icmp code 0"],
        ),
        (
            {"protocol": 58, "family": 6, "not_icmp": IcmpMatch(128, 1)},
            [
                "meta nfproto ipv6 meta l4proto 58 icmpv6 type != 128",
                "meta nfproto ipv6 meta l4proto 58 icmpv6 type 128 icmpv6 code != 1",
            ],
        ),
        ({"source": Side(nets=(TEN, FD))}, ["ip saddr 10.0.0.0/8", "ip6 saddr fd00::/8"]),
        ({"source": Side(nets=(TEN,))}, ["ip saddr 10.0.0.0/8"]),
        ({"source": Side(nets=(TEN, Cidr(4, (10 << 24) + 5, 32)))}, ["ip saddr 10.0.0.0/8"]),
        ({"source": Side(nets=(Cidr(4, 0, 0),)), "family": 4}, ["meta nfproto ipv4"]),
        ({"source": Side(not_nets=(Cidr(4, 0, 0),)), "family": 4}, []),
        (
            {"destination": Side(sets=("s:x",), not_sets=("s:y",)), "family": 4},
            ["ip daddr @ip4-s-x ip daddr != @ip4-s-y"],
        ),
        (
            {"protocol": 6, "destination": Side(ports=ports(80, (81, 90), 443))},
            ["meta l4proto 6 th dport ( 80-90, 443 )"],
        ),
        (
            {"protocol": 6, "family": 4, "destination": Side(ports=ports(80), port_sets=("n:x",))},
            [
                "meta nfproto ipv4 meta l4proto 6 th dport 80",
                "meta l4proto 6 ip daddr . meta l4proto . th dport @ip4-n-x",
            ],
        ),
        ({"source": Side(nets=(TEN, Cidr(4, 11 << 24, 32)))}, ["ip saddr ( 10.0.0.0/8, 11.0.0.0 )"]),
        ({"source": Side(nets=(Cidr(4, 1, 32), Cidr(4, 3, 32)))}, ["ip saddr { 0.0.0.1, 0.0.0.3 }"]),
        (
            {"destination": Side(not_nets=(FD, Cidr(6, 1, 128))), "family": 6},
            ["ip6 daddr != ( fd00::/8, ::1 )"],
        ),
        ({"protocol": 6, "source": Side(not_ports=ports(1, (5, 6)))}, ["meta l4proto 6 th sport != ( 1, 5-6 )"]),
        ({"protocol": 6, "source": Side(not_ports=ports(1, 5))}, ["meta l4proto 6 th sport != { 1, 5 }"]),
        ({"protocol": 6, "source": Side(not_ports=ports((1, 5)))}, ["meta l4proto 6 th sport != 1-5"]),
    ],
)
def test_criteria(rule: dict[str, object], wanted: list[str]) -> None:
    assert matches(Rule(Action.ALLOW, 0, **rule)) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("port", "around"), [(80, "( 0-79, 81-65535 )"), (1, "( 0, 2-65535 )"), (0, "1-65535"), (65535, "0-65534")]
)
def test_two_single_negated_ports_are_never_compared_side_by_side(port: int, around: str) -> None:
    """nft 1.0.6 makes one comparison of `th sport != 80 th dport != 81`: "not both" in place of "none of the two"."""
    side = Side(not_ports=ports(port))
    rule = Rule(Action.ALLOW, 0, protocol=6, source=side, destination=side)
    assert matches(rule) == [f"meta l4proto 6 th sport {around} th dport {around}"]


def test_actions() -> None:
    rules = tuple(Rule(action, number) for number, action in enumerate(Action))
    options = OPTIONS._replace(log_rate="10/second", log_prefix="seen", deny="reject")
    chains, _ = render_policy(Policy(WEB, "t", rules, rules), options)
    assert [text.split(" comment")[0] for text in chains["pi-np/default/web"]] == [
        "counter accept",
        "counter reject",
        "counter meta mark set meta mark | 0x20000 return",
        'counter limit rate 10/second log prefix "seen: " level info',
    ]
    profile, _ = render_policy(Policy(PolicyId("Profile", "", "p"), "", rules, ()), OPTIONS)
    assert profile["pri-p"][2].startswith("counter return") and profile["pro-p"] == ()


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("calico-packet", "calico-packet: "),
        ("%t/%k/%n/%p", "t/np/web/default/web: "),
        ("100%", "100: "),
        ("%x%n", "web: "),
        ("a" * 200, "a" * 125 + ": "),
    ],
)
def test_log_prefix(prefix: str, wanted: str) -> None:
    policy = Policy(WEB, "t", (), ())
    (text,) = render_rule(Rule(Action.LOG, 0), policy, Direction.INGRESS, OPTIONS._replace(log_prefix=prefix), {})
    assert f'log prefix "{wanted}" level' in text


@pytest.mark.parametrize(("port", "ports"), [(4789, "4790-65535"), (64000, "1024-63999")])
def test_masquerading_into_a_tunnel_avoids_its_port(port: int, ports: str) -> None:
    rules = (
        base_table(OPTIONS._replace(vxlan_port=port, vxlan_families=frozenset((4,)))).chains["nat-postrouting"].rules
    )
    assert any(rule.endswith(f"meta l4proto udp counter masquerade to :{ports}") for rule in rules)


@pytest.mark.parametrize("name", ["web", "w" * 253, 'web"; flush ruleset', "wéb", "a b", "-", ""])
def test_names_are_safe_short_and_different(name: str) -> None:
    policies = [PolicyId(kind, "", name) for kind in ("GlobalNetworkPolicy", "Profile")]
    chains = [policy_chain(one, direction) for one in policies for direction in Direction]
    assert len(set(chains)) == 4
    for chain in chains:
        assert len(chain) <= LONGEST_CHAIN and chain.isascii() and not set(chain) & set(' ";#{}')


@pytest.mark.parametrize("tier", ["", "default", "t" * 253, 'a"b'])
@pytest.mark.parametrize("why", ["0", "9999", "profile/" + "p" * 253 + " is not there"])
@pytest.mark.parametrize("name", ["web", "w" * 253])
def test_comments_fit(tier: str, why: str, name: str) -> None:
    identity = Identity(policy_word(PolicyId("NetworkPolicy", "n" * 63, name)), tier, "ingress", why)
    assert len(identity.text) <= LONGEST_COMMENT and '"' not in identity.text
    read = parse_identity(identity.text)
    assert read is not None and read.direction == "ingress"
    assert why[:40] == read.rule


def test_identity_reads_back() -> None:
    identity = Identity("np/default/web", "default", "ingress", "3")
    assert parse_identity(identity.text) == identity
    assert parse_identity("somebody else's rule") is None


def rendered(endpoint: EndpointPolicy, *policies: Policy) -> dict[str, list[str]]:
    chains = endpoint_chains("calia", endpoint, Direction.INGRESS, {one.id: one for one in policies}, OPTIONS)
    return {
        name: [text.split(" comment")[0] for text in texts if "invalid" not in text] for name, texts in chains.items()
    }


def test_an_endpoint_with_nothing_denies() -> None:
    assert rendered(EndpointPolicy((), ())) == {"tw-calia": ["counter drop"]}


def test_a_tier_without_pass_needs_no_mark() -> None:
    policy = Policy(WEB, "default", (Rule(Action.ALLOW, 0),), ())
    endpoint = EndpointPolicy((TierPolicies("default", Action.DENY, (WEB,), ()),), ())
    chains = rendered(endpoint, policy)
    assert chains == {"tw-calia": ["jump pi-np/default/web", "counter drop", "counter drop"]}


@pytest.mark.parametrize(("end", "last"), [(Action.DENY, "counter drop"), (Action.PASS, "goto tw-calia/1")])
def test_what_follows_a_pass_stands_in_a_chain_of_its_own(end: Action, last: str) -> None:
    policy = Policy(WEB, "t", (Rule(Action.PASS, 0),), ())
    chains = rendered(EndpointPolicy((TierPolicies("t", end, (WEB,), ()),), ("p",)), policy,
                      Policy(PolicyId("Profile", "", "p"), "", (), ()))  # fmt: skip
    assert chains["tw-calia"] == [
        "meta mark set meta mark & 0xfffdffff",
        "jump pi-np/default/web",
        "meta mark & 0x20000 == 0x20000 goto tw-calia/1",
        last,
    ]
    assert chains["tw-calia/1"] == ["jump pri-p", "counter drop"]


def test_a_tier_that_is_not_for_this_direction_takes_no_part() -> None:
    endpoint = EndpointPolicy((TierPolicies("t", Action.DENY, (), (WEB,)),), ())
    assert rendered(endpoint, Policy(WEB, "t", (), ())) == {"tw-calia": ["counter drop"]}


def test_the_encapsulation_denies_are_for_egress_only() -> None:
    def text(direction: Direction, options: NftOptions) -> str:
        return "\n".join(*endpoint_chains("calia", EndpointPolicy((), ()), direction, {}, options).values())

    assert "udp dport 4789" in text(Direction.EGRESS, OPTIONS) and "meta l4proto 4 " in text(Direction.EGRESS, OPTIONS)
    assert "4789" not in text(Direction.INGRESS, OPTIONS)
    allowed = OPTIONS._replace(allow_vxlan_from_workloads=True, allow_ipip_from_workloads=True)
    assert "4789" not in text(Direction.EGRESS, allowed) and "l4proto 4" not in text(Direction.EGRESS, allowed)


def test_the_guard_drops_what_no_endpoint_claims() -> None:
    lines = guard_text().splitlines()
    assert lines[:3] == ["add table inet calico", "delete table inet calico", "add table inet calico"]
    for chain, word in (("forward-egress", "iifname"), ("forward-ingress", "oifname"), ("input-egress", "iifname")):
        assert any(
            line.startswith(f'add rule inet calico {chain} {word} "cali*" counter drop') for line in lines
        ), chain  # fmt: skip


def test_to_host_action_and_prefixes() -> None:
    options = OPTIONS._replace(endpoint_to_host="return", interface_prefixes=("cali", "tap"))
    chains = base_table(options).chains
    assert chains["input-host"].rules == ()
    assert sum('iifname "tap*"' in rule for rule in chains["forward-egress"].rules) == 1


def test_dropping_what_goes_to_the_host_is_the_configured_deny() -> None:
    rules = base_table(OPTIONS._replace(deny="reject")).chains["input-host"].rules
    assert rules[-1] == 'iifname "cali*" counter reject comment "base|||endpoint to host"'


def test_vxlan_rules_stand_only_for_families_that_use_it() -> None:
    assert "4789" not in base_table(OPTIONS).render_replace()
    text = base_table(OPTIONS._replace(vxlan_families=frozenset((6,)))).render_replace()
    assert "meta nfproto ipv6 udp dport 4789 notrack" in text and "meta nfproto ipv4 udp" not in text


def test_endpoint_chain_names() -> None:
    assert endpoint_chain("calia", Direction.EGRESS) == "fw-calia"
    assert endpoint_chain("calia", Direction.INGRESS, 2) == "tw-calia/2"


def table(**sets: Set) -> Table:
    made = Table()
    made.sets.update(sets)
    made.chains.update({f"c-{name}": Chain((f"ip saddr @{name} accept",)) for name in sets})
    return made


def test_a_delta_of_one_element_touches_nothing_else() -> None:
    old = table(a=Set("ipv4_addr", elements=frozenset(("10.0.0.1", "10.0.0.2"))))
    new = table(a=Set("ipv4_addr", elements=frozenset(("10.0.0.1", "10.0.0.3"))))
    assert one_delta(new, old).splitlines() == [
        "delete element inet calico a { 10.0.0.2 }",
        "add set inet calico a { type ipv4_addr; elements = { 10.0.0.3 } }",
    ]
    assert new.render_steps(new.copy()) == []
    assert new.render_delta(new.copy()) == ""


def one_delta(new: Table, old: Table, refills: bool = True) -> str:
    """A delta that must be one transaction."""
    (text,) = new.render_steps(old, refills)
    return text


def intervals(*elements: str) -> Set:
    return Set("ipv4_addr", True, frozenset(elements))


def many(first: int, count: int) -> list[str]:
    return [f"10.{number >> 8}.{number & 255}.0/25" for number in range(first, first + count)]


def commands(*texts: str) -> list[str]:
    """The first two words of each command, and of the fourth what is not `calico`; `--` between transactions."""
    lines = "\n--\n".join(text.strip() for text in texts).splitlines()
    return [" ".join(line.split()[:2] + line.split()[4:5]) for line in lines]


MENDED = ["delete element a", "add set a"]
FILLED = ["flush set a", "add set a"]
MADE_AGAIN = ["add set a/1", "--", "flush chain c-a", "delete set a", "add rule c-a"]
EMPTIED_AGAIN = ["flush chain c-a", "delete set a", "add set a", "add rule c-a"]


@pytest.mark.parametrize(
    ("old", "new", "wanted", "without_refills"),
    [
        (many(0, 5000), many(0, 10_000), ["add set a"], ["add set a"]),
        (many(0, 5000), many(2, 4998), ["delete element a"], ["delete element a"]),
        (many(0, 5000), many(2, 4999), MENDED, MENDED),
        (many(0, 500), many(100, 400), FILLED, MADE_AGAIN),
        (many(0, 5000), many(3, 4997), MADE_AGAIN, MADE_AGAIN),
        (many(0, 5000), many(2500, 5000), MADE_AGAIN, MADE_AGAIN),
        (many(0, 5000), [], ["flush set a"], EMPTIED_AGAIN),
        (many(0, 50), many(40, 10), ["delete element a"], ["delete element a"]),
        (many(0, 50), [*many(1, 49), "10.0.0.0/24"], MENDED, MADE_AGAIN),
        (many(0, 50), many(30, 50), MENDED, MENDED),
        (many(0, 50), many(40, 5000), MENDED, MADE_AGAIN),
    ],
)
def test_an_interval_set_is_mended_or_filled_again(
    old: list[str], new: list[str], wanted: list[str], without_refills: list[str]
) -> None:
    """An old kernel gets it made again with its rules, also when an address may go from one element to another."""
    former, table_ = table(a=intervals(*old)), table(a=intervals(*new))
    assert commands(*table_.render_steps(former)) == wanted
    assert commands(*table_.render_steps(former, refills=False)) == without_refills


@pytest.mark.parametrize("read", [10, 5000])
def test_what_is_small_beside_the_interval_sets_is_filled_again(read: int) -> None:
    """`delete element` makes libnftables read all interval sets of the table, whatever it deletes from."""

    def world(*names: str) -> Table:
        made = table(a=intervals(*many(0, read)), b=Set("ipv4_addr", elements=frozenset(names)))
        made.maps["m"] = Map("ifname : verdict", frozenset((f'"{name}"', "jump c-a") for name in names))
        return made

    text = one_delta(world("y"), world("x", "y"))
    if read < 100:
        assert text.splitlines() == [
            'delete element inet calico m { "x" : jump c-a }',
            "delete element inet calico b { x }",
        ]
    else:
        assert text.splitlines() == [
            "flush map inet calico m",
            "flush set inet calico b",
            "add set inet calico b { type ipv4_addr; elements = { y } }",
            'add map inet calico m { type ifname : verdict; elements = { "y" : jump c-a } }',
        ]
    assert commands(*world("x", "y").render_steps(world("y"))) == ["add set b", "add map m"]
    assert "add set" not in one_delta(world(), world("x"))


def test_a_set_of_another_type_is_replaced_with_its_users() -> None:
    old, new = table(a=Set("ipv4_addr")), table(a=Set("ipv4_addr", interval=True))
    assert one_delta(new, old).splitlines() == [
        "flush chain inet calico c-a",
        "delete set inet calico a",
        "add set inet calico a { type ipv4_addr; flags interval; }",
        "add rule inet calico c-a ip saddr @a accept",
    ]


def test_a_new_interval_set_goes_one_transaction_ahead() -> None:
    """Under a name that no standing rule uses; all rules that use it follow, and the next changes keep the name."""
    old, new = table(a=Set("ipv4_addr", elements=frozenset(["1.0.0.1"]))), table(a=intervals("1.0.0.0/8"))
    assert commands(*new.render_steps(old)) == MADE_AGAIN
    assert new.render_steps(old)[1].splitlines()[-1] == "add rule inet calico c-a ip saddr @a/1 accept"
    third = table(a=intervals("1.0.0.0/8", "2.0.0.0/8"))
    assert [one.name for one in third.element_changes(new) or []] == ["a/1"]
    assert third.names == {"a": "a/1"}
    third.chains["c-a"] = Chain(("ip saddr @a drop",))
    assert commands(*third.render_steps(new)) == [
        "add set a/2", "--", "flush chain c-a", "delete set a/1", "add rule c-a",
    ], "members and rules that change together"  # fmt: skip
    assert third.names == {"a": "a/2"}
    assert commands(*table(a=Set("ipv4_addr")).render_steps(third)) == [
        "flush chain c-a", "delete set a/2", "add set a", "add rule c-a",
    ]  # fmt: skip
    assert commands(*table(b=intervals("1.0.0.0/8")).render_steps(Table())) == [
        "add set b", "--", "add chain c-b", "add rule c-b",
    ]  # fmt: skip


def test_a_chain_that_leads_elsewhere_meets_the_sets_that_change_with_it() -> None:
    def world(target: str, *members: str) -> Table:
        made = table(a=intervals(*members))
        made.chains["start"] = Chain((f"jump {target}",))
        return made

    moved = commands(*world("c-a", "1.0.0.0/8", "2.0.0.0/8").render_steps(world("x", "1.0.0.0/8")))
    assert moved[:2] == ["add set a/1", "--"]
    moved = commands(*world("x", "1.0.0.0/8", "2.0.0.0/8").render_steps(world("c-a", "1.0.0.0/8")))
    assert moved == ["flush chain start", "add set a", "add rule start"]


def test_a_table_is_written_beside_what_stands() -> None:
    wanted = table(a=intervals("1.0.0.0/8"), h=Set("ipv4_addr", elements=frozenset(["1.0.0.1"])))
    wanted.maps["m"] = Map("ifname : verdict")
    assert commands(*wanted.render_rewrite(Standing(["m"], ["c-a", "x"], ["a", "a/1", "h", "y"]))) == [
        "add table", "add set a/2", "--", "flush table",
        "delete map m", "delete chain c-a", "delete chain x",
        "delete set a", "delete set a/1", "delete set h", "delete set y",
        "add set h", "add chain c-a", "add chain c-h", "add map m", "add rule c-a", "add rule c-h",
    ]  # fmt: skip
    assert wanted.names == {"a": "a/2"}
    first, second = wanted.render_rewrite(Standing([], [], []))
    assert "@a accept" in second and wanted.names == {}
    assert "elements = { 1.0.0.0/8 }" in first


def test_the_guard_has_no_members() -> None:
    made = base_table(OPTIONS)
    made.sets["masq-ipam-pools-4"] = intervals("10.0.0.0/8")
    made.chains["pi-x"] = Chain(("accept",))
    made.maps["from-workload"] = Map("ifname : verdict", frozenset({('"cali1"', "jump pi-x")}))
    text = made.render_guard()
    assert "pi-x" not in text and "elements" not in text
    assert "unknown workload interface" in text and "add set inet calico masq-ipam-pools-4" in text


def test_what_is_gone_goes_users_first() -> None:
    assert one_delta(Table(), table(a=Set("ipv4_addr"))).splitlines() == [
        "flush chain inet calico c-a",
        "delete chain inet calico c-a",
        "delete set inet calico a",
    ]


def test_many_single_ports_are_an_interval_set() -> None:
    """The kernel adds to a bitmap of ports in quadratic time."""
    some, many_ports = (tuple(PortRange(2 * n + 1, 2 * n + 1) for n in range(count)) for count in (500, 501))
    assert "th dport { 1, 3, 5" in matches(Rule(Action.ALLOW, 0, destination=Side(ports=some)))[0]
    assert "th dport ( 1, 3, 5" in matches(Rule(Action.ALLOW, 0, destination=Side(ports=many_ports)))[0]


def test_elements_alone_are_changes_of_elements() -> None:
    old, new = Table(), Table()
    for made, members, nets in (
        (old, "ab", ("1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8")),
        (new, "bc", ("1.0.0.0/8", "2.0.0.0/8")),
    ):
        made.sets["hash"] = Set("ipv4_addr", elements=frozenset(members))
        made.sets["nets"] = Set("ipv4_addr", True, frozenset(nets))
    assert new.element_changes(old) == [
        (False, "hash", "ipv4_addr", False, ["a"]),
        (True, "hash", "ipv4_addr", False, ["c"]),
        (False, "nets", "ipv4_addr", True, ["3.0.0.0/8"]),
    ]
    new.sets = {**new.sets, "hash": old.sets["hash"], "nets": Set("ipv4_addr", True, frozenset({"1.0.0.0/8"}))}
    assert new.element_changes(old) == [
        (False, "nets", "ipv4_addr", True, None),
        (True, "nets", "ipv4_addr", True, ["1.0.0.0/8"]),
    ], "one that loses more than half is emptied and filled"
    new.sets["nets"] = Set("ipv4_addr", True)
    assert new.element_changes(old) == [(False, "nets", "ipv4_addr", True, None)]
    new.chains["c"] = Chain(())
    assert new.element_changes(old) is None


def test_a_large_set_that_loses_more_than_half_is_made_again_and_filled_by_batches() -> None:
    old, new = table(a=intervals(*many(0, 5000))), table(a=intervals(*many(2501, 5000)))
    assert new.element_changes(old) is None
    fills: list[ElementChange] = []
    assert commands(*new.render_steps(old, fills=fills)) == MADE_AGAIN
    assert [(one.add, one.name, one.interval) for one in fills] == [(True, "a/1", True)]
    assert fills[0].elements == sorted(many(2501, 5000))
    assert (table(a=intervals(*many(2500, 5000))).element_changes(old) or [])[0].add is False
    assert table(a=intervals()).element_changes(old) == [(False, "a", "ipv4_addr", True, None)]

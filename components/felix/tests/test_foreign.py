"""Other programs' rules as data: what is planned for them, and what a person is asked to mend."""

from __future__ import annotations

import pytest

from calico_felix.dataplane import foreign
from calico_felix.dataplane.foreign import ACCEPT_COMMENT, Change, Held, hold, obstacle, plan_accepts, plan_sweep
from libcalico.kernel.iptables import decode_save
from libcalico.kernel.nft_reader import ChainSeen, RuleSeen

OURS = [f'{{}} -{letter} cali+ -m comment --comment "{ACCEPT_COMMENT}" -j ACCEPT' for letter in "io"]
IN, OUT = OURS
FORWARD_DROP = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n"
DOCKER = FORWARD_DROP + ":DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n"

RED_HAT = ":FORWARD ACCEPT [0:0]\n:RH-Firewall-1-INPUT - [0:0]\n-A FORWARD -j RH-Firewall-1-INPUT\n"


def table(text: str, name: str = "filter") -> Held:
    chains, rules = decode_save(text, "ip", name)
    return hold(True, chains, rules)


def restored(text: str) -> list[str]:
    """The commands that iptables-restore would get."""
    held = table(text)
    change = plan_accepts(held, ("cali",))
    return foreign.render_restore(held, change).splitlines()[1:-1] if change else []


def inserts(chain: str, place: int) -> list[str]:
    return ["-I " + rule.format(f"{chain} {place + n}") for n, rule in enumerate(OURS)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (":FORWARD ACCEPT [0:0]\n", []),
        (":FORWARD ACCEPT [0:0]\n-A FORWARD -i eth0 -j DROP\n", []),
        (FORWARD_DROP, inserts("FORWARD", 1)),
        (":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n", inserts("FORWARD", 1)),
        (DOCKER, inserts("DOCKER-USER", 1)),
        (DOCKER + "-A DOCKER-USER -i eth0 -s 203.0.113.0/24 -j DROP\n", inserts("DOCKER-USER", 2)),
        (DOCKER + "-A DOCKER-USER -i eth0 -j DROP\n-A DOCKER-USER -j RETURN\n", inserts("DOCKER-USER", 2)),
        (FORWARD_DROP + ":DOCKER-USER - [0:0]\n", inserts("FORWARD", 1)),
        (RED_HAT + "-A RH-Firewall-1-INPUT -j REJECT\n", inserts("FORWARD", 1)),
        (RED_HAT + ":LOGDROP - [0:0]\n-A RH-Firewall-1-INPUT -g LOGDROP\n-A LOGDROP -j DROP\n", inserts("FORWARD", 1)),
        (RED_HAT + "-A RH-Firewall-1-INPUT -j RETURN\n-A RH-Firewall-1-INPUT -j REJECT\n", []),
        (RED_HAT + "-A RH-Firewall-1-INPUT -j FORWARD\n-A RH-Firewall-1-INPUT -s 10.0.0.0/8 -j DROP\n", []),
        (RED_HAT.replace("-j RH", "-p tcp -j RH") + "-A RH-Firewall-1-INPUT -j REJECT\n", []),
    ],
    ids=[
        "accepts", "drops something else", "policy", "rejects at its end", "Docker", "behind the user's own rules",
        "before the return", "a chain that nothing leads to", "a chain that rejects at its end", "the chain of a chain",
        "a chain that returns before", "chains that lead to each other", "a chain for some packets",
    ],
)  # fmt: skip
def test_where_our_accept_goes(text: str, wanted: list[str]) -> None:
    assert restored(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        FORWARD_DROP + "".join(f"-A {rule.format('FORWARD')}\n" for rule in OURS),
        FORWARD_DROP + "".join(f"-A {rule.format('FORWARD')}\n" for rule in ("{} -o docker0 -j ACCEPT", *OURS)),
        DOCKER + "".join(f"-A {rule.format('DOCKER-USER')}\n" for rule in OURS),
        DOCKER + "".join(f"-A {r.format('DOCKER-USER')}\n" for r in ("{} -i x -j DROP", *OURS, "{} -j RETURN")),
    ],
)
def test_an_accept_that_stands_is_left_alone(text: str) -> None:
    assert restored(text) == []


def test_an_accept_that_is_of_no_use_any_more_goes() -> None:
    text = ":FORWARD ACCEPT [0:0]\n" + "".join(f"-A {rule.format('FORWARD')}\n" for rule in OURS)
    assert restored(text) == [f"-D {rule.format('FORWARD')}" for rule in OURS]


@pytest.mark.parametrize(
    "others",
    [("{} -i eth9 -j DROP",), ("{} -j RETURN", "{} -i eth9 -j DROP")],
    ids=["a rule of the user's behind it", "more behind a return"],
)
def test_an_accept_gives_way_to_what_the_user_adds(others: tuple[str, ...]) -> None:
    text = DOCKER + "".join(f"-A {rule.format('DOCKER-USER')}\n" for rule in (*OURS, *others))
    assert restored(text)[:2] == [f"-D {rule.format('DOCKER-USER')}" for rule in OURS]
    assert restored(text)[2:] == inserts("DOCKER-USER", 1 + len(others))


def test_an_accept_moves_when_docker_comes_and_when_it_is_cut_short() -> None:
    in_forward = "".join(f"-A {rule.format('FORWARD')}\n" for rule in OURS)
    assert restored(DOCKER + in_forward) == [
        *(f"-D {rule.format('FORWARD')}" for rule in OURS),
        *inserts("DOCKER-USER", 1),
    ]
    for first in ("-A FORWARD -j REJECT\n", ":LOGDROP - [0:0]\n-A FORWARD -j LOGDROP\n-A LOGDROP -j DROP\n"):
        assert restored(FORWARD_DROP + first + in_forward)[2:] == inserts("FORWARD", 1)


def test_without_prefixes_ours_are_taken_away() -> None:
    held = table(FORWARD_DROP + f"-A {IN.format('FORWARD')}\n")
    assert plan_accepts(held, ()).deletes == tuple(held.rules["FORWARD"])


FORMER = """\
:FORWARD ACCEPT [0:0]
:cali-FORWARD - [0:0]
:cali-fw-cali1 - [0:0]
:califoo - [0:0]
:DOCKER - [0:0]
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment "calico is good" -j ACCEPT
-A FORWARD -m comment --comment "cali:no" -i cali+ -j ACCEPT
-A FORWARD ! -i eth0 -m comment --comment x -j felix-FORWARD
-A DOCKER -d 172.17.0.2/32 -j ACCEPT
-A cali-FORWARD -i cali+ -m comment --comment "cali:8ZoYfO5HKXWbB3pk" -j cali-fw-cali1
"""


def test_only_what_carries_the_marks_of_felix_is_swept() -> None:
    held = table(FORMER)
    assert foreign.render_restore(held, plan_sweep(held)).splitlines() == [
        "*filter",
        '-D FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD',
        '-D FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT',
        "-D FORWARD ! -i eth0 -m comment --comment x -j felix-FORWARD",
        "-F cali-FORWARD", "-F cali-fw-cali1", "-X cali-FORWARD", "-X cali-fw-cali1", "COMMIT",
    ]  # fmt: skip
    assert not plan_sweep(table(DOCKER))


def test_a_table_called_calico_without_felixs_chains_is_not_felixs() -> None:
    theirs = ChainSeen("ip", "calico", "c")
    felixs = [
        ChainSeen("ip", "calico", "filter-cali-FORWARD"),
        ChainSeen("arp", "calico-arp", "filter-OUTPUT", "hook 1"),
    ]
    others = [ChainSeen("inet", "calico", "filter-cali-FORWARD"), ChainSeen("ip", "mine", "filter-cali-FORWARD")]
    assert foreign.former_tables([theirs, *others]) == []
    assert foreign.former_tables([theirs, *felixs, *others]) == [("arp", "calico-arp"), ("ip", "calico")]


def rule(way: str = "", name: str = "", verdict: str = "accept", conditional: bool = False) -> RuleSeen:
    return RuleSeen("c", "1", "", ((way, name),) if way else (), verdict, "", conditional)


HAND_MADE = ChainSeen("inet", "mine", "c", "forward", True)


def test_a_chain_in_the_way_is_named_with_the_line_that_mends_it() -> None:
    line = obstacle(HAND_MADE, [rule("in", "cali*"), rule(conditional=True)], ("cali",))
    assert line.startswith("nftables table inet mine, chain c (policy drop) cuts workloads off")
    assert line.endswith("""nft insert rule inet mine c oifname '"cali*"' accept""")
    rejects = obstacle(HAND_MADE._replace(drops=False), [rule(verdict="reject")], ("cali", "tap"))
    assert rejects.count("nft insert rule") == 4
    firewalld, last = HAND_MADE._replace(table="firewalld", drops=False), rule(verdict="reject")
    line = obstacle(firewalld, [last], ("cali",))
    assert "firewall-cmd --permanent --zone=trusted --add-interface=cali+ && " in line
    zone = RuleSeen("filter_FORWARD_ZONES", "1", "", (("in", "cali*"),), "goto", "filter_FWD_trusted")
    policy = RuleSeen(
        "filter_FORWARD_POLICIES_pre", "1", "", (("out", "cali*"),), "jump", "filter_FWD_policy_workloads"
    )
    assert obstacle(firewalld, [last, zone], ("cali",)) and obstacle(firewalld, [last, policy], ("cali",))
    assert obstacle(firewalld, [last, zone, policy], ("cali",)) == ""
    legacy = obstacle(ChainSeen("ip6", "mangle", "FORWARD", "forward", True), [], ("cali",), legacy=True)
    assert "ip6tables-legacy -t mangle -I FORWARD -i cali+ -j ACCEPT" in legacy


@pytest.mark.parametrize(
    ("chain", "rules"),
    [
        (HAND_MADE._replace(drops=False), [rule("in", "eth0", "drop"), rule(verdict="drop", conditional=True)]),
        (HAND_MADE, [rule("in", "cali*"), rule("out", "ca*")]),
        (HAND_MADE._replace(hook="prerouting"), [rule("in", "cali*")]),
        (HAND_MADE._replace(hook=""), [rule(verdict="drop")]),
    ],
)
def test_a_chain_that_lets_workloads_through_is_not_named(chain: ChainSeen, rules: list[RuleSeen]) -> None:
    assert obstacle(chain, rules, ("cali",)) == ""


def test_which_chains_are_looked_at() -> None:
    assert foreign.on_the_way(HAND_MADE)
    for changed in ({"hook": "input"}, {"family": "bridge"}, {"table": "calico"}, {"hook": ""}):
        assert not foreign.on_the_way(HAND_MADE._replace(**changed))  # type: ignore[arg-type]
    assert not foreign.on_the_way(ChainSeen("ip", "filter", "FORWARD", "forward", True))
    assert foreign.on_the_way(ChainSeen("inet", "filter", "FORWARD", "forward", True))


def test_a_change_of_nothing_is_none() -> None:
    assert not Change()


def test_a_line_that_cannot_be_taken_apart_is_left_alone() -> None:
    held = table(FORWARD_DROP + '-A FORWARD -m strange --text "open -j DROP\n')
    assert held.rules["FORWARD"][0].conditional
    assert not plan_sweep(held) and plan_accepts(held, ("cali",)).inserts

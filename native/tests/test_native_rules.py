"""The packet matcher: criteria one by one. The builds against each other and the kernel: tests/netns."""

from __future__ import annotations

from typing import Any

import pytest

TCP, UDP, ICMP, SCTP, OTHER = 6, 17, 1, 132, 89
A, B = 0x0A000001, 0x0A000002
NET = (4, 0x0A000000, 24)


def side(rules: Any, **given: Any) -> Any:
    names = ("nets", "not_nets", "sets", "not_sets", "ports", "not_ports", "port_sets", "not_port_sets")
    return rules.Side(*(given.get(name, ()) for name in names))


def rule(rules: Any, *, decides: bool = True, source: Any = None, destination: Any = None, **given: Any) -> Any:
    return rules.Rule(
        decides, given.get("family", 0), given.get("protocol", -1), given.get("not_protocol", -1), given.get("icmp"),
        given.get("not_icmp"), source or side(rules), destination or side(rules),
    )  # fmt: skip


def packet(rules: Any, protocol: int = TCP, family: int = 4, source: int = A, port: int = 80, icmp: int = -1) -> Any:
    return rules.Packet(family, protocol, source, B, 1000, port, icmp, 0 if icmp >= 0 else -1)


@pytest.mark.parametrize(
    ("criteria", "matching", "other"),
    [
        ({"family": 4}, {}, {"family": 6}),
        ({"protocol": TCP}, {}, {"protocol": UDP}),
        ({"not_protocol": UDP}, {}, {"protocol": UDP}),
        ({"icmp": (8, -1)}, {"protocol": ICMP, "icmp": 8}, {"protocol": ICMP, "icmp": 0}),
        ({"icmp": (8, 0)}, {"protocol": ICMP, "icmp": 8}, {"protocol": TCP}),
        ({"not_icmp": (8, -1)}, {"protocol": ICMP, "icmp": 0}, {"protocol": ICMP, "icmp": 8}),
    ],
)
def test_criteria(rules: Any, criteria: Any, matching: Any, other: Any) -> None:
    one = rule(rules, **criteria)
    assert rules.matches(one, rules.Sets(), packet(rules, **matching))
    assert not rules.matches(one, rules.Sets(), packet(rules, **other))


@pytest.mark.parametrize(
    ("criteria", "source", "matches"),
    [
        ({"nets": (NET,)}, A, True),
        ({"nets": (NET,)}, 0x0B000001, False),
        ({"nets": ((6, 0, 0),)}, A, False),
        ({"not_nets": (NET,)}, A, False),
        ({"sets": ("s",)}, A, True),
        ({"sets": ("s", "gone")}, A, False),
        ({"not_sets": ("s",)}, A, False),
        ({"not_sets": ("gone",)}, A, True),
    ],
)
def test_source_addresses(rules: Any, criteria: Any, source: int, matches: bool) -> None:
    sets = rules.Sets()
    sets.addresses["s"] = rules.AddressSet()
    sets.addresses["s"].add(*NET)
    assert rules.matches(rule(rules, source=side(rules, **criteria)), sets, packet(rules, source=source)) is matches


@pytest.mark.parametrize(
    ("criteria", "given", "matches"),
    [
        ({"ports": ((80, 81),)}, {}, True),
        ({"ports": ((81, 90),)}, {}, False),
        ({"ports": ((81, 90),), "port_sets": ("web",)}, {}, True),
        ({"port_sets": ("web",)}, {"protocol": UDP}, False),
        ({"ports": ((0, 65535),)}, {"protocol": OTHER, "port": 0}, False),
        ({"not_ports": ((80, 80),)}, {"port": 81}, True),
        ({"not_ports": ((80, 80),)}, {}, False),
        ({"not_ports": ((80, 80),)}, {"protocol": OTHER, "port": 0}, False),
        ({"not_port_sets": ("web",)}, {}, False),
        ({"not_port_sets": ("web",)}, {"port": 81}, True),
    ],
)
def test_destination_ports(rules: Any, criteria: Any, given: Any, matches: bool) -> None:
    sets = rules.Sets()
    sets.ports["web"] = rules.PortSet()
    sets.ports["web"].add(4, B, TCP, 80)
    assert rules.matches(rule(rules, destination=side(rules, **criteria)), sets, packet(rules, **given)) is matches


def test_the_first_rule_that_decides(rules: Any) -> None:
    everything = [rule(rules, protocol=UDP), rule(rules, decides=False), rule(rules), rule(rules)]
    assert rules.first_decision(everything, rules.Sets(), packet(rules)) == 2
    assert rules.first_decision(everything[:2], rules.Sets(), packet(rules)) == -1


def test_sets_lose_members(rules: Any) -> None:
    addresses = rules.AddressSet()
    addresses.add(6, 1 << 127, 1)
    assert addresses.contains(6, (1 << 127) + 5)
    addresses.remove(6, 1 << 127, 1)
    addresses.remove(6, 0, 128)
    assert not addresses.contains(6, (1 << 127) + 5)
    ports = rules.PortSet()
    ports.add(4, A, TCP, 80)
    ports.remove(4, A, TCP, 80)
    assert not ports.contains(4, A, TCP, 80)

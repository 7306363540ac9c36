"""Rules written by netlink batches are, byte for byte, those that libnftables would have written."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest

from calico_native import nfrule
from libcalico.kernel import nlmsg
from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_batches import Command, NftBatches
from libcalico.kernel.nlsocket import NetlinkSocket
from libcalico.policy.nft.table import Table, text_of
from libcalico.testing.machine import namespace_name
from tests.netns.listing import normal
from tests.netns.random_tables import random_table

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

WORLDS, STEPS = 12, 60
GETCHAIN, GETRULE, GETSET = 4, 7, 10
LEFT_OUT = {GETCHAIN: (2,), GETRULE: (3, 6), GETSET: (16, 19, 20)}
"""Handles, that of the rule before, a set's backend (an address), and how many elements it has: libnftables begins some
interval sets with one that says that nothing was before."""
ORDERED = (GETRULE,)

SHAPES = """
ip saddr @four counter accept comment "np/a/b|default|ingress|0"
ip saddr != @four ip daddr @nets4 counter drop
meta l4proto tcp ip6 saddr != @nets6 th dport 8080 counter accept
meta l4proto != 47 counter return
ip saddr . meta l4proto . th dport @ports4 counter accept
ip6 daddr . meta l4proto . th sport != @ports6 counter accept
th dport 1-1024 counter accept
th sport != @ports counter drop
meta nfproto ipv6 counter accept
meta nfproto ipv4 ip daddr 10.0.0.0/8 counter accept
ip daddr 10.128.0.0/9 counter drop
ip6 daddr fd00::/7 counter accept
ip6 daddr != ::1 counter accept
ip saddr != 192.0.2.1 counter accept
meta mark set meta mark & 0xfffdffff
counter meta mark set meta mark | 0x20000 return
meta mark & 0x20000 == 0x20000 goto other
ct state invalid counter drop
udp dport 4789 counter drop
meta l4proto 4 counter drop
jump other
""".strip().splitlines()
STRANGE = """
ip saddr 10.0.0.1 ip daddr 10.0.0.2 counter accept
th sport != 1 th dport != 2 accept
th dport { 80, 443 } accept
th dport != 1-9 accept
icmp type 8 accept
ip saddr
ip saddr 10.0.0.300 accept
ip saddr 0.0.0.0/0 accept
ip ttl 1 accept
ip saddr . meta l4proto . th dport 1 accept
meta nfproto ipv4 ip6 saddr ::1 accept
meta mark 1 accept
meta mark set 7
ct state new accept
limit rate 1/second accept
log prefix "x" level info
reject
th dport 70000 accept
meta l4proto 300 accept
counter accept comment "a" drop "b"
jump
""".strip().splitlines()


class Space(NetlinkSocket):
    """A namespace with a table, and all that the kernel says of it."""

    def __init__(self) -> None:
        self.name = namespace_name("rules")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        super().__init__(12, f"/run/netns/{self.name}")
        self.nft = Nft(f"/run/netns/{self.name}")
        self.batches = NftBatches("calico", f"/run/netns/{self.name}")

    def shut(self) -> None:
        for one in (self.batches, self.nft, self):
            one.close()
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def state(self) -> list[Any]:
        """What nft prints, and chains, sets and rules as the kernel has them."""
        printed = normal(self.nft.run("list table inet calico"))
        return [*printed, *(one for kind in (GETCHAIN, GETSET, GETRULE) for one in self._objects(kind))]

    def _objects(self, kind: int) -> list[tuple[tuple[int, bytes], ...]]:
        found = self.dump("list", 10 << 8 | kind, bytes((1, 0, 0, 0)), bytes)
        objects = [
            tuple(
                (number, bytes(value))
                for number, value in nlmsg.decode_attributes(memoryview(one)[4:]).items()
                if number not in LEFT_OUT[kind]
            )
            for one in found
        ]
        return sorted(objects, key=lambda one: one[1]) if kind in ORDERED else sorted(objects)


@pytest.fixture
def spaces(root: None) -> Iterator[list[Space]]:
    """One for the batches, one for libnftables."""
    made = [Space(), Space()]
    yield made
    for one in made:
        one.shut()


def differences(one: Space, other: Space) -> list[tuple[Any, Any]]:
    """Where their states differ; rules are compared in their order."""
    return [pair for pair in zip_longest(one.state(), other.state()) if pair[0] != pair[1]]


def is_encoded(rule: str) -> bool:
    try:
        return bool(nfrule.encode_rule(rule))
    except (ValueError, OSError):
        return False


def added(rules: list[str]) -> list[Command]:
    return [("add", "chain", "probe", "", None), *(("add", "rule", "probe", rule, None) for rule in rules)]


def as_text(rules: list[str]) -> str:
    return "\n".join(["add chain inet calico probe", *(f"add rule inet calico probe {rule}" for rule in rules)])


DECLARATIONS = """
add table inet calico
add chain inet calico other
add set inet calico four { type ipv4_addr; }
add set inet calico nets4 { type ipv4_addr; flags interval; }
add set inet calico nets6 { type ipv6_addr; flags interval; }
add set inet calico ports { type inet_service; flags interval; }
add set inet calico ports4 { type ipv4_addr . inet_proto . inet_service; }
add set inet calico ports6 { type ipv6_addr . inet_proto . inet_service; }
"""


def test_every_shape_of_rule(spaces: list[Space]) -> None:
    ours, oracle = spaces
    for one in spaces:
        one.nft.run(DECLARATIONS)
    assert ours.batches.commit_commands(added(SHAPES))
    oracle.nft.run(as_text(SHAPES))
    assert differences(ours, oracle) == []


@pytest.mark.parametrize("rule", STRANGE)
def test_a_rule_that_libnftables_would_write_otherwise_is_left_to_it(rule: str) -> None:
    assert not is_encoded(rule)


def test_every_rule_of_random_policies(spaces: list[Space], request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed}")
    dice, encoded, all_rules = random.Random(seed), 0, 0
    ours, oracle = spaces
    for world in range(WORLDS):
        wanted = random_table(dice)
        for one in spaces:
            one.nft.run(wanted.render_replace())
        rules = [rule for chain in wanted.chains.values() if not chain.hook for rule in chain.rules]
        ready = [rule for rule in rules if is_encoded(rule)]
        assert ours.batches.commit_commands(added(ready))
        oracle.nft.run(as_text(ready))
        assert differences(ours, oracle) == [], f"seed {seed}, world {world}"
        encoded, all_rules = encoded + len(ready), all_rules + len(rules)
    print(f"{encoded} of {all_rules} rules")
    assert encoded > all_rules / 2


def plain(whole: Table) -> Table:
    """The table without rules that no batch can hold, but for those of the base chains, which never change."""
    for name, chain in whole.chains.items():
        if not chain.hook:
            whole.chains[name] = chain._replace(rules=tuple(rule for rule in chain.rules if is_encoded(rule)))
    return whole


def test_tables_that_change_by_batches(spaces: list[Space], request: pytest.FixtureRequest) -> None:
    """Chains, sets, dispatch and rules come, change and go: after each step the kernel holds what libnftables makes."""
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed}")
    dice = random.Random(seed)
    ours, oracle = spaces
    standing = plain(random_table(dice))
    for one in spaces:
        one.nft.run(standing.render_replace())
    for step in range(STEPS):
        wanted = plain(random_table(dice))
        for commands in wanted.steps(standing):
            assert ours.batches.commit_commands([part for one in commands for part in one.parts])
            oracle.nft.run(text_of(commands))
        assert differences(ours, oracle) == [], f"seed {seed}, step {step}"
        standing = wanted


def test_what_the_kernel_refuses_leaves_all_as_it_was(spaces: list[Space], caplog: pytest.LogCaptureFixture) -> None:
    ours, _ = spaces
    ours.nft.run(DECLARATIONS)
    before = ours.state()
    caplog.set_level("INFO")
    good = added(["ip saddr @four accept"])
    for bad in ("ip saddr @nowhere accept", "jump nowhere"):
        assert not ours.batches.commit_commands([*good, ("add", "rule", "probe", bad, None)])
        assert ours.state() == before
    for command in (("delete", "set", "gone", "", None), ("delete", "chain", "gone", "", None)):
        assert not ours.batches.commit_commands([*good, command])
    assert not ours.batches.commit_commands([*good, ("add", "set", "four", "ipv6_addr", None)])
    assert ours.state() == before
    assert "a batch was refused (change rule probe: No such file or directory): libnftables writes it" in caplog.text
    assert ours.batches.commit_commands(good), "the socket goes on"


def test_what_no_batch_can_hold_is_not_sent(spaces: list[Space]) -> None:
    ours, _ = spaces
    ours.nft.run(DECLARATIONS)
    before = ours.state()
    strange: list[Command] = [
        ("add", "rule", "probe", STRANGE[0], None), ("add", "set", "x", "ifname", None),
        ("add", "chain", "x", "{ type filter hook input priority filter; }", None), ("delete", "map", "x", "", None),
        ("rename", "chain", "x", "", None),
    ]  # fmt: skip
    for one in strange:
        assert not ours.batches.commit_commands([*added(["accept"]), one])
    assert ours.state() == before

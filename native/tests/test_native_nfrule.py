"""Batches with rules: the bytes, and what is refused. That the kernel takes them for libnftables': tests/netns."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_native import nfrule as chosen
from calico_native.py import nfrule as twin

REQUEST, ACK, CREATE, APPEND = 0x1, 0x4, 0x400, 0x800
WORDS = (
    "ip", "ip6", "saddr", "daddr", "!=", "@s", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.1", "fd00::/64", "fd00::1", ".",
    "meta", "l4proto", "th", "dport", "sport", "80", "80-90", "tcp", "6", "mark", "set", "&", "|", "==", "0x20000",
    "nfproto", "ipv4", "ct", "state", "invalid", "counter", "accept", "drop", "return", "jump", "goto", "c", "udp",
    "{", "/", "-1",
)  # fmt: skip
MATCHES = (
    "ip saddr @s", "ip daddr != 10.0.0.0/9", "ip6 saddr fd00::/64", "ip6 daddr . meta l4proto . th dport @s",
    "th dport 80", "th sport 1-9", "meta l4proto tcp", "meta l4proto != 6", "meta nfproto ipv4", "ct state invalid",
    "udp dport 4789", "meta mark & 0x20000 == 0x20000", "meta mark set meta mark | 0x20000",
)  # fmt: skip
ENDS = ("counter accept", "counter drop", "return", "jump c", "goto c", 'counter accept comment "np/a|b|ingress|0"')


def messages(batch: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message; the lengths must add up."""
    found, place = [], 0
    while place < len(batch):
        length, kind, flags, sequence, _port = struct.unpack_from("=IHHII", batch, place)
        found.append((kind, flags, sequence, batch[place + 16 : place + length]))
        place += length
    assert place == len(batch)
    return found


def test_a_batch_has_its_commands_in_order(nfrule: Any) -> None:
    batch, names = nfrule.encode_commands("calico", [
        ("delete", "element", "m", "", (False, "m", "ifname : verdict", False, ['"cali1" : jump c'])),
        ("flush", "chain", "c", "", None), ("delete", "chain", "c", "", None), ("delete", "set", "old", "", None),
        ("add", "set", "s", "ipv4_addr", None),
        ("add", "element", "s", "", (True, "s", "ipv4_addr", False, ["10.0.0.1"])),
        ("add", "map", "m", "ifname : verdict", None), ("add", "chain", "d", "", None),
        ("add", "rule", "d", "accept", None),
    ])  # fmt: skip
    assert names == [
        "elements of set m", "chain c", "chain c", "set old", "set s", "elements of set s", "chain d", "rule d",
    ]  # fmt: skip
    found = messages(batch)
    assert [kind & 0xFF for kind, *_ in found] == [0x10, 14, 8, 5, 11, 9, 12, 3, 6, 0x11]
    assert [sequence for _, _, sequence, _ in found] == list(range(10))
    flags = [flags & ~REQUEST for _, flags, _, _ in found]
    assert flags == [0, 0, 0, 0, 0, CREATE, CREATE, CREATE, CREATE | APPEND | ACK, 0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("add", "chain", "c", "{ type filter hook input priority 0; }", None), "no batch can add chain c"),
        (("add", "set", "s", "ifname", None), "no batch can make a set of type 'ifname'"),
        (("add", "rule", "c", "reject", None), "no batch can hold 'reject'"),
        (("add", "rule", "c", "", None), "a rule without words"),
        (("delete", "map", "m", "", None), "no batch can delete map m"),
        (("add", "rule", "c", "ip saddr 10.0.0.1 ip daddr 10.0.0.2 accept", None), "may join comparisons"),
        (("add", "rule", "c", f'accept comment "{"a" * 129}"', None), "is no comment"),
    ],
)
def test_all_else_is_refused(nfrule: Any, command: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nfrule.encode_commands("calico", [command])


def encoded(module: Any, rule: str) -> bytes | str:
    try:
        return bytes(module.encode_rule(rule))
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_any_words_are_a_rule_or_refused_by_both_builds_alike(rule: str) -> None:
    assert encoded(chosen, rule) == encoded(twin, rule)


@given(st.lists(st.sampled_from(MATCHES), max_size=4).map(" ".join), st.sampled_from(ENDS))
def test_both_builds_write_the_same_rules(match: str, end: str) -> None:
    assert encoded(chosen, f"{match} {end}".strip()) == encoded(twin, f"{match} {end}".strip())

"""Batches of set elements: the bytes, and what is refused. That the kernel understands them: tests/netns."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_native import net
from calico_native import nfnl as chosen
from calico_native.py import net as twin_net
from calico_native.py import nfnl as twin

NEW, DELETE = 12, 14


def messages(batch: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message; the lengths must add up."""
    found, place = [], 0
    while place < len(batch):
        length, kind, flags, sequence, _port = struct.unpack_from("=IHHII", batch, place)
        found.append((kind, flags, sequence, batch[place + 16 : place + length]))
        place += length
    assert place == len(batch)
    return found


def attributes(payload: bytes) -> list[tuple[int, bytes]]:
    found, place = [], 0
    while place < len(payload):
        length, kind = struct.unpack_from("=HH", payload, place)
        assert 4 <= length <= len(payload) - place
        found.append((kind & 0x3FFF, payload[place + 4 : place + length]))
        place += (length + 3) & ~3
    return found


def elements(body: bytes) -> list[tuple[bytes, int]]:
    """(key, flags) of the elements of a message."""
    (listed,) = [payload for kind, payload in attributes(body[4:]) if kind == 3]
    found = []
    for _, element in attributes(listed):
        parts = dict(attributes(element))
        (key,) = attributes(parts[1])
        found.append((key[1], int.from_bytes(parts.get(3, b""), "big")))
    return found


def test_a_batch_is_begin_messages_and_end(nfnl: Any) -> None:
    batch, names = nfnl.encode_batch(
        "calico", [(False, "s", "ipv4_addr", False, ["10.0.0.1"]), (True, "t", "ipv6_addr", False, ["::1"])]
    )
    found = messages(batch)
    assert names == ["elements of set s", "elements of set t"]
    assert [(kind, sequence) for kind, _, sequence, _ in found] == [
        (0x10, 0),
        (0xA00 | DELETE, 1),
        (0xA00 | NEW, 2),
        (0x11, 3),
    ]
    assert [flags for _, flags, _, _ in found] == [1, 1, 1 | 4 | 0x400, 1]
    assert found[0][3] == found[3][3] == b"\0\0\0\x0a"
    assert found[1][3][:4] == b"\1\0\0\0"
    assert attributes(found[1][3][4:])[:2] == [(1, b"calico\0"), (2, b"s\0")]
    assert elements(found[1][3]) == [(b"\x0a\0\0\1", 0)]
    assert elements(found[2][3]) == [(bytes(15) + b"\1", 0)]


def test_without_elements_nothing_is_between(nfnl: Any) -> None:
    batch, names = nfnl.encode_batch("calico", [(True, "s", "ipv4_addr", False, [])])
    assert names == [] and len(messages(batch)) == 2


def test_to_delete_all_is_a_message_without_elements(nfnl: Any) -> None:
    batch, names = nfnl.encode_batch(
        "calico", [(False, "s", "ipv4_addr", True, None), (True, "s", "ipv4_addr", True, ["10.0.0.0/8"])]
    )
    found = messages(batch)
    assert names == ["elements of set s"] * 2
    assert [kind & 0xFF for kind, _, _, _ in found[1:3]] == [DELETE, NEW]
    assert attributes(found[1][3][4:]) == [(1, b"calico\0"), (2, b"s\0")]
    with pytest.raises(ValueError):
        nfnl.encode_batch("calico", [(True, "s", "ipv4_addr", True, None)])


@pytest.mark.parametrize(
    "text,expected",
    [
        ("10.0.0.0/24", [("10.0.0.0", 0), ("10.0.1.0", 1)]),
        ("10.0.0.7", [("10.0.0.7", 0), ("10.0.0.8", 1)]),
        ("255.255.255.255", [("255.255.255.255", 0)]),
        ("128.0.0.0/1", [("128.0.0.0", 0)]),
        ("0.0.0.0/1", [("0.0.0.0", 0), ("128.0.0.0", 1)]),
    ],
)
def test_an_interval_is_its_beginning_and_the_value_after_it(
    nfnl: Any, text: str, expected: list[tuple[str, int]]
) -> None:
    batch, _ = nfnl.encode_batch("calico", [(True, "s", "ipv4_addr", True, [text])])
    assert elements(messages(batch)[1][3]) == [(ipaddress.ip_address(a).packed, flag) for a, flag in expected]


def test_ports_are_padded(nfnl: Any) -> None:
    kind = "ipv4_addr . inet_proto . inet_service"
    batch, _ = nfnl.encode_batch(
        "calico", [(True, "s", kind, False, ["10.0.0.1 . udp . 53", "10.0.0.1 . 132 . 65535"])]
    )
    found = elements(messages(batch)[1][3])
    assert found == [(b"\x0a\0\0\1\x11\0\0\0\0\x35\0\0", 0), (b"\x0a\0\0\1\x84\0\0\0\xff\xff\0\0", 0)]


def test_a_verdict_names_its_chain(nfnl: Any) -> None:
    batch, _ = nfnl.encode_batch("calico", [(True, "m", "ifname : verdict", False, ['"cali1" : jump tw-cali1'])])
    (listed,) = [payload for kind, payload in attributes(messages(batch)[1][3][4:]) if kind == 3]
    parts = dict(attributes(attributes(listed)[0][1]))
    assert attributes(parts[1]) == [(1, b"cali1" + bytes(11))]
    ((kind, verdict),) = attributes(parts[2])
    assert kind == 2 and attributes(verdict) == [(1, b"\xff\xff\xff\xfd"), (2, b"tw-cali1\0")]


def test_many_elements_are_several_messages(nfnl: Any) -> None:
    many = [str(ipaddress.IPv4Address(n)) for n in range(1 << 24, (1 << 24) + 20_000)]
    batch, names = nfnl.encode_batch("calico", [(True, "s", "ipv4_addr", False, many)])
    found = messages(batch)[1:-1]
    assert len(found) == len(names) > 1
    assert [key for message in found for key, _ in elements(message[3])] == [
        ipaddress.ip_address(a).packed for a in many
    ]
    assert all(len(message[3]) < 65_535 for message in found)
    assert [bool(flags & 4) for _, flags, _, _ in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize(
    "kind,interval,element",
    [
        ("ipv4_addr", False, "10.0.0.300"),
        ("ipv4_addr", False, "10.0.0.0/24"),
        ("ipv4_addr", True, "10.0.0.0/x"),
        ("ether_addr", False, "00:00:00:00:00:01"),
        ("ipv4_addr . inet_proto . inet_service", True, "10.0.0.1 . tcp . 80-90"),
        ("ipv4_addr . inet_proto . inet_service", False, "10.0.0.1 . tcp . 80-90"),
        ("ifname : verdict", False, '"cali1" : drop'),
        ("ifname : verdict", False, '"an-interface-name" : jump c'),
    ],
)
def test_what_cannot_be_encoded_is_refused(nfnl: Any, kind: str, interval: bool, element: str) -> None:
    with pytest.raises((ValueError, OSError)):
        nfnl.encode_batch("calico", [(True, "s", kind, interval, [element])])


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(st.lists(st.tuples(st.booleans(), ADDRESSES, st.integers(1, 32), st.booleans())))
def test_both_builds_write_the_same(rows: list[tuple[bool, Any, int, bool]]) -> None:
    changes = []
    for add, address, length, interval in rows:
        text = (
            str(ipaddress.ip_network((int(address), length), strict=False))
            if interval and address.version == 4
            else str(address)
        )
        changes.append((add, "s", f"ipv{address.version}_addr", interval, [text]))
    assert chosen.encode_batch("calico", changes) == twin.encode_batch("calico", changes)


@given(st.sampled_from([4, 6]), st.integers(0, (1 << 128) - 1), st.integers(0, 128), st.booleans())
def test_a_network_is_encoded_as_its_text_is(family: int, number: int, length: int, single: bool) -> None:
    full = 32 if family == 4 else 128
    length = full if single else max(1, length % (full + 1))
    cidr = net.Cidr(family, (number >> (128 - full)) >> (full - length) << (full - length), length)
    kind = f"ipv{family}_addr"
    for module in (chosen, twin):
        given, text = (module.encode_batch("t", [(True, "s", kind, not single, [one])]) for one in (cidr, cidr.brief))
        assert given == text
    with pytest.raises(ValueError):
        chosen.encode_batch("t", [(True, "s", "ipv4_addr" if family == 6 else "ipv6_addr", True, [cidr])])


@pytest.mark.parametrize("module", [net, twin_net], ids=["compiled", "twin"])
def test_the_bounds_of_the_largest_and_the_last(module: Any) -> None:
    for family, size in ((4, 4), (6, 16)):
        assert module.Cidr(family, 0, 0).bounds == (bytes(size), b"")
        last = (1 << size * 8) - 1
        assert module.Cidr(family, last, size * 8).bounds == (b"\xff" * size, b"")
        assert module.Cidr(family, 0, 1).bounds == (bytes(size), b"\x80" + bytes(size - 1))

"""The netlink codec: what is encoded reads back, and bytes from elsewhere never crash it."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.kernel import nlmsg, objects
from libcalico.kernel.netlink import decode_events
from libcalico.kernel.objects import Address, Neighbour, Route, VxlanAttributes

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
NUMBER = st.integers(1, 2**31 - 1)


def routes(addresses: Any, bits: int) -> Any:
    length = st.integers(1, bits)
    return st.builds(
        lambda address, length, **rest: Route(_network(address, length), **rest),
        addresses,
        length,
        device=NUMBER,
        gateway=st.just("") | addresses,
        scope=st.sampled_from([0, 253, 254]),
        protocol=st.integers(0, 255),
        metric=NUMBER,
        type=st.sampled_from([1, 6]),
        table=st.integers(1, 2**31 - 1),
        onlink=st.booleans(),
        mtu=st.integers(0, 65535),
        source=st.just("") | addresses,
    )


def _network(address: str, length: int) -> str:
    import ipaddress

    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


@given(routes(V4, 32) | routes(V6, 128))
def test_routes(route: Route) -> None:
    assert objects.decode_route(memoryview(objects.encode_route(route))) == route


@given(NUMBER, V4 | V6, st.integers(0, 32))
def test_addresses(device: int, address: str, length: int) -> None:
    wanted = Address(device, f"{address}/{length}")
    assert objects.decode_address(memoryview(objects.encode_address(wanted)))._replace(flags=0) == wanted


@given(NUMBER, V4 | V6, st.binary(min_size=6, max_size=6), st.booleans())
def test_neighbours(device: int, address: str, mac: bytes, fdb: bool) -> None:
    wanted = Neighbour(device, address, mac.hex(":"), fdb)
    assert objects.decode_neighbour(memoryview(objects.encode_neighbour(wanted))) == wanted


@pytest.mark.parametrize("local", ["10.0.0.1", "fd00::1"])
def test_vxlan_devices(local: str) -> None:
    wanted = VxlanAttributes(4096, 4789, local, 3, learning=True)
    body = objects.encode_link(
        7, attributes=nlmsg.encode_text(objects.IFLA_IFNAME, "vx") + objects.encode_vxlan(wanted)
    )
    link = objects.decode_link(memoryview(body))
    assert (link.ifindex, link.name, link.kind, link.vxlan) == (7, "vx", "vxlan", wanted)


def test_cloned_and_foreign_routes_are_skipped() -> None:
    body = bytearray(objects.encode_route(Route("10.0.0.1/32", 1)))
    body[8:12] = objects.RTM_F_CLONED.to_bytes(4, "little")
    assert objects.decode_route(memoryview(body)) is None
    body[0] = socket.AF_DECnet if hasattr(socket, "AF_DECnet") else 12
    assert objects.decode_route(memoryview(body)) is None


@given(st.binary(max_size=300))
def test_attributes_of_any_bytes(data: bytes) -> None:
    for payload in nlmsg.decode_attributes(memoryview(data)).values():
        assert len(payload) <= len(data)


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 200))
def test_a_cut_datagram_loses_only_its_end(bodies: list[bytes], cut: int) -> None:
    whole = b"".join(nlmsg.encode_message(99, 0, number, body) for number, body in enumerate(bodies))
    read = [number for _kind, _flags, number, _body in nlmsg.decode_messages(memoryview(whole[:cut]))]
    assert read == list(range(len(read)))
    assert decode_events(memoryview(whole)) == []


@pytest.mark.parametrize("bad", ["", "10.0.0", "x", "fd00::g"])
def test_bad_addresses_are_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        objects.pack_address(bad)


@pytest.mark.parametrize("bad", ["", "ee:ee", "zz:00:00:00:00:00"])
def test_bad_macs_are_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a MAC"):
        objects.pack_mac(bad)

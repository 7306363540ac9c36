"""What a container does to get at others past its policy: the real kernel, two containers on one host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcalico.kernel import netns
from libcalico.policy.nft.rules import NftOptions
from tests.netns.two_containers import IPIP, QUIET_S, TAG, Box, arrives, ipv4, udp

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

GRE, ESP, SIT, SCTP, L2TP = 47, 50, 41, 132, 115
ARP = 0x0806
HOST_MAC, BROADCAST = bytes.fromhex("eeeeeeeeeeee"), b"\xff" * 6
MAC_1, MAC_2 = (bytes.fromhex(f"02000000000{number}") for number in (1, 2))
GATEWAY, ADDRESS_1, ADDRESS_2 = "169.254.1.1", "10.9.0.1", "10.9.0.2"
REQUEST, REPLY = 1, 2
FLOOD = 400
METADATA = "169.254.169.254"
CONNTRACK = Path("/proc/sys/net/netfilter/nf_conntrack_max")
LARGEST_TABLE = 300_000
"""Entries that a test may fill the kernel's table with: 80 MB, some seconds."""


@pytest.fixture
def host() -> Iterator[Box]:
    made = Box(NftOptions(endpoint_to_host="return"))
    yield made
    made.close()


def set_policy(box: Box, *rules: str) -> None:
    """What each container may send and receive."""
    lines = [f"flush chain inet calico {chain}" for chain in ("pro-anything", "pri-anything")]
    lines += [f"add rule inet calico {chain} {rule}" for rule in rules for chain in ("pro-anything", "pri-anything")]
    box.run("nft", "; ".join(lines))


def raw_socket(box: Box, number: int, kind: int) -> socket.socket:
    with netns.entered(f"/run/netns/{box.name}-{number}"):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        made.bind(("eth0", kind))
    return made


TUNNELS = {
    "GRE": (GRE, struct.pack("!HH", 0, 0x0800)),
    "GRE with a key": (GRE, struct.pack("!HHI", 0x2000, 0x0800, 7)),
    "GRE of PPTP": (GRE, struct.pack("!HHHHI", 0x3001, 0x880B, 40, 7, 1)),
    "IP in IP": (IPIP, b""),
    "IPv6 in IPv4": (SIT, b""),
    "ESP": (ESP, struct.pack("!II", 1, 1)),
    "L2TP": (L2TP, struct.pack("!I", 1)),
    "SCTP": (SCTP, struct.pack("!HHII", 5555, 7777, 0, 0)),
}


@pytest.mark.parametrize("kind", TUNNELS)
def test_what_a_tunnel_carries_opens_no_way(host: Box, kind: str) -> None:
    """The packet inside is allowed; the one around it is what counts."""
    set_policy(host, "udp dport 7777 accept", "drop")
    assert arrives(host, (ipv4(udp()),))
    protocol, head = TUNNELS[kind]
    assert not arrives(host, (ipv4(head + ipv4(udp()), protocol=protocol),))


def test_gre_passes_where_a_policy_lets_it(host: Box) -> None:
    """So that silence above says something."""
    protocol, head = TUNNELS["GRE"]
    assert arrives(host, (ipv4(head + ipv4(udp()), protocol=protocol),))


def arp(operation: int, sender: str, sender_mac: bytes, target: str, destination: bytes = BROADCAST) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender_mac + socket.inet_aton(sender)
    body += (bytes(6) if operation == REQUEST else HOST_MAC) + socket.inet_aton(target)
    return destination + MAC_1 + struct.pack("!H", ARP) + body


LIES = {
    "another container's address, asked": arp(REQUEST, ADDRESS_2, MAC_1, GATEWAY),
    "another container's address, answered": arp(REPLY, ADDRESS_2, MAC_1, GATEWAY, HOST_MAC),
    "another container's address, announced": arp(REPLY, ADDRESS_2, MAC_1, ADDRESS_2),
    "the gateway": arp(REPLY, GATEWAY, MAC_1, ADDRESS_2),
    "the gateway, to the other container's MAC": arp(REPLY, GATEWAY, MAC_1, ADDRESS_2, MAC_2),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_addresses_reaches_nobody_else(host: Box, lie: str) -> None:
    host.run("ip", "addr", "add", "10.20.7.1/32", "dev", "lo")
    with raw_socket(host, 1, ARP) as liar, raw_socket(host, 2, ARP) as other:
        for _ in range(3):
            liar.send(LIES[lie])
        other.settimeout(QUIET_S)
        with contextlib.suppress(TimeoutError):
            while True:
                assert other.recv(2048)[6:12] != MAC_1, "it was handed on"
    with raw_socket(host, 1, 0x0800) as liar:
        host.run("ping", "-c", "1", "-W", "2", ADDRESS_2)
        liar.settimeout(QUIET_S / 4)
        with pytest.raises(TimeoutError):  # the host's packet for the other came to the liar
            liar.recv(2048)
    found = json.loads(host.run("ip", "-j", "neigh", "show", "dev", "cali2"))
    assert [entry["lladdr"] for entry in found if entry["dst"] == ADDRESS_2] == [MAC_2.hex(":")]
    assert arrives(host, (ipv4(udp()),))


def test_a_flood_of_lies_leaves_the_hosts_table_empty(host: Box) -> None:
    with raw_socket(host, 1, ARP) as liar:
        for number in range(FLOOD):
            source = f"10.7.{number >> 8}.{number & 255}"
            liar.send(arp(REQUEST, source, MAC_1, GATEWAY))
            liar.send(arp(REPLY, source, MAC_1, GATEWAY, HOST_MAC))
    found = json.loads(host.run("ip", "-j", "neigh", "show", "dev", "cali1") or "[]")
    assert len([entry for entry in found if entry["dst"].startswith("10.7.")]) < FLOOD / 4


def entries(box: Box) -> int:
    with netns.entered(box.path):
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def flood(box: Box, most: int) -> None:
    """Allowed packets of container 1, each of a flow of its own, until the host's table of flows holds so many."""
    head, ends = bytes.fromhex("eeeeeeeeeeee020000000001") + b"\x08\x00", time.monotonic() + 60
    packet = bytearray(head + ipv4(udp()))
    port = len(head) + 20
    packet[port + 6 : port + 8] = b"\0\0"  # no checksum
    with raw_socket(box, 1, 0) as out:
        for target in range(20, 40):
            struct.pack_into("!H", packet, port + 2, 7000 + target)
            for source in range(1024, 65536):
                struct.pack_into("!H", packet, port, source)
                with contextlib.suppress(BlockingIOError):
                    out.send(packet)
            if entries(box) > 0.98 * most or time.monotonic() > ends:
                return


def test_a_full_table_of_flows_lets_nothing_through(host: Box) -> None:
    most = int(CONNTRACK.read_text())
    if most > LARGEST_TABLE:
        pytest.skip(f"too large to be filled: net.netfilter.nf_conntrack_max={most}")
    set_policy(host, "udp dport 7000-7100 accept", "drop")
    flood(host, most)
    assert entries(host) > 0.98 * most
    for port in (7777, 22, 4789):
        assert not arrives(host, (ipv4(udp(port)),)), "what is denied stays denied"
    for kind, (protocol, head) in TUNNELS.items():
        assert not arrives(host, (ipv4(head + ipv4(udp(7001)), protocol=protocol),)), kind


PLACES = {
    "loopback": ("127.0.0.1", set()),
    "far loopback": ("127.200.0.9", set()),
    "metadata": (METADATA, {"accept", "return"}),
    "host": ("10.20.7.1", {"accept", "return"}),
    "any": ("0.0.0.0", set()),
    "broadcast": ("255.255.255.255", {"accept", "return"}),
    "multicast": ("224.0.0.251", set()),
}
"""Addresses of the host, and the actions with which a container's datagram may reach what listens there."""


@pytest.mark.parametrize("action", ["drop", "accept", "return"])
@pytest.mark.parametrize("place", PLACES)
def test_what_a_container_reaches_of_its_host(action: str, place: str) -> None:
    """By `DefaultEndpointToHostAction`; the containers' policy allows everything."""
    address, reached_with = PLACES[place]
    box = Box(NftOptions(endpoint_to_host=action))
    try:
        for one in (METADATA, "10.20.7.1"):
            box.run("ip", "addr", "add", f"{one}/32", "dev", "lo")
        with netns.entered(box.path):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("0.0.0.0", 7777))
        server.settimeout(QUIET_S / 2)
        packet = bytearray(ipv4(udp()))
        packet[16:20] = socket.inet_aton(address)
        packet[10:12] = b"\0\0"
        packet[10:12] = checksum(bytes(packet[:20]))
        with server, raw_socket(box, 1, 0) as out:
            destination = BROADCAST if place in {"broadcast", "multicast"} else HOST_MAC
            out.send(destination + MAC_1 + b"\x08\x00" + packet)
            got = b""
            with contextlib.suppress(TimeoutError):
                got = server.recv(99)
        assert (got == TAG) == (action in reached_with)
    finally:
        box.close()


def checksum(head: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


ADVERTISEMENTS = {"router advertisement": 134, "redirect": 137, "mobile prefix": 147}


@pytest.mark.parametrize("kind", ADVERTISEMENTS)
def test_a_container_is_nobodys_router(host: Box, kind: str) -> None:
    """Its advertisement changes nothing on the host, and reaches no other container."""
    host.add_ipv6()
    host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/cali1/accept_ra")  # as whoever wires it does
    before = host.run("ip", "-6", "route"), host.run("ip", "-6", "-br", "addr")
    source, target = (socket.inet_pton(socket.AF_INET6, one) for one in ("fe80::ff:fe00:1", "ff02::1"))
    prefix = b"\3\4\x40\xc0" + struct.pack("!III", 9999, 9999, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    body = bytes((ADVERTISEMENTS[kind], 0, 0, 0)) + struct.pack("!BBHII", 64, 0, 9000, 0, 0) + prefix
    whole = checksum(source + target + struct.pack("!IxxxB", len(body), 58) + body)
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target
    with raw_socket(host, 1, 0) as out, raw_socket(host, 2, 0x86DD) as other:
        out.send(bytes.fromhex("333300000001") + MAC_1 + b"\x86\xdd" + head + body[:2] + whole + body[4:])
        other.settimeout(QUIET_S)
        with contextlib.suppress(TimeoutError):
            while True:
                assert socket.inet_pton(socket.AF_INET6, "2001:db8:bad::") not in other.recv(2048)
    assert (host.run("ip", "-6", "route"), host.run("ip", "-6", "-br", "addr")) == before

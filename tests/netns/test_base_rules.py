"""The protections that hold whatever the policies say, against the real kernel: two containers on one host."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from libcalico.kernel import netns
from libcalico.policy.nft.rules import NftOptions
from tests.netns.two_containers import GATEWAY, IPIP, LOOSE_SOURCE_ROUTE, Box, arrives, ipv4, ipv6, udp

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

FLOOD = 400
NEIGHBOURS = r"""
import socket, struct, sys
mac = bytes.fromhex("0200000000%02x" % int(sys.argv[2]))
gateway = socket.inet_pton(socket.AF_INET6, sys.argv[3])
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

for number in range(int(sys.argv[1])):
    source = bytes.fromhex("fe80" + "00" * 10) + struct.pack("!I", 0x10000 + number)
    body = b"\x87\0\0\0" + b"\0" * 4 + gateway + b"\1\1" + mac
    pseudo = source + gateway + struct.pack("!IxxxB", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + gateway
    out.send(b"\xee" * 6 + mac + b"\x86\xdd" + header + body)
"""


@pytest.fixture
def open_host() -> Iterator[Box]:
    """As calico-felix startup stores it: what no policy forbids reaches the host."""
    made = Box(NftOptions(endpoint_to_host="return"))
    yield made
    made.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
def test_the_hosts_loopback_is_out_of_reach(open_host: Box, kind: socket.SocketKind, listens: str) -> None:
    """route_localnet, which the interface needs, would let it in. The container routes 127.0.0.1 to the host."""
    container = f"/run/netns/{open_host.name}-1"
    for key in ("all/route_localnet", "eth0/route_localnet"):
        open_host.inside(1, "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/conf/{key}")
    open_host.inside(1, "ip", "addr", "flush", "dev", "lo")
    open_host.inside(1, "ip", "rule", "add", "pref", "0", "to", "127.0.0.0/8", "lookup", "main")
    open_host.inside(1, "ip", "route", "add", "127.0.0.0/8", "via", GATEWAY, "dev", "eth0", "src", "10.9.0.1")
    with netns.entered(open_host.path):
        server = socket.socket(socket.AF_INET, kind)
        server.bind((listens, 7777))
    with netns.entered(container):
        client = socket.socket(socket.AF_INET, kind)
        client.bind(("10.9.0.1", 0))
    server.settimeout(1.0)
    client.settimeout(1.0)
    try:
        if kind == socket.SOCK_STREAM:
            server.listen()
            with pytest.raises(TimeoutError):
                client.connect(("127.0.0.1", 7777))
        else:
            client.sendto(b"x", ("127.0.0.1", 7777))
            with pytest.raises(TimeoutError):
                server.recv(9)
    finally:
        server.close()
        client.close()
    dropped = json.loads(open_host.run("nft", "-j", "list", "chain", "inet", "calico", "raw-prerouting"))
    first = next(item["rule"] for item in dropped["nftables"] if "rule" in item)
    assert any(part.get("counter", {}).get("packets") for part in first["expr"]), "it came as far as the rule"


def test_a_flood_of_neighbour_discovery_leaves_room_in_the_hosts_table(open_host: Box) -> None:
    """Of each interface alone: a second container is heard while the first one floods."""
    found = json.loads(open_host.run("ip", "-j", "-6", "addr", "show", "dev", "cali1"))
    gateway = found[0]["addr_info"][0]["local"]
    open_host.inside(1, sys.executable, "-c", NEIGHBOURS, str(FLOOD), "1", gateway)
    entries = json.loads(open_host.run("ip", "-j", "-6", "neigh", "show", "dev", "cali1") or "[]")
    assert 0 < len(entries) < FLOOD / 4
    gateway = json.loads(open_host.run("ip", "-j", "-6", "addr", "show", "dev", "cali2"))[0]["addr_info"][0]["local"]
    open_host.inside(2, "ping", "-6", "-c", "1", "-W", "5", f"{gateway}%eth0")


MORE, SECOND = 0x2000, 2
VXLAN = udp(4789)
PACKETS: dict[str, tuple[bytes, ...]] = {
    "a foreign source": (ipv4(udp(), source="10.9.0.77"),),
    "another container's source": (ipv4(udp(), source="10.9.0.2"),),
    "the host's loopback as source": (ipv4(udp(), source="127.0.0.1"),),
    "a foreign source of IPv6": (ipv6(udp(), "fd00:9::77"),),
    "VXLAN": (ipv4(VXLAN),),
    "VXLAN in fragments": (ipv4(VXLAN[:16], fragment=MORE), ipv4(VXLAN[16:], fragment=SECOND)),
    "IP in IP": (ipv4(ipv4(udp(), source="10.9.0.77"), protocol=IPIP),),
    "a source route": (ipv4(udp(), options=LOOSE_SOURCE_ROUTE),),
}


def test_a_packet_of_its_own_gets_through(open_host: Box) -> None:
    """So that silence in the other tests says something."""
    assert arrives(open_host, (ipv4(udp()),))
    assert arrives(open_host, (ipv4(udp()[:16], fragment=MORE), ipv4(udp()[16:], fragment=SECOND)))
    open_host.add_ipv6()
    assert arrives(open_host, (ipv6(udp(), "fd00:9::1"),))


@pytest.mark.parametrize("kind", PACKETS)
def test_what_no_container_may_send_whatever_its_policy_says(open_host: Box, kind: str) -> None:
    open_host.add_ipv6()
    assert not arrives(open_host, PACKETS[kind])

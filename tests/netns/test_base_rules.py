"""The protections that hold whatever the policies say, against the real kernel: two containers on one host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from libcalico.kernel import netns
from libcalico.kernel.nft import Nft
from libcalico.policy.ir import Action, Direction, EndpointPolicy, Policy, PolicyId, Rule
from libcalico.policy.nft.base import base_table
from libcalico.policy.nft.names import FROM_WORKLOAD, TO_WORKLOAD, endpoint_chain
from libcalico.policy.nft.rules import NftOptions, endpoint_chains, render_policy
from libcalico.policy.nft.table import Chain, Map, Table
from libcalico.testing.machine import namespace_name

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

GATEWAY = "169.254.1.1"
FLOOD = 400
QUIET_S = 1.0
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


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Box:
    """A host with the containers cali1 and cali2, which may do anything that no protection forbids."""

    def __init__(self, options: NftOptions) -> None:
        self.name = namespace_name("base")
        self.path = f"/run/netns/{self.name}"
        self.spaces = [self.name]
        sh("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")
        for number in (1, 2):
            self._add_container(number)
        table = base_table(options)
        everything = Rule(Action.ALLOW, 0)
        profile = Policy(PolicyId("Profile", "", "anything"), "", (everything,), (everything,))
        table.chains.update({name: Chain(rules) for name, rules in render_policy(profile, options)[0].items()})
        for direction, name in ((Direction.EGRESS, FROM_WORKLOAD), (Direction.INGRESS, TO_WORKLOAD)):
            for interface in ("cali1", "cali2"):
                self._add_endpoint(table, interface, direction, profile, options)
            elements = ((f'"cali{n}"', f"jump {endpoint_chain(f'cali{n}', direction)}") for n in (1, 2))
            table.maps[name] = Map("ifname : verdict", frozenset(elements))
        with Nft(self.path) as nft:
            nft.run(table.render_replace())

    @staticmethod
    def _add_endpoint(table: Table, interface: str, direction: Direction, profile: Policy, options: NftOptions) -> None:
        policy = EndpointPolicy((), (profile.id.name,))
        chains = endpoint_chains(interface, policy, direction, {profile.id: profile}, options)
        table.chains.update({name: Chain(rules) for name, rules in chains.items()})

    def _add_container(self, number: int) -> None:
        inner, host = f"{self.name}-{number}", f"cali{number}"
        self.spaces.append(inner)
        sh("ip", "netns", "add", inner)
        sh("ip", "-n", self.name, "link", "add", host, "address", "ee:ee:ee:ee:ee:ee", "type", "veth",
           "peer", "name", "eth0", "address", f"02:00:00:00:00:0{number}", "netns", inner)  # fmt: skip
        self.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{host}/accept_dad")
        sh("ip", "netns", "exec", inner, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        sh("ip", "-n", self.name, "link", "set", host, "up")
        sh("ip", "-n", inner, "link", "set", "eth0", "up")
        sh("ip", "-n", inner, "link", "set", "lo", "up")
        sh("ip", "-n", inner, "addr", "add", f"10.9.0.{number}/32", "dev", "eth0")
        sh("ip", "-n", inner, "route", "add", GATEWAY, "dev", "eth0")
        sh("ip", "-n", inner, "route", "add", "default", "via", GATEWAY, "dev", "eth0")
        sh("ip", "-n", inner, "neigh", "add", GATEWAY, "lladdr", "ee:ee:ee:ee:ee:ee", "dev", "eth0")
        self.run("ip", "route", "add", f"10.9.0.{number}/32", "dev", host)
        for key in (f"ipv4/conf/{host}/route_localnet", "ipv4/ip_forward", f"ipv4/conf/{host}/proxy_arp"):
            self.run("sh", "-c", f"echo 1 > /proc/sys/net/{key}")

    def run(self, *argv: str) -> str:
        return sh("ip", "netns", "exec", self.name, *argv)

    def add_ipv6(self) -> None:
        """Addresses fd00:9::1 and fd00:9::2, and the ways between them."""
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        for number in (1, 2):
            found = json.loads(self.run("ip", "-j", "-6", "addr", "show", "dev", f"cali{number}"))
            gateway = found[0]["addr_info"][0]["local"]
            self.run("ip", "route", "add", f"fd00:9::{number}/128", "dev", f"cali{number}")
            self.inside(number, "ip", "addr", "add", f"fd00:9::{number}/128", "dev", "eth0", "nodad")
            self.inside(number, "ip", "route", "add", "default", "via", gateway, "dev", "eth0")

    def inside(self, number: int, *argv: str) -> str:
        return sh("ip", "netns", "exec", f"{self.name}-{number}", *argv)

    def close(self) -> None:
        for name in self.spaces:
            subprocess.run(["ip", "netns", "del", name], check=False)


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


TAG = b"a packet of the test"
UDP, IPIP = 17, 4
LOOSE_SOURCE_ROUTE = bytes((131, 7, 4)) + socket.inet_aton("10.9.0.2") + b"\0"


def udp(port: int = 7777) -> bytes:
    return struct.pack("!HHHH", 5555, port, 8 + len(TAG), 0) + TAG


def ipv4(
    payload: bytes, *, source: str = "10.9.0.1", protocol: int = UDP, options: bytes = b"", fragment: int = 0
) -> bytes:  # fmt: skip
    """`fragment`: the flags and offset."""
    words, size = 5 + len(options) // 4, 20 + len(options) + len(payload)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, size, 77, fragment, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton("10.9.0.2") + options
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


def ipv6(payload: bytes, source: str) -> bytes:
    pair = [socket.inet_pton(socket.AF_INET6, one) for one in (source, "fd00:9::2")]
    return struct.pack("!IHBB", 6 << 28, len(payload), UDP, 64) + b"".join(pair) + payload


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


def arrives(box: Box, packets: tuple[bytes, ...]) -> bool:
    """Send them from container 1 as they are; does one with our text reach container 2?"""
    with netns.entered(f"/run/netns/{box.name}-1"):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        out.bind(("eth0", 0))
    with netns.entered(f"/run/netns/{box.name}-2"):
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        seen.bind(("eth0", 3))
    with out, seen:
        for packet in packets:
            kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
            out.send(bytes.fromhex("eeeeeeeeeeee020000000001") + kind + packet)
        ends = time.monotonic() + QUIET_S
        while (left := ends - time.monotonic()) > 0:
            seen.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if TAG[-4:] in seen.recv(2048):
                    return True
    return False


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

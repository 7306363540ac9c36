"""A host with two containers under the protections that hold whatever the policies say, and packets between them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import time

from libcalico.kernel import netns
from libcalico.kernel.nft import Nft
from libcalico.policy.ir import Action, Direction, EndpointPolicy, Policy, PolicyId, Rule
from libcalico.policy.nft.base import base_table
from libcalico.policy.nft.names import FROM_WORKLOAD, TO_WORKLOAD, endpoint_chain
from libcalico.policy.nft.rules import NftOptions, endpoint_chains, render_policy
from libcalico.policy.nft.table import Chain, Map, Table
from libcalico.testing.machine import namespace_name

GATEWAY = "169.254.1.1"
QUIET_S = 1.0
TAG = b"a packet of the test"
UDP, IPIP = 17, 4
LOOSE_SOURCE_ROUTE = bytes((131, 7, 4)) + socket.inet_aton("10.9.0.2") + b"\0"


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

"""Kernel = matcher: what nftables does with a packet, what `native/rules` says and what its Python twin says is one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from calico_native.py import rules as python_rules
from libcalico.calc.graph import Graph
from libcalico.kernel import netns
from libcalico.kernel.nft import Nft
from libcalico.model.keys import ResourceKey, key_path
from libcalico.policy.ir import Direction, Packet, Verdict
from libcalico.policy.matcher import Matcher
from libcalico.policy.nft.rules import NftOptions
from libcalico.testing.machine import namespace_name, need
from libcalico.testing.random_policies import INTERFACE, NODE, World
from tests.compat.formats.verdicts import matcher_of
from tests.netns import tun

ROUND = 250
BATCH = 125
OUTSIDE, MARKER = "outside", "marker"
SENTINEL = Packet(4, 253, 0x0A020101, 0x0A030001)
LAST_TAG = 0xFFFFFFFF
CHECKSUM = "/proc/sys/net/netfilter/nf_conntrack_checksum"


class Firewall:
    """A namespace that forwards between the endpoint's interface and the outside."""

    def __init__(self) -> None:
        self.name = namespace_name("match")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        with netns.entered(f"/run/netns/{self.name}"):
            self.nft = Nft()
            self.ports = {name: tun.open_tun(name) for name in (INTERFACE, OUTSIDE, MARKER)}
        setup = "".join(f"ip link set {name} up\n" for name in self.ports) + (
            f"ip route add 10.1.0.0/24 dev {INTERFACE}\nip route add 10.2.0.0/16 dev {OUTSIDE}\n"
            f"ip -6 route add fd00:1::/64 dev {INTERFACE}\nip -6 route add fd00:2::/64 dev {OUTSIDE}\n"
            f"ip route add 10.3.0.0/24 dev {MARKER}\n"
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0\n"
        )
        subprocess.run(["ip", "netns", "exec", self.name, "sh", "-ec", setup], check=True)
        self._leave_checksums()

    def _leave_checksums(self) -> None:
        """Conntrack (Linux 6.18) takes each UDPLite packet for invalid: it sums it as UDP."""
        self.load("add table inet calico\nadd chain inet calico c\nadd rule inet calico c ct state new\n")
        with netns.entered(f"/run/netns/{self.name}"), open(CHECKSUM, "w", encoding="ascii") as setting:
            setting.write("0")

    def load(self, text: str) -> None:
        """Replace the table."""
        with netns.entered(f"/run/netns/{self.name}"):
            self.nft.run(text)

    def pass_through(self, packets: list[tuple[Direction, Packet]]) -> set[int]:
        """The places in the list of those that came out on the other side."""
        for number, (direction, packet) in enumerate(packets):
            entry = INTERFACE if direction is Direction.EGRESS else OUTSIDE
            os.write(self.ports[entry], tun.encode(packet, number))
        os.write(self.ports[OUTSIDE], tun.encode(SENTINEL, LAST_TAG))
        deadline = time.monotonic() + 30
        while not any(tun.tag_of(data) == LAST_TAG for data in tun.drain(self.ports[MARKER])):
            assert time.monotonic() < deadline, "the last packet did not come through"
        found = set()
        for port, direction in ((OUTSIDE, Direction.EGRESS), (INTERFACE, Direction.INGRESS)):
            for data in tun.drain(self.ports[port]):
                number = tun.tag_of(data)
                if 0 <= number < len(packets) and packets[number][0] is direction:
                    found.add(number)
        return found

    def close(self) -> None:
        """Take it away."""
        for descriptor in self.ports.values():
            os.close(descriptor)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def firewall(root: None) -> Iterator[Firewall]:
    need(os.path.exists("/dev/net/tun"), "/dev/net/tun", "run where TUN devices exist")
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    made = Firewall()
    yield made
    made.close()
    os.sched_setaffinity(0, affinity)


@pytest.mark.timeout(3000)
def test_kernel_is_matcher_is_twin(firewall: Firewall, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    total = request.config.getoption("--packets")
    print(f"--seed={seed} --packets={total}")
    dice = random.Random(seed)
    seen = dict.fromkeys(Verdict, 0)
    for _ in range(total // ROUND):
        world = World(dice)
        graph = Graph(NODE)
        for revision, resource in enumerate(world.resources):
            metadata = resource["metadata"]
            key = ResourceKey(resource["kind"], metadata["name"], metadata["namespace"])
            graph.update(key_path(key).encode(), json.dumps(resource).encode(), revision + 1)
        graph.in_sync = True
        flush = graph.flush()
        assert flush is not None
        (endpoint,) = [one for one in flush.endpoints.values() if one is not None and one.interface == INTERFACE]
        ruleset = Ruleset(NODE, NftOptions())
        ruleset.on_flush(flush)
        firewall.load(ruleset.table.render_replace())
        matchers: list[Matcher] = [matcher_of(flush), matcher_of(flush, python_rules)]
        for _ in range(ROUND // BATCH):
            directions = [dice.choice(list(Direction)) for _ in range(BATCH)]
            packets = [(direction, world.packet(direction)) for direction in directions]
            through = firewall.pass_through(packets)
            for number, (direction, packet) in enumerate(packets):
                kernel = Verdict.ALLOW if number in through else Verdict.DENY
                decisions = [one.decide(endpoint.policy, direction, packet) for one in matchers]
                assert [one.verdict for one in decisions] == [kernel] * 2, (
                    f"seed {seed}: {direction} {packet}: kernel {kernel}, matchers {decisions}\n"
                    f"{json.dumps(world.resources)}\n{ruleset.table.render_replace()}"
                )
                seen[kernel] += 1
    print(f"{seen[Verdict.ALLOW]} allowed, {seen[Verdict.DENY]} denied")
    assert min(seen.values()) > total // 30, f"the random policies decide all alike: {seen}"

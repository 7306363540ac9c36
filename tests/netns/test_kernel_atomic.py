"""Policy holds while it changes: a flood of forbidden packets, thousands of transactions, and not one comes through."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from calico_felix.dataplane.backends.nft.programmer import Programmer
from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.graph import Graph
from libcalico.kernel import netns
from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_batches import NftBatches
from libcalico.model.keys import ResourceKey, key_path
from libcalico.policy.ir import Packet
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import ElementChange, Table
from libcalico.testing.machine import DIE_WITH_US, namespace_name, need
from tests.netns import tun

NODE, INTERFACE, OUTSIDE = "n1", "cali0123456789a", "outside"
FLOOD_S, LONGEST_FLOOD_S = 2.0, 60.0
ENOUGH_PACKETS, ENOUGH_COMMITS = 50_000, 200
"""A list that is written beside its rules and not before them lets one packet of 250 through."""
PACKET = Packet(4, 6, 0x0A010001, 0x0A020001, source_port=1000, destination_port=80)
WATCH = f"""
add table inet watch
add chain inet watch in {{ type filter hook prerouting priority raw - 1; }}
add chain inet watch through {{ type filter hook forward priority filter + 9; }}
add rule inet watch in iifname "{INTERFACE}" counter
add rule inet watch through iifname "{INTERFACE}" counter
"""
FLOOD = "import os, sys\npacket = bytes.fromhex(sys.argv[2])\nwhile True:\n    os.write(int(sys.argv[1]), packet)"
ENDPOINT = {
    "node": NODE, "orchestrator": "libnetwork", "workload": "libnetwork", "endpoint": "x", "profiles": ["open"],
    "interfaceName": INTERFACE, "ipNetworks": ["10.1.0.1/32"],
}  # fmt: skip


def table(*policies: str, endpoint: bool = True) -> Table:
    """The agent's table with an endpoint whose policies deny all; its profile would allow all."""
    graph = Graph(NODE)
    everything: dict[str, Any] = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
    objects: list[tuple[ResourceKey, dict[str, str], dict[str, Any]]]
    objects = [(ResourceKey("Profile", "open", ""), {}, everything)]
    for name in policies:
        spec = {"selector": "role == 'mute'", "types": ["Ingress", "Egress"]}
        objects.append((ResourceKey("GlobalNetworkPolicy", name, ""), {}, spec))
    if endpoint:
        key = ResourceKey("WorkloadEndpoint", f"{NODE}-libnetwork-libnetwork-x", "default")
        objects.append((key, {"role": "mute"}, ENDPOINT))
    for revision, (key, labels, spec) in enumerate(objects):
        metadata = {"name": key.name, "namespace": key.namespace, "labels": labels}
        resource = {"apiVersion": "projectcalico.org/v3", "kind": key.kind, "metadata": metadata, "spec": spec}
        graph.update(key_path(key).encode(), json.dumps(resource).encode(), revision + 1)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    ruleset = Ruleset(NODE, NftOptions())
    ruleset.on_flush(flush)
    assert len(ruleset.owners.endpoints) == endpoint
    return ruleset.table


class Router:
    """A namespace that forwards what the flooded interface brings, and counts it before and after the policies."""

    def __init__(self) -> None:
        self.name = namespace_name("atomic")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        with netns.entered(f"/run/netns/{self.name}"):
            self.nft = Nft()
            self.elements = NftBatches("calico")
            self.programmer = Programmer()
            self._ports = [tun.open_tun(name) for name in (INTERFACE, OUTSIDE)]
        setup = (
            f"ip link set {INTERFACE} up; ip link set {OUTSIDE} up; ip route add 10.1.0.0/24 dev {INTERFACE}\n"
            f"ip route add 10.2.0.0/16 dev {OUTSIDE}; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0"
        )
        subprocess.run(["ip", "netns", "exec", self.name, "sh", "-ec", setup], check=True)
        self.nft.run(WATCH)

    def flood(self) -> subprocess.Popen[bytes]:
        """Send PACKET without a pause from another process."""
        port = self._ports[0]
        command = [sys.executable, "-S", "-c", FLOOD, str(port), tun.encode(PACKET, 0).hex()]
        return subprocess.Popen([*DIE_WITH_US, *command], pass_fds=(port,))

    def counts(self) -> tuple[int, int]:
        """Packets that came in, and that got through."""
        came, through = re.findall(r"counter packets (\d+)", self.nft.run("list table inet watch"))
        return int(came), int(through)

    def close(self) -> None:
        """Take it away."""
        self.nft.close()
        self.elements.close()
        for descriptor in self._ports:
            os.close(descriptor)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def router(root: None) -> Iterator[Router]:
    need(os.path.exists("/dev/net/tun"), "/dev/net/tun", "run where TUN devices exist")
    need(len(os.sched_getaffinity(0)) > 1, "two processors", "a packet must be on its way while the rules change")
    made = Router()
    yield made
    made.close()


BLOCKED = {"action": "Deny", "destination": {"selector": "has(blocked)"}}
WITH_PREFIX, SINGLE = "10.2.0.0/24", "10.2.0.1"


def nets(first: int, count: int) -> list[str]:
    """Prefixes far from the forbidden one."""
    return [f"11.{number >> 8}.{number & 255}.0/25" for number in range(first, first + count)]


def hosts(first: int, count: int) -> list[str]:
    return [f"12.0.{number >> 8}.{number & 255}" for number in range(first, first + count)]


def denying(**destination: Any) -> dict[str, Any]:
    """A rule against what the flood sends."""
    return {"action": "Deny", "protocol": "TCP", "destination": destination}


def blocking(members: list[str], *rest: dict[str, Any], big: int = 0, others: int = 0) -> Table:
    """The agent's table when the endpoint may reach all but `members` and what other rules forbid; with another big
    set, and other endpoints."""
    graph = Graph(NODE)
    deny = [BLOCKED] if members else []
    rules = [*deny, *rest, {"action": "Deny", "destination": {"selector": "has(big)"}}, {"action": "Allow"}]
    objects: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
        ("Profile", "open", {}, {}),
        ("GlobalNetworkPolicy", "block", {}, {"selector": "role == 'mute'", "types": ["Egress"], "egress": rules}),
        ("GlobalNetworkSet", "members", {"blocked": ""}, {"nets": members}),
        ("GlobalNetworkSet", "big", {"big": ""}, {"nets": nets(20_000, big)}),
        ("WorkloadEndpoint", f"{NODE}-libnetwork-libnetwork-x", {"role": "mute"}, ENDPOINT),
    ]
    for number in range(others):
        other = {"endpoint": f"o{number}", "interfaceName": f"cali{number}", "ipNetworks": [f"10.9.0.{number}/32"]}
        objects.append(("WorkloadEndpoint", f"{NODE}-libnetwork-libnetwork-o{number}", {}, {**ENDPOINT, **other}))
    for revision, (kind, name, labels, spec) in enumerate(objects):
        namespace = "default" if kind == "WorkloadEndpoint" else ""
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        resource = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}
        path = key_path(ResourceKey(kind, name, namespace))
        graph.update(path.encode(), json.dumps(resource).encode(), revision + 1)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    ruleset = Ruleset(NODE, NftOptions())
    ruleset.on_flush(flush)
    return ruleset.table


def flooded(router: Router, states: list[Table], way: str = "delta") -> tuple[int, int]:
    """Go from state to state under the flood, by a `delta`, as a `whole`, by `batches` of elements, or as the `agent`
    does it; the packets that came, and those that got through."""
    standing = states[0]
    router.programmer.write(standing, None)
    flood = router.flood()
    try:
        commits, started = 0, time.monotonic()
        for wanted in cycle(states):
            if way == "whole":
                router.programmer.write(wanted, None)
            elif way == "agent":
                router.programmer.write(wanted, standing)
            elif way == "batches":
                changes = wanted.element_changes(standing)
                assert changes is not None
                assert router.elements.commit(changes)
            else:
                for text in wanted.render_steps(standing):
                    router.nft.run(text)
            standing = wanted
            commits += 1
            flooded_s = time.monotonic() - started
            if flooded_s < FLOOD_S or commits % 50:
                continue
            if flooded_s > LONGEST_FLOOD_S or (router.counts()[0] > ENOUGH_PACKETS and commits > ENOUGH_COMMITS):
                break
    finally:
        flood.kill()
        flood.wait()
    came, through = router.counts()
    print(f"{came} packets, {commits} transactions")
    assert came > ENOUGH_PACKETS
    assert commits > ENOUGH_COMMITS
    return came, through


WAYS = {"libnftables writes what changes": "delta", "the table is written anew": "whole", "batches write it": "agent"}


@pytest.mark.parametrize("way", WAYS)
def test_no_packet_slips_through_while_the_rules_change(
    router: Router, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints and policies come and go."""
    texts: list[str] = []
    if WAYS[way] == "agent":  # nothing but what stands first is for libnftables
        run = router.programmer.commit

        def commit(text: str) -> None:
            texts.append(text)
            run(text)

        monkeypatch.setattr(router.programmer, "commit", commit)
    states = [table("a", endpoint=False), table("a"), table("a", "b"), table("c")]
    _, through = flooded(router, states, WAYS[way])
    assert through == 0
    assert len(texts) <= 3


RENEWALS = {
    "half of an interval set": (["flush set", "add set"], [
        blocking([WITH_PREFIX, *nets(0, 400)]), blocking([WITH_PREFIX, *nets(200, 400)]),
    ]),
    "all else of an interval set": (["flush set", "add set"], [
        blocking([WITH_PREFIX, *nets(0, 400)]), blocking([WITH_PREFIX, *nets(400, 400)]), blocking([WITH_PREFIX]),
    ]),
    "one by one": (["delete element"], [
        blocking([WITH_PREFIX, *nets(0, 100 - less)]) for less in range(3)
    ]),
    "the prefix that holds the address": (["delete element"], [
        blocking([net, *nets(0, 50)]) for net in (WITH_PREFIX, "10.2.0.0/16", "10.2.0.0/31", "10.2.0.0/25")
    ]),
    "a hash becomes an interval set": (["--flush chain"], [
        blocking([WITH_PREFIX, *nets(0, 50)]), blocking([SINGLE, *hosts(0, 50)]),
    ]),
    "another rule's networks": (["--flush chain"], [
        blocking([], denying(nets=[WITH_PREFIX, *nets(first, 50)])) for first in range(3)
    ]),
    "all but another rule's networks": (["--flush chain"], [
        blocking([], {"action": "Allow", "destination": {"notNets": ["10.2.0.0/16", f"11.{n}.0.0/16"]}}, denying())
        for n in range(3)
    ]),
    "another rule's ports": (["--flush chain"], [
        blocking([], denying(ports=["80:90", 1000 + number, "2000:3000"])) for number in range(3)
    ]),
    "a set that gains what a rule loses": (["--flush chain"], [
        blocking([WITH_PREFIX, *nets(0, 50)]), blocking(nets(0, 50), denying(nets=["10.2.0.0/24"])),
    ]),
    "a hash beside a big set, and other endpoints": (["flush set", "flush map"], [
        blocking([SINGLE, *hosts(0, 300 - less)], big=2000, others=4 - less) for less in range(4)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("what", RENEWALS)
def test_no_packet_slips_through_while_a_set_is_renewed(router: Router, what: str) -> None:
    """An address that is forbidden before and after each transaction is forbidden all the time."""
    expected, states = RENEWALS[what]
    pairs = zip([states[-1], *states], states, strict=False)
    texts = ["--".join(wanted.render_steps(former)) for former, wanted in pairs]
    assert all(any(words in text for text in texts) for words in expected), "the way that this test is about"
    _, through = flooded(router, states)
    assert through == 0


@pytest.mark.parametrize("what", ["a hash becomes an interval set", "another rule's networks"])
def test_no_packet_slips_through_while_the_table_is_written_again(router: Router, what: str) -> None:
    """As after a restart of the agent, and after another process has changed the table."""
    _, states = RENEWALS[what]
    _, through = flooded(router, states, "whole")
    assert through == 0


def test_no_packet_slips_through_while_a_large_set_is_filled_beside_itself(router: Router) -> None:
    states = [blocking([WITH_PREFIX, *nets(first, 1100)]) for first in (0, 1100)]
    fills: list[ElementChange] = []
    assert len(states[1].render_steps(states[0], fills=fills)) == 2 and fills, "the way that this test is about"
    _, through = flooded(router, states, "agent")
    assert through == 0


BATCHES = {
    name for name, (expected, _) in RENEWALS.items() if "--" not in "".join(expected) and "endpoints" not in name
}


@pytest.mark.parametrize("what", sorted(BATCHES))
def test_no_packet_slips_through_while_batches_renew_a_set(router: Router, what: str) -> None:
    _, states = RENEWALS[what]
    _, through = flooded(router, states, "batches")
    assert through == 0

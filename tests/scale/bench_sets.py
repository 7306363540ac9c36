"""Big sets that are renewed, from the stored value to the kernel: python -m tests.scale.bench_sets [NETS...]

As root, in a network namespace of its own. `loop`: decoding, calculation and the wanted set, on the agent's event loop,
in CPU time, which other programs of the machine do not change; `write`: rendering and the kernel's transaction, in the
thread that writes.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from calico_felix.dataplane.backends.nft.programmer import Programmer
from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.graph import Graph
from libcalico.kernel import netns
from libcalico.model.keys import ResourceKey, key_path
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Table
from libcalico.testing.machine import namespace_name
from tests.scale.report import report

SIZES = (20_000, 50_000)
ROUNDS = 3
NODE = "here"


class Host:
    """A graph, its table and a kernel."""

    def __init__(self, namespace: str) -> None:
        self.graph, self.ruleset = Graph(NODE), Ruleset(NODE, NftOptions())
        self.graph.in_sync = True
        with netns.entered(f"/run/netns/{namespace}"):
            self.programmer = Programmer()
        self.standing: Table | None = None
        self.revision = 0
        self.decoding_s = 0.0

    def put(self, kind: str, name: str, spec: dict[str, Any] | None, labels: dict[str, str] | None = None) -> None:
        namespace = "default" if kind == "WorkloadEndpoint" else ""
        self.revision += 1
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        value = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}
        path = key_path(ResourceKey(kind, name, namespace)).encode()
        stored = None if spec is None else json.dumps(value).encode()
        started = time.thread_time()
        self.graph.update(path, stored, self.revision)
        self.decoding_s = time.thread_time() - started

    def endpoint(self, number: int, there: bool = True) -> None:
        """A task of this host comes or goes."""
        spec = {
            "node": NODE, "orchestrator": "cni", "containerID": f"w{number}", "endpoint": "eth0", "profiles": [],
            "interfaceName": f"cali{number}", "ipNetworks": [f"10.1.{number >> 8}.{number & 255}/32"],
            "ports": [{"name": f"p{port}", "protocol": "TCP", "port": 1000 + port} for port in range(20)],
        }  # fmt: skip
        self.put("WorkloadEndpoint", f"{NODE}-cni-w{number}-eth0", spec if there else None, {"role": "x"})

    def write(self) -> tuple[float, float]:
        """Seconds of CPU on the loop, after the last `put`, and seconds in the thread."""
        started = time.thread_time()
        flush = self.graph.flush()
        assert flush is not None
        self.ruleset.on_flush(flush)
        wanted = self.ruleset.table.copy()
        loop_s = self.decoding_s + time.thread_time() - started
        took = time.perf_counter()
        self.programmer.write(wanted, self.standing)
        self.standing = wanted
        return loop_s, time.perf_counter() - took


def random_nets(count: int, family: int) -> list[str]:
    """Prefixes that do not touch each other."""
    dice, found = random.Random(2), set[str]()
    while len(found) < count:
        if family == 4:
            net = ipaddress.ip_network((dice.randrange(1 << 24, 223 << 24) & ~0xFF, dice.choice((24, 25, 28))))
            found.add(str(net))
        else:
            found.add(str(ipaddress.ip_network((0x2001 << 112 | dice.getrandbits(48) << 64, 64))))
    return list(found)


def measure(namespace: str, size: int, family: int) -> None:
    """One set, its members changed by different shares."""
    nets = random_nets(2 * size, family)
    full, other = nets[:size], nets[size:]
    host = Host(namespace)
    rules = [{"action": "Deny", "source": {"selector": "has(blocked)"}}, {"action": "Allow"}]
    host.put("GlobalNetworkPolicy", "p", {"selector": "role == 'x'", "ingress": rules})
    for number in range(20):
        host.endpoint(number)

    def change(what: str, *states: list[str], rounds: int = ROUNDS) -> None:
        figures = []
        for _ in range(rounds):
            for members in states:
                host.put("GlobalNetworkSet", "s", {"nets": members}, {"blocked": ""})
                figures.append(host.write())
        for name, values in (("loop", [one[0] for one in figures]), ("write", [one[1] for one in figures])):
            report(
                f"set renewed, {name}", "ms", [value * 1000 for value in values], nets=size, family=family, what=what
            )

    change("first", full, rounds=1)
    change("one more, one less", full[:-1], full)
    change("5 % less, 5 % more", full[size // 20 :], full)
    change("5 % others", full[size // 20 :] + other[: size // 20], full)
    change("half others", full[size // 2 :] + other[: size // 2], full)
    change("all others", other, full)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for there in (True, False) * 10:
        host.endpoint(500, there)
        taken[there].append(host.write()[1] * 1000)
    for there, values in taken.items():
        report("an endpoint beside such a set, write", "ms", values, nets=size, family=family, comes=there)


def named_ports(namespace: str) -> None:
    """One rule with many names on both sides, and a policy that is too large."""
    names = [f"p{number}" for number in range(300)]
    both = {"action": "Allow", "protocol": "TCP", "source": {"ports": names}, "destination": {"ports": names}}
    many = [{"action": "Allow", "source": {"selector": f"a == '{number}'"}} for number in range(5000)]
    host = Host(namespace)
    for number in range(20):
        host.endpoint(number)
    host.put("GlobalNetworkPolicy", "p", {"selector": "role == 'x'"})
    host.write()
    for what, rules in (("300 x 300 named ports", [both]), ("5,000 selectors: refused", many)):
        started = time.perf_counter()
        host.put("GlobalNetworkPolicy", "p", {"selector": "role == 'x'", "ingress": rules})
        host.write()
        report("a large policy, value to kernel", "ms", [(time.perf_counter() - started) * 1000], what=what)


def main() -> None:
    """All sizes, both families."""
    if os.geteuid() != 0:
        sys.exit("needs root")
    in_namespace(named_ports)
    for size in [int(word) for word in sys.argv[1:]] or SIZES:
        for family in (4, 6):
            in_namespace(measure, size, family)


def in_namespace(run: Callable[..., None], *arguments: int) -> None:
    """In a network namespace that goes away afterwards."""
    namespace = namespace_name("sets")
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        run(namespace, *arguments)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=False)


if __name__ == "__main__":
    main()

"""The calculation graph alone: snapshots, and one endpoint more in a set that holds all of them. No etcd, no kernel."""

from __future__ import annotations

import gc
import json
import random
import time
from typing import Any

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.graph import Graph
from libcalico.policy.nft.rules import NftOptions
from tests.scale.report import report

ROOT = "/calico/resources/v3/projectcalico.org/"
LOCAL = 100
HERE, THERE = "here", "there"
CHANGES = 25

Update = tuple[bytes, bytes]


def encode(path: str, kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> Update:
    """Key and stored value of a resource."""
    value = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    return f"{ROOT}{path}".encode(), json.dumps(value).encode()


def endpoint(number: int, node: str, namespace: str, labels: dict[str, str]) -> Update:
    """A workload endpoint with an address of its own."""
    name = f"{node}-cni-w{number}-eth0"
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
    spec = {
        "node": node, "orchestrator": "cni", "containerID": f"w{number}", "endpoint": "eth0",
        "interfaceName": f"cali{number}", "ipNetworks": [address], "profiles": [f"kns.{namespace}"],
    }  # fmt: skip
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return encode(f"workloadendpoints/{namespace}/{name}", "WorkloadEndpoint", metadata, spec)


def customers(count: int) -> list[Update]:
    """Each customer has a namespace, one policy that isolates it and one endpoint; 100 of them are local."""
    dice, updates = random.Random(1), []
    for number in range(count):
        name = f"customer-{number}"
        own = {"selector": f"customer == '{name}'"}
        rules = {"ingress": [{"action": "Allow", "source": own}], "egress": [
            {"action": "Allow", "destination": own},
            {"action": "Allow", "protocol": "UDP", "destination": {"nets": ["10.96.0.10/32"], "ports": [53]}},
        ]}  # fmt: skip
        spec = {"selector": own["selector"], "types": ["Ingress", "Egress"], **rules}
        updates.append(encode(f"globalnetworkpolicies/{name}", "GlobalNetworkPolicy", {"name": name}, spec))
        profile = {"labelsToApply": {"customer": name, "id": f"{dice.getrandbits(80):020x}"}}
        updates.append(encode(f"profiles/kns.{name}", "Profile", {"name": f"kns.{name}"}, profile))
    for number in range(count):
        labels = {f"unique-{n}": f"{dice.getrandbits(80):020x}" for n in range(5)}
        labels |= {f"bit-{n}": str(number >> n & 1) for n in range(4)} | {"pool": str(number % 5000), "all": "same"}
        node = HERE if number % (count // LOCAL) == 0 else THERE
        updates.append(endpoint(number, node, f"customer-{number}", labels))
    return updates


def network_sets(count: int, remote: int = 10_000) -> list[Update]:
    """Many policies on every local endpoint, each with a network set of its own; sizes from 1 to 1000."""
    sizes, updates, address = (1, 1, 1, 1, 2, 3, 4, 5, 100, 1000), [], 0x14000000
    for number in range(remote + 2 * LOCAL):
        node = HERE if number >= remote else THERE
        updates.append(endpoint(number, node, "default", {f"one-in-{k}": f"value-{number % k}" for k in (10, 20, 40)}))
    for number in range(count):
        name, size = f"set-{number}", sizes[number % len(sizes)]
        nets = [f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32" for n in range(address, address + size)]
        address += size
        metadata = {"name": name, "labels": {"set": name}}
        updates.append(encode(f"globalnetworksets/{name}", "GlobalNetworkSet", metadata, {"nets": nets}))
        spec = {
            "selector": "all()",
            "types": ["Ingress"],
            "ingress": [{"action": "Allow", "source": {"selector": f"set == '{name}'"}}],
        }
        updates.append(encode(f"globalnetworkpolicies/{name}", "GlobalNetworkPolicy", {"name": name}, spec))
    return updates


def load(updates: list[Update]) -> tuple[Graph, Any, float]:
    """A new graph that has taken in a snapshot, its first flush, and the seconds that took."""
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    graph = Graph(HERE)
    for key, value in updates:
        graph.update(key, value, 1)
    graph.in_sync = True
    flush = graph.flush(1)
    taken = time.perf_counter() - started
    gc.enable()
    return graph, flush, taken


def snapshot(figure: str, updates: list[Update], times: int) -> None:
    """Time a snapshot."""
    taken = []
    for _ in range(times):
        _, flush, seconds = load(updates)
        taken.append(seconds)
    report(
        figure, "s", taken, objects=len(updates), local_endpoints=len(flush.endpoints), ip_sets=len(flush.sets),
        policies=len(flush.policies),
    )  # fmt: skip


def broad_set(count: int) -> None:
    """One endpoint more in a set that holds every endpoint: graph, ruleset and the transaction's text."""
    rule = {"action": "Allow", "source": {"selector": "has(app)"}}
    spec = {"selector": "all()", "types": ["Ingress"], "ingress": [rule]}
    updates = [endpoint(number, THERE, "default", {"app": "a"}) for number in range(count)]
    updates += [encode("globalnetworkpolicies/p", "GlobalNetworkPolicy", {"name": "p"}, spec)]
    graph, flush, _ = load([*updates, endpoint(count, HERE, "default", {"app": "a"})])
    ruleset = Ruleset(HERE, NftOptions())
    ruleset.on_flush(flush)
    programmed, taken = ruleset.table.copy(), []
    for number in range(CHANGES):
        key, value = endpoint(count + 1 + number, THERE, "default", {"app": "a"})
        started = time.perf_counter()
        graph.update(key, value, 2)
        changed = graph.flush(2)
        assert changed is not None
        ruleset.on_flush(changed)
        wanted = ruleset.table.copy()
        assert wanted.render_steps(programmed)
        taken.append((time.perf_counter() - started) * 1000)
        programmed = wanted
    report("one endpoint more in a set of all, without the kernel", "ms", taken, members=count)


def main() -> None:
    """All figures."""
    for count, times in ((1_000, 3), (10_000, 3)):
        snapshot("calculation, isolated customers", customers(count), times)
    snapshot("calculation, network sets", network_sets(1_000), 1)
    for count in (10_000, 100_000):
        broad_set(count)


if __name__ == "__main__":
    main()

"""`verdicts.jsonl` and a topology: which probe packets get through (vectors/VERDICTS.md).

On the kernel, with the real agent, by default (`tests.compat.verdict_player`). In memory (`MODE=memory`) base and
scenario go through the agent's calculation graph as they are stored, and its policies decide in the packet matcher;
what is not policy of a workload (host, settings, connection tracking, protections) is left out and counted as skipped.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from calico_felix.parameters import PARAMETERS
from libcalico.calc.graph import Graph
from libcalico.calc.messages import Endpoint, Flush, IPSet, PortMember
from libcalico.model.felix_fields import parameter_name
from libcalico.model.kinds import KINDS
from libcalico.model.resources import STRUCTS
from libcalico.net import Cidr
from libcalico.policy.ir import Direction, Packet, Verdict
from libcalico.policy.matcher import Matcher
from libcalico.testing.machine import DIE_WITH_US
from tests.compat.contract import Options, Result, Shape, json_lines, judged, unknown_members
from tests.compat.verdict_probes import protocol_of, stored_key, verdict_of

TOPOLOGY = "verdicts-topology.json"
PLAYERS = 2
EPHEMERAL_PORT = 40000
VXLAN_PORT = 4789
TUNNELS = (4, 41, 47)
INVALID_ICMP = {4: (3, 11), 6: (144,)}
CASE: Shape = {
    "name": None, "note": None, "source": None, "topology": None, "apply": None, "resources": None, "input": None,
    "felix": None, "reference": None, "iptables_differs": None, "decided": None,
    "probes": [{
        "from": None, "to": None, "family": None, "proto": None, "dport": None, "sport": None, "src": None,
        "icmp": {"type": None, "code": None}, "allowed": None, "ours": {"allowed": None},
    }],
}  # fmt: skip
INITIAL_TIERS = (("default", 1e6, "Deny"), ("kube-admin", 1e3, "Pass"), ("kube-baseline", 1e7, "Pass"))
Scenario = dict[str, Any]


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `topology` and `probes`."""
    first = head.split(b"\n", 1)[0]
    return b'"topology"' in first and b'"resources"' in first


def companions(path: Path) -> set[Path]:
    """The topology beside a file of scenarios."""
    return {path} if path.name == TOPOLOGY else set()


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every scenario; each wrong probe is a difference."""
    playable: list[Scenario] = []
    for place, scenario, problem in json_lines(path):
        name = str(scenario.get("name", place))
        if options.only not in name:
            continue
        found = [problem] if problem else unknown_members(scenario, CASE)
        skipped = "" if found else lacking(scenario, options)
        if found or skipped:
            yield Result(name, tuple(found), skipped)
        else:
            playable.append(scenario)
    for name, topology, scenarios in _by_topology(path, playable):
        if topology is None:
            yield from (Result(one["name"], (f"there is no topology {name!r} in {TOPOLOGY}",)) for one in scenarios)
        elif options.mode == "memory":
            yield from _in_memory(json.loads(topology.read_text()), scenarios)
        else:
            yield from _on_kernel(topology, scenarios)


def _by_topology(path: Path, scenarios: list[Scenario]) -> Iterator[tuple[str, Path | None, list[Scenario]]]:
    """Scenarios by the topology that they name, which is looked for beside the file and among the repository's own."""
    from tests.compat.vectors import unpacked

    for name in dict.fromkeys(one["topology"] for one in scenarios):
        places = [folder / TOPOLOGY for folder in (path.parent, unpacked() / "recorded")]
        found = next((one for one in places if one.is_file() and json.loads(one.read_text())["name"] == name), None)
        yield name, found, [one for one in scenarios if one["topology"] == name]


def lacking(scenario: Scenario, options: Options) -> str:
    """What the scenario needs that our agent does not have. Staged policies have no effect: that needs nothing."""
    if options.backend == "iptables":
        return "needs the iptables backend"
    kinds = {resource["kind"] for resource in scenario["resources"]}
    missing = sorted(k for k in kinds if k in KINDS and k not in STRUCTS and not k.startswith("Staged"))
    known = {row.name.lower() for row in PARAMETERS}
    missing += sorted(f"setting {m}" for m in scenario.get("felix") or () if parameter_name(m).lower() not in known)
    return f"needs {', '.join(missing)}" if missing else ""


# --- on the kernel ---------------------------------------------------------------------------------------------------


def _on_kernel(topology: Path, scenarios: list[Scenario]) -> Iterator[Result]:
    missing = missing_service()
    if missing:
        failed = (missing,) if os.environ.get("CI") else ()
        yield from (Result(one["name"], failed, missing) for one in scenarios)
        return
    ordered = sorted(scenarios, key=lambda one: json.dumps(one.get("felix") or {}))
    shares = [share for n in range(PLAYERS) if (share := ordered[n::PLAYERS])]
    players = [_start(topology, share) for share in shares]
    for player, share in zip(players, shares, strict=True):
        assert player.stdout is not None
        for scenario in share:
            line = player.stdout.readline()
            if line:
                yield Result(scenario["name"], tuple(json.loads(line)["differences"]))
            else:
                yield Result(scenario["name"], (f"the player ended with status {player.wait()}",))
        player.wait()


def _start(topology: Path, scenarios: list[Scenario]) -> subprocess.Popen[str]:
    player = subprocess.Popen(
        [*DIE_WITH_US, sys.executable, "-m", "tests.compat.verdict_player", str(topology)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert player.stdin is not None
    text, stdin = "".join(f"{json.dumps(one)}\n" for one in scenarios), player.stdin

    def give() -> None:
        with stdin:
            stdin.write(text)

    threading.Thread(target=give, daemon=True).start()
    return player


def missing_service() -> str:
    """What playing on the kernel needs and is not there; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root: run as root"
    for program in ("etcd", "ip", "nft", "conntrack", "setpriv"):
        if shutil.which(program) is None:
            return f"needs the program {program}: install it"
    return ""


# --- in memory -------------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """One scenario, ready to be probed. `endpoints` by their end in the topology."""

    nodes: dict[str, dict[str, Any]]
    endpoints: dict[str, Endpoint]
    matcher: Matcher


def _in_memory(topology: dict[str, Any], scenarios: list[Scenario]) -> Iterator[Result]:
    for scenario in scenarios:
        left_out = [probe for probe in scenario["probes"] if not is_policy_alone(topology["nodes"], probe)]
        if scenario.get("felix"):
            yield Result(scenario["name"], skipped="in memory: settings are left out")
            continue
        yield judged(scenario["name"], lambda scenario=scenario: _play(topology, scenario))  # type: ignore[misc]
        if left_out:
            reason = "in memory: probes that are not decided by a workload's policy alone are left out"
            yield Result(f"{scenario['name']}: {len(left_out)} probes", skipped=reason)


def is_policy_alone(nodes: dict[str, dict[str, Any]], probe: dict[str, Any]) -> bool:
    """Does policy of workloads decide alone, without host, connection tracking, source check and protections?"""
    ends = [nodes[probe[end]] for end in ("from", "to")]
    icmp = (probe.get("icmp") or {}).get("type") if probe["proto"] in ("icmp", "icmpv6") else None
    return not (
        "host" in (probe["from"], probe["to"])
        or not any(end["interface_on_host"] for end in ends)
        or "src" in probe
        or icmp in INVALID_ICMP[probe["family"]]
        or protocol_of(probe) in TUNNELS
        or (probe["proto"] == "udp" and probe["dport"] == VXLAN_PORT)
    )


def _play(topology: dict[str, Any], scenario: Scenario) -> list[str]:
    world = build(topology, scenario)
    found = []
    for number, probe in enumerate(scenario["probes"]):
        if not is_policy_alone(world.nodes, probe):
            continue
        allowed = judge(world, probe)
        if allowed != verdict_of(probe):
            found.append(f"probe {number} {json.dumps(probe)}: {'allowed' if allowed else 'denied'}")
    return found


def build(topology: dict[str, Any], scenario: Scenario) -> World:
    """Put base and scenario into the graph, and what comes out into a matcher."""
    tiers = [
        {"kind": "Tier", "metadata": {"name": name}, "spec": {"order": order, "defaultAction": action}}
        for name, order, action in INITIAL_TIERS
    ]
    stored = {stored_key(one): one for one in [*tiers, *topology["resources"], *scenario["resources"]]}
    graph = Graph(topology["host"])
    for revision, (key, resource) in enumerate(stored.items()):
        graph.update(key.encode(), json.dumps(resource).encode(), revision + 1)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    return World(topology["nodes"], _by_end(topology["nodes"], flush), matcher_of(flush))


def _by_end(nodes: dict[str, dict[str, Any]], flush: Flush) -> dict[str, Endpoint]:
    found: dict[str, Endpoint] = {}
    endpoints = sorted((e for e in flush.endpoints.values() if e is not None), key=lambda e: e.key.name, reverse=True)
    for endpoint in endpoints:
        for end, node in nodes.items():
            if node["interface_on_host"] == endpoint.interface:
                found[end] = endpoint
    return found


def matcher_of(flush: Flush, rules: Any = None) -> Matcher:
    """A matcher that holds the policies and sets of a flush; `rules` as for `Matcher`."""
    matcher = Matcher(rules)
    for policy in flush.policies.values():
        if policy is not None:
            matcher.add_policy(policy)
    for ip_set in flush.sets.values():
        assert isinstance(ip_set, IPSet), "a graph's first flush holds whole sets"
        if ip_set.ports:
            matcher.set_ports(ip_set.id, [one for one in ip_set.members if isinstance(one, PortMember)])
        else:
            matcher.set_addresses(ip_set.id, [one for one in ip_set.members if isinstance(one, Cidr)])
    return matcher


def judge(world: World, probe: dict[str, Any]) -> bool:
    """Do egress policy of the source and ingress policy of the target let the probe through?"""
    packet = packet_of(world.nodes, probe)
    ways = (("from", Direction.EGRESS), ("to", Direction.INGRESS))
    return all(
        _allowed(world, probe[end], direction, packet)
        for end, direction in ways
        if world.nodes[probe[end]]["interface_on_host"]
    )


def _allowed(world: World, end: str, direction: Direction, packet: Packet) -> bool:
    endpoint = world.endpoints.get(end)
    if endpoint is None:
        return False
    return world.matcher.decide(endpoint.policy, direction, packet).verdict is Verdict.ALLOW


def packet_of(nodes: dict[str, dict[str, Any]], probe: dict[str, Any]) -> Packet:
    """The probe as the matcher sees it."""
    family = probe["family"]
    kind, code = None, None
    if probe["proto"] in ("icmp", "icmpv6"):
        icmp = probe.get("icmp") or {}
        kind, code = icmp.get("type", 8 if family == 4 else 128), icmp.get("code", 0)
    return Packet(
        family=family,
        protocol=protocol_of(probe),
        source=int(ipaddress.ip_address(nodes[probe["from"]][f"ipv{family}"])),
        destination=int(ipaddress.ip_address(nodes[probe["to"]][f"ipv{family}"])),
        source_port=probe.get("sport", EPHEMERAL_PORT) if "dport" in probe else 0,
        destination_port=probe.get("dport", 0),
        icmp_type=kind,
        icmp_code=code,
    )

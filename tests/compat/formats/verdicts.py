"""`verdicts.jsonl` with `verdicts-topology.json` beside it: which probe packets get through (vectors/VERDICTS.md).

Played in memory: base and scenario go through the agent's calculation graph as they are stored, and every probe is
judged along its path by the packet matcher. Scenarios with host endpoints are skipped: the agent has none yet.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from calico_felix.calc.graph import Graph
from calico_felix.messages import Endpoint, Flush, IPSet
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.kinds import KINDS
from libcalico.policy.compile import PROTOCOLS
from libcalico.policy.ir import Direction, Packet, Verdict
from libcalico.policy.matcher import Matcher
from tests.compat.contract import Options, Result, judged

EPHEMERAL_PORT = 40000
VXLAN_PORT = 4789
IPIP = 4
INVALID_ICMP = {4: (3, 11), 6: (144,)}
NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 135, 136)
DNAT = {("host", 31000): ("w1", 8080)}
UNSUPPORTED = {
    "failsafeInboundHostPorts": "host endpoints",
    "failsafeOutboundHostPorts": "host endpoints",
    "workloadSourceSpoofing": "spoofed source prefixes",
}


class World(NamedTuple):
    """One scenario, ready to be probed. `endpoints` by their end in the topology."""

    nodes: dict[str, dict[str, Any]]
    endpoints: dict[str, Endpoint]
    matcher: Matcher
    to_host: str


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `topology` and `probes`."""
    first = head.split(b"\n", 1)[0]
    return b'"topology"' in first and b'"resources"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every scenario; it fails with its first wrong verdict and how many there are."""
    topology = json.loads((path.parent / "verdicts-topology.json").read_text())
    for line in path.read_text().split("\n"):
        if not line.strip():
            continue
        scenario = json.loads(line)
        if options.only not in scenario["name"]:
            continue
        skipped = _unsupported(scenario, options)
        if skipped:
            yield Result(scenario["name"], skipped=skipped)
        else:
            yield judged(scenario["name"], lambda scenario=scenario: _play(topology, scenario))  # type: ignore[misc]


def _unsupported(scenario: dict[str, Any], options: Options) -> str:
    if options.backend == "iptables":
        return "the iptables backend is not there"
    if any(resource["kind"] == "HostEndpoint" for resource in scenario["resources"]):
        return "host endpoints"
    for name in scenario.get("felix") or {}:
        if name in UNSUPPORTED:
            return UNSUPPORTED[name]
    return ""


def companions(path: Path) -> set[Path]:
    """The topology beside a file of scenarios."""
    return {path} if path.name == "verdicts-topology.json" else set()


def _play(topology: dict[str, Any], scenario: dict[str, Any]) -> list[str]:
    world = build(topology, scenario)
    wrong = []
    for number, probe in enumerate(scenario["probes"]):
        allowed = judge(world, probe)
        if allowed != {**probe, **probe.get("ours", {})}["allowed"]:
            wrong.append(f"probe {number} {json.dumps(probe)}: {'allowed' if allowed else 'denied'}")
    return wrong


def build(topology: dict[str, Any], scenario: dict[str, Any]) -> World:
    """Put base and scenario into the graph, and what comes out into a matcher."""
    stored: dict[ResourceKey, dict[str, Any]] = {}
    for resource in [*topology["resources"], *scenario["resources"]]:
        kind, metadata = resource["kind"], resource["metadata"]
        namespace = metadata.get("namespace", "") if KINDS[kind].namespaced else ""
        stored[ResourceKey(kind, metadata["name"], namespace)] = resource
    graph = Graph(topology["host"])
    for name, order, action in (("default", 1e6, "Deny"), ("kube-admin", 1e3, "Pass"), ("kube-baseline", 1e7, "Pass")):
        stored.setdefault(
            ResourceKey("Tier", name),
            {"kind": "Tier", "metadata": {"name": name}, "spec": {"order": order, "defaultAction": action}},
        )
    for revision, (key, resource) in enumerate(stored.items()):
        graph.update(key_path(key).encode(), json.dumps(resource).encode(), revision + 1)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    settings = scenario.get("felix") or {}
    return World(
        topology["nodes"],
        _by_end(topology["nodes"], flush),
        matcher_of(flush),
        str(settings.get("defaultEndpointToHostAction", "Drop")).lower(),
    )


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
            matcher.set_ports(ip_set.id, ip_set.members)  # type: ignore[arg-type]
        else:
            matcher.set_addresses(ip_set.id, ip_set.members)  # type: ignore[arg-type]
    return matcher


def judge(world: World, probe: dict[str, Any]) -> bool:
    """Does the probe get through?"""
    source, target, port = probe["from"], probe["to"], probe.get("dport", 0)
    if (target, port) in DNAT and probe["proto"] == "tcp":
        target, port = DNAT[(target, port)]
    packet = _packet(world, probe, source, target, port)
    invalid = packet.icmp_type in INVALID_ICMP[packet.family]
    if target == "host" and packet.icmp_type in NEIGHBOUR_DISCOVERY and packet.family == 6:
        return True
    if source in world.nodes and world.nodes[source]["interface_on_host"]:
        if not _leaves(world, probe, source, packet, invalid):
            return False
        if target == "host":
            return world.to_host != "drop"
    if source != "host" and world.nodes[target]["interface_on_host"]:
        return not invalid and _allowed(world, target, Direction.INGRESS, packet)
    return True


def _leaves(world: World, probe: dict[str, Any], end: str, packet: Packet, invalid: bool) -> bool:
    """The source check, the protections and the egress policy of a workload."""
    own = world.nodes[end][f"ipv{probe['family']}"]
    if probe.get("src", own) != own or invalid or packet.protocol == IPIP:
        return False
    if packet.protocol == PROTOCOLS["udp"] and packet.destination_port == VXLAN_PORT:
        return False
    return _allowed(world, end, Direction.EGRESS, packet)


def _allowed(world: World, end: str, direction: Direction, packet: Packet) -> bool:
    endpoint = world.endpoints.get(end)
    if endpoint is None:
        return False
    return world.matcher.decide(endpoint.policy, direction, packet).verdict is Verdict.ALLOW


def _packet(world: World, probe: dict[str, Any], source: str, target: str, port: int) -> Packet:
    family = probe["family"]
    word = str(probe["proto"])
    protocol = PROTOCOLS.get(word)
    protocol = int(word) if protocol is None else protocol
    kind, code = None, None
    if word in ("icmp", "icmpv6"):
        icmp = probe.get("icmp") or {}
        kind, code = icmp.get("type", 8 if family == 4 else 128), icmp.get("code", 0)
        protocol = 1 if family == 4 else 58
    return Packet(
        family=family,
        protocol=protocol,
        source=int(ipaddress.ip_address(probe.get("src") or world.nodes[source][f"ipv{family}"])),
        destination=int(ipaddress.ip_address(world.nodes[target][f"ipv{family}"])),
        source_port=probe.get("sport", EPHEMERAL_PORT) if port else 0,
        destination_port=port,
        icmp_type=kind,
        icmp_code=code,
    )

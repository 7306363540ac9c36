"""Whole configurations by case. `python components/bird-config/tests/test_golden.py` writes them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from calico_bird.render import Renderer
from calico_bird.routing import Routing
from calico_bird.testing import node, resource, routing
from libcalico.testing.bird import refusal

GOLDEN = Path(__file__).parent / "golden"
M1 = node("m1", "192.168.10.11/24", "fd10::11/64", {"rack": "west"})
M2 = node("m2", "192.168.10.12/24", "fd10::12/64", {"rack": "west"})
M9 = node("m9", "192.168.20.9/24", labels={"rack": "east"})
NO_MESH = resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False)
PLAIN = resource("IPPool", "plain", cidr="10.50.0.0/16", ipipMode="Never", vxlanMode="Never")
ROUTER = resource("BGPPeer", "router", peerIP="198.51.100.1", asNumber=65100)


def _full_mesh() -> Routing:
    return routing("m1", [M1, M2, M9, PLAIN], blocks=["10.50.3.64/26"])


def _reflector() -> Routing:
    hub = node("hub", "192.168.10.2/24", labels={"role": "hub"}, routeReflectorClusterID="0.0.0.7")
    clients = resource("BGPPeer", "clients", nodeSelector="!has(role)", peerSelector="role == 'hub'")
    return routing("hub", [hub, M1, M2, M9, NO_MESH, clients, PLAIN])


def _client_of_reflector() -> Routing:
    hub = node("hub", "192.168.10.2/24", labels={"role": "hub"}, routeReflectorClusterID="0.0.0.7")
    clients = resource("BGPPeer", "clients", nodeSelector="!has(role)", peerSelector="role == 'hub'")
    return routing("m9", [hub, M1, M2, M9, NO_MESH, clients, PLAIN])


def _peers_of_every_scope() -> Routing:
    of_node = resource(
        "BGPPeer", "mine", node="m1", peerIP="[fd99::1]:1179", asNumber=65101, localASNumber=65000, ttlSecurity=2,
        keepaliveTime="300s", maxRestartTime="90s", numAllowedLocalASNumbers=1, nextHopMode="Self",
    )  # fmt: skip
    of_rack = resource(
        "BGPPeer", "rack", nodeSelector="rack == 'west'", peerIP="198.51.100.2", asNumber=65102, sourceAddress="None",
        reachableBy="192.168.10.1", keepOriginalNextHop=True,
    )  # fmt: skip
    nodes = resource("BGPPeer", "nodes", nodeSelector="rack == 'west'", peerSelector="rack == 'east'")
    settings = resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False, listenPort=1179, bindMode="NodeIP",
                        logSeverityScreen="Debug", ignoredInterfaces=["docker*", "br-lab"], asNumber=65000)  # fmt: skip
    return routing("m1", [M1, M2, M9, settings, ROUTER, of_node, of_rack, nodes])


def _filters() -> Routing:
    wanted = resource(
        "BGPFilter", "edge",
        importV4=[{"action": "Accept", "cidr": "10.60.0.0/16", "matchOperator": "In", "prefixLength": {"max": 28}},
                  {"action": "Reject"}],
        exportV4=[{"action": "Reject", "peerType": "eBGP", "source": "RemotePeers", "interface": "eth*"},
                  {"action": "Reject", "communities": {"values": ["65100:1:2"]}, "asPathPrefix": [65100, 65101]},
                  {"action": "Accept", "priority": 100, "operations": [
                      {"addCommunity": {"value": "65000:7"}}, {"prependASPath": {"prefix": [65000, 65001]}},
                      {"setPriority": {"value": 50}}]}],
        importV6=[{"action": "Reject", "cidr": "fd60::/16", "matchOperator": "NotEqual"}],
    )  # fmt: skip
    broken = resource("BGPFilter", "broken", exportV4=[{"action": "Accept"}, {"action": "Perhaps"}])
    long_name = resource("BGPFilter", "a" * 60, exportV4=[{"action": "Reject"}])
    router = resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65100, filters=["edge", "gone", "broken"])
    other = resource("BGPPeer", "s", peerIP="fd99::1", asNumber=64512, filters=["edge", "a" * 60])
    return routing("m1", [M1, NO_MESH, wanted, broken, long_name, router, other])


def _communities() -> Routing:
    settings = resource(
        "BGPConfiguration", "default", communities=[{"name": "blue", "value": "65000:1"}],
        prefixAdvertisements=[{"cidr": "10.50.0.0/16", "communities": ["blue", "65000:1:2"]},
                              {"cidr": "fd50::/48", "communities": ["gone", "blue"]}],
    )  # fmt: skip
    return routing("m9", [M9, settings, PLAIN, ROUTER])


def _passwords() -> Routing:
    def wants(name: str) -> dict[str, dict[str, str]]:
        return {"secretKeyRef": {"name": name, "key": "md5"}}

    peers = [
        resource("BGPPeer", name, peerIP=f"198.51.100.{place}", asNumber=65100, password=wants(name))
        for place, name in enumerate(("present", "missing", "quoted"), 1)
    ]
    mesh = resource("BGPConfiguration", "default", nodeMeshPassword=wants("mesh"), nodeMeshMaxRestartTime="45s")
    secrets = {("present", "md5"): "not a real one", ("quoted", "md5"): 'a"b', ("mesh", "md5"): "nor this"}
    return routing("m9", [M9, M1, mesh, *peers], passwords=secrets)


def _ipv6_only() -> Routing:
    six = node("six", v6="fd10::66/64")
    pool = resource("IPPool", "p6", cidr="fd50::/48", ipipMode="Never", vxlanMode="CrossSubnet")
    return routing("six", [six, M1, M9, PLAIN, pool], blocks=["fd50:0:0:1::/122"])


def _aggregation() -> Routing:
    hidden = resource("IPPool", "hidden", cidr="10.51.0.0/16", ipipMode="Never", disableBGPExport=True)
    blocks = ["10.50.3.64/26", "10.50.3.7/32", "10.51.0.0/26", "fd50:0:0:1::/122"]
    return routing("m1", [M1, PLAIN, hidden], blocks=blocks)


ENCAPSULATED = [
    resource("IPPool", "ipip", cidr="10.52.0.0/16", ipipMode="Always", vxlanMode="Never"),
    resource("IPPool", "ipip-cross", cidr="10.53.0.0/16", ipipMode="CrossSubnet", vxlanMode="Never"),
    resource("IPPool", "vxlan", cidr="10.54.0.0/16", ipipMode="Never", vxlanMode="Always"),
    resource("IPPool", "vxlan6", cidr="fd54::/48", ipipMode="Never", vxlanMode="Always"),
]


def _encapsulations_of_felix() -> Routing:
    return routing("m1", [M1, M2, PLAIN, *ENCAPSULATED])


def _encapsulations_of_bird() -> Routing:
    settings = resource("BGPConfiguration", "default", programClusterRoutes="Enabled")
    return routing("m1", [M1, M2, PLAIN, *ENCAPSULATED, settings])


def _local_workloads() -> Routing:
    peer = resource("BGPPeer", "inside", localWorkloadSelector="all()", asNumber=65200, localASNumber=65201)
    status = {"ifaceName": "cali1", "ipv4Nets": ["10.50.3.70/32"], "ipv6Nets": [], "bgpPeerName": "inside"}
    return routing("m1", [M1, NO_MESH, peer], workloads={"w": status})


def _no_node() -> Routing:
    return routing("m3", [M1, ROUTER], blocks=["10.50.3.64/26"])


CASES: dict[str, Callable[[], Routing]] = {
    "full-mesh": _full_mesh, "reflector": _reflector, "client-of-reflector": _client_of_reflector,
    "peers-of-every-scope": _peers_of_every_scope, "filters": _filters, "communities": _communities,
    "passwords": _passwords, "ipv6-only": _ipv6_only, "aggregation": _aggregation,
    "encapsulations-of-felix": _encapsulations_of_felix, "encapsulations-of-bird": _encapsulations_of_bird,
    "local-workloads": _local_workloads, "no-node": _no_node,
}  # fmt: skip


def whole(name: str) -> str:
    """The case's configuration, and after it what was left out."""
    rendered = Renderer().render(CASES[name]())
    return rendered.text + "".join(f"# {one.subject}: {one.reason}\n" for one in rendered.problems)


@pytest.mark.parametrize("name", CASES)
def test_configuration(name: str) -> None:
    assert whole(name) == (GOLDEN / f"{name}.conf").read_text()


@pytest.mark.parametrize("name", CASES)
def test_bird_takes_it(name: str) -> None:
    assert refusal(whole(name)) == ""


def test_every_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / f"{case}.conf").write_text(whole(case))

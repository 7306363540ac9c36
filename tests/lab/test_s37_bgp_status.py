"""S37: what `calicoctl node status` says on hosts with real agents, real BIRDs and a router outside."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.bgp import OUTSIDE_AS, Bgp
from tests.lab.cluster import ADDRESSES, BIN, ROUTER, Cluster

NOT_UP = ("Connect", "Active", "Idle", "Passive")
"""Passive: it waits for the other side, which is to dial."""
NO_BGP = "Calico process is running.\n\nThe BGP backend process (BIRD) is not running.\n\n"
PEERS = """
{{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {{name: outside}},
 spec: {{peerIP: {router}, asNumber: {asn}}}}}
---
{{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {{name: lonely}},
 spec: {{node: {node}, peerIP: 10.20.0.99, asNumber: {asn}}}}}
"""


@pytest.fixture
def bgp(cluster: Cluster) -> Iterator[Bgp]:
    with Bgp(cluster) as made:
        yield made
    cluster.calicoctl("delete", "bgppeer", "outside", "lonely", "--skip-not-exists")


def status(cluster: Cluster, name: str, command: str = "calicoctl") -> tuple[int, str, str]:
    done = cluster.hosts[name].run([str(BIN / command), "node", "status"], check=False)
    return done.returncode, done.stdout, done.stderr


def rows(cluster: Cluster, name: str) -> dict[str, tuple[str, str, str]]:
    """Type, state and info of each IPv4 peer."""
    code, text, _ = status(cluster, name)
    assert code == 0 and text.startswith("Calico process is running.\n\nIPv4 BGP status\n"), text
    table = text.partition("\nIPv6 BGP status\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {one[0]: (one[1], one[2], one[4]) for one in cells[1:] if one[0]}


def test_s37_without_bgp_and_without_an_agent(cluster: Cluster) -> None:
    assert status(cluster, "a1") == (0, NO_BGP, "")
    cluster.stop_agent("a2")
    assert status(cluster, "a2") == (1, "", "Calico process is not running.\n")
    command = ["setpriv", "--reuid=65534", "--clear-groups", str(BIN / "calicoctl"), "node", "status"]
    refused = cluster.hosts["a1"].run(command, check=False)
    assert (refused.returncode, refused.stdout) == (1, "Need super user privileges: Operation not permitted\n")


def test_s37_bgp_peer_status(cluster: Cluster, bgp: Bgp) -> None:
    mesh = ("node-to-node mesh", "up", "Established")
    for name in cluster.hosts:
        others = {address: mesh for other, address in ADDRESSES.items() if other != name}
        cluster.wait(f"the mesh on {name}", lambda name=name, others=others: rows(cluster, name) == others)  # type: ignore[misc]
    bgp.start_router(("a1", 64512))
    text = PEERS.format(router=ROUTER, asn=OUTSIDE_AS, node=ADDRESSES["a1"])
    cluster.calicoctl("apply", "-f", "-", stdin=text)
    cluster.wait(
        "the session with the router", lambda: rows(cluster, "a1").get(ROUTER) == ("global", "up", "Established")
    )
    kind, state, info = rows(cluster, "a1")["10.20.0.99"]
    assert (kind, state) == ("node specific", "start") and info.split()[0] in NOT_UP
    assert "10.20.0.99" not in rows(cluster, "m1")
    _as_an_object(cluster)
    _without_its_bird(cluster, bgp)


ASK = """
import json
from libcalico import Client
from libcalico.model.base import Metadata
from libcalico.model.bgp import CalicoNodeStatus, CalicoNodeStatusSpec
from libcalico.model.codec import to_json
with Client() as client:
    spec = CalicoNodeStatusSpec(node="{node}", classes=["Agent", "BGP", "Routes"], update_period_seconds=1)
    asked = CalicoNodeStatus(metadata=Metadata(name="s"), spec=spec)
    print(json.dumps(to_json({call})))
"""
READ, MAKE, DROP = 'client.get(CalicoNodeStatus, "s")', "client.create(asked)", 'client.delete(CalicoNodeStatus, "s")'


def _as_an_object(cluster: Cluster) -> None:
    """The same, asked for by a CalicoNodeStatus, which the agent of that node fills."""

    def ask(call: str) -> dict[str, Any]:
        script = ASK.format(node=ADDRESSES["a1"], call=call)
        return dict(json.loads(cluster.hosts["m1"].run([sys.executable, "-c", script]).stdout)["status"])

    ask(MAKE)
    cluster.wait("the sessions of a1", lambda: ask(READ)["bgp"]["numberEstablishedV4"] == 3)
    status = ask(DROP)
    assert status["agent"]["birdV4"]["state"] == "Ready" and status["agent"]["birdV4"]["version"].startswith("2.")
    peers = {one["peerIP"]: (one["type"], one["state"]) for one in status["bgp"]["peersV4"]}
    assert peers[ROUTER] == ("GlobalPeer", "Established") and peers[ADDRESSES["m1"]] == ("NodeMesh", "Established")
    sources = {one["destination"]: one["learnedFrom"]["sourceType"] for one in status["routes"]["routesV4"]}
    assert sources["10.20.0.0/24"] == "Direct"


def _without_its_bird(cluster: Cluster, bgp: Bgp) -> None:
    """On a2 BIRD ends; on m1 it hangs."""
    bgp.stop_bird("a2")
    assert status(cluster, "a2") == (0, NO_BGP, "")
    gone = ADDRESSES["a2"]
    cluster.wait("the lost session", lambda: rows(cluster, "a1")[gone][1] == "start")
    assert rows(cluster, "a1")[gone][2].split()[0] in NOT_UP
    bgp.signal_bird("m1", signal.SIGSTOP)
    try:
        code, text, _ = status(cluster, "m1")
    finally:
        bgp.signal_bird("m1", signal.SIGCONT)
    assert code == 0
    assert (
        "Error querying BIRD: unable to read from BIRDv4 socket: BIRD at /var/run/calico/bird.ctl did not answer"
        in text
    )

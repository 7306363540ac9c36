"""BGP between three hosts and an outside router, every one with a real BIRD: routes, reflectors, passwords, filters,
peers that die or freeze, and changes without end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from calico_bird.testing import node, resource
from libcalico.bird.control import ask
from libcalico.model.keys import AffinityKey, key_path
from libcalico.testing.etcd import Etcd
from tests.netns.bird_host import TIMEOUT_S, until
from tests.netns.bird_lab import PASSWORD, ROUTER, ROUTER_AS, SERVICES, Lab, LabHost, address, block

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.slow]
OUTSIDE = "Node_10_77_0_9"
CHANGES = 125
PEER: dict[str, Any] = {
    "node": "h1",
    "peerIP": ROUTER,
    "asNumber": ROUTER_AS,
    "password": {"secretKeyRef": {"name": "tor", "key": "md5"}},
}


@pytest.fixture
async def lab(tmp_path: Path, etcd: Etcd) -> AsyncIterator[Lab]:
    made = Lab(tmp_path, etcd)
    try:
        await made.start()
        yield made
    finally:
        made.close()
        await made.store.close()


async def test_one_cluster_through_its_life(lab: Lab) -> None:
    """One start-up for all of it; each part leaves the cluster as it found it."""
    await _full_mesh(lab)
    await _changes_drop_no_session(lab)
    await _killed_frozen_and_back(lab)
    await _datastore_gone_and_back(lab)
    await _outside_router(lab)
    await _filters(lab)
    await _reflector(lab)


async def _full_mesh(lab: Lab) -> None:
    """Containers reach each other by BGP's routes alone: there is no tunnel anywhere."""
    first, *others = lab.hosts
    await until(lambda: first.bird.routes() == {block(2), block(3)}, "the blocks of the others")
    for one in others:
        await until(partial(first.pings, one.place), f"the container of {one.name}")
    for one in lab.hosts:
        kinds = {link.get("linkinfo", {}).get("info_kind") for link in one.space.ip("-d", "link")}
        assert kinds <= {None, "veth"}, kinds
        (route,) = one.space.ip("route", "get", address(one.place % 3 + 1))
        assert route["dev"] == "up0"


async def _changes_drop_no_session(lab: Lab) -> None:
    before = await lab.established()
    for number in range(CHANGES):
        accept = [{"action": "Accept", "cidr": f"10.{number}.0.0/16", "matchOperator": "In"}]
        await lab.put(
            resource("IPPool", "more", cidr=f"10.{100 + number}.0.0/16", ipipMode="Never", vxlanMode="Never"),
            resource("BGPFilter", "more", importV4=accept),
            resource("BGPPeer", "more", peerIP=f"198.51.100.{number + 1}", asNumber=65100, filters=["more"]),
            resource("BGPConfiguration", "default", logSeverityScreen=("Info", "Debug")[number % 2]),
        )
        await asyncio.sleep(0.05)
    last = f"Global_198_51_100_{CHANGES}"
    for one in lab.hosts:
        await until(partial(_has_session, one, last), "changes")
    assert await lab.established() == before
    for kind in ("BGPPeer", "BGPFilter", "IPPool"):
        await lab.drop(kind, "more")
    await lab.drop("BGPConfiguration", "default")
    await lab.until_up(2)
    assert await lab.established() == before


async def _killed_frozen_and_back(lab: Lab) -> None:
    first, second, third = lab.hosts
    before = await first.bird.established()
    second.bird.kill()
    await until(lambda: _is_down(lab, "Mesh_10_77_0_2"), "the session with a killed BIRD")
    assert first.pings(2), "routes stand while a BIRD is away: graceful restart, and a kernel that keeps them"
    second.bird.start()
    await lab.until_up(2)
    assert first.pings(2)
    assert (await first.bird.established())["Mesh_10_77_0_3"] == before["Mesh_10_77_0_3"]
    before = await first.bird.established()
    third.bird.signal(signal.SIGSTOP)
    more = AffinityKey("h3", "10.88.3.64/26")
    await lab.store.put(key_path(more).encode(), b'{"state":"confirmed"}')
    await until(lambda: "SIGHUP was sent to process" in third.said()["bird"], "SIGHUP for a BIRD that does not answer")
    assert await first.bird.established() == before
    third.bird.signal(signal.SIGCONT)
    await until(lambda: "10.88.3.64/26" in first.bird.routes(), "the change that was made while it was frozen")
    assert await first.bird.established() == before


async def _has_session(host: LabHost, name: str) -> bool:
    return name in await host.bird.sessions()


async def _datastore_gone_and_back(lab: Lab) -> None:
    """Nothing happens while etcd is away; what was changed meanwhile counts. A node that has another one's address
    takes no session from it."""
    first, before = lab.hosts[0], await lab.established()
    inode = first.bird.file.stat().st_ino
    await lab.put(node("h9", "10.77.0.2/24"))
    await until(lambda: any(one["subject"] == "Node(h9)" for one in first.said()["problems"]), "two nodes, one address")
    lab.etcd.kill()
    await asyncio.sleep(2)
    assert await lab.established() == before
    assert first.bird.file.stat().st_ino == inode
    lab.etcd.start()
    await lab.drop("Node", "h9")
    await until(lambda: not first.said()["problems"], "the other node is gone")
    assert await lab.established() == before


async def _is_down(lab: Lab, session: str) -> bool:
    return session not in await lab.hosts[0].bird.established()


async def _outside_router(lab: Lab) -> None:
    """eBGP with a password: the router learns the host's block, and a service network with a community."""
    first = lab.hosts[0]
    first.space.ip("route", "add", "blackhole", SERVICES)
    advertised = [{"cidr": SERVICES, "communities": ["65000:99"]}]
    await lab.put(
        resource("BGPConfiguration", "default", prefixAdvertisements=advertised), resource("BGPPeer", "tor", **PEER)
    )
    await until(lambda: _shows(lab, OUTSIDE, "down"), "no session without the password")
    assert any(one["subject"] == "BGPPeer(tor)" and "disabled" in one["reason"] for one in first.said()["problems"])
    (first.secrets / "tor").mkdir(parents=True)
    (first.secrets / "tor" / "md5").write_text("a wrong one\n")
    await until(lambda: "a wrong one" in first.bird.file.read_text(), "the wrong password")
    await until(lambda: _shows(lab, OUTSIDE, "start"), "no session with a wrong password")
    (first.secrets / "tor" / "md5").write_text(f"{PASSWORD}\n")
    await until(lambda: _shows(lab, OUTSIDE, "up"), "a session with the password")
    await until(lambda: _learned(lab, {block(1), SERVICES}), "the block and the service network")
    lines = await ask(lab.router.socket, f"show route for {SERVICES} all", TIMEOUT_S)
    assert any("BGP.community" in line.text and "(65000,99)" in line.text for line in lines)
    await until(lambda: {"203.0.113.0/24", "198.51.100.0/24"} <= first.bird.routes(), "the router's networks")


async def _shows(lab: Lab, session: str, state: str) -> bool:
    row = (await lab.hosts[0].bird.sessions()).get(session)
    return row is not None and row.state == state


async def _learned(lab: Lab, wanted: set[str]) -> bool:
    """Are these what the router has learned of our hosts' networks?"""
    lines = await ask(lab.router.socket, "show route protocol h1", TIMEOUT_S)
    found = {line.text.split()[0] for line in lines if line.text.startswith("10.")}
    return {one for one in found if one in (block(1), SERVICES)} == wanted


async def _filters(lab: Lab) -> None:
    first = lab.hosts[0]
    before = await first.bird.established()
    narrow = resource(
        "BGPFilter", "edge",
        importV4=[{"action": "Accept", "cidr": "203.0.113.0/24", "matchOperator": "In"}, {"action": "Reject"}],
        exportV4=[{"action": "Reject", "cidr": "10.88.0.0/16", "matchOperator": "In"}],
    )  # fmt: skip
    await lab.put(narrow, resource("BGPPeer", "tor", **PEER, filters=["edge"]))
    await until(lambda: _learned(lab, {SERVICES}), "the export filter")
    await until(lambda: "198.51.100.0/24" not in first.bird.routes(), "the import filter")
    assert "203.0.113.0/24" in first.bird.routes()
    await lab.put_raw("BGPFilter", "edge", b'{"spec":')
    await until(lambda: _learned(lab, set()), "a filter that cannot be read sends nothing")
    await until(lambda: "203.0.113.0/24" not in first.bird.routes(), "and takes nothing")
    assert any(one["subject"] == "BGPFilter(edge)" for one in first.said()["problems"])
    await lab.put(narrow)
    await until(lambda: _learned(lab, {SERVICES}), "the filter is mended")
    assert await first.bird.established() == before
    await lab.drop("BGPPeer", "tor")
    await lab.drop("BGPFilter", "edge")


async def _reflector(lab: Lab) -> None:
    """The first host reflects for the two others, which have no session with each other."""
    reflector = node("h1", "10.77.0.1/24", labels={"rr": "yes"}, routeReflectorClusterID="10.0.0.1")
    peer = resource("BGPPeer", "reflector", nodeSelector="!has(rr)", peerSelector="has(rr)")
    await lab.put(peer, reflector, resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False))
    second, third = lab.hosts[1], lab.hosts[2]
    for one in (second, third):
        await until(partial(_has, one.bird.sessions, {"Node_10_77_0_1"}), "the reflector's session alone")
    clients = {"Node_10_77_0_2", "Node_10_77_0_3"}
    await until(partial(_has, lab.hosts[0].bird.established, clients), "its clients")
    await until(lambda: block(3) in second.bird.routes() and block(2) in third.bird.routes(), "reflected blocks")
    assert second.pings(3) and third.pings(2)
    (route,) = second.space.ip("route", "get", address(3))
    assert route["gateway"] == "10.77.0.3", "reflected routes keep their next hop"


async def _has(sessions: Callable[[], Awaitable[Collection[str]]], names: set[str]) -> bool:
    return set(await sessions()) == names

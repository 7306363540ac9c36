"""CalicoNodeStatus: what BIRD answers in its form, and when the agent writes it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from calico_felix.bird_status import Bird, agent_status, bgp_status, collect, route_statuses
from calico_felix.node_status import RETRY_S, NodeStatusReporter
from libcalico.bird.replies import BirdStatus, NextHop, Protocol, Route
from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Update
from libcalico.errors import BadData, Unavailable
from libcalico.model.base import Metadata
from libcalico.model.bgp import (
    AgentStatus,
    BGPDaemonStatus,
    BGPStatus,
    CalicoNodeStatus,
    CalicoNodeStatusSpec,
    CalicoNodeStatusStatus,
    LearnedFrom,
    PeerStatus,
    RouteStatus,
)
from libcalico.model.keys import ResourceKey, key_path
from libcalico.testing.clock import ManualClock

KEY = key_path(ResourceKey("CalicoNodeStatus", "s")).encode()
UP = BirdStatus("2.0.12", "10.0.4.17", "t0", "t1", "t2", "Daemon is up and running")
PROTOCOLS = [
    Protocol("kernel4", "Kernel", "master4", "up", "1", ""),
    Protocol("calico_static4", "Static", "master4", "up", "1", ""),
    Protocol("direct1", "Direct", "---", "up", "1", ""),
    Protocol("Mesh_10_0_4_18", "BGP", "---", "up", "2", "Established", "Established", "10.0.4.18"),
    Protocol("Node_10_0_4_19_port_1790", "BGP", "---", "start", "3", "Passive", "Passive", "10.0.4.19"),
    Protocol("Global_fd77__2", "BGP", "---", "down", "4", "", "Down", "fd77::2"),
    Protocol("other", "BGP", "---", "up", "5", "Established", "Established", "10.9.9.9"),
]


def test_the_daemon_of_each_family() -> None:
    ready = BGPDaemonStatus(
        state="Ready", version="2.0.12", router_id="10.0.4.17", last_boot_time="t1", last_reconfiguration_time="t2"
    )
    assert agent_status([Bird("/b", UP, (4, 6))]) == AgentStatus(bird_v4=ready, bird_v6=ready)
    absent = BGPDaemonStatus(state="NotReady")
    assert agent_status([Bird("/b", UP, (4,))]) == AgentStatus(bird_v4=ready, bird_v6=absent)
    ending = UP._replace(daemon="Shutdown in progress")
    assert agent_status([Bird("/b", ending, (4, 6))]).bird_v6.state == "NotReady"


def test_sessions() -> None:
    assert bgp_status(PROTOCOLS) == BGPStatus(
        number_established_v4=1,
        number_not_established_v4=1,
        number_not_established_v6=1,
        peers_v4=[
            PeerStatus(peer_ip="10.0.4.18", type="NodeMesh", state="Established", since="2"),
            PeerStatus(peer_ip="10.0.4.19", type="NodePeer", state="Active", since="3"),
        ],
        peers_v6=[PeerStatus(peer_ip="fd77::2", type="GlobalPeer", state="Idle", since="4")],
    )


def test_routes() -> None:
    routes = [
        Route("10.99.0.0/16", "unicast", "calico_static4", True, (NextHop("10.0.4.1", "e"), NextHop("10.0.4.2", "e"))),
        Route("10.88.1.0/26", "blackhole", "calico_static4", False, ()),
        Route("10.88.2.0/26", "unicast", "Mesh_10_0_4_18", True, (NextHop("10.0.4.18", "e"),)),
        Route("10.88.3.0/26", "unicast", "other", True, (NextHop("", "e"),)),
        Route("0.0.0.0/0", "unicast", "kernel4", True, (NextHop("10.0.4.1", "e"),)),
    ]
    static = LearnedFrom(source_type="Static")

    def made(kind: str, destination: str, gateway: str, interface: str, source: LearnedFrom) -> RouteStatus:
        return RouteStatus(
            type=kind, destination=destination, gateway=gateway, interface=interface, learned_from=source
        )

    assert route_statuses(routes, PROTOCOLS) == [
        made("FIB", "10.99.0.0/16", "10.0.4.1", "e", static),
        made("FIB", "10.99.0.0/16", "10.0.4.2", "e", static),
        made("RIB", "10.88.1.0/26", "N/A", "blackhole", static),
        made("FIB", "10.88.2.0/26", "10.0.4.18", "e", LearnedFrom(source_type="NodeMesh", peer_ip="10.0.4.18")),
        made("FIB", "10.88.3.0/26", "N/A", "e", LearnedFrom(source_type="BGPPeer", peer_ip="10.9.9.9")),
        made("FIB", "0.0.0.0/0", "10.0.4.1", "e", LearnedFrom(source_type="Kernel")),
    ]
    with pytest.raises(BadData, match=r"10\.1\.0\.0/16 is of 'ospf1'"):
        route_statuses([Route("10.1.0.0/16", "unicast", "ospf1", True, ())], PROTOCOLS)


async def test_without_bird_nothing_is_ready(tmp_path: Any) -> None:
    places = [str(tmp_path / "bird.ctl")]
    found = await collect(["Agent", "BGP", "Routes"], places, places)
    absent = BGPDaemonStatus(state="NotReady")
    assert found == CalicoNodeStatusStatus(agent=AgentStatus(bird_v4=absent, bird_v6=absent))


class World:
    """A datastore, whose changes the reporter sees when `follow` is called, and a BIRD that says what is set."""

    def __init__(self) -> None:
        self.store = MemoryDatastore()
        self.clock = ManualClock(1000.0)
        self.client = AsyncClient(self.store, self.clock)
        self.reporter = NodeStatusReporter("n1", self.store, self.clock, self._collect)
        self.established = 1
        self.failure = ""
        self.asked: list[list[str]] = []
        self._seen = 0

    async def _collect(self, classes: Collection[str]) -> CalicoNodeStatusStatus:
        self.asked.append(list(classes))
        if self.failure:
            raise Unavailable(self.failure)
        return CalicoNodeStatusStatus(bgp=BGPStatus(number_established_v4=self.established))

    async def apply(self, node: str = "n1", period_s: int = 0, classes: tuple[str, ...] = ("BGP",)) -> None:
        spec = CalicoNodeStatusSpec(node=node, classes=list(classes), update_period_seconds=period_s)
        await self.client.apply(
            CalicoNodeStatus(
                kind="CalicoNodeStatus", api_version="projectcalico.org/v3", metadata=Metadata(name="s"), spec=spec
            )
        )

    async def settle(self, after_s: float = 0.0) -> tuple[int, int]:
        """Let the reporter see the datastore, and act; the number stored as established, and the object's version."""
        self.clock.at_s += after_s
        for _round in range(2):
            stored = await self.store.get(KEY)
            if stored is not None and stored.mod_revision > self._seen:
                self._seen = stored.mod_revision
                self.reporter.on_update(Update(KEY, stored.value, stored.mod_revision))
            await self.reporter.answer_due()
        stored = await self.store.get(KEY)
        assert stored is not None
        found = await self.client.get(CalicoNodeStatus, "s")
        return found.status.bgp.number_established_v4, stored.version


async def test_a_new_object_is_filled_once_and_again_when_it_asks_for_something_else() -> None:
    world = World()
    await world.apply()
    assert await world.settle() == (1, 2)
    assert (await world.client.get(CalicoNodeStatus, "s")).status.last_updated == "2026-03-01T00:00:00Z"
    world.established = 2
    assert await world.settle(3600) == (1, 2), "no period, no update"
    assert world.asked == [["BGP"]]
    await world.apply(classes=("BGP", "Agent"))
    assert await world.settle() == (2, 4)
    assert world.asked == [["BGP"], ["BGP", "Agent"]]


async def test_each_period_and_only_what_is_different() -> None:
    world = World()
    await world.apply(period_s=30)
    assert await world.settle() == (1, 2)
    assert await world.settle(30) == (1, 2), "the same is not written again"
    world.established = 3
    assert await world.settle(29) == (1, 2)
    assert await world.settle(1) == (3, 3)
    assert len(world.asked) == 3


async def test_a_status_that_a_user_took_away_is_written_again() -> None:
    world = World()
    await world.apply()
    assert await world.settle() == (1, 2)
    await world.apply()
    assert await world.settle() == (0, 3), "an object is not answered twice within seconds"
    assert await world.settle(RETRY_S) == (1, 4)


async def test_what_cannot_be_learnt_is_not_written_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.failure = "BIRD hangs"
    await world.apply()
    assert await world.settle() == (0, 1)
    assert await world.settle(RETRY_S) == (0, 1)
    assert [one.getMessage() for one in caplog.records] == ["CalicoNodeStatus(s) is not filled: BIRD hangs"]
    world.failure = ""
    assert await world.settle(RETRY_S) == (1, 2)


async def test_other_nodes_other_keys_and_what_cannot_be_read() -> None:
    world = World()
    await world.apply(node="n2")
    assert await world.settle() == (0, 1)
    world.reporter.on_update(Update(KEY, b"no object", 9))
    world.reporter.on_update(Update(b"/calico/other", b"\xff", 9))
    world.reporter.on_update(Update(KEY, None, 10))
    await world.reporter.answer_due()
    assert not world.asked


async def test_a_writer_that_comes_between_wins() -> None:
    world = World()
    await world.apply()
    stored = await world.store.get(KEY)
    assert stored is not None
    world.reporter.on_update(Update(KEY, stored.value, stored.mod_revision))
    await world.apply(classes=("Agent",))
    await world.reporter.answer_due()
    found = await world.client.get(CalicoNodeStatus, "s")
    assert (found.spec.classes, found.status.last_updated) == (["Agent"], None)
    assert await world.settle() == (1, 3)

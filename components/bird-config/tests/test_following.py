"""Which of two sources serves, and that what they say in half changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from calico_bird import following as module
from calico_bird.following import AGENT, DATASTORE, NONE, Following, agent_session
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.errors import Unavailable
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_server


class Source:
    """Sessions that a test opens (`up`), feeds and ends. One that is `patient` waits until it may open."""

    def __init__(self, patient: bool = False) -> None:
        self.up, self._patient = False, patient
        self.sessions = 0
        self._queue: asyncio.Queue[Batch | None] = asyncio.Queue()

    async def __call__(self) -> AsyncIterator[Batch]:
        while not self.up:
            if self._patient:
                await asyncio.sleep(0.01)
                continue
            raise Unavailable("it is not there")
        self._queue = asyncio.Queue()
        self.sessions += 1
        try:
            while (batch := await self._queue.get()) is not None:
                yield batch
            raise Unavailable("it has ended")
        finally:
            self.sessions -= 1

    def say(self, revision: int, status: Status = Status.IN_SYNC, **values: str) -> None:
        """Values by key; an empty text is a deletion."""
        updates = tuple(Update(key.encode(), text.encode() or None, revision) for key, text in values.items())
        self._queue.put_nowait(Batch(updates, status, revision))

    def end(self) -> None:
        self.up = False
        self._queue.put_nowait(None)


class World:
    """The two sources, and what was taken from them."""

    def __init__(self) -> None:
        self.agent, self.own = Source(), Source(patient=True)
        self.taken: list[dict[str, str]] = []
        self.following = Following(self.agent, self.own, self._take)

    def _take(self, changes: module.Changes) -> None:
        self.taken.append({key.decode(): (value or b"").decode() for key, value in changes.items()})

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def served_by(self, name: str) -> None:
        await self.until(lambda: self.following.source == name)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    made = World()
    task = asyncio.ensure_future(made.following.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_agent_alone_is_asked_while_it_serves(world: World) -> None:
    world.agent.up = world.own.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(1, a="1", b="2")
    await world.served_by(AGENT)
    world.agent.say(2, b="")
    await world.until(lambda: len(world.taken) == 2)
    await asyncio.sleep(0.1)
    assert world.taken == [{"a": "1", "b": "2"}, {"b": ""}]
    assert world.own.sessions == 0


async def test_a_switch_both_ways_takes_the_difference_and_ends_the_other_session(world: World) -> None:
    world.own.up = True
    await world.until(lambda: world.own.sessions)
    world.own.say(5, a="1", b="2")
    await world.served_by(DATASTORE)
    world.agent.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(5, a="1", b="2")
    await world.served_by(AGENT)
    await world.until(lambda: not world.own.sessions)
    assert world.taken == [{"a": "1", "b": "2"}]
    world.agent.end()
    await world.until(lambda: world.own.sessions)
    world.own.say(7, b="3", c="4")
    await world.served_by(DATASTORE)
    assert world.taken[1:] == [{"a": "", "b": "3", "c": "4"}]


async def test_an_agent_that_is_back_soon_is_used_again_without_another_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 30)
    world.agent.up = world.own.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(1, a="1")
    await world.served_by(AGENT)
    world.agent.end()
    await world.served_by(NONE)
    world.agent.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(1, a="1")
    await world.served_by(AGENT)
    assert (world.taken, world.own.sessions) == ([{"a": "1"}], 0)


async def test_what_a_source_said_in_half_changes_nothing(world: World) -> None:
    world.agent.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(1, Status.RESYNC, a="half")
    await asyncio.sleep(0.1)
    assert (world.taken, world.following.source) == ([], NONE)
    world.agent.say(1, b="whole")
    await world.served_by(AGENT)
    world.agent.say(2, Status.RESYNC, a="", b="")
    world.agent.end()
    await world.served_by(NONE)
    world.own.up = True
    await world.until(lambda: world.own.sessions)
    world.own.say(2, Status.RESYNC)
    await asyncio.sleep(0.1)
    assert world.taken == [{"a": "half", "b": "whole"}]
    world.own.say(2, a="half", b="whole")
    await world.served_by(DATASTORE)
    assert len(world.taken) == 1


async def test_an_agent_that_lags_is_not_taken_over_until_it_has_caught_up(world: World) -> None:
    world.own.up = True
    await world.until(lambda: world.own.sessions)
    world.own.say(5, a="1")
    world.own.say(8, a="2")
    world.own.say(900)
    await world.until(lambda: len(world.taken) == 2)
    world.agent.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(7, a="1")
    await asyncio.sleep(0.05)
    assert world.following.source == DATASTORE
    world.agent.say(8, a="2")
    await world.served_by(AGENT)
    assert world.taken == [{"a": "1"}, {"a": "2"}]


async def test_an_agent_that_waits_for_the_datastore_does_not_keep_us_from_it(world: World) -> None:
    world.agent.up = world.own.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(0, Status.RESYNC)
    await world.until(lambda: world.own.sessions)
    world.own.say(3)
    await world.served_by(DATASTORE)
    assert world.taken == [{}]


async def test_a_datastore_that_was_restored_is_followed_by_either(world: World) -> None:
    world.own.up = True
    await world.until(lambda: world.own.sessions)
    world.own.say(500, a="1")
    await world.served_by(DATASTORE)
    world.own.say(9)
    world.agent.up = True
    await world.until(lambda: world.agent.sessions)
    world.agent.say(9, a="1")
    await world.served_by(AGENT)


class Agent(stubs.NodeServicer):  # type: ignore[misc]
    """An agent that says one thing, and then nothing."""

    async def WatchRouting(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.node != "h1":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is the agent of node h1")
        yield pb.RoutingPart(changes=[pb.StoredValue(key=b"a", value=b"1"), pb.StoredValue(key=b"b", gone=True)])
        yield pb.RoutingPart(whole=True, revision=4)
        await asyncio.sleep(60)


async def test_the_agents_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "node.sock")
    with pytest.raises(Unavailable, match="does not serve"):
        await anext(agent_session(path, "h1"))
    server = open_server(path)
    stubs.add_NodeServicer_to_server(Agent(), server)
    await server.start()
    try:
        batches = agent_session(path, "h1")
        assert await anext(batches) == Batch((Update(b"a", b"1", 0), Update(b"b", None, 0)), Status.RESYNC, 0)
        assert await anext(batches) == Batch((), Status.IN_SYNC, 4)
        monkeypatch.setattr(module, "SILENCE_S", 0.05)
        with pytest.raises(Unavailable, match="silent for"):
            await anext(batches)
        with pytest.raises(Unavailable, match="the agent of node h1"):
            await anext(agent_session(path, "h2"))
        monkeypatch.undo()
        batches = agent_session(path, "h1")
        await anext(batches)
        await anext(batches)
        stopping = asyncio.ensure_future(server.stop(0))
        with pytest.raises(Unavailable):
            await anext(batches)
        await stopping
    finally:
        await server.stop(0)

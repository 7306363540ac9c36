"""An endpoint opens with its container's labels, or without any when they are not known in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from calico_libnetwork.engine import Connected, EngineError, NetworkFacts
from calico_libnetwork.labels import LabelKeeper, usable_labels
from calico_libnetwork.protocol import DriverError

PREFIX = "org.projectcalico.label."


class Engine:
    """An engine in memory: containers of one network, and events that a test sends."""

    def __init__(self) -> None:
        self.containers: dict[str, str] = {}
        self.stored: dict[str, dict[str, str]] = {}
        self.failure = ""
        self.events: asyncio.Queue[Connected] = asyncio.Queue()

    async def network(self, network: str) -> NetworkFacts:
        if self.failure:
            raise EngineError(self.failure)
        return NetworkFacts(network, "net", "calico", dict(self.containers), frozenset())

    async def networks(self, driver: str) -> list[NetworkFacts]:
        return [await self.network("n")] if driver == "calico" else []

    async def labels(self, container: str) -> dict[str, str] | None:
        return self.stored.get(container)

    async def connects(self) -> AsyncIterator[Connected]:
        while True:
            yield await self.events.get()


class Agent:
    """An agent in memory, which refuses as often as a test wants."""

    def __init__(self) -> None:
        self.opened: dict[str, Mapping[str, str]] = {}
        self.refusals = 0
        self.changed = asyncio.Event()

    async def open(self, endpoint: str, labels: Mapping[str, str]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise DriverError("not now")
        self.opened[endpoint] = labels
        self.changed.set()


@asynccontextmanager
async def keeper(engine: Engine, agent: Agent, wait_s: float = 60.0) -> AsyncIterator[LabelKeeper]:
    async with asyncio.TaskGroup() as group:
        made = LabelKeeper(engine, agent, group.create_task, wait_s)  # type: ignore[arg-type]
        running = group.create_task(made.run())
        yield made
        for endpoint in list(engine.containers) + ["e1", "e2"]:
            made.forget(endpoint)
        running.cancel()


async def test_the_engine_s_event_opens_the_endpoint() -> None:
    engine, agent = Engine(), Agent()
    async with keeper(engine, agent) as labels:
        labels.expect("n", "e1")
        engine.containers["e1"], engine.stored["c1"] = "c1", {f"{PREFIX}role": "web", "other": "x"}
        await engine.events.put(Connected("n", "c1"))
        async with asyncio.timeout(10):
            await agent.changed.wait()
    assert agent.opened == {"e1": {"role": "web"}}


async def test_without_events_the_engine_is_asked_and_refusals_are_outlasted() -> None:
    engine, agent = Engine(), Agent()
    agent.refusals = 2
    engine.containers["e1"], engine.stored["c1"] = "c1", {f"{PREFIX}role": "web"}
    async with keeper(engine, agent) as labels:
        labels.expect("n", "e1")
        async with asyncio.timeout(10):
            await agent.changed.wait()
    assert agent.opened == {"e1": {"role": "web"}}


async def test_labels_that_do_not_come_in_time(caplog: pytest.LogCaptureFixture) -> None:
    engine, agent = Engine(), Agent()
    engine.failure = "the engine is away"
    async with keeper(engine, agent, wait_s=0.3) as labels:
        labels.expect("n", "e1")
        async with asyncio.timeout(10):
            await agent.changed.wait()
    assert agent.opened == {"e1": {}}
    assert "endpoint e1 has no labels after 0.3 s: the engine is away" in caplog.text


async def test_a_new_process_opens_what_the_former_left_closed() -> None:
    engine, agent = Engine(), Agent()
    engine.containers = {"e1": "c1", "open": "c2"}
    engine.stored["c1"] = {f"{PREFIX}role": "web"}
    async with keeper(engine, agent) as labels:
        await labels.recover(["e1", "nobody-has-it"])
        assert labels.waiting == 1
        async with asyncio.timeout(10):
            await agent.changed.wait()
    assert agent.opened == {"e1": {"role": "web"}}


async def test_an_endpoint_that_goes_is_never_opened() -> None:
    engine, agent = Engine(), Agent()
    async with keeper(engine, agent, wait_s=0.2) as labels:
        labels.expect("n", "e1")
        labels.expect("n", "e2")
        labels.forget("e1")
        assert labels.waiting == 1
        async with asyncio.timeout(10):
            await agent.changed.wait()
    assert agent.opened == {"e2": {}}


def test_labels_that_cannot_be_stored_are_left_out() -> None:
    given = {
        f"{PREFIX}role": "web",
        f"{PREFIX}bad key": "x",
        f"{PREFIX}long": "y" * 64,
        "com.example": "z",
        PREFIX: "",
        f"{PREFIX}Example.com/role": "x",
    }
    assert usable_labels(given, "e1") == {"role": "web"}

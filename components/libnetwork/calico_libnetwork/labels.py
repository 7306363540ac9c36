"""Labels of containers on their endpoints (spec/libnetwork.md 4.10).

Docker names the container of an endpoint only once the container has joined the network, which is before its program
starts. Until then the endpoint is closed. It opens with its labels, or without any when they are not known in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from calico_libnetwork.agent import Agent, Impossible
from calico_libnetwork.engine import Engine, EngineError
from calico_libnetwork.protocol import DriverError
from libcalico.clock import Clock, SystemClock
from libcalico.model import scalars
from libcalico.reconcile import Backoff
from libcalico.text import shown

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task of the daemon's."""
DRIVER = "calico"
LABEL = "org.projectcalico.label."
LOOK_S = 0.25
"""Between two questions about an endpoint of which the engine's events say nothing."""
RECONNECT = Backoff(0.1, 5.0)
OPENING = Backoff(0.2, 5.0)


class LabelKeeper:
    """Opens each endpoint that waits for its labels. `run` is a task of the plug-in's."""

    def __init__(self, engine: Engine, agent: Agent, spawn: Spawn, wait_s: float, clock: Clock | None = None) -> None:
        self._engine = engine
        self._agent = agent
        self._spawn = spawn
        self._wait_s = wait_s
        self._clock = clock or SystemClock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._containers: dict[str, asyncio.Future[str]] = {}

    def expect(self, network: str, endpoint: str) -> None:
        """A container is about to join a network by this endpoint."""
        self.forget(endpoint)
        self._containers[endpoint] = asyncio.get_running_loop().create_future()
        self._tasks[endpoint] = self._spawn(self._open(network, endpoint))

    def forget(self, endpoint: str) -> None:
        """The endpoint goes."""
        self._containers.pop(endpoint, None)
        task = self._tasks.pop(endpoint, None)
        if task is not None:
            task.cancel()

    @property
    def waiting(self) -> int:
        """How many endpoints are closed for want of their labels."""
        return len(self._tasks)

    async def run(self) -> None:
        """Follow the engine, for ever."""
        failures = 0
        while True:
            try:
                async for connected in self._engine.connects():
                    failures = 0
                    if self._containers:
                        await self._resolve(connected.network)
            except EngineError as error:
                log.debug("%s", error)
            failures += 1
            await self._clock.sleep(RECONNECT.pause_s(failures))

    async def recover(self, closed: Collection[str]) -> None:
        """Open what a former process left closed, where the engine still has it. Raises `EngineError`."""
        for facts in await self._engine.networks(DRIVER):
            for endpoint in facts.containers.keys() & set(closed) - self._tasks.keys():
                self.expect(facts.id, endpoint)

    async def _resolve(self, network: str) -> None:
        """Find the containers of all endpoints of a network that wait. Raises `EngineError`."""
        facts = await self._engine.network(network)
        for endpoint, container in () if facts is None else facts.containers.items():
            future = self._containers.get(endpoint)
            if container and future is not None and not future.done():
                future.set_result(container)

    async def _open(self, network: str, endpoint: str) -> None:
        labels = await self._find(network, endpoint)
        failures = 0
        while True:
            try:
                await self._agent.open(endpoint, labels)
                break
            except Impossible as error:
                log.error("endpoint %s opens without labels: %s", endpoint, error)
                labels = {}
            except DriverError as error:
                failures += 1
                log.warning("endpoint %s stays closed, tried again: %s", endpoint, error)
                await self._clock.sleep(OPENING.pause_s(failures))
        self._tasks.pop(endpoint, None)
        self._containers.pop(endpoint, None)

    async def _find(self, network: str, endpoint: str) -> dict[str, str]:
        """The labels, if they are known in time."""
        future, until_s = self._containers[endpoint], self._clock.monotonic_s() + self._wait_s
        reason = "the engine names no container for it"
        while (rest_s := until_s - self._clock.monotonic_s()) > 0:
            await asyncio.wait({future}, timeout=min(LOOK_S, rest_s))
            try:
                if not future.done():
                    await self._resolve(network)
                elif (found := await self._engine.labels(future.result())) is not None:
                    return usable_labels(found, endpoint)
                else:
                    reason = f"the engine knows no container {future.result()}"
                    await self._clock.sleep(LOOK_S)
            except EngineError as error:
                reason = str(error)
                await self._clock.sleep(LOOK_S)
        log.error("endpoint %s has no labels after %g s: %s", endpoint, self._wait_s, reason)
        return {}


def usable_labels(found: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """A container's labels that are meant for its endpoint; those that cannot be stored are logged and left out."""
    wanted = {}
    for name, value in found.items():
        if not name.startswith(LABEL):
            continue
        key = name.removeprefix(LABEL)
        problems = [*scalars.label_key_errors(key), *scalars.label_value_errors(value)]
        if problems:
            log.warning("endpoint %s: its label %s=%s is left out: %s", endpoint, shown(key), shown(value), problems[0])
        else:
            wanted[key] = value
    return wanted

"""A storm of CNI calls on a real agent: killed, repeated at once, two at a time, agent and etcd killed meanwhile.

Whatever happened before, a container whose last call is an ADD that succeeded has what it was told, and after a last
DEL there is nothing of it. `--seed` repeats the dice; CALICO_STORM_S is the length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from libcalico.errors import DatastoreError
from libcalico.testing.machine import DIE_WITH_US, need
from tests import node_door
from tests.netns.cni_host import Host, build_plugins, sh
from tests.scale.bench_cni import start_agent

STORM_S = float(os.environ.get("CALICO_STORM_S", "12"))
CONTAINERS = 6
TRY_AGAIN = 11
ODD_SHARE = 0.02
"""A call that meets what a killed one is still undoing may fail; seldom, and never with a wrong state behind it."""
STARTED_S, GONE_S, SETTLED_S = 60.0, 20.0, 3.0
"""How long a new agent may take until it has programmed all, what is removed until it is gone, and how long both are
watched then: nothing that was left half-way may come to work."""
TOLD = 12  # of a container's calls, when it fails
LOOKS = 0.3
"""How often a container is looked at between two decisions, after what a former one set off has had its time."""
AFTERMATH_S = 0.1


class Container:
    """One container and its runtime, which makes one decision after the other."""

    def __init__(self, host: Host, dice: random.Random) -> None:
        self.host = host
        self.dice = dice
        self.box = host.box()
        self.id = str(uuid.uuid4())
        self.told: dict[str, Any] | None = None
        self.log: list[str] = []
        self.odd: list[Any] = []

    async def call(self, command: str, kill_after_s: float | None = None) -> tuple[int, Any]:
        """(exit status, answer); killed calls have the status of the signal."""
        environment = self.host.environment(command, self.box, self.id, CALICO_NODE_SOCKET=str(self.host.socket))
        process = await asyncio.create_subprocess_exec(
            *(*DIE_WITH_US, "ip", "netns", "exec", self.host.name, str(self.host.plugins / "calico")),
            stdin=-1, stdout=-1, stderr=-1, env=environment,
        )  # fmt: skip
        work = asyncio.ensure_future(process.communicate(json.dumps(self.host.conf).encode()))
        try:
            await asyncio.wait({work}, timeout=kill_after_s)
        finally:
            if kill_after_s is not None or not work.done():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        out, err = await work
        status = process.returncode or 0
        self.log.append(f"{time.monotonic():.3f} {command} {status} {out.decode()[:200]} {err.decode()[-300:]}")
        return status, json.loads(out) if out.strip() else None

    async def step(self) -> None:
        """One decision."""
        deed = self.dice.choice(("add", "add", "add killed", "del", "del killed", "add twice", "add and del", "retry"))
        pause_s = self.dice.uniform(0.0005, 0.02)
        if deed == "add":
            self._note(*await self.call("ADD"))
        elif deed == "add killed":
            await self.call("ADD", pause_s)
            self.told = None
        elif deed == "del":
            await self.remove()
        elif deed == "del killed":
            self.told = None
            await self.call("DEL", pause_s)
        elif deed == "retry":
            await self.call("ADD", pause_s)
            self._note(*await self.call("ADD"))
        elif deed == "add twice":
            for status, answer in await asyncio.gather(self.call("ADD"), self.call("ADD")):
                self._note(status, answer)
        else:
            self.told = None
            await asyncio.gather(self.call("ADD"), self.call("DEL"))

    def _note(self, status: int, answer: Any) -> None:
        if status == 0:
            self.told = answer
        elif answer["code"] != TRY_AGAIN and "agent" not in answer["msg"]:  # else the agent was killed under it
            self.odd.append(answer)

    async def remove(self) -> None:
        """DEL until it succeeds, as runtimes do."""
        self.told = None
        async with asyncio.timeout(60):
            while (await self.call("DEL"))[0]:
                await asyncio.sleep(0.1)

    async def check(self) -> None:
        """What was told last is so."""
        if self.told is None:
            return
        address = self.told["ip4"]["ip"].partition("/")[0]
        links = json.loads(sh("ip", "-n", self.box.rpartition("/")[2], "-j", "addr"))
        found = {info["local"] for link in links for info in link["addr_info"] if link["ifname"] == "eth0"}
        stored = [endpoint for endpoint in await stored_endpoints(self.host) if endpoint.spec.container_id == self.id]
        devices = {endpoint.spec.interface_name for endpoint in stored}
        routed = [route for route in self.host.ip("route") if route.get("dev") in devices]
        assert (found >= {address}, [e.spec.ip_networks for e in stored], {route["dst"] for route in routed}) == (
            True,
            [[f"{address}/32"]],
            {address},
        ), self.story()

    def story(self) -> str:
        """The last calls and their answers."""
        return "\n".join((self.id, *self.log[-TOLD:]))


async def stored_endpoints(host: Host) -> Sequence[Any]:
    """As soon as etcd tells."""
    async with asyncio.timeout(STARTED_S):
        while True:
            with contextlib.suppress(DatastoreError):
                return (await host.client.list("WorkloadEndpoint")).items
            await asyncio.sleep(0.1)


async def keep_killing_etcd(host: Host, dice: random.Random) -> None:
    """It comes back at once, and nothing is lost but answers."""
    while True:
        await asyncio.sleep(dice.uniform(1.0, 8.0))
        host.etcd.kill()
        host.etcd.wait()
        host.start_etcd()


async def keep_killing(host: Host, dice: random.Random, agents: list[subprocess.Popen[str]]) -> None:
    """The agent lives for a few seconds at a time."""
    while True:
        await asyncio.sleep(dice.uniform(1.0, 4.0))
        agents[-1].kill()
        agents[-1].wait()
        await asyncio.sleep(dice.choice((0.0, 0.5)))
        agents.append(start_agent(host, True))


async def programmed(host: Host) -> None:
    """Until the agent that runs has programmed what is stored now."""
    revision = (await host.store.range(b"/none")).revision
    async with asyncio.timeout(STARTED_S):
        while True:
            if (await node_door.status(host.socket)).get("programmed_revision", 0) >= revision:
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("etcd_too", [False, True], ids=["agent", "agent and etcd"])
async def test_whatever_happened_the_last_call_counts(
    root: None, tmp_path: Path, request: pytest.FixtureRequest, etcd_too: bool
) -> None:
    missing = build_plugins(tmp_path)
    need(not missing, "gcc and libnghttp2-dev", missing)
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed} CALICO_STORM_S={STORM_S}")
    dice = random.Random(seed)
    host = Host(tmp_path, tmp_path)
    agents: list[subprocess.Popen[str]] = []
    try:
        await host.start()
        agents.append(start_agent(host, True))
        containers = [Container(host, random.Random(dice.random())) for _ in range(CONTAINERS)]
        end = time.monotonic() + STORM_S

        async def live(container: Container) -> None:
            while time.monotonic() < end:
                await container.step()
                if container.told and container.dice.random() < LOOKS:
                    await asyncio.sleep(AFTERMATH_S)
                    await container.check()

        work = [*map(live, containers), keep_killing(host, dice, agents)]
        work += [keep_killing_etcd(host, dice)] if etcd_too else []
        tasks = list(map(asyncio.ensure_future, work))
        try:
            await asyncio.gather(*tasks[:CONTAINERS])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if agents[-1].poll() is not None:  # killed, and its successor not started yet
            agents.append(start_agent(host, True))
        await programmed(host)
        await asyncio.sleep(SETTLED_S)
        for container in containers:
            await container.check()
        calls, odd = sum(len(c.log) for c in containers), [answer for c in containers for answer in c.odd]
        print(f"{calls} calls, {len(agents)} agents")
        assert len(odd) <= calls * ODD_SHARE, odd
        for container in containers:
            await container.remove()
        end = time.monotonic() + GONE_S
        while await host.problems() and time.monotonic() < end:
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLED_S)
        problems = await host.problems()
        assert problems == [], "\n".join(container.story() for container in containers)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        await host.close()

"""A real agent in a namespace with a real etcd: one endpoint here, one on another node, and a policy between them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from libcalico.datastore.contract import Put
from tests import node_door
from tests.netns.cni_host import NODE, Host, sh
from tests.netns.listing import NUMBERED
from tests.scale.bench_agent import endpoint, policy
from tests.scale.bench_cni import start_agent

WAIT_S = 60.0
OBJECTS = (
    endpoint(NODE, "one", "10.99.0.1", {"app": "one"}),
    endpoint("node-2", "two", "10.99.1.1", {"app": "two"}),
    policy("p", "app == 'one'", "app == 'two'"),
)


class Agent:
    """One agent on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """With a fresh process."""
        self.process = start_agent(self.host, True)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it says nothing."""
        return await node_door.status(self.host.socket)

    async def wait(self, what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Until its status meets a condition."""
        async with asyncio.timeout(WAIT_S):
            while True:
                status = await self.status()
                if status and condition(status):
                    return status
                assert self.process is not None and self.process.poll() is None, f"{what}: the agent has ended"
                await asyncio.sleep(0.05)

    def nft(self, *words: str) -> str:
        """Run nft in its namespace."""
        return sh("ip", "netns", "exec", self.host.name, "nft", *words)

    def table(self) -> str:
        """The kernel's table, without counters and the numbers behind sets' names."""
        return NUMBERED.sub(r"\1", self._listing())

    def _listing(self) -> str:
        return sh("ip", "netns", "exec", self.host.name, "nft", "-s", "list", "table", "inet", "calico", check=False)


def play(tmp_path: Path, scenario: Callable[[Agent], Awaitable[None]]) -> None:
    """A host with an endpoint, a remote one and a policy, and an agent that is not started yet."""

    async def run() -> None:
        host = Host(tmp_path, tmp_path)
        agent = Agent(host)
        try:
            await host.start()
            puts = tuple(Put(key.encode(), json.dumps(value).encode()) for key, value in OBJECTS)
            await host.store.txn((), puts)
            await scenario(agent)
        finally:
            if agent.process is not None:
                agent.kill()
            await host.close()

    asyncio.run(run())


def programmed(status: dict[str, Any]) -> bool:
    """Does it enforce the policy of its endpoint?"""
    return bool(status.get("endpoints") == 1 and status["programmed_revision"] > 0)

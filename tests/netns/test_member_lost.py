"""ADDs through a real agent while one of three etcd members is lost: request and watch go to the next one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.etcd.servers import Server, cluster, leader
from tests.netns.agent import Agent
from tests.netns.cni_host import Host, build_plugins

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

MOMENT_S = 3.0
"""For an ADD whose member was lost: 0.7 s until the next is asked, as long for the watch, and a busy machine."""
ELECTION_S = 3.0


class ClusterHost(Host):
    """A host that reaches three members."""

    def start_etcd(self) -> None:
        """All of them, on the caller's end of the veth."""
        address = urlsplit(self.endpoint).hostname
        self.members: list[Server] = cluster(self.directory)
        for member in self.members:
            member.url = member.url.replace("127.0.0.1", str(address))
            member.start(wait=False)
        for member in self.members:
            member.wait()
        self.endpoint = ",".join(member.url for member in self.members)
        process = self.members[0]._process
        assert process is not None
        self.etcd = process

    async def close(self) -> None:
        """With all members."""
        await super().close()
        for member in self.members:
            member.kill()


@pytest.mark.parametrize("loss", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("lost", ["leader", "asked"])
def test_adds_go_on(tmp_path: Path, loss: signal.Signals, lost: str) -> None:
    if missing := build_plugins(tmp_path):
        pytest.skip(missing)

    async def scenario() -> None:
        host = ClusterHost(tmp_path, tmp_path)
        agent = Agent(host)
        try:
            await host.start()
            agent.start()
            status = await agent.wait("start", lambda status: bool(status["in_sync"]))
            await host.ok("ADD", host.box(), "first")
            head = leader(host.members)
            asked = next(member for member in host.members if member.url == status["endpoint"])
            victim = head if lost == "leader" else asked
            victim.send(loss)
            begun = time.monotonic()
            await host.ok("ADD", host.box(), "second")
            took_s = time.monotonic() - begun
            assert took_s < MOMENT_S + (ELECTION_S if victim is head else 0), took_s
            begun = time.monotonic()
            await host.ok("ADD", host.box(), "third")
            assert time.monotonic() - begun < MOMENT_S
            await agent.wait("all programmed", lambda status: status["endpoints"] == 3)
        finally:
            if agent.process is not None:
                agent.kill()
            await host.close()

    asyncio.run(scenario())

"""A DEL while etcd is down, by plug-ins that find no agent: the agent that starts later finishes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libcalico.cni.finisher import Finisher
from libcalico.cni.unfinished import Unfinished
from libcalico.workload import locks
from libcalico.workload.locks import Locks, hold_netns
from tests.netns.cni_host import ID, AgentWithoutPolicy, Host, build_plugins, sh

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]


@pytest.fixture
async def host(root: None, tmp_path: Path) -> AsyncIterator[Host]:
    missing = build_plugins(tmp_path)
    if missing:
        pytest.skip(missing)
    made = Host(tmp_path, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def finish(host: Host) -> Finisher:
    """One look of an agent that has just started, and what it says then."""

    agent = AgentWithoutPolicy(host, Locks(hold_netns))
    kept = Unfinished(str(host.directory))
    finisher = Finisher(agent, kept, lambda: True)
    try:
        await finisher.look()
    finally:
        agent.attacher.close()
    return finisher


async def test_it_is_finished_once_the_interface_is_gone(host: Host) -> None:
    box = host.box()
    await host.ok("ADD", box)
    host.etcd.kill()
    host.etcd.wait()
    code, out, err = await host.run("DEL", box)
    assert (code, out["code"]) == (1, 11) and "the agent finishes this DEL" in err
    host.start_etcd()
    before = await host.problems()
    waiting = await finish(host)
    assert "waits for the end of host interface cali" in waiting.problems()[1]
    assert await host.problems() == before, "the container lives: nothing is touched"
    sh("ip", "netns", "del", host.spaces.pop())
    async with asyncio.timeout(10):  # the kernel takes its interfaces down some time later
        while host.interfaces():
            await asyncio.sleep(0.05)
    assert [line for line in await host.problems() if line.startswith("endpoint")]
    assert len(await finish(host)) == 0
    assert await host.problems() == []


async def test_an_add_without_an_agent_cancels_it(host: Host) -> None:
    """With the same id in a new namespace, as after `podman start`."""
    await host.ok("ADD", host.box())
    host.etcd.kill()
    host.etcd.wait()
    assert (await host.run("DEL", ""))[0] == 1
    host.start_etcd()
    sh("ip", "netns", "del", host.spaces.pop())
    box = host.box()
    shown = await host.ok("ADD", box)
    assert len(await finish(host)) == 0
    assert host.routes() == [shown["ip4"]["ip"].removesuffix("/32")]
    await host.ok("DEL", box)
    assert await host.problems() == []


async def test_a_container_whose_add_is_at_work_elsewhere_is_left_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plug-in that found no agent has an address, and no interface or endpoint yet."""
    host.etcd.kill()
    host.etcd.wait()
    assert (await host.run("DEL", ""))[0] == 1
    host.start_etcd()
    monkeypatch.setattr(locks, "HOLD_TIMEOUT_S", 0.2)
    async with hold_netns("", f"calico {ID}"):
        waiting = await finish(host)
        assert "another call has been at work at container" in waiting.problems()[1]
    assert len(await finish(host)) == 0

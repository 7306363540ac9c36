"""`dcos-calico-confd` beside the real agent: one datastore session a host while the agent is up, and none is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from calico_bird.testing import node, resource
from libcalico.datastore.contract import Delete
from libcalico.model.keys import AffinityKey, ResourceKey, key_path
from tests.netns.agent import Agent, play
from tests.netns.bird_host import Bird, Confd, until
from tests.netns.cni_host import NODE
from tests.netns.spaces import Space, sh

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.slow]
ETCD_PORT = 2379
PEER = """router id 10.77.0.9;
protocol device {}
protocol bgp host { local as 65009; neighbor 10.77.0.1 as 64512; multihop; ipv4 { import all; export all; }; }
"""


async def _put(agent: Agent, *objects: dict[str, Any]) -> None:
    for one in objects:
        path = key_path(ResourceKey(one["kind"], one["metadata"]["name"]))
        await agent.host.store.put(path.encode(), json.dumps(one).encode())


async def _block(agent: Agent, block: str, there: bool = True) -> None:
    path = key_path(AffinityKey(NODE, block)).encode()
    if there:
        await agent.host.store.put(path, b'{"state":"confirmed"}')
    else:
        await agent.host.store.txn([], [Delete(path)])


def _wire(name: str, other: Space) -> None:
    sh("ip", "-n", name, "link", "add", "bgp0", "type", "veth", "peer", "name", "bgp0", "netns", other.name)
    for space, place in ((name, 1), (other.name, 9)):
        sh("ip", "-n", space, "addr", "add", f"10.77.0.{place}/24", "dev", "bgp0")
        sh("ip", "-n", space, "link", "set", "bgp0", "up")


def test_the_agents_session_is_the_hosts_only_one_and_a_switch_drops_nothing(other: Space, tmp_path: Path) -> None:
    router = Bird("router", other.name, tmp_path)
    router.file.write_text(PEER)

    async def scenario(agent: Agent) -> None:
        _wire(agent.host.name, other)
        bird = Bird("host", agent.host.name, tmp_path)
        await _put(agent, node(NODE, "10.77.0.1/24"), resource("BGPPeer", "router", peerIP="10.77.0.9", asNumber=65009))
        confd = Confd(bird, NODE, agent.host.endpoint, CALICO_NODE_SOCKET=str(agent.host.socket))
        try:
            await _switches(agent, bird, confd, router)
        finally:
            confd.kill()
            bird.kill()
            router.kill()

    play(tmp_path, scenario)


async def _switches(agent: Agent, bird: Bird, confd: Confd, router: Bird) -> None:
    await until(bird.file.exists, "confd works without an agent")
    assert confd.connections(ETCD_PORT) == 1
    bird.start()
    router.start()
    await until(bird.established, "a session")
    before = await bird.established()
    for block in ("10.88.1.0/26", "10.88.2.0/26"):
        await _to_the_agent_and_back(agent, bird, confd, block)
    assert await bird.established() == before


async def _to_the_agent_and_back(agent: Agent, bird: Bird, confd: Confd, block: str) -> None:
    inode = bird.file.stat().st_ino
    agent.start()
    await until(lambda: confd.connections(ETCD_PORT) == 0, "the agent serves")
    assert bird.file.stat().st_ino == inode, "an equal file was written again"
    await _block(agent, block)
    await until(lambda: _attracts(bird, block), "a block by the agent")
    assert confd.connections(ETCD_PORT) == 0
    inode = bird.file.stat().st_ino
    agent.kill()
    await until(lambda: confd.connections(ETCD_PORT) == 1, "a session of its own")
    await asyncio.sleep(0.5)
    assert bird.file.stat().st_ino == inode, "an equal file was written again"
    await _block(agent, block, there=False)
    await until(lambda: not _attracts(bird, block), "by its own session")


def _attracts(bird: Bird, block: str) -> bool:
    return f"route {block} blackhole" in bird.file.read_text()

"""CNI calls on a real agent: whatever others did before, a container's own policy holds when its ADD answers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libcalico.model.codec import from_input
from libcalico.testing.machine import need
from tests import node_door
from tests.netns.cni_host import Host, build_plugins
from tests.scale.bench_cni import start_agent

ANSWERER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 6000))
print("ready", flush=True)
while True:
    _, peer = server.recvfrom(9)
    server.sendto(b"back", peer)
"""
ASKER = """
import socket, sys
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.bind(("", 5000))
asker.settimeout(float(sys.argv[2]))
asker.sendto(b"hi", (sys.argv[1], 6000))
try:
    print(asker.recv(9).decode())
except TimeoutError:
    print("silence")
"""
ANSWER_S, SILENCE_S = 20.0, 1.5
MUTE = {"role": "mute"}


@pytest.fixture
async def host(root: None, tmp_path: Path) -> AsyncIterator[Host]:
    missing = build_plugins(tmp_path)
    need(not missing, "gcc and libnghttp2-dev", missing)
    made = Host(tmp_path, tmp_path)
    try:
        await made.start()
        spec = {"selector": "role == 'mute'", "types": ["Ingress", "Egress"]}
        body = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "mute"}}
        await made.client.create(from_input({**body, "spec": spec}))
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def running_agent(host: Host) -> AsyncIterator[None]:
    """It is killed at the end."""
    host.socket.unlink(missing_ok=True)
    agent = start_agent(host, True)
    try:
        async with asyncio.timeout(60):
            while not (await node_door.status(host.socket)).get("in_sync"):
                await asyncio.sleep(0.05)
        yield
    finally:
        agent.kill()
        agent.wait()


def conf(labels: dict[str, str], ip: str = "") -> dict[str, Any]:
    pairs = [{"key": key, "value": value} for key, value in labels.items()]
    mesos = {"org.apache.mesos": {"network_info": {"labels": {"labels": pairs}}}}
    return {"args": {**mesos, "cni": {"ips": [ip] if ip else []}}}


async def add(host: Host, box: str, container: str, labels: dict[str, str] | None = None, ip: str = "") -> str:
    shown = await host.ok("ADD", box, container, **conf(labels or {}, ip))
    return str(shown["ip4"]["ip"].removesuffix("/32"))


def inside(box: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    argv = ["ip", "netns", "exec", box.rpartition("/")[2], sys.executable, "-c", code, *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def answering(box: str) -> Any:
    server = inside(box, ANSWERER)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    yield
    server.kill()
    server.communicate()


def answers(box: str, address: str) -> bool:
    """A question that must be answered."""
    return inside(box, ASKER, address, str(ANSWER_S)).communicate()[0] == "back\n"


def is_silent(box: str, address: str) -> bool:
    """Questions that must not be answered."""
    return {inside(box, ASKER, address, str(SILENCE_S)).communicate()[0] for _ in range(2)} == {"silence\n"}


async def unseen_departure(host: Host) -> tuple[str, str]:
    """A peer, and an address with which it has a flow; its owner went while no agent was there to see it."""
    peer, old = host.box(), host.box()
    async with running_agent(host):
        await add(host, peer, "peer")
        address = await add(host, old, "old")
        with answering(old):
            assert answers(peer, address)
    await host.ok("DEL", old, "old")
    return peer, address


async def test_an_address_in_new_hands_has_no_flows_of_its_former_owner(host: Host) -> None:
    peer, address = await unseen_departure(host)
    new = host.box()
    async with running_agent(host):
        await add(host, new, "new", MUTE, address)
        with answering(new):
            assert is_silent(peer, address)


async def test_a_container_that_is_wired_up_without_an_agent_has_no_flows_of_a_former_owner(host: Host) -> None:
    peer, address = await unseen_departure(host)
    new = host.box()
    await add(host, new, "new", MUTE, address)
    with answering(new):
        assert is_silent(peer, address)
        async with running_agent(host):
            await asyncio.sleep(1)
            assert is_silent(peer, address)


async def test_containers_that_share_eleven_characters_in_two_namespaces(host: Host) -> None:
    """Each has an interface, and a policy, of its own."""
    one, two, third = host.box(), host.box(), host.box()
    async with running_agent(host):
        address = await add(host, third, "third")
        await add(host, one, "frontend-web1", {"org.projectcalico.namespace": "a"})
        await add(host, two, "frontend-web2", {"org.projectcalico.namespace": "b", **MUTE})
        assert len(host.interfaces()) == 3
        with answering(third):
            assert answers(one, address)
            assert is_silent(two, address)
        await host.ok("DEL", two, "frontend-web2", **conf({"org.projectcalico.namespace": "b"}))
        with answering(third):
            assert answers(one, address)

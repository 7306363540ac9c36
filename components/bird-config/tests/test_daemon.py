"""The daemon against a datastore in memory, a checker that refuses on demand, and a BIRD that counts its commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from calico_bird import daemon as daemon_module
from calico_bird.daemon import Daemon, Settings
from calico_bird.main import settings, uses_bird
from calico_bird.serving import metrics_address
from calico_bird.sources import read_secrets, read_statuses
from calico_bird.testing import node, resource
from libcalico.bird.confd_status import ConfdStatus, read_confd_status
from libcalico.datastore.contract import Delete
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Syncer
from libcalico.errors import BadData, Unavailable
from libcalico.model.keys import AffinityKey, ResourceKey, key_path, routing_prefixes

H1, H2 = node("h1", "10.77.0.1/24"), node("h2", "10.77.0.2/24")
EMPTY = ConfdStatus(node="", pid=0, updated="", source="", file="")
CHECKER = '#!/bin/sh\nif grep -q 65666 "$3"; then echo "bird: $3:7:9 refused for a test" >&2; exit 1; fi\n'


async def no_agent() -> AsyncIterator[Batch]:
    raise Unavailable("there is no agent")
    yield


class World:
    """What the daemon works on."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryDatastore()
        checker = folder / "bird"
        checker.write_text(CHECKER)
        checker.chmod(0o755)
        self.settings = Settings(
            node="h1",
            file=folder / "bird.cfg",
            socket=str(folder / "bird.ctl"),
            bird=str(checker),
            secrets=folder / "secrets",
            statuses=folder / "statuses",
            report=str(folder / "run" / "confd-status.json"),
        )
        self.commands: list[str] = []
        self.daemon = Daemon(self.settings, no_agent, Syncer(self.store, routing_prefixes("h1")).run)

    async def put(self, *objects: dict[str, Any]) -> None:
        for one in objects:
            key = ResourceKey(one["kind"], one["metadata"]["name"])
            await self.store.put(key_path(key).encode(), json.dumps(one).encode())

    def text(self) -> str:
        return self.settings.file.read_text() if self.settings.file.exists() else ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        self.commands.append((await reader.readline()).decode().strip())
        writer.write(b"0002-Reading configuration from x\n0003 Reconfigured\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def bird(self) -> AsyncIterator[None]:
        async with await asyncio.start_unix_server(self.serve, self.settings.socket):
            yield

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.daemon.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(daemon_module, "FILES_EVERY_S", 0.2)
    monkeypatch.setattr(daemon_module, "QUIET_S", 0.02)
    return World(tmp_path)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_file_follows_the_datastore_and_bird_follows_the_file(world: World) -> None:
    await world.put(H1)
    async with world.bird(), world.running():
        await _until(lambda: "define node_as" in world.text() and world.commands == ["configure"])
        await world.put(H2)
        await _until(lambda: "protocol bgp Mesh_10_77_0_2 " in world.text() and len(world.commands) == 2)
        await world.store.put(key_path(AffinityKey("h1", "10.88.1.0/26")).encode(), b'{"state":"confirmed"}')
        await _until(lambda: "route 10.88.1.0/26 blackhole;" in world.text() and len(world.commands) == 3)
        before = world.settings.file.stat().st_ino
        await world.put(H2, resource("IPPool", "odd", cidr="none"))
        await asyncio.sleep(0.5)
        assert (world.settings.file.stat().st_ino, len(world.commands)) == (before, 3)


async def test_a_refused_configuration_leaves_the_last_good_one(world: World) -> None:
    await world.put(H1, H2)
    async with world.bird(), world.running():
        await _until(lambda: len(world.commands) == 1)
        good = world.text()
        await world.put(resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65666))
        await _until(lambda: "refused for a test" in world.daemon.report.refused)
        assert world.text() == good
        await world.put(resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65667))
        await _until(lambda: "65667" in world.text() and not world.daemon.report.refused)


async def test_the_status_file_says_what_is_refused_and_left_out(world: World) -> None:
    await world.put(H1, H2, node("h3", "10.77.0.2/24"))
    async with world.bird(), world.running():
        await _until(lambda: (_status(world) or EMPTY).bird == "reconfigured")
        status = _status(world)
        assert status is not None
        assert (status.node, status.pid, status.source, status.sessions) == ("h1", os.getpid(), "datastore", 1)
        assert (status.refused, status.failure, status.source_reason) == ("", "", "there is no agent")
        (problem,) = status.problems
        assert problem.subject == "Node(h3)" and "10.77.0.2 is that of Node(h2), too" in problem.reason
        await world.put(resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65666))
        await _until(lambda: "refused for a test" in (_status(world) or EMPTY).refused)
        figures = world.daemon.figures()
        assert (figures["confd_refused"], figures["confd_refusals"], figures["confd_writes"]) == (1, 1, 1)
        world.settings.file.parent.joinpath("bird").unlink()
        await world.put(resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65667))
        await _until(lambda: "check BIRD's configuration" in (_status(world) or EMPTY).failure)
        assert world.daemon.figures()["confd_failing"] == 1


async def test_a_status_file_that_cannot_be_written_costs_only_itself(world: World) -> None:
    Path(world.settings.report).parent.write_text("no folder")
    await world.put(H1)
    async with world.bird(), world.running():
        await _until(lambda: world.commands == ["configure"])


async def test_once(world: World) -> None:
    await world.put(H1)
    async with world.bird():
        assert await world.daemon.run_once()
    assert "define node_as" in world.text()
    assert world.commands == ["configure"]
    await world.put(resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65666))
    assert not await Daemon(world.settings, no_agent, Syncer(world.store, routing_prefixes("h1")).run).run_once()
    assert "65666" not in world.text()


def _status(world: World) -> ConfdStatus | None:
    return read_confd_status(world.settings.report)


async def test_a_bird_that_comes_later_is_asked_to_read_the_file(world: World) -> None:
    await world.put(H1)
    async with world.running():
        await _until(world.text)
        async with world.bird():
            await _until(lambda: world.commands == ["configure"])


async def test_a_secret_that_comes_later_enables_its_session(world: World) -> None:
    password = {"secretKeyRef": {"name": "tor", "key": "md5"}}
    await world.put(H1, resource("BGPPeer", "r", peerIP="198.51.100.1", asNumber=65100, password=password))
    async with world.running():
        await _until(lambda: "disabled yes;" in world.text())
        (world.settings.secrets / "tor").mkdir(parents=True)
        (world.settings.secrets / "tor" / "md5").write_text("not a real one\n")
        await _until(lambda: 'password "not a real one";' in world.text())
        assert "disabled" not in world.text()


async def test_a_local_workload_is_a_peer_while_felix_names_it(world: World) -> None:
    await world.put(H1, resource("BGPPeer", "inside", localWorkloadSelector="all()", asNumber=65200))
    async with world.running():
        await _until(world.text)
        world.settings.statuses.mkdir()
        status = world.settings.statuses / "w1"
        status.write_text('{"ipv4Nets":["10.88.1.7/32"],"bgpPeerName":"inside"}')
        await _until(lambda: "protocol bgp Local_Workload_10_88_1_7 " in world.text())
        status.unlink()
        await _until(lambda: "Local_Workload" not in world.text())


async def test_without_the_node_object_a_file_that_stands_is_kept(world: World) -> None:
    await world.put(H1, H2)
    async with world.running():
        await _until(lambda: "Mesh_10_77_0_2" in world.text())
        good = world.text()
        path = key_path(ResourceKey("Node", "h1")).encode()
        await world.store.txn([], [Delete(path)])
        await asyncio.sleep(0.5)
        assert world.text() == good


async def test_without_the_node_object_and_a_file_there_are_no_sessions(world: World) -> None:
    await world.put(H2)
    async with world.running():
        await _until(lambda: "define node_as" in world.text())
        assert "protocol bgp" not in world.text()


def test_secrets_are_files_of_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    (folder / "good").mkdir(parents=True)
    (folder / "good" / "key").write_text("x y\n")
    (folder / "good" / "binary").write_bytes(b"\xff")
    (folder / "good" / "large").write_text("x" * 5000)
    (tmp_path / "outside").write_text("never")
    wanted = [
        ("good", "key"), ("good", "binary"), ("good", "large"), ("..", "outside"), ("good", "../../outside"),
        ("", "key"), ("good", ""), ("good", "."), ("x" * 5000, "key"), ("a\0b", "key"),
        ("gone", "key"), ("\ud800", "key"),
    ]  # fmt: skip
    assert read_secrets(folder, wanted) == {("good", "key"): "x y"}


def test_statuses(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("{}")
    (tmp_path / ".hidden").write_text("{}")
    (tmp_path / "folder").mkdir()
    assert read_statuses(tmp_path) == {"one": b"{}"}
    assert read_statuses(tmp_path / "gone") == {}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CALICO_NODENAME_FILE": "/proc/none"}, "NODENAME is not set, and /proc/none names no node yet: set it"),
        ({"CALICO_NETWORKING_BACKEND": "brid"}, 'CALICO_NETWORKING_BACKEND is "brid": set it to bird, vxlan or none'),
        ({"CALICO_CONFD_METRICS_PORT": "70000"}, 'CALICO_CONFD_METRICS_PORT is "70000": set it to a port from 1'),
        ({"CALICO_CONFD_METRICS_PORT": "-1"}, 'CALICO_CONFD_METRICS_PORT is "-1"'),
        ({"CALICO_CONFD_METRICS_PORT": "9" * 65536}, "CALICO_CONFD_METRICS_PORT is"),
    ],
)
def test_variables_that_cannot_be_used(variables: dict[str, str], words: str) -> None:
    with pytest.raises(BadData) as failure:
        assert uses_bird(variables)
        metrics_address(variables)
        settings(variables)
    assert words in str(failure.value) and len(str(failure.value)) < 500


def test_the_nodename_file_names_the_node_when_the_environment_does_not(tmp_path: Path) -> None:
    (tmp_path / "nodename").write_text("h2\n")
    variables = {"CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    assert settings(variables).node == "h2" and settings({**variables, "NODENAME": "h1"}).node == "h1"


def test_settings() -> None:
    assert [uses_bird({"CALICO_NETWORKING_BACKEND": one}) for one in ("", "bird", "vxlan", "none")] == [1, 1, 0, 0]
    assert metrics_address({"CALICO_CONFD_METRICS_PORT": "9095"}) == ("localhost", 9095)
    assert metrics_address({}) is None
    found = settings({"NODENAME": "h1", "CALICO_ROUTER_ID": "hash"})
    assert (found.node, found.router_id) == ("h1", "hash")
    assert str(found.file) == "/etc/calico/confd/config/bird.cfg"

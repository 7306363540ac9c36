"""A socket that was removed is served again, and the calls that came by the former one end in peace."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from calico_felix import sockets
from calico_felix.sockets import SocketKeeper
from libcalico.errors import Unavailable
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_channel


class Workloads(stubs.WorkloadsServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def Cni(self, request: Any, _context: Any) -> Any:
        if request.stdin:
            self.reached.set()
            await self.let_go.wait()
        return pb.CniReply(stdout=b"done")


def serving(workloads: Workloads) -> Callable[[grpc.aio.Server], None]:
    return lambda server: stubs.add_WorkloadsServicer_to_server(workloads, server)


class Served:
    """A keeper with the node API's socket, and its task."""

    def __init__(self, directory: Path) -> None:
        self.node = str(directory / "node.sock")
        self.workloads = Workloads()
        self.keeper = SocketKeeper()

    async def start(self) -> None:
        await self.keeper.serve_node(self.node, serving(self.workloads))
        self.task = asyncio.ensure_future(self.keeper.watch())

    async def call(self, stdin: bytes = b"") -> bytes:
        async with open_channel(self.node) as channel:
            reply = await stubs.WorkloadsStub(channel).Cni(pb.CniRequest(stdin=stdin), timeout=10)
        return bytes(reply.stdout)

    async def until_served(self) -> None:
        async with asyncio.timeout(10):
            while not os.path.exists(self.node):
                await asyncio.sleep(0.01)


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(sockets, "LOOK_S", 0.05)
    (tmp_path / "run").mkdir()
    made = Served(tmp_path / "run")
    await made.start()
    yield made
    made.task.cancel()
    await made.keeper.close(0)


@pytest.mark.parametrize("folder_too", [False, True])
async def test_removed_sockets_are_served_again(
    served: Served, folder_too: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        os.unlink(served.node)
        if folder_too:
            os.rmdir(os.path.dirname(served.node))
        await served.until_served()
        assert await served.call() == b"done"
        assert os.stat(served.node).st_mode & 0o777 == 0o600
        await asyncio.sleep(0.2)  # the former server has ended, and has not taken the path with it
        assert await served.call() == b"done"
    assert "was removed: it is served again" in caplog.text


async def test_a_call_that_came_by_the_former_socket_ends_in_peace(served: Served) -> None:
    call = asyncio.ensure_future(served.call(b"wait"))
    await served.workloads.reached.wait()
    os.unlink(served.node)
    await served.until_served()
    assert await served.call() == b"done"
    served.workloads.let_go.set()
    assert await call == b"done"


async def test_it_is_served_again_while_a_call_by_the_former_socket_lasts(served: Served) -> None:
    call = asyncio.ensure_future(served.call(b"wait"))
    await served.workloads.reached.wait()
    for _ in range(3):
        os.unlink(served.node)
        await served.until_served()
        assert await served.call() == b"done"
    served.workloads.let_go.set()
    assert await call == b"done"


async def test_a_directory_in_its_place_is_a_problem_until_it_goes(served: Served) -> None:
    os.unlink(served.node)
    os.mkdir(served.node)
    async with asyncio.timeout(10):
        while not served.keeper.problems():
            await asyncio.sleep(0.01)
    assert served.node in served.keeper.problems()[0]
    await asyncio.sleep(0.3)
    async with asyncio.timeout(10):  # a try leaves nothing: between two of them there is no third name
        while sorted(os.listdir(os.path.dirname(served.node))) != ["node.sock"]:
            await asyncio.sleep(0.01)
    os.rmdir(served.node)
    await served.until_served()
    assert await served.call() == b"done" and not served.keeper.problems()


@pytest.mark.parametrize("kind", ["a directory", "below a file"])
async def test_a_path_that_cannot_be_had_at_the_start_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(sockets, "LOOK_S", 0.05)
    made = Served(tmp_path)
    obstacle = tmp_path / "there"
    made.node = str(obstacle if kind == "a directory" else obstacle / "node.sock")
    if kind == "a directory":
        obstacle.mkdir()
    else:
        obstacle.write_text("")
    await made.start()
    try:
        assert made.node in made.keeper.problems()[0]
        await asyncio.sleep(0.2)
        assert caplog.text.count("tried until it works") == 1
        if kind == "a directory":
            obstacle.rmdir()
        else:
            obstacle.unlink()
        await made.until_served()
        assert await made.call() == b"done"
        assert not made.keeper.problems()
    finally:
        made.task.cancel()
        await made.keeper.close(0)


async def test_without_a_path_there_is_no_socket(tmp_path: Path) -> None:
    keeper = SocketKeeper()
    await keeper.serve_node("", serving(Workloads()))
    await keeper.close(0)
    assert not keeper.problems()


async def test_what_cannot_be_served_again_is_said_once_and_tried_on(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    other = SocketKeeper()
    os.unlink(served.node)
    with caplog.at_level(logging.ERROR):
        await other.serve_node(served.node, serving(Workloads()))
        await asyncio.sleep(0.5)
    assert caplog.text.count("another process serves this socket") == 1
    await other.close(0)
    await served.until_served()
    assert await served.call() == b"done"


async def test_a_socket_with_a_listener_is_refused_and_an_end_leaves_none(served: Served) -> None:
    with pytest.raises(Unavailable, match="another process serves this socket"):
        await SocketKeeper().serve_node(served.node, serving(Workloads()))
    served.task.cancel()
    await served.keeper.close(0)
    assert os.listdir(os.path.dirname(served.node)) == []

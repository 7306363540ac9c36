"""The agent's wiring, as far as it can be seen without a kernel."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from calico_felix.daemon import Daemon, Sources, _never_ending
from calico_felix.debug import DebugService
from calico_felix.node_api import LateWorkloads
from calico_felix.parameters import PARAMETERS
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import Bug
from libcalico.obs.supervisor import Supervisor
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_channel, open_server

LONG_S = 10.0
"""Who has to wait fails after this time."""


def daemon_at(path: str) -> Daemon:
    configuration = Configuration(PARAMETERS)
    configuration.load_environment({"FELIX_NODESOCKET": path}, "FELIX_")
    configuration.resolve()
    return Daemon(Sources("here", configuration, MemoryDatastore(), Supervisor()))


async def until_it_waits(daemon: Daemon) -> None:
    async with asyncio.timeout(LONG_S):
        while not daemon.settings.waiting_for:
            await asyncio.sleep(0.01)


async def test_an_agent_that_waits_says_for_what(tmp_path: Path) -> None:
    path = str(tmp_path / "node.sock")
    daemon = daemon_at(path)
    work = asyncio.ensure_future(daemon.run())
    await until_it_waits(daemon)
    reason = "waiting: the datastore is not initialised (ClusterInformation default is missing)"
    async with open_channel(path) as channel:
        debug = stubs.DebugStub(channel)
        assert [list(part.lines) async for part in debug.Problems(pb.ProblemsRequest())] == [[reason]]
        status = await stubs.NodeStub(channel).Status(pb.StatusRequest())
        assert (status.follows, status.connected, status.reason) == (False, False, reason)
        assert (status.in_sync, status.programmed_revision, list(status.pending)) == (False, 0, [])
        assert status.figures["felix_uptime_seconds"] > 0 and "felix_routes" not in status.figures
        rows = [list(row.cells) async for part in debug.Config(pb.ConfigRequest()) for row in part.rows]
        assert rows[0] == ["PARAMETER", "VALUE", "SOURCE"] and ["NodeSocket", path, "environment"] in rows
        for call in (
            debug.Pending(pb.PendingRequest()),
            debug.Dirty(pb.DirtyRequest()),
            debug.Show(pb.ShowRequest(kind="endpoints")),
            debug.Table(pb.TableRequest()),
            debug.Trace(pb.TraceRequest(object="Profile(p)")),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="nothing is programmed by this agent yet") as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError, match="nothing is programmed by this agent yet"):
            await debug.Resync(pb.ResyncRequest())
    work.cancel()
    await asyncio.wait({work})
    assert not os.path.exists(path)


async def test_an_agent_that_waits_attaches_nothing_and_says_so(tmp_path: Path) -> None:
    """The code sends the CNI program to its fallback."""
    path = str(tmp_path / "node.sock")
    daemon = daemon_at(path)
    work = asyncio.ensure_future(daemon.run())
    await until_it_waits(daemon)
    async with open_channel(path) as channel:
        workloads = stubs.WorkloadsStub(channel)
        for call in (workloads.Cni(pb.CniRequest()), workloads.Attach(pb.AttachRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    work.cancel()
    await asyncio.wait({work})


async def test_workloads_are_attached_from_when_the_agent_can(tmp_path: Path) -> None:
    class Workloads(stubs.WorkloadsServicer):  # type: ignore[misc]
        async def Cni(self, request: pb.CniRequest, _context: object) -> pb.CniReply:
            return pb.CniReply(stdout=request.stdin)

    late, path = LateWorkloads(), str(tmp_path / "node.sock")
    server = open_server(path)
    server.add_generic_rpc_handlers((late,))
    await server.start()
    async with open_channel(path) as channel:
        call = stubs.WorkloadsStub(channel).Cni
        with pytest.raises(grpc.aio.AioRpcError):
            await call(pb.CniRequest(stdin=b"x"))
        late.open(Workloads())
        assert (await call(pb.CniRequest(stdin=b"x"))).stdout == b"x"
    await server.stop(0)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("", "^show one of endpoints, policies, sets, routes, links$"),
        ("polcies", "^there is no 'polcies' to show; show one of endpoints, policies, "),
    ],
)
async def test_what_can_be_shown_is_listed(tmp_path: Path, kind: str, answer: str) -> None:
    daemon, path = daemon_at(""), str(tmp_path / "node.sock")
    server = open_server(path)
    stubs.add_DebugServicer_to_server(DebugService(daemon.report), server)
    await server.start()
    async with open_channel(path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.DebugStub(channel).Show(pb.ShowRequest(kind=kind)).read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert re.search(answer, caught.value.details() or "")
    await server.stop(0)


async def test_a_signal_ends_the_agent_and_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    daemon = daemon_at(str(tmp_path / "node.sock"))
    work = asyncio.ensure_future(daemon.run())
    await until_it_waits(daemon)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(LONG_S):
        await work
    assert "stopping; what is programmed stays in force" in caplog.text


async def test_a_background_task_that_ends_ends_the_agent() -> None:
    async def nothing() -> None:
        return

    with pytest.raises(Bug, match="the task links has ended"):
        await _never_ending("links", nothing)

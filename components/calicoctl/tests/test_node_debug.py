"""`calicoctl node debug` against a server that answers as an agent does, and against none."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calicoctl import command_line
from calicoctl.commands.node_debug import COMMANDS
from calicoctl.main import main
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs

NOT_YET = "nothing is programmed by this agent yet"


class Node(stubs.NodeServicer):  # type: ignore[misc]
    def Status(self, _request: Any, _context: Any) -> Any:
        figures = {"felix_programmed_revision": 28, "felix_last_apply_seconds": 0.003161, "felix_newer_figure": 1}
        return pb.StatusReply(node="a1", follows=True, connected=True, endpoint="http://m1:2379", figures=figures)


class Debug(stubs.DebugServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.resyncs = 0

    def Config(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield pb.Rows(rows=[pb.Row(cells=["PARAMETER", "VALUE", "SOURCE"])])
        yield pb.Rows(rows=[pb.Row(cells=["VXLANPort", "4789", "default"])], notes=["a warning"])

    def Show(self, request: Any, context: Any) -> Iterator[Any]:
        if request.kind != "links":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "show one of links")
        yield pb.Rows(rows=[pb.Row(cells=["LINK", "INDEX"]), pb.Row(cells=["eth0", "2"])])

    def Pending(self, _request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, NOT_YET)
        yield pb.Lines()

    def Problems(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield from ()

    def Table(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield pb.Text(text="add table ")
        yield pb.Text(text="inet calico\n")

    def Trace(self, request: Any, _context: Any) -> Iterator[Any]:
        yield pb.Lines(lines=[f"{request.object}: no problem"])

    def Resync(self, _request: Any, _context: Any) -> Any:
        self.resyncs += 1
        return pb.ResyncReply()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Debug]:
    """Its socket is in CALICO_NODE_SOCKET."""
    server = grpc.server(ThreadPoolExecutor(2))
    path, debug = str(tmp_path / "node.sock"), Debug()
    stubs.add_NodeServicer_to_server(Node(), server)
    stubs.add_DebugServicer_to_server(debug, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    monkeypatch.setenv("CALICO_NODE_SOCKET", path)
    yield debug
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        (["config"], 0, "PARAMETER  VALUE  SOURCE\nVXLANPort  4789   default\na warning\n", ""),
        (["show", "links"], 0, "LINK  INDEX\neth0  2\n", ""),
        (["show"], 1, "", "show one of links\n"),
        (["show", "lniks"], 1, "", "show one of links\n"),
        (["pending"], 1, "", f"{NOT_YET}\n"),
        (["problems"], 0, "nothing\n", ""),
        (["dirty"], 1, "", "the agent at socket {socket} is of a release that has no 'dirty'\n"),
        (["table"], 0, "add table inet calico\n", ""),
        (["trace", "Profile(p)"], 0, "Profile(p): no problem\n", ""),
        (["trace"], 1, "", "name the object to trace, as show and problems spell it: for example 'Profile(calico)'\n"),
        (["resync"], 0, "the kernel's state is read and written again\n", ""),
        (["status", "more"], 1, "", "status takes no argument, and 'more' is one\n"),
        (["statsu"], 1, "", f"there is no command 'statsu'; commands: {', '.join(sorted(COMMANDS))}\n"),
    ],
)
def test_answers(
    agent: Debug, capsys: pytest.CaptureFixture[str], words: list[str], status: int, out: str, err: str
) -> None:
    assert main(["node", "debug", *words]) == status
    captured = capsys.readouterr()
    assert captured.out == out and captured.err == err.format(socket=os.environ["CALICO_NODE_SOCKET"])
    assert agent.resyncs == (words == ["resync"])


def test_status_has_facts_and_the_figures_that_this_release_knows(
    agent: Debug, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "debug", "status"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "node": "a1", "in_sync": True, "connected": True, "endpoint": "http://m1:2379", "reason": "",
        "programmed_revision": 28, "last_apply_ms": 3.16,
    }  # fmt: skip


def test_an_agent_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.sock"
    assert main(["node", "debug", "status", f"--socket={path}"]) == 1
    wanted = f"no agent answers at socket {path} (No such file or directory): start it: systemctl start calico-felix\n"
    assert capsys.readouterr().err == wanted
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(path))
    assert main(["node", "debug", "status", f"--socket={path}"]) == 1
    assert "(Connection refused): start it" in capsys.readouterr().err


def test_only_root_may_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "closed" / "node.sock"
    path.parent.mkdir(mode=0o700)
    statuses = []

    def ask() -> None:
        if os.geteuid() == 0:
            _become_nobody()
        else:
            path.parent.chmod(0)
        statuses.append(main(["node", "debug", "status", f"--socket={path}"]))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    path.parent.chmod(0o700)
    assert statuses == [1]
    assert capsys.readouterr().err == f"cannot ask the agent at socket {path}: only root may: try it with sudo\n"


def test_help_lists_every_command() -> None:
    for command in COMMANDS:
        assert f"\n  {command} " in command_line.COMMANDS["node debug"]
    assert [f"node {name}" for name in command_line.NODE] == [
        name for name in command_line.COMMANDS if name.startswith("node")
    ]


def _become_nobody() -> None:
    """The calling thread alone: the kernel keeps users by thread (setfsuid(2))."""
    import ctypes

    ctypes.CDLL(None).setfsuid(65534)

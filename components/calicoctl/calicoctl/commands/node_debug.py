"""node debug: what the agent of this host believes, asked over its socket (docs/howto/debug.md).

gRPC is loaded here and by no other command that needs no datastore."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from calicoctl.failures import CommandFailed
from libcalico.conventions import NODE_SOCKET
from libcalico.obs.figures import status_of
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_channel
from libcalico.text import shown, table

ANSWER_S = 30.0
"""The agent answers at once; one that hangs must not keep a person waiting for ever."""
CONNECT_S = 5.0
NOTHING = "nothing\n"
RESYNCED = "the kernel's state is read and written again\n"

Answer = AsyncIterator[str]
"""Pieces of text."""


def run(arguments: dict[str, Any]) -> int:
    """Print what one command answers."""
    path = arguments["--socket"] or os.environ.get("CALICO_NODE_SOCKET") or NODE_SOCKET
    command, argument = arguments["<COMMAND>"], arguments["<ARGUMENT>"]
    _check_words(command, argument)
    check_socket(path)
    asyncio.run(_print(path, command, argument or ""))
    return 0


def _check_words(command: str, argument: str | None) -> None:
    if command not in COMMANDS:
        raise CommandFailed(f"there is no command '{shown(command)}'; commands: {', '.join(sorted(COMMANDS))}")
    if argument is not None and command not in WITH_ARGUMENT:
        raise CommandFailed(f"{command} takes no argument, and '{shown(argument)}' is one")
    if argument is None and command == "trace":
        raise CommandFailed("name the object to trace, as show and problems spell it: for example 'Profile(calico)'")


def check_socket(path: str) -> None:
    """Say what is wrong in the system's words, which gRPC hides: only the kernel knows why a socket is closed to us."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(path)
        except PermissionError:
            raise CommandFailed(f"cannot ask the agent at socket {path}: only root may: try it with sudo") from None
        except OSError as error:
            reason = f"{error.strerror or error}"
            start = "systemctl start calico-felix"
            raise CommandFailed(f"no agent answers at socket {path} ({reason}): start it: {start}") from None


async def _print(path: str, command: str, argument: str) -> None:
    async for text in ask(path, command, argument):
        sys.stdout.write(text)
        sys.stdout.flush()


async def ask(path: str, command: str, argument: str = "") -> Answer:
    """The agent's answer to one of `COMMANDS`, in pieces of text. Raises `CommandFailed`."""
    async with open_channel(path) as channel:
        try:
            async for text in COMMANDS[command](channel, argument):
                yield text
        except grpc.aio.AioRpcError as error:
            raise CommandFailed(_reason(path, command, error)) from None


def _reason(path: str, command: str, error: grpc.aio.AioRpcError) -> str:
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
        return details
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"the agent at socket {path} is of a release that has no '{command}'"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"the agent at socket {path} has gone while it was asked"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the agent at socket {path} does not answer within {ANSWER_S:.0f} s"
    return f"the agent at socket {path} cannot answer {command}: {code.name} {shown(details)}"


async def _status(channel: grpc.aio.Channel, _argument: str) -> Answer:
    reply = await stubs.NodeStub(channel).Status(pb.StatusRequest(), timeout=ANSWER_S)
    facts = {
        "node": reply.node,
        "in_sync": reply.follows,
        "connected": reply.connected,
        "endpoint": reply.endpoint,
        "reason": reply.reason,
        "programmed_revision": reply.programmed_revision,
        **status_of(reply.figures),
    }
    yield json.dumps(facts, indent=2) + "\n"


async def _config(channel: grpc.aio.Channel, _argument: str) -> Answer:
    yield await _table(stubs.DebugStub(channel).Config(pb.ConfigRequest(), timeout=ANSWER_S))


async def _show(channel: grpc.aio.Channel, kind: str) -> Answer:
    yield await _table(stubs.DebugStub(channel).Show(pb.ShowRequest(kind=kind), timeout=ANSWER_S))


async def _table(parts: AsyncIterator[Any]) -> str:
    rows, notes = list[list[str]](), list[str]()
    async for part in parts:
        rows += [list(row.cells) for row in part.rows]
        notes += part.notes
    return table(rows[0], rows[1:]) + "".join(f"{note}\n" for note in notes)


async def _pending(channel: grpc.aio.Channel, _argument: str) -> Answer:
    async for text in _lines(stubs.DebugStub(channel).Pending(pb.PendingRequest(), timeout=ANSWER_S)):
        yield text


async def _problems(channel: grpc.aio.Channel, _argument: str) -> Answer:
    async for text in _lines(stubs.DebugStub(channel).Problems(pb.ProblemsRequest(), timeout=ANSWER_S)):
        yield text


async def _dirty(channel: grpc.aio.Channel, _argument: str) -> Answer:
    async for text in _lines(stubs.DebugStub(channel).Dirty(pb.DirtyRequest(), timeout=ANSWER_S)):
        yield text


async def _trace(channel: grpc.aio.Channel, name: str) -> Answer:
    async for text in _lines(stubs.DebugStub(channel).Trace(pb.TraceRequest(object=name))):
        yield text


async def _lines(parts: AsyncIterator[Any]) -> Answer:
    empty = True
    async for part in parts:
        empty = False
        yield "".join(f"{line}\n" for line in part.lines)
    if empty:
        yield NOTHING


async def _nft_table(channel: grpc.aio.Channel, _argument: str) -> Answer:
    async for part in stubs.DebugStub(channel).Table(pb.TableRequest(), timeout=ANSWER_S):
        yield part.text


async def _resync(channel: grpc.aio.Channel, _argument: str) -> Answer:
    await stubs.DebugStub(channel).Resync(pb.ResyncRequest(), timeout=ANSWER_S)
    yield RESYNCED


COMMANDS: dict[str, Callable[[grpc.aio.Channel, str], Answer]] = {
    "status": _status,
    "problems": _problems,
    "pending": _pending,
    "dirty": _dirty,
    "show": _show,
    "config": _config,
    "table": _nft_table,
    "trace": _trace,
    "resync": _resync,
}
WITH_ARGUMENT = ("show", "trace")

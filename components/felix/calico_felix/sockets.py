"""Sockets by whose path other programs find the agent: one that was removed or replaced is served again.

A cleaner of /run, a careless script or a second agent that has ended takes the path away; the listener behind it lives
on, and nobody can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from libcalico.errors import Unavailable
from libcalico.kernel.unix_socket import is_served
from libcalico.rpc import grpc
from libcalico.rpc.channel import open_server

LOOK_S = 1.0
CALLS_END_S = 90.0
"""A call that came by the former socket takes no longer."""
NOT_THERE = (0, 0)
"""In place of the device and the number of a file."""
log = logging.getLogger(__name__)

Register = Callable[[grpc.aio.Server], None]
"""Puts the services on a server that has not been started."""
Close = Callable[[float], Awaitable[None]]
"""Ends serving; what is under way has so many seconds to end."""


@dataclass
class _Kept:
    path: str
    open_socket: Callable[[], Awaitable[Close]]
    close: Close
    identity: tuple[int, int]
    problem: str = ""


class SocketKeeper:
    """The agent's sockets. `watch` is a task of the agent's."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    async def serve_node(self, path: str, register: Register) -> None:
        """The node API; `Unavailable` when another process serves it.

        Without a path, not at all. A path that cannot be had costs only itself, and is tried until it works."""
        await self._serve(path, lambda: _open_node(path, register))

    async def _serve(self, path: str, open_socket: Callable[[], Awaitable[Close]]) -> None:
        if not path:
            return
        kept = _Kept(path, open_socket, _nothing, NOT_THERE)
        try:
            kept.close = await open_socket()
            kept.identity = _identity(path)
        except (OSError, RuntimeError) as error:
            log.error("socket %s cannot be served, which is tried until it works: %s", path, error)
            kept.problem = str(error)
        self._kept.append(kept)

    def problems(self) -> list[str]:
        """Sockets that are not served where others look for them."""
        return [f"socket {kept.path} cannot be served: {kept.problem}" for kept in self._kept if kept.problem]

    async def watch(self) -> None:
        """Look after them, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_S)
                for kept in self._kept:
                    if kept.problem or _identity(kept.path) != kept.identity:
                        await self._serve_again(kept, group)

    async def _serve_again(self, kept: _Kept, group: asyncio.TaskGroup) -> None:
        former = kept.close
        try:
            kept.close = await kept.open_socket()
        except (OSError, RuntimeError, Unavailable) as error:
            if kept.problem != str(error):
                log.error("socket %s was removed, and cannot be served again: %s", kept.path, error)
            kept.problem = str(error)
            return
        was_served = kept.identity != NOT_THERE
        kept.identity, kept.problem = _identity(kept.path), ""
        log.warning("socket %s %s", kept.path, "was removed: it is served again" if was_served else "is served")
        group.create_task(_end(former))

    async def close(self, grace_s: float) -> None:
        """End serving, and remove what is ours."""
        while self._kept:
            kept = self._kept.pop()
            if _identity(kept.path) == kept.identity != NOT_THERE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(kept.path)
            await kept.close(grace_s)


async def _nothing(_grace_s: float) -> None:
    """Ends what was never served."""


async def _end(former: Close) -> None:
    await former(CALLS_END_S)


async def _open_node(path: str, register: Register) -> Close:
    """gRPC removes the path that a server was bound to when the server ends, whoever has it by then. So each is bound
    to another path, and its socket moved to the right one."""
    if is_served(path):
        raise Unavailable(f"listen on {path}: another process serves this socket: stop it first")
    server = open_server(f"{path}~")
    register(server)
    await server.start()
    try:
        os.rename(f"{path}~", path)
    except OSError:  # a directory is there
        await server.stop(0)
        raise
    return cast(Close, server.stop)


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return NOT_THERE
    return status.st_dev, status.st_ino

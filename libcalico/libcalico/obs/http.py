"""A very small HTTP server for `/metrics`, `/liveness` and `/readiness`: any method, one answer per connection.

Whoever reaches the port may connect, so everything is bounded: how many connections there are (the oldest makes room
for a new one: a request that is never finished shuts nobody out), how often one is taken, how long each may last, how
large a request may be, and how often all of that is logged (docs/adr/0016-small-http-server.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
ACCEPT_PAUSE_S = 0.005
LONGEST_REQUEST_S = 10.0
LARGEST_HEAD = 16384
MOST_READS = 32
"""Octets of a request, and pieces in which it may arrive."""
BACKLOG = 64
NO_DESCRIPTOR_PAUSE_S = 1.0
COMPLAINT_INTERVAL_S = 60.0


class Answer(NamedTuple):
    """Status, content type and body."""

    status: int
    content_type: str
    body: bytes


Route = Callable[[], Answer]
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}


def text(status: int, body: str) -> Answer:
    """An answer of plain text."""
    return Answer(status, "text/plain; charset=utf-8", body.encode())


async def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, or at a name's first one (IPv4 before IPv6); without a host, at all of them.

    Raises OSError (the port is taken, the address is not this machine's), UnicodeError (the host is no name)."""
    if not host and socket.has_dualstack_ipv6():
        made = socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    else:
        found = await _look_up(host or "0.0.0.0", port)
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        made = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    made.setblocking(False)
    return made


async def _look_up(host: str, port: int) -> list[Any]:
    """In a thread for which nothing waits: name servers that do not answer hold it for half a minute and more."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Any]] = loop.create_future()

    def settle(found: list[Any], error: Exception | None) -> None:
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(found)
        else:
            done.set_exception(error)

    def work() -> None:
        found, failed = list[Any](), None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, failed)

    threading.Thread(target=work, name="look-up", daemon=True).start()
    return await done


class Server:
    """Serves `routes` at a socket that listens."""

    def __init__(self, listener: socket.socket, routes: Mapping[str, Route]) -> None:
        self._listener = listener
        self._routes = routes
        self._open: dict[asyncio.Task[None], None] = {}
        self._quiet_until_s = 0.0

    @property
    def port(self) -> int:
        """The TCP port that it listens at."""
        return int(self._listener.getsockname()[1])

    async def run(self) -> None:
        """Serve until it is cancelled; the socket is closed then."""
        with self._listener:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._take_one(group)

    async def _take_one(self, group: asyncio.TaskGroup) -> None:
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        except OSError as error:  # no descriptor is left, or the client has gone before it was taken
            self._complain(f"cannot take a connection: {error}")
            await asyncio.sleep(NO_DESCRIPTOR_PAUSE_S)
            return
        if len(self._open) >= MOST_CONNECTIONS:
            self._complain(f"more than {MOST_CONNECTIONS} connections: the oldest are closed")
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = group.create_task(self._serve(connection))
        self._open[task] = None
        task.add_done_callback(lambda done: self._forget(done, connection))
        await asyncio.sleep(ACCEPT_PAUSE_S)

    def _forget(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        self._open.pop(task, None)
        connection.close()

    def _complain(self, problem: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until_s:
            self._quiet_until_s = now + COMPLAINT_INTERVAL_S
            log.warning("port %d: %s (logged once a minute)", self.port, problem)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head, answer = b"", text(400, "the request is not complete\n")
        try:
            async with asyncio.timeout(LONGEST_REQUEST_S):
                for _ in range(MOST_READS):
                    part = await loop.sock_recv(connection, LARGEST_HEAD)
                    head += part
                    if not part or len(head) > LARGEST_HEAD:
                        break
                    if b"\r\n\r\n" in head:
                        answer = self._answer(head)
                        break
        except TimeoutError:
            pass
        except OSError:
            return
        try:
            async with asyncio.timeout(LONGEST_REQUEST_S):
                await loop.sock_sendall(connection, _render(answer, with_body=not head.startswith(b"HEAD ")))
        except OSError:  # and TimeoutError, which is one: the client does not read
            pass

    def _answer(self, head: bytes) -> Answer:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        if len(words) != 3:
            return text(400, "this is not an HTTP request\n")
        route = self._routes.get(words[1].partition("?")[0])
        if route is None:
            return text(404, f"paths: {', '.join(sorted(self._routes))}\n")
        try:
            return route()
        except Exception as error:
            self._complain(f"{words[1][:200]!r} cannot be answered: {error!r}")
            return text(500, "this cannot be answered; the daemon's log says why\n")


def _render(answer: Answer, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.0 {answer.status} {_REASONS.get(answer.status, '')}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (answer.body if with_body else b"")

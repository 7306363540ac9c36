"""A very small HTTP server for `/metrics`, `/liveness` and `/readiness`: any method, one answer per connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

LONGEST_REQUEST_S = 10.0
LARGEST_HEAD = 16384


class Answer(NamedTuple):
    """Status, content type and body."""

    status: int
    content_type: str
    body: bytes


Route = Callable[[], Answer]
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


def text(status: int, body: str) -> Answer:
    """An answer of plain text."""
    return Answer(status, "text/plain; charset=utf-8", body.encode())


async def serve(host: str, port: int, routes: Mapping[str, Route]) -> asyncio.Server:
    """Listen on a TCP port; the server runs until it is closed."""
    return await asyncio.start_server(_handler(routes), host, port, limit=LARGEST_HEAD)


def _handler(
    routes: Mapping[str, Route],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(LONGEST_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            answer = _answer(head, routes)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            head, answer = b"", text(400, "the request is not complete\n")
        try:
            writer.write(_render(answer, with_body=not head.startswith(b"HEAD ")))
            async with asyncio.timeout(LONGEST_REQUEST_S):
                await writer.drain()
        except ConnectionError:
            pass
        except TimeoutError:  # the client does not read
            writer.transport.abort()
        finally:
            writer.close()

    return handle


def _answer(head: bytes, routes: Mapping[str, Route]) -> Answer:
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
    if len(words) != 3:
        return text(400, "this is not an HTTP request\n")
    route = routes.get(words[1].partition("?")[0])
    return text(404, f"paths: {', '.join(sorted(routes))}\n") if route is None else route()


def _render(answer: Answer, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.0 {answer.status} {_REASONS.get(answer.status, '')}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (answer.body if with_body else b"")

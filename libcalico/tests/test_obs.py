"""Health, the HTTP server, metrics: what people and node checks look at."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from libcalico.obs import http, logs
from libcalico.obs.figures import Figures
from libcalico.obs.health import Health
from libcalico.obs.metrics import Metrics
from libcalico.testing.clock import ManualClock


def test_a_new_part_is_live_and_not_ready() -> None:
    health = Health(ManualClock())
    health.register("loop", 20)
    assert health.live()[0] and not health.ready()[0]


def test_a_late_part_is_neither_and_recovers() -> None:
    clock = ManualClock()
    health = Health(clock)
    health.register("loop", 20)
    health.register("start", 0)
    health.report("loop")
    health.report("start")
    clock.at_s = 20
    assert health.live()[0] and health.ready()[0]
    clock.at_s = 21
    assert not health.live()[0] and not health.ready()[0]
    health.report("loop")
    assert health.live()[0] and health.ready()[0]


def test_live_and_ready_are_told_apart_in_a_sorted_table() -> None:
    health = Health(ManualClock())
    health.register("loop", 20)
    health.register("calc", 0)
    health.report("calc", live=False, ready=True)
    health.report("loop", detail="first apply")
    assert not health.live()[0] and health.ready()[0]
    header, first, second = health.ready()[1].splitlines()
    assert header.split() == ["COMPONENT", "TIMEOUT", "LIVENESS", "READINESS", "DETAIL"]
    assert first.split() == ["calc", "-", "not", "ok", "ok"]
    assert second.split() == ["loop", "20s", "ok", "ok", "first", "apply"]


def test_metrics_of_two_daemons_do_not_meet() -> None:
    one, other = Figures(), Figures()
    one.add(lambda: {"felix_applies": 2})
    other.add(lambda: {"felix_applies": 7})
    assert b"# TYPE felix_applies counter\nfelix_applies 2.0\n" in Metrics(one).render()
    assert b"\nfelix_applies 7.0\n" in Metrics(other).render()


def broken() -> http.Answer:
    raise RuntimeError("the part is gone")


@contextlib.asynccontextmanager
async def serving(routes: Mapping[str, http.Route]) -> AsyncIterator[int]:
    server = http.Server(await http.listen("127.0.0.1", 0), routes)
    running = asyncio.ensure_future(server.run())
    yield server.port
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    async with serving({"/live": lambda: http.text(503, "no\n"), "/broken": broken}) as at:
        yield at


async def say(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /live?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", 503, b"no\n"),
        (b"POST /live HTTP/1.1\r\n\r\n", 503, b"no\n"),
        (b"HEAD /live HTTP/1.1\r\n\r\n", 503, b""),
        (b"GET /other HTTP/1.1\r\n\r\n", 404, b"paths: /broken, /live\n"),
        (b"nonsense\r\n\r\n", 400, b"this is not an HTTP request\n"),
        (b"x" * 40000, 400, None),
    ],
)  # fmt: skip
async def test_answers(port: int, request_: bytes, status: int, body: bytes | None) -> None:
    try:
        head, _, got = (await say(port, request_)).partition(b"\r\n\r\n")
    except ConnectionError:
        assert body is None
        return
    assert head.split()[1] == str(status).encode()
    assert body is None or got == body


async def test_a_request_that_never_ends_is_answered(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_REQUEST_S", 0.2)
    head, _, body = (await say(port, b"GET /live")).partition(b"\r\n\r\n")
    assert (head.split()[1], body) == (b"400", b"the request is not complete\n")


async def test_a_route_at_fault_ends_its_connection_and_nothing_else(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    for _ in range(3):
        assert b" 500 " in await say(port, b"GET /broken HTTP/1.1\r\n\r\n")
    assert b" 503 " in await say(port, b"GET /live HTTP/1.1\r\n\r\n")
    assert caplog.text.count("the part is gone") == 1


async def test_a_request_in_too_many_pieces_is_refused(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(30):
        for _ in range(http.MOST_READS):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.002)
        assert b" 400 " in await reader.read()
    writer.close()


async def test_requests_that_are_never_finished_shut_nobody_out(
    port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many half requests: few are open at a time, a whole one is answered at once, and the log has one line."""
    caplog.set_level("WARNING")
    monkeypatch.setattr(http, "ACCEPT_PAUSE_S", 0.001)
    halves = []
    for _ in range(5 * http.MOST_CONNECTIONS):
        halves.append(await asyncio.open_connection("127.0.0.1", port))
        halves[-1][1].write(b"GET /live HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        assert b" 503 " in await say(port, b"GET /live HTTP/1.1\r\n\r\n")
    ended = [await _is_ended(reader) for reader, _ in halves]
    assert ended.count(False) <= http.MOST_CONNECTIONS and not all(ended)
    assert caplog.text.count("connections: the oldest are closed") == 1
    for _, writer in halves:
        writer.close()


async def _is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.01):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_connections_are_taken_at_a_bounded_rate(port: int) -> None:
    """What a flood costs the daemon's loop is bounded, whatever its size."""
    many, started = 50, time.monotonic()
    await asyncio.gather(*(say(port, b"GET /live HTTP/1.1\r\n\r\n") for _ in range(many)))
    assert time.monotonic() - started >= 0.9 * many * http.ACCEPT_PAUSE_S


async def test_without_descriptors_it_waits_and_logs_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("WARNING")
    monkeypatch.setattr(http, "NO_DESCRIPTOR_PAUSE_S", 0.01)
    loop, real = asyncio.get_running_loop(), asyncio.get_running_loop().sock_accept
    failures = [OSError(errno.EMFILE, "Too many open files")] * 5

    async def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return await real(listener)

    monkeypatch.setattr(loop, "sock_accept", accept)
    async with serving({"/live": lambda: http.text(200, "yes\n")}) as port:
        assert b" 200 " in await say(port, b"GET /live HTTP/1.1\r\n\r\n")
    assert not failures and caplog.text.count("Too many open files") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
async def test_where_it_listens(host: str) -> None:
    with await http.listen(host, 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as caller:
            assert caller.getpeername()[1] == port


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b", "x" * 64])
async def test_where_it_cannot_listen(host: str) -> None:
    with pytest.raises((OSError, UnicodeError)):
        await http.listen(host, 0)


@pytest.mark.parametrize(
    ("severity", "level"),
    [("INFO", logging.INFO), ("Debug", logging.DEBUG), ("odd", logging.INFO), ("none", 60), ("", 60), ("fatal", 50)],
)
def test_severities(severity: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = {"": logging.RootLogger(logging.INFO), **{name: logging.Logger(name) for name in logs.CHATTY}}
    monkeypatch.setattr(logging, "getLogger", lambda name="": loggers[name])
    logs.configure(severity)
    assert loggers[""].level == level and len(loggers[""].handlers) == 1
    assert loggers["grpc"].level == max(level, logging.INFO), "it has lines for every request"

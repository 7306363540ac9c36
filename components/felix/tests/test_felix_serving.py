"""The agent's HTTP ports follow settings as it runs, and one that cannot be had costs nothing but itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from calico_felix import serving
from calico_felix.parameters import PARAMETERS
from calico_felix.serving import Serving
from libcalico.clock import SystemClock
from libcalico.config import Configuration
from libcalico.obs.figures import Figures
from libcalico.obs.health import Health
from libcalico.obs.metrics import Metrics
from libcalico.testing.machine import free_port


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def fetch(port: int, path: str) -> bytes:
    """What is answered; nothing when nobody listens, or no longer."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        async with asyncio.timeout(10):
            answer = await reader.read()
    except OSError:
        return b""
    writer.close()
    return answer


class Ports:
    """The ports of an agent whose settings come from a FelixConfiguration."""

    def __init__(self) -> None:
        health = Health(SystemClock())
        health.register("dataplane", 0)
        health.report("dataplane")
        self.configuration = Configuration(PARAMETERS)
        self.serving = Serving(health, Metrics(Figures()))

    def set(self, **settings: str) -> None:
        self.configuration.load_datastore(settings)
        changed = self.configuration.resolve()
        assert not self.configuration.needs_restart(changed)
        self.serving.update(self.configuration)


@pytest_asyncio.fixture
async def ports(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ports]:
    monkeypatch.setattr(serving, "FIRST_RETRY_S", 0.05)
    made = Ports()
    running = asyncio.ensure_future(made.serving.run())
    yield made
    assert not running.done(), "a port at fault ended the others"
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(("prefix", "path"), [("health", "/readiness"), ("prometheusMetrics", "/metrics")])
async def test_a_port_is_switched_on_moved_and_switched_off(ports: Ports, prefix: str, path: str) -> None:
    one, other = free_port(), free_port()
    place = {f"{prefix}Host": "127.0.0.1", f"{prefix}Enabled": "true"}
    for settings, serves, silent in (
        ({**place, f"{prefix}Port": str(one)}, one, other),
        ({**place, f"{prefix}Port": str(other)}, other, one),
        ({**place, f"{prefix}Port": str(other), f"{prefix}Enabled": "false"}, 0, other),
    ):
        ports.set(**settings)
        if serves:
            async with asyncio.timeout(10):
                while b" 200 " not in await fetch(serves, path):
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while await fetch(silent, path):
                await asyncio.sleep(0.01)
    assert not ports.serving.problems()


async def test_a_taken_port_is_reported_once_and_served_when_it_is_free(
    ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, health = taken.getsockname()[1], free_port()
        ports.set(
            prometheusMetricsEnabled="true", prometheusMetricsPort=str(port),
            healthEnabled="true", healthPort=str(health),
        )  # fmt: skip
        await until(lambda: bool(ports.serving.problems()))
        await asyncio.sleep(0.3)
        (problem,) = ports.serving.problems()
        assert "PrometheusMetricsPort" in problem and str(port) in problem and "in use" in problem
        assert caplog.text.count(problem) == 1
        assert b" 200 " in await fetch(health, "/liveness"), "the other port is served meanwhile"
    await until(lambda: not ports.serving.problems())
    assert b" 200 " in await fetch(port, "/metrics")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "2001:db8::1", "a..b", "9" * 64])
async def test_a_host_that_is_not_here_is_reported_until_it_is_mended(ports: Ports, host: str) -> None:
    port = free_port()
    ports.set(healthEnabled="true", healthHost=host, healthPort=str(port))
    await until(lambda: bool(ports.serving.problems()))
    assert host in ports.serving.problems()[0]
    ports.set(healthEnabled="true", healthPort=str(port))
    await until(lambda: not ports.serving.problems())
    assert b" 200 " in await fetch(port, "/liveness")


async def test_a_name_server_that_does_not_answer_holds_nothing_up(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over, known = threading.Event(), threading.Event(), socket.getaddrinfo

    def look_up(host: str, *args: Any, **words: Any) -> Any:
        if host == "slow.example.org":
            asked.set()
            over.wait()
        return known(host, *args, **words)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(serving, "SLOW_S", 0.05)
    port = free_port()
    try:
        ports.set(healthEnabled="true", healthHost="slow.example.org", healthPort=str(port))
        await until(lambda: asked.is_set() and bool(ports.serving.problems()))
        assert "slow.example.org" in ports.serving.problems()[0] and "looked up" in ports.serving.problems()[0]
        ports.set(healthEnabled="true", healthHost="127.0.0.1", healthPort=str(port))
        async with asyncio.timeout(10):
            while not await fetch(port, "/liveness"):
                await asyncio.sleep(0.01)
        assert not ports.serving.problems()
    finally:
        over.set()


async def test_the_log_names_the_port_that_port_0_became(ports: Ports, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ports.set(healthEnabled="true", healthPort="0")
    await until(lambda: " on localhost port " in caplog.text)
    port = int(caplog.text.split(" on localhost port ")[1].split()[0])
    assert port and b" 200 " in await fetch(port, "/liveness")


async def test_without_a_host_every_address_is_served(ports: Ports) -> None:
    port = free_port()
    ports.set(prometheusMetricsEnabled="true", prometheusMetricsPort=str(port))
    async with asyncio.timeout(10):
        while not await fetch(port, "/metrics"):
            await asyncio.sleep(0.01)
    if socket.has_dualstack_ipv6():
        with socket.create_connection(("::1", port), timeout=5):
            pass

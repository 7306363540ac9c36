"""What the watchdog measures, and what health hears from it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.forwarding import Forwarding
from calico_felix.watchdog import DATAPLANE_TIMEOUT_S, INTERVAL_S, Watchdog
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Syncer
from libcalico.ipam.service import IpamService
from libcalico.obs.health import Health
from libcalico.obs.supervisor import Supervisor
from libcalico.testing.clock import ManualClock


class Busy(ManualClock):
    """A loop whose other tasks take 0.25 s whenever this one sleeps."""

    async def sleep(self, pause_s: float) -> None:
        await super().sleep(pause_s)
        self.at_s += 0.25


def watchdog_of(clock: ManualClock, supervisor: Supervisor | None = None) -> tuple[Watchdog, Health, Follower]:
    datastore, health = MemoryDatastore(), Health(clock)
    follower = Follower("here", IpamService(datastore, "here", clock), clock, lambda _values: "")
    contact = Contact(datastore, Syncer(datastore, ["/calico/"], clock), clock)
    return Watchdog(clock, health, contact, follower, Forwarding(), supervisor or Supervisor()), health, follower


async def run_for(watchdog: Watchdog, clock: ManualClock, seconds: float) -> None:
    task = asyncio.ensure_future(watchdog.run())
    ends_s = clock.at_s + seconds
    while clock.at_s < ends_s:
        await asyncio.sleep(0)
    task.cancel()


async def test_it_says_how_late_the_loop_was() -> None:
    clock = Busy()
    watchdog, _, _ = watchdog_of(clock)
    await run_for(watchdog, clock, 10 * INTERVAL_S)
    figures = watchdog.figures()
    assert figures["felix_loop_lag_seconds"] == 0.25 and figures["felix_uptime_seconds"] == clock.at_s


async def test_a_dataplane_that_hangs_is_neither_live_nor_ready() -> None:
    clock = ManualClock()
    watchdog, health, follower = watchdog_of(clock)
    assert health.live()[0] and not health.ready()[0]
    follower.graph.in_sync = True
    await run_for(watchdog, clock, 2 * INTERVAL_S)
    dataplane = SimpleNamespace(programmed_revision=0, failing=list)
    watchdog.on_dataplane(cast(Dataplane, dataplane))
    assert "nothing is programmed yet" in health.ready()[1] and not health.ready()[0]
    dataplane.programmed_revision = 7
    watchdog.on_dataplane(cast(Dataplane, dataplane))
    assert health.ready()[0]
    clock.at_s += DATAPLANE_TIMEOUT_S + 1
    assert not health.live()[0] and "late" in health.live()[1]


def heard(systemd: socket.socket) -> list[bytes]:
    """What has come in since the last time."""
    found: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(systemd.recv(100))
    return found


async def test_systemd_hears_of_a_programmed_kernel_once_and_of_a_living_loop_each_second(tmp_path: Path) -> None:
    clock = ManualClock()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        watchdog, _, follower = watchdog_of(clock, Supervisor(str(tmp_path / "notify")))
        dataplane = SimpleNamespace(programmed_revision=0, failing=list)
        watchdog.on_dataplane(cast(Dataplane, dataplane))
        await run_for(watchdog, clock, 3 * INTERVAL_S)
        assert set(heard(systemd)) == {b"WATCHDOG=1"}
        dataplane.programmed_revision = 7
        watchdog.on_dataplane(cast(Dataplane, dataplane))
        watchdog.on_dataplane(cast(Dataplane, dataplane))
        follower.graph.in_sync = True
        await run_for(watchdog, clock, 3 * INTERVAL_S)
        lines = heard(systemd)
        assert lines.count(b"READY=1") == 1 and b"WATCHDOG=1" in lines
        status = [line for line in lines if line.startswith(b"STATUS=")]
        assert status[0].startswith(b"STATUS=datastore memory: ")


class Heard(Supervisor):
    """Counts the reports that the agent lives."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def alive(self) -> None:
        self.times += 1


async def test_of_a_dataplane_that_hangs_systemd_hears_nothing_more() -> None:
    clock, systemd = ManualClock(), Heard()
    watchdog, _, _ = watchdog_of(clock, systemd)
    await run_for(watchdog, clock, 3 * DATAPLANE_TIMEOUT_S)
    assert systemd.times == DATAPLANE_TIMEOUT_S

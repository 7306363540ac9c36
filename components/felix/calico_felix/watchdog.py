"""Once a second: how late the event loop is, and what no event reports. Health and systemd hear from here that the
agent lives, and that it is ready: the kernel reflects the datastore."""

from __future__ import annotations

import gc

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.forwarding import Forwarding
from libcalico.clock import Clock
from libcalico.obs.health import Health
from libcalico.obs.supervisor import Supervisor

INTERVAL_S = 1.0
COLLECT_INTERVAL_S = 60.0
DATAPLANE_TIMEOUT_S = 30.0


class Watchdog:
    """Looks after the other parts, whose state of health it reports."""

    def __init__(
        self,
        clock: Clock,
        health: Health,
        contact: Contact,
        follower: Follower,
        forwarding: Forwarding,
        supervisor: Supervisor,
    ) -> None:
        self._clock = clock
        self._health = health
        self._contact = contact
        self._follower = follower
        self._forwarding = forwarding
        self._supervisor = supervisor
        self._started_s = clock.monotonic_s()
        self.lag_s = 0.0
        for part in ("datastore", "dataplane"):
            health.register(part, 0)

    async def run(self) -> None:
        """For ever. Garbage is collected here, and at no other time: a collection in the middle of work costs more."""
        self._health.register("dataplane", DATAPLANE_TIMEOUT_S)
        collected_s = self._clock.monotonic_s()
        while True:
            before_s = self._clock.monotonic_s()
            await self._clock.sleep(INTERVAL_S)
            now_s = self._clock.monotonic_s()
            self.lag_s = max(0.0, now_s - before_s - INTERVAL_S)
            self._look(now_s)
            if now_s - collected_s > COLLECT_INTERVAL_S:
                gc.collect()
                collected_s = now_s

    def _look(self, now_s: float) -> None:
        self._forwarding.ensure()
        self._follower.on_time(now_s)
        if self._follower.graph.in_sync:
            detail = self._contact.detail(self._follower.revision)
            self._health.report("datastore", detail=detail)
            self._supervisor.status(f"datastore {self._contact.endpoint}: {detail}")
        if self._health.live()[0]:
            self._supervisor.alive()

    def on_dataplane(self, dataplane: Dataplane) -> None:
        """The dataplane's own loop is at work: one that hangs in an apply falls silent."""
        pending = dataplane.failing() if dataplane.programmed_revision else ["nothing is programmed yet"]
        self._health.report("dataplane", ready=not pending, detail=pending[0] if pending else "")
        if dataplane.programmed_revision:
            self._supervisor.ready()

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        uptime_s = self._clock.monotonic_s() - self._started_s
        return {"felix_uptime_seconds": uptime_s, "felix_loop_lag_seconds": self.lag_s}

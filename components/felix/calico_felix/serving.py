"""The agent's HTTP ports: `/liveness` and `/readiness` on one, `/metrics` on the other.

Where they are is settings' business, which may change at any time, and a port that cannot be had (it is taken, or its
host is no address of this machine) must not cost more than itself: it is reported once, and tried until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

from libcalico.config import Configuration
from libcalico.obs import http
from libcalico.obs.health import Health
from libcalico.obs.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 10.0
"""Between two tries to listen: doubled each time."""


class Page:
    """One port. `settings` is what its three parameters begin with: `HealthEnabled`, `HealthHost`, `HealthPort`."""

    def __init__(self, settings: str, routes: Mapping[str, http.Route]) -> None:
        self._settings = settings
        self._routes = routes
        self._wanted: tuple[str, int] | None = None
        self._changed = asyncio.Event()
        self.problem = ""

    def update(self, configuration: Configuration) -> None:
        """Settings may have changed."""
        host, port = configuration[f"{self._settings}Host"], configuration[f"{self._settings}Port"]
        wanted = (host, port) if configuration[f"{self._settings}Enabled"] else None
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Serve where settings want it, for ever."""
        retry_s = FIRST_RETRY_S
        while True:
            self._changed.clear()
            server = await self._open()
            if server is not None:
                retry_s = FIRST_RETRY_S
                async with asyncio.TaskGroup() as group:
                    serving = group.create_task(server.run())
                    await self._changed.wait()
                    serving.cancel()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_s if self.problem else None):
                    await self._changed.wait()
            retry_s = FIRST_RETRY_S if self._changed.is_set() else min(2 * retry_s, LAST_RETRY_S)

    async def _open(self) -> http.Server | None:
        """None where nothing is wanted, and where it fails: then `problem` says why."""
        former = self.problem
        if self._wanted is None:
            self.problem = ""
            return None
        host, port = self._wanted
        place = f"{host or '*'} port {port}"
        try:
            listener = await http.listen(host, port)
        except (OSError, UnicodeError) as error:
            self.problem = f"{self._settings}Host, {self._settings}Port: cannot listen on {place}: {_reason(error)}"
            if self.problem != former:
                log.warning("%s: tried until it works", self.problem)
            return None
        self.problem = ""
        log.info("%s on %s", ", ".join(sorted(self._routes)), place)
        return http.Server(listener, self._routes)


class Serving:
    """Both ports."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._pages = (
            Page("Health", {"/liveness": lambda: _page(health.live()), "/readiness": lambda: _page(health.ready())}),
            Page("PrometheusMetrics", {"/metrics": lambda: http.Answer(200, CONTENT_TYPE, metrics.render())}),
        )

    def update(self, configuration: Configuration) -> None:
        """Settings may have changed."""
        for page in self._pages:
            page.update(configuration)

    def problems(self) -> list[str]:
        """Ports that cannot be had, and are tried again."""
        return [page.problem for page in self._pages if page.problem]

    async def run(self) -> None:
        """Serve, for ever."""
        async with asyncio.TaskGroup() as group:
            for page in self._pages:
                group.create_task(page.run())


def _page(summary: tuple[bool, str]) -> http.Answer:
    good, lines = summary
    return http.text(200 if good else 503, lines)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)

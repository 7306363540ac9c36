"""Where other programs find the agent: its sockets (`sockets`), and its HTTP ports, `/liveness` and `/readiness` on
one, `/metrics` on the other.

Where they are is settings' business, which may change at any time, and a port that cannot be had (it is taken, or its
host is no address of this machine) must not cost more than itself: it is reported once, and tried until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping

from calico_felix.sockets import SocketKeeper
from libcalico.config import Configuration
from libcalico.obs import http
from libcalico.obs.health import Health
from libcalico.obs.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 10.0
"""Between two tries to listen: doubled each time."""
SLOW_S = 1.0
"""A host's name that takes longer to be looked up is reported."""


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
        try:
            listener = await self._listen(host, port)
        except (OSError, UnicodeError) as error:
            self.problem = self._cannot(_reason(error))
            if self.problem != former:
                log.warning("%s: tried until it works", self.problem)
            return None
        if listener is None:
            return None
        self.problem = ""
        server = http.Server(listener, self._routes)
        log.info("%s on %s port %d", ", ".join(sorted(self._routes)), host or "*", server.port)
        return server

    def _cannot(self, why: str) -> str:
        host, port = self._wanted or ("", 0)
        return f"{self._settings}Host, {self._settings}Port: cannot listen on {host or '*'} port {port}: {why}"

    async def _listen(self, host: str, port: int) -> socket.socket | None:
        """None when settings change before the socket is there: name servers that do not answer take their time."""
        opening = asyncio.ensure_future(http.listen(host, port))
        changing = asyncio.ensure_future(self._changed.wait())
        try:
            done, _ = await asyncio.wait({opening, changing}, timeout=SLOW_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.problem = self.problem or self._cannot("the name is still being looked up")
                await asyncio.wait({opening, changing}, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            changing.cancel()


class Serving:
    """Both ports, and the `sockets` by whose paths other programs find the agent."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self.sockets = SocketKeeper()
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
            group.create_task(self.sockets.watch())
            for page in self._pages:
                group.create_task(page.run())


def _page(summary: tuple[bool, str]) -> http.Answer:
    good, lines = summary
    return http.text(200 if good else 503, lines)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)

"""`dcos-calico-confd`: follows the datastore and keeps BIRD's file and BIRD itself up to date (spec/bgp.md 1).

The state comes from `following`; nothing is written before it is whole. While the datastore is away the last file
stands. A change that comes alone is written at once; one within `LONGEST_WAIT_S` of the last waits until no other
came for `QUIET_S`, at most `LONGEST_WAIT_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import NamedTuple

from calico_bird.apply import Change, apply
from calico_bird.following import Changes, Following, Source
from calico_bird.reload import reload
from calico_bird.render import Rendered, Renderer
from calico_bird.report import Report
from calico_bird.routing import Problem, Routing
from calico_bird.sources import needs_statuses, read_secrets, read_statuses, wanted_secrets
from calico_bird.start_bird import FALLBACK, FILE, SOCKET
from libcalico.bird.confd_status import STATUS_FILE
from libcalico.clock import Clock, SystemClock
from libcalico.errors import Unavailable
from libcalico.model.keys import parse_key

log = logging.getLogger(__name__)

QUIET_S, LONGEST_WAIT_S = 0.1, 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 5.0
FILES_EVERY_S = 5.0
CHECK_S, CONTROL_S = 30.0, 5.0


class Settings(NamedTuple):
    """Where everything is; `bird` is the program's path, `report` that of the status file.

    `keep_candidate`: the file that BIRD was asked about is kept beside the one that it reads."""

    node: str
    router_id: str = ""
    file: Path = Path(FILE)
    socket: str = SOCKET
    bird: str = FALLBACK
    secrets: Path = Path("/etc/calico/secrets")
    statuses: Path = Path("/var/run/calico/endpoint-status")
    report: str = STATUS_FILE
    keep_candidate: bool = False


class Daemon:
    """The one loop, and what it says of itself (`report`)."""

    def __init__(self, settings: Settings, agent: Source, own: Source, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self.following = Following(agent, own, self._take, self._clock)
        self.report = Report(settings.node, str(settings.file), settings.report, self._clock)
        self._state = Routing(settings.node, settings.router_id)
        self._renderer = Renderer()
        self._whole = False
        self._changed = asyncio.Event()
        self._updated_s = -LONGEST_WAIT_S
        self._reload_due = True
        self._workloads: dict[str, bytes] = {}

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.following.run())
            group.create_task(self._keep())

    async def run_once(self) -> bool:
        """Write and reload once, as soon as the state is whole. False: some of that failed; the log says what."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self.following.run())
            await self._changed.wait()
            await self._try_update(0)
            following.cancel()
        return not (self.report.refused or self.report.not_taken or self.report.failure)

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return self.report.figures(self.following)

    def _take(self, changes: Changes) -> None:
        for path, value in changes.items():
            key = parse_key(path)
            if key is not None:
                self._state.put(key, value)
        self._whole = True
        self._changed.set()

    async def _keep(self) -> None:
        """Write and reload whenever something changed; read the host's files again every `FILES_EVERY_S`."""
        retry_s = FIRST_RETRY_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FILES_EVERY_S):
                    await self._changed.wait()
                    await self._settle()
            self._changed.clear()
            if not self._whole:
                self.report.write(self.following)
            elif await self._try_update(retry_s):
                retry_s = FIRST_RETRY_S
            else:
                await self._clock.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                self._changed.set()

    async def _settle(self) -> None:
        """Wait for the end of a burst of changes; one that comes alone is none."""
        until = self._clock.monotonic_s() + LONGEST_WAIT_S
        if until - self._updated_s >= 2 * LONGEST_WAIT_S:
            return
        while self._changed.is_set() and self._clock.monotonic_s() < until:
            self._changed.clear()
            await self._clock.sleep(QUIET_S)

    async def _try_update(self, retry_s: float) -> bool:
        """False: it must be tried again."""
        try:
            await self._update()
            self.report.on_success()
        except Unavailable as error:
            self.report.on_failure(str(error), retry_s)
        self.report.write(self.following)
        return not self.report.failure

    async def _update(self) -> None:
        await self._read_files()
        rendered = self._renderer.render(self._state)
        self.report.on_problems(self._problems(rendered))
        if not rendered.has_node and self.settings.file.exists():
            return
        settings = self.settings
        applied = await apply(rendered.text, settings.file, settings.bird, CHECK_S, settings.keep_candidate)
        if applied.change is not Change.UNCHANGED:
            self._updated_s = self._clock.monotonic_s()
        self.report.on_judged(applied.reason)
        if applied.change is not Change.REFUSED:
            self.report.sessions = rendered.sessions
        if applied.change is Change.WRITTEN:
            log.info("%s: %d sessions", settings.file, rendered.sessions)
            self.report.counts["confd_writes"] += 1
            self._reload_due = True
        if self._reload_due:
            await self._reload()

    async def _reload(self) -> None:
        """A BIRD that is not there is asked again with the host's files: it may have read an older one."""
        reloaded = await reload(self.settings.socket, CONTROL_S)
        self.report.on_reload(reloaded)
        self._reload_due = not reloaded.done

    async def _read_files(self) -> None:
        wanted = wanted_secrets(self._state)
        self._state.put_passwords(await asyncio.to_thread(read_secrets, self.settings.secrets, wanted))
        statuses: dict[str, bytes] = {}
        if needs_statuses(self._state):
            statuses = await asyncio.to_thread(read_statuses, self.settings.statuses)
        for name in self._workloads.keys() | statuses.keys():
            if self._workloads.get(name) != statuses.get(name):
                self._state.put_workload(name, statuses.get(name))
        self._workloads = statuses

    def _problems(self, rendered: Rendered) -> list[Problem]:
        if rendered.has_node:
            return list(rendered.problems)
        reason = "its object is missing: a file that stands is kept, else one without sessions is written"
        return [*rendered.problems, Problem(f"Node({self.settings.node})", reason)]

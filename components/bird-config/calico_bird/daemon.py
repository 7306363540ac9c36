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
from calico_bird.render import Rendered, Renderer
from calico_bird.routing import Problem, Routing
from calico_bird.sources import needs_statuses, read_secrets, read_statuses, wanted_secrets
from libcalico.bird import control
from libcalico.clock import Clock, SystemClock
from libcalico.errors import Unavailable
from libcalico.model.keys import parse_key

log = logging.getLogger(__name__)

QUIET_S, LONGEST_WAIT_S = 0.1, 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 5.0
FILES_EVERY_S = 5.0
CHECK_S, CONTROL_S = 30.0, 5.0


class Settings(NamedTuple):
    """Where everything is; `bird` is the program's path."""

    node: str
    router_id: str = ""
    file: Path = Path("/etc/calico/confd/config/bird.cfg")
    socket: str = "/var/run/calico/bird.ctl"
    bird: str = "/usr/sbin/bird"
    secrets: Path = Path("/etc/calico/secrets")
    statuses: Path = Path("/var/run/calico/endpoint-status")


class Daemon:
    """The one loop. `refused` is why BIRD does not take what was rendered last; empty when it does."""

    def __init__(self, settings: Settings, agent: Source, own: Source, clock: Clock | None = None) -> None:
        self.settings = settings
        self.refused = ""
        self._clock = clock or SystemClock()
        self.following = Following(agent, own, self._take, self._clock)
        self._state = Routing(settings.node, settings.router_id)
        self._renderer = Renderer()
        self._whole = False
        self._changed = asyncio.Event()
        self._updated_s = -LONGEST_WAIT_S
        self._reload_due = True
        self._said: frozenset[Problem] = frozenset()
        self._workloads: dict[str, bytes] = {}

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.following.run())
            group.create_task(self._keep())

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
                continue
            try:
                await self._update()
                retry_s = FIRST_RETRY_S
            except Unavailable as error:
                log.warning("trying again in %g s: %s", retry_s, error)
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

    async def _update(self) -> None:
        await self._read_files()
        rendered = self._renderer.render(self._state)
        self._say(rendered)
        if not rendered.has_node and self.settings.file.exists():
            return
        applied = await apply(rendered.text, self.settings.file, self.settings.bird, CHECK_S)
        if applied.change is not Change.UNCHANGED:
            self._updated_s = self._clock.monotonic_s()
        if applied.reason != self.refused and applied.reason:
            log.error("BIRD refuses the new configuration, the last good one stands: %s", applied.reason)
        self.refused = applied.reason
        if applied.change is Change.WRITTEN:
            log.info("%s: %d sessions", self.settings.file, rendered.sessions)
            self._reload_due = True
        if self._reload_due:
            await self._reload()

    async def _reload(self) -> None:
        """A BIRD that is not there reads the file when it starts; it is asked again with the host's files."""
        try:
            log.info("BIRD: %s", await control.configure(self.settings.socket, CONTROL_S))
        except control.NoBird as error:
            log.debug("%s", error)
            return
        except control.Refused as error:
            log.error("BIRD does not take %s: %s", self.settings.file, error)
        self._reload_due = False

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

    def _say(self, rendered: Rendered) -> None:
        """Log problems once each, and when they are gone."""
        problems = set(rendered.problems)
        if not rendered.has_node:
            reason = "its object is missing: a file that stands is kept, else one without sessions is written"
            problems.add(Problem(f"Node({self.settings.node})", reason))
        for one in sorted(problems - self._said):
            log.warning("%s: %s", one.subject, one.reason)
        for one in sorted(self._said - problems):
            log.info("%s: no longer: %s", one.subject, one.reason)
        self._said = frozenset(problems)

"""The datastore's changes on their way to the kernel: stream -> departures -> graph -> dataplane.

`follow` is the only reader of the stream. `flush_changes` passes on what is different, at once after a quiet moment and
in a storm together with what follows.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Collection
from typing import Protocol

from calico_felix.departures import Departures
from calico_felix.identity import ClusterIdentity
from calico_felix.settings_source import RestartNeeded
from libcalico.calc.census import Census
from libcalico.calc.graph import Graph
from libcalico.calc.messages import Flush
from libcalico.clock import Clock
from libcalico.datastore.syncer import Batch, Status
from libcalico.errors import BadData
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey
from libcalico.text import shown

log = logging.getLogger(__name__)

FLUSH_PAUSE_S = 0.002
LOSS_S = 1.0
"""A loss that a DEL explains is believed sooner, and is none."""
SETTINGS = "FelixConfiguration"


class Kernel(Protocol):
    """What the follower needs of the dataplane."""

    @property
    def links(self) -> Collection[str]:
        """The names of the host's interfaces."""
        ...

    def on_flush(self, flush: Flush) -> None:
        """Take in what the graph has changed."""
        ...

    def note_revision(self, revision: int) -> None:
        """The datastore has moved on, and nothing of it concerns the kernel."""
        ...

    def forget_revisions(self) -> None:
        """What was programmed at revisions until now says nothing of those that come."""
        ...


class Follower:
    """What this host knows of the datastore. `reload` is `SettingsSource.reload`."""

    def __init__(
        self, host: str, ipam: IpamService, clock: Clock, reload: Callable[[dict[str, str]], str],
        identity: ClusterIdentity | None = None,
    ) -> None:  # fmt: skip
        self.graph = Graph(host)
        self.departures = Departures(self.graph, self._has_link)
        self.census = Census()
        self.revision = 0
        self._ipam = ipam
        self._clock = clock
        self._reload = reload
        self._kernel: Kernel | None = None
        self._news = asyncio.Event()
        self._is_whole = False
        self.listeners: list[Callable[[Batch], None]] = []
        """Called with each batch that is taken in."""
        self.identity = identity
        self._restart_reason = ""
        self._losses_reported = False

    def attach(self, kernel: Kernel) -> None:
        """From now on `kernel` gets what is different."""
        self._kernel = kernel

    async def follow(self, batches: AsyncIterator[Batch]) -> None:
        """Take in the stream, for ever."""
        followed = self._ipam.follow()
        async for batch in batches:
            self.take_in(batch, followed)

    def take_in(self, batch: Batch, followed: tuple[str, ...]) -> None:
        """One piece of the stream; keys below the prefixes `followed` are IPAM's as well."""
        now_s = self._clock.monotonic_s()
        for update in batch.updates:
            path = update.key.decode("utf-8", "replace")
            if path.startswith(followed):
                self._ipam.observe(path, update.value, update.revision, certain=batch.snapshot)
            self.departures.update(update.key, update.value, update.revision, now_s)
        for listener in self.listeners:
            listener(batch)
        self._is_whole = batch.status is Status.IN_SYNC
        if self._is_whole:
            if batch.revision < self.revision:
                self._on_restored(batch.revision)
            self.revision = batch.revision
            self._news.set()

    def _on_restored(self, revision: int) -> None:
        """The datastore was restored from a backup: what was programmed at higher revisions says nothing now."""
        log.warning("the datastore is at revision %d and was at %d: it was restored", revision, self.revision)
        self.graph.revision = revision
        if self._kernel is not None:
            self._kernel.forget_revisions()

    async def flush_changes(self) -> None:
        """Pass on what is different whenever something is, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._is_whole:
                self.flush()
            await self._clock.sleep(FLUSH_PAUSE_S)

    def flush(self) -> None:
        """Pass on what is different now. Raises `RestartNeeded`."""
        assert self._kernel is not None
        self._check_ready()
        self.departures.settle(self._clock.monotonic_s())
        first = not self.graph.in_sync
        self.graph.in_sync = True
        for kind in self.census.take(self.graph.counts()):
            log.warning("%s: %s", kind, self.census.vanished[kind])
        flush = self.graph.flush(self.revision)
        if flush is not None and (first or not flush.empty):
            if flush.configuration is not None and not first:
                self._check_settings(flush.configuration)
            self._restart_if_needed()
            log.debug("flush at revision %d: %s", flush.revision, flush.summary())
            self._kernel.on_flush(flush)
        elif flush is not None:
            self._kernel.note_revision(flush.revision)
        self._restart_if_needed()
        if first:
            self._on_in_sync()

    def _check_ready(self) -> None:
        """A datastore that is not initialised has lost its data: nothing follows from whatever else is gone."""
        if self.graph.datastore_ready is None:
            reason = "the datastore is not initialised any more (ClusterInformation default is missing)"
            raise RestartNeeded(f"{reason}: what is programmed stays in force until it is there again")
        if self.identity is not None and (reason := self.identity.objection(self.graph.cluster_guid)):
            raise RestartNeeded(reason)
        if not self.graph.datastore_ready:
            raise RestartNeeded("the datastore is locked (datastoreReady is false)")

    def _restart_if_needed(self) -> None:
        """Not while deletions wait to be believed: an agent that starts would not know what they were of."""
        if self._restart_reason and not self.departures:
            raise RestartNeeded(self._restart_reason)

    def _check_settings(self, values: dict[str, str]) -> None:
        try:
            reason = self._reload(values)
        except BadData as error:
            log.error("%s (until then the former settings stay in force)", error)
            self.graph.problems[SETTINGS] = str(error)
            return
        self.graph.problems.pop(SETTINGS, None)
        self._restart_reason = reason or self._restart_reason

    def _on_in_sync(self) -> None:
        log.info("in sync with the datastore at revision %d", self.revision)
        if self.identity is not None:
            self.identity.keep(self.graph.cluster_guid)
        for problem in self.node_problems():
            log.warning("%s", problem)
        gc.collect()
        gc.freeze()

    def on_time(self, now_s: float) -> None:
        """About once a second: deletions that wait may be believed now, and those that have waited are reported."""
        if not self.departures:
            self._losses_reported = False
            return
        self._news.set()
        if not self._losses_reported and self.departures.waiting_s(now_s) >= LOSS_S:
            self._losses_reported = True
            example = shown(next(iter(self.departures.describe())))
            text = "%s, which is in use here, is gone from the datastore (%d objects so far): kept for a while"
            log.warning(text, example, len(self.departures))

    def on_link(self) -> None:
        """An interface has come or gone: deletions may wait for it."""
        if self.departures:
            self._news.set()

    def has_profile(self, name: str) -> bool:
        """Is there such a profile, and not about to go?"""
        return self.graph.profiles.has(name) and ResourceKey("Profile", name) not in self.departures

    def losses(self) -> list[str]:
        """Objects that are gone from the datastore, and that this host or most of the cluster uses."""
        losses = [f"{name}: {text}" for name, text in self.departures.describe().items()]
        losses += [f"{kind}: {text}" for kind, text in self.census.vanished.items()]
        return losses

    def unmet(self) -> list[str]:
        """What the objects that are there ask for in vain."""
        return [*self.node_problems(), *self.graph.unmet()] if self.graph.in_sync else []

    def node_problems(self) -> list[str]:
        """This host's own Node is not there, or has no address."""
        own = self.graph.routing.own
        if own is not None and any(own.addresses):
            return []
        what = "is not in the datastore" if own is None else "is stored without an address"
        return [f"node {self.graph.host} {what}: no host has routes to its workloads (calico-felix startup stores it)"]

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return {
            "felix_datastore_revision": self.revision,
            "felix_ignored_objects": len(self.graph.problems),
        }

    def _has_link(self, name: str) -> bool:
        return self._kernel is not None and name in self._kernel.links

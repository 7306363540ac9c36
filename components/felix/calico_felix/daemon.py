"""The agent's process: one asyncio loop on which everything runs, wired here and nowhere else.

etcd watch -> `Graph` -> `Dataplane`; link events -> `Dataplane`; the node API, status, metrics, health and debug
interface beside it. The first task that ends, ends the process: the supervisor starts it again, and what is in the
kernel stays in force meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.debug import Subject, debug_commands
from calico_felix.departures import Departures
from calico_felix.foreign import datastore_names
from calico_felix.forwarding import Forwarding
from calico_felix.node_api import NodeApi
from calico_felix.parameters import dataplane_config
from calico_felix.serving import Serving
from calico_felix.sockets import SocketKeeper
from calico_felix.status import StatusReporter
from libcalico import __version__
from libcalico.calc.census import Census
from libcalico.calc.graph import PREFIXES, Graph
from libcalico.calc.settings import CLUSTER, NODE_PREFIX, Settings
from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock, SystemClock
from libcalico.cni.finish import Finisher
from libcalico.cni.locks import hold_netns
from libcalico.cni.server import WorkloadsService
from libcalico.cni.services import Services
from libcalico.cni.unfinished import Unfinished
from libcalico.config import Configuration
from libcalico.datastore.contract import Datastore
from libcalico.datastore.syncer import Batch, Status, Syncer
from libcalico.errors import BadData, CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.ipam.service import IpamService
from libcalico.kernel.netlink import LinkEvent, Monitor, Overrun, RouteEvent
from libcalico.model.keys import AFFINITIES, IPAMConfigKey, ResourceKey, key_path
from libcalico.obs import logs
from libcalico.obs.figures import Figures
from libcalico.obs.health import Health
from libcalico.obs.metrics import Metrics
from libcalico.text import shown
from libcalico.workload.attach import Attacher

log = logging.getLogger(__name__)

CONNECT_RETRY_S = 1.0
LAG_INTERVAL_S = 1.0
COLLECT_INTERVAL_S = 60.0
FLUSH_PAUSE_S = 0.002
STOP_GRACE_S = 2.0
FALLBACKS_END_S = 120.0
DATAPLANE_TIMEOUT_S = 30.0
RESTART_CODE = 129
SETTINGS = "FelixConfiguration"
ACTIVE_PREFIXES = (*PREFIXES, AFFINITIES, key_path(IPAMConfigKey()))


class RestartNeeded(CalicoError):
    """A setting changed that a running agent cannot take over: end, and be started again."""


class Sources(NamedTuple):
    """What `main` has opened."""

    host: str
    configuration: Configuration
    datastore: Datastore


class Daemon:
    """The agent."""

    def __init__(self, sources: Sources, clock: Clock | None = None) -> None:
        self.host, self.configuration, self.datastore = sources
        self.clock = clock or SystemClock()
        self.started_s = self._serving_s = self.clock.monotonic_s()
        self.graph = Graph(self.host)
        self.census = Census()
        self.departures = Departures(
            self.graph, lambda name: self.dataplane is not None and name in self.dataplane.links
        )
        self.syncer = Syncer(self.datastore, ACTIVE_PREFIXES, self.clock)
        self.contact = Contact(self.datastore, self.syncer, self.clock)
        self.ipam = IpamService(self.datastore, self.host, self.clock)
        self.client = AsyncClient(self.datastore, self.clock)
        self.unfinished = Unfinished(self.configuration["StateDirectory"])
        self.finisher: Finisher | None = None
        self.sockets = SocketKeeper()
        self.dataplane: Dataplane | None = None
        self.figures = Figures()
        for source in (self._own_figures, self.contact.figures):
            self.figures.add(source)
        self.health = Health(self.clock)
        self.serving = Serving(self.health, Metrics(self.figures))
        self.lag_s = 0.0
        self.revision = 0
        self._waiting_for = ""
        self._news = asyncio.Event()
        self._is_whole = False
        self.forwarding = Forwarding()
        self._restart_reason = ""
        self._losses_reported = False

    async def run(self) -> None:
        """Until a task ends or SIGTERM arrives."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        work = asyncio.ensure_future(self._run_all())
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not work.done():
            log.info("stopping; what is programmed stays in force")
            work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _run_all(self) -> None:
        self.health.register("datastore", 0)
        self.health.register("dataplane", 0)
        self.serving.update(self.configuration)
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            group.create_task(self.serving.run(), name="http")
            await self._serve_debug()
            stack.push_async_callback(self.sockets.close, STOP_GRACE_S)
            group.create_task(self.sockets.watch(), name="sockets")
            await self._load_settings()
            self.dataplane = dataplane = await self._open_dataplane(stack)
            monitor = await stack.enter_async_context(Monitor(addresses=True, routes=True))
            await dataplane.refresh_links()
            finisher = await self._serve_node_api(stack, dataplane)
            self.figures.add(dataplane.figures)
            gc.disable()
            self.health.register("dataplane", DATAPLANE_TIMEOUT_S)
            group.create_task(self._follow_datastore(), name="datastore")
            group.create_task(self._flush_graph(dataplane), name="graph")
            group.create_task(dataplane.run(self._dataplane_lives), name="dataplane")
            group.create_task(dataplane.watch_ruleset(), name="ruleset")
            group.create_task(dataplane.foreign.run(dataplane.standing), name="foreign rules")
            group.create_task(self._follow_links(monitor, dataplane), name="links")
            group.create_task(self._watch_loop(), name="watchdog")
            group.create_task(finisher.run(), name="unfinished DELs")
            self._start_reporters(group, dataplane)

    async def _load_settings(self) -> None:
        """Wait for the datastore, then take the agent's settings from it."""
        while True:
            try:
                await self._wait_ready()
                self._resolve_settings(await self._read_settings())
                pools = (await self.client.list("IPPool")).items
                for pool in pools:
                    self.graph.routing.update_pool(pool.metadata.name, pool)
                return
            except (DatastoreError, BadData) as error:
                away = isinstance(error, DatastoreError)
                reason = "waiting for the datastore" if away else "waiting for settings that can be used"
                await self._pause(f"{reason}: {error}", ready=away)

    async def _read_settings(self) -> dict[str, str]:
        settings = Settings(self.host)
        for found in (await self.client.list("FelixConfiguration")).items:
            settings.update(found.metadata.name, found)
        with contextlib.suppress(ResourceDoesNotExist):
            settings.labels = (await self.client.get("Node", self.host)).metadata.labels
        for name in (CLUSTER, NODE_PREFIX + self.host):  # which count for certain: a damaged one must be told
            with contextlib.suppress(ResourceDoesNotExist):
                settings.update(name, await self.client.get("FelixConfiguration", name))
        return settings.merged()

    async def _wait_ready(self) -> None:
        while True:
            try:
                found = await self.client.get("ClusterInformation", "default")
                if found.spec.datastore_ready:
                    return
                reason = "the datastore is locked (datastoreReady is false)"
            except ResourceDoesNotExist:
                reason = "the datastore is not initialised (ClusterInformation default is missing)"
            await self._pause(f"waiting: {reason}", ready=True)

    async def _pause(self, reason: str, ready: bool) -> None:
        """Before the next try to start. `ready`: nothing is wrong, there is just nothing to do yet."""
        if reason != self._waiting_for:
            log.log(logging.WARNING if ready else logging.ERROR, "%s", reason)
        self._waiting_for = reason
        self.health.report("datastore", ready=ready, detail=reason)
        await asyncio.sleep(CONNECT_RETRY_S)

    def _resolve_settings(self, values: dict[str, str]) -> set[str]:
        self.configuration.load_datastore(datastore_names(values))
        changed = self.configuration.resolve()
        for warning in self.configuration.news():
            log.warning("%s", warning)
        logs.set_severity(self.configuration["LogSeverityScreen"])
        self.serving.update(self.configuration)
        return changed

    def _vxlan_families(self) -> frozenset[int]:
        return frozenset(family for family in (4, 6) if self.graph.routing.uses_vxlan(family))

    async def _open_dataplane(self, stack: AsyncExitStack) -> Dataplane:
        self._families = self._vxlan_families()
        dataplane = Dataplane(dataplane_config(self.configuration, self.host, self._families), self.clock)
        stack.callback(dataplane.close)
        await dataplane.open()
        self._ensure_forwarding()
        return dataplane

    def _ensure_forwarding(self) -> None:
        if self.configuration["IPForwarding"] == "enabled":
            self.forwarding.ensure()

    async def _follow_datastore(self) -> None:
        fed = self.ipam.feed()
        async for batch in self.syncer.run():
            self._take_in(batch, fed)
            self._is_whole = batch.status is Status.IN_SYNC
            if self._is_whole:
                if batch.revision < self.revision:
                    self._start_revisions_anew(batch.revision)
                self.revision = batch.revision
                self._news.set()

    def _start_revisions_anew(self, revision: int) -> None:
        """The datastore was restored from a backup: what was programmed at higher revisions says nothing now."""
        log.warning("the datastore is at revision %d and was at %d: it was restored", revision, self.revision)
        self.graph.revision = revision
        if self.dataplane is not None:
            self.dataplane.programmed_revision = 0

    async def _flush_graph(self, dataplane: Dataplane) -> None:
        """What is new goes to the dataplane: at once after a quiet moment, in a storm together with what follows."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._is_whole:
                self._flush(dataplane)
            await asyncio.sleep(FLUSH_PAUSE_S)

    def _flush(self, dataplane: Dataplane) -> None:
        self._check_ready()
        self.departures.settle(self.clock.monotonic_s())
        first = not self.graph.in_sync
        self.graph.in_sync = True
        for kind in self.census.take(self.graph.counts()):
            log.warning("%s: %s", kind, self.census.vanished[kind])
        flush = self.graph.flush(self.revision)
        if flush is not None and (first or not flush.empty):
            if flush.configuration is not None and not first:
                self._check_settings(flush.configuration)
            if self._vxlan_families() != self._families:
                self._restart_reason = "the pools' encapsulation has changed"
            self._restart_if_needed()
            log.debug("flush at revision %d: %s", flush.revision, flush.summary())
            dataplane.on_flush(flush)
        elif flush is not None:
            dataplane.note_revision(flush.revision)
        self._restart_if_needed()
        if first:
            self._on_in_sync()

    def _check_ready(self) -> None:
        """A datastore that is not initialised has lost its data: nothing follows from whatever else is gone."""
        if self.graph.datastore_ready is None:
            reason = "the datastore is not initialised any more (ClusterInformation default is missing)"
            raise RestartNeeded(f"{reason}: what is programmed stays in force until it is there again")
        if not self.graph.datastore_ready:
            raise RestartNeeded("the datastore is locked (datastoreReady is false)")

    def _restart_if_needed(self) -> None:
        """Not while deletions wait to be believed: an agent that starts would not know what they were of."""
        if self._restart_reason and not self.departures:
            raise RestartNeeded(self._restart_reason)

    def _take_in(self, batch: Batch, fed: tuple[str, ...]) -> None:
        now_s = self.clock.monotonic_s()
        for update in batch.updates:
            path = update.key.decode("utf-8", "replace")
            if path.startswith(fed):
                self.ipam.observe(path, update.value, update.revision, certain=batch.snapshot)
            self.departures.update(update.key, update.value, update.revision, now_s)

    def _report_losses(self, now_s: float) -> None:
        """Once for losses that go together. A loss that a DEL explains is believed within moments, and is none."""
        if not self.departures:
            self._losses_reported = False
        elif not self._losses_reported and self.departures.waiting_s(now_s) >= LAG_INTERVAL_S:
            self._losses_reported = True
            example = shown(next(iter(self.departures.describe())))
            text = "%s, which is in use here, is gone from the datastore (%d objects so far): kept for a while"
            log.warning(text, example, len(self.departures))

    def _on_in_sync(self) -> None:
        log.info("in sync with the datastore at revision %d", self.revision)
        for problem in self._node_problems():
            log.warning("%s", problem)
        gc.collect()
        gc.freeze()

    def _check_settings(self, values: dict[str, str]) -> None:
        try:
            changed = self.configuration.needs_restart(self._resolve_settings(values))
        except BadData as error:
            log.error("%s (until then the former settings stay in force)", error)
            self.graph.problems[SETTINGS] = str(error)
            return
        self.graph.problems.pop(SETTINGS, None)
        if changed:
            self._restart_reason = f"settings have changed: {', '.join(sorted(changed))}"

    async def _follow_links(self, monitor: Monitor, dataplane: Dataplane) -> None:
        async for event in monitor:
            if isinstance(event, Overrun):
                await dataplane.refresh_links()
                dataplane.routes.refresh()
                dataplane.wake.set()
            elif isinstance(event, LinkEvent):
                dataplane.on_link(event)
                if self.departures:
                    self._news.set()
            elif isinstance(event, RouteEvent):
                dataplane.on_route(event)
            else:
                dataplane.on_address(event)

    async def _watch_loop(self) -> None:
        """Measure how late the loop is, keep forwarding on, collect garbage on a timer."""
        collected_s = self.clock.monotonic_s()
        while True:
            before = self.clock.monotonic_s()
            await asyncio.sleep(LAG_INTERVAL_S)
            now = self.clock.monotonic_s()
            self.lag_s = max(0.0, now - before - LAG_INTERVAL_S)
            self._ensure_forwarding()
            self._report_losses(now)
            if self.departures:
                self._news.set()
            if self.graph.in_sync:
                self.health.report("datastore", detail=self.contact.detail(self.revision))
            if now - collected_s > COLLECT_INTERVAL_S:
                gc.collect()
                collected_s = now

    def _dataplane_lives(self) -> None:
        """Said by the dataplane's own loop: one that hangs in an apply falls silent."""
        assert self.dataplane is not None
        pending = self.dataplane.failing() if self.dataplane.programmed_revision else ["nothing is programmed yet"]
        self.health.report("dataplane", ready=not pending, detail=pending[0] if pending else "")

    def _start_reporters(self, group: asyncio.TaskGroup, dataplane: Dataplane) -> None:
        reporter = StatusReporter(self.host, self.datastore, dataplane, self.clock)
        interval_s = self.configuration["ReportingIntervalSecs"]
        if interval_s > 0:
            group.create_task(reporter.report_host(interval_s, self.configuration["ReportingTTLSecs"]), name="status")
        if self.configuration["EndpointReportingEnabled"]:
            group.create_task(reporter.report_endpoints(), name="endpoint status")

    async def _serve_node_api(self, stack: AsyncExitStack, dataplane: Dataplane) -> Finisher:
        attacher = Attacher()
        stack.callback(attacher.close)

        async def connect(_conf: object) -> AsyncClient:
            return self.client

        services = Services(
            attacher,
            connect,
            dataplane.wait_programmed,
            open_ipam=self._open_ipam,
            clock=self.clock,
            own_node=self.host,
            protect=dataplane.flows.end_inherited,
            hold_netns=self._hold_netns,
            unfinished=self.unfinished,
            datastore_ready=lambda: self.graph.datastore_ready,
            has_profile=self._has_profile,
            is_unused=lambda name: self.graph.in_sync and dataplane.is_unused(name),
            is_held=lambda name, own: dataplane.is_held(name, own) if self.graph.in_sync else None,
        )
        node = NodeApi(self.host, dataplane, self.figures)
        await self.sockets.serve_node(self.configuration["NodeSocket"], WorkloadsService(services), node)
        self._serving_s = self.clock.monotonic_s()
        stack.push_async_callback(self.sockets.close, STOP_GRACE_S)
        self.finisher = Finisher(services, self.unfinished, lambda: self.graph.in_sync and not self.contact.is_lost)
        return self.finisher

    def _has_profile(self, name: str) -> bool:
        return self.graph.policies.has_profile(name) and ResourceKey("Profile", name) not in self.departures

    def _open_ipam(self, client: AsyncClient, node: str) -> IpamService:
        """The one that the watch feeds, once it has all: before, what it has not been told would count as absent."""
        fed = node == self.host and self.graph.in_sync
        return self.ipam if fed else IpamService(client.datastore, node, self.clock)

    def _hold_netns(self, path: str, container: str) -> contextlib.AbstractAsyncContextManager[None]:
        """A plug-in that found no agent may still be at work in a container, for as long as its own time-outs last."""
        is_young = self.clock.monotonic_s() - self._serving_s < FALLBACKS_END_S
        return hold_netns(path, container) if is_young else contextlib.nullcontext()

    def _uptime_s(self) -> float:
        return self.clock.monotonic_s() - self.started_s

    async def _serve_debug(self) -> None:
        """From the very start: an agent that waits says for what."""

        def dataplane() -> Dataplane | None:
            return self.dataplane

        subject = Subject(
            self._facts, self._problems, self.figures, self.configuration, self.graph, dataplane, self.serving
        )
        await self.sockets.serve_debug(self.configuration["DebugSocket"], debug_commands(subject))

    def _problems(self) -> list[str]:
        if self.dataplane is None:
            return [self._waits()]
        host = [*self.forwarding.problems(), *self.sockets.problems()]
        losses = [f"{name}: {text}" for name, text in self.departures.describe().items()]
        losses += [f"{kind}: {text}" for kind, text in self.census.vanished.items()]
        unmet = [*self._node_problems(), *self.graph.unmet()] if self.graph.in_sync else []
        unfinished = self.finisher.problems() if self.finisher is not None else []
        return [*self.contact.problems(self.revision), *host, *losses, *unfinished, *unmet]

    def _waits(self) -> str:
        return self._waiting_for or f"waiting for the datastore at {self.datastore.endpoint}"

    def _node_problems(self) -> list[str]:
        own = self.graph.routing.own
        if own is not None and any(own.addresses):
            return []
        what = "is not in the datastore" if own is None else "is stored without an address"
        return [f"node {self.host} {what}: no host has routes to its workloads (calico-felix startup stores it)"]

    def _facts(self) -> dict[str, Any]:
        """The lines of `status` that are not figures."""
        reason = {"reason": self._waits()} if self.dataplane is None else {}
        return {"in_sync": self.graph.in_sync and not self.contact.is_lost, **self.contact.facts(), **reason}

    def _own_figures(self) -> dict[str, float]:
        """What no part of its own counts."""
        return {
            "felix_datastore_revision": self.revision,
            "felix_unfinished_dels": len(self.unfinished.names()),
            "felix_resyncs_started": self.syncer.resyncs,
            "felix_uptime_seconds": self._uptime_s(),
            "felix_loop_lag_seconds": self.lag_s,
            "felix_ignored_objects": len(self.graph.problems),
            "felix_ipam_mended_blocks": self.ipam.mended_free_lists,
        }


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of tasks; the others are logged."""
    for other in group.exceptions[1:]:
        log.error("and: %r", other)
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def banner(host: str, implementation: str) -> str:
    """The first line of the log."""
    return f"calico-felix {__version__} on node {host}, native code: {implementation}"

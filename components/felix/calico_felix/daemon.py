"""The agent's process: its parts, wired to each other here and nowhere else, on one asyncio loop.

etcd watch -> `Follower` (`Departures`, `Graph`) -> `Dataplane`; link events -> `Dataplane`; beside them settings,
figures, health, and the node API, which is served from the start. The first task that ends, ends the process: the
supervisor starts it again, and what is in the kernel stays in force meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.forwarding import Forwarding
from calico_felix.host_services import AgentHost
from calico_felix.identity import ClusterIdentity
from calico_felix.links import follow_links
from calico_felix.node_api import LateWorkloads, registration
from calico_felix.node_status import NodeStatusReporter
from calico_felix.parameters import dataplane_config, programmed
from calico_felix.report import Report
from calico_felix.routing_feed import RoutingFeed
from calico_felix.serving import Serving
from calico_felix.settings_source import SettingsSource
from calico_felix.status import StatusReporter
from calico_felix.tunnel_keeper import TunnelKeeper
from calico_felix.watchdog import Watchdog
from libcalico import __version__
from libcalico.calc.graph import PREFIXES
from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock, SystemClock
from libcalico.cni.finisher import Finisher
from libcalico.cni.server import WorkloadsService
from libcalico.cni.unfinished import Unfinished
from libcalico.config import Configuration
from libcalico.datastore.contract import Datastore
from libcalico.datastore.syncer import Syncer
from libcalico.errors import Bug
from libcalico.ipam.service import IpamService
from libcalico.kernel.netlink import Monitor
from libcalico.model.keys import AFFINITIES, IPAMConfigKey, key_path
from libcalico.obs.figures import Figures
from libcalico.obs.health import Health
from libcalico.obs.metrics import Metrics
from libcalico.obs.supervisor import Supervisor

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
RESTART_CODE = 129
ACTIVE_PREFIXES = (*PREFIXES, AFFINITIES, key_path(IPAMConfigKey()))


class Stopped(Exception):
    """SIGTERM or SIGINT has arrived."""


class Sources(NamedTuple):
    """What `main` has opened."""

    host: str
    configuration: Configuration
    datastore: Datastore
    supervisor: Supervisor


class Daemon:
    """The agent."""

    def __init__(self, sources: Sources, clock: Clock | None = None) -> None:
        self.host, self.configuration, self.datastore, supervisor = sources
        self.clock = clock or SystemClock()
        self.client = AsyncClient(self.datastore, self.clock)
        health = Health(self.clock)
        identity = ClusterIdentity(self.configuration["StateDirectory"])
        self.settings = SettingsSource(
            self.host, self.configuration, self.client, health, self.clock, identity.objection
        )
        self.ipam = IpamService(self.datastore, self.host, self.clock)
        self.syncer = Syncer(self.datastore, ACTIVE_PREFIXES, self.clock)
        self.contact = Contact(self.datastore, self.syncer, self.clock)
        self.follower = Follower(self.host, self.ipam, self.clock, self.settings.reload, identity)
        self.unfinished = Unfinished(self.configuration["StateDirectory"])
        self.forwarding = Forwarding()
        self.watchdog = Watchdog(self.clock, health, self.contact, self.follower, self.forwarding, supervisor)
        figures = Figures()
        for source in (self.follower.figures, self.contact.figures, self.watchdog.figures, self._other_figures):
            figures.add(source)
        self.serving = Serving(health, Metrics(figures))
        self.settings.on_change = self.serving.update
        self.report = Report(
            self.configuration, self.settings, self.contact, self.follower, self.forwarding, figures, self.serving
        )

    async def run(self) -> None:
        """Until a task ends or SIGTERM arrives. Raises the error that ended it."""
        try:
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                group.create_task(_end_at_signal(), name="signals")
                await self._start(stack, group)
        except BaseExceptionGroup as failures:
            error = _first(failures)
            if not isinstance(error, Stopped):
                raise error from None

    async def _start(self, stack: AsyncExitStack, group: asyncio.TaskGroup) -> None:
        """Everything in its order; each of the tasks runs for ever."""

        def keep(name: str, run: Callable[[], Awaitable[None]]) -> None:
            group.create_task(_never_ending(name, run), name=name)

        self.serving.update(self.configuration)
        keep("serving", self.serving.run)
        workloads, feed = LateWorkloads(), RoutingFeed(self.host)
        self.follower.listeners.append(feed.on_batch)
        register = registration(self.report, feed, workloads)
        await self.serving.sockets.serve_node(self.configuration["NodeSocket"], register)
        stack.push_async_callback(self.serving.sockets.close, STOP_GRACE_S)
        stack.callback(feed.close)
        await self.settings.load()
        self.follower.graph.routing.programmed = programmed(self.configuration)
        dataplane = await self._open_dataplane(stack)
        monitor = await stack.enter_async_context(Monitor(addresses=True, routes=True))
        await dataplane.interfaces.refresh()
        host = AgentHost(self.client, self.ipam, self.follower, dataplane, self.clock)
        stack.callback(host.close)
        self.report.finisher = finisher = Finisher(host, self.unfinished, self._is_reachable)
        workloads.open(WorkloadsService(host, self.unfinished))
        stack.push_async_callback(self.serving.sockets.close, STOP_GRACE_S)
        stack.callback(feed.close)
        self.report.tunnels = tunnels = TunnelKeeper(self.client, self.ipam, self.follower)
        node_status = NodeStatusReporter(self.host, self.datastore, self.clock)
        self.follower.listeners.append(node_status.on_batch)
        keep("node status", node_status.run)
        gc.disable()
        keep("tunnel addresses", tunnels.run)
        keep("datastore", lambda: self.follower.follow(self.syncer.run()))
        keep("graph", self.follower.flush_changes)
        keep("dataplane", partial(dataplane.run, partial(self.watchdog.on_dataplane, dataplane)))
        keep("ruleset", dataplane.writer.watch)
        keep("foreign rules", partial(dataplane.foreign.run, dataplane.readiness.standing))
        keep("links", partial(follow_links, monitor, dataplane, self.follower.on_link))
        keep("watchdog", self.watchdog.run)
        keep("unfinished DELs", finisher.run)
        reporter = StatusReporter(self.host, self.datastore, dataplane, self.clock)
        interval_s = self.configuration["ReportingIntervalSecs"]
        if interval_s > 0:
            keep("status", partial(reporter.report_host, interval_s, self.configuration["ReportingTTLSecs"]))
        if self.configuration["EndpointReportingEnabled"]:
            keep("endpoint status", reporter.report_endpoints)

    async def _open_dataplane(self, stack: AsyncExitStack) -> Dataplane:
        dataplane = Dataplane(dataplane_config(self.configuration, self.host), self.clock)
        stack.callback(dataplane.close)
        await dataplane.open()
        self.follower.attach(dataplane)
        self.report.dataplane = dataplane
        self.report.figures.add(dataplane.figures)
        if self.configuration["IPForwarding"] == "enabled":
            self.forwarding.start()
        return dataplane

    def _is_reachable(self) -> bool:
        return self.follower.graph.in_sync and not self.contact.is_lost

    def _other_figures(self) -> dict[str, float]:
        return {
            "felix_unfinished_dels": len(self.unfinished.names()),
            "felix_resyncs_started": self.syncer.resyncs,
            "felix_ipam_mended_blocks": self.ipam.mended_free_lists,
        }


async def _end_at_signal() -> None:
    """Raises `Stopped` when the supervisor wants the agent to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    log.info("stopping; what is programmed stays in force")
    raise Stopped


async def _never_ending(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """A background task that ends, ends the agent."""
    await run()
    raise Bug(f"the task {name} has ended")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of tasks; the others are logged."""
    for other in group.exceptions[1:]:
        log.error("and: %r", other)
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def banner(host: str, implementation: str) -> str:
    """The first line of the log."""
    return f"calico-felix {__version__} on node {host}, native code: {implementation}"

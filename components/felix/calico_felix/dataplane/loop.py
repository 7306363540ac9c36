"""The dataplane: desired state in, kernel state out.

Events only are remembered; `apply` has each manager do its work, in this order: tunnels whose time is over, the ruleset
(and the end of old connections of addresses that are in use again, after which waiting calls are answered), the
listing of interfaces, the underlay, tunnel devices, routes, neighbours, interfaces' settings, the MTU file, and last
the connections of endpoints
that are gone.

A failed part stays to be done and is tried again. The loop orders and wakes, and does nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.connections import Connections
from calico_felix.dataplane.encapsulations import Encapsulations
from calico_felix.dataplane.foreign_watch import ForeignRules
from calico_felix.dataplane.handles import Handles
from calico_felix.dataplane.interface_settings import InterfaceSettings
from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.link_events import EventLimit
from calico_felix.dataplane.manager import RETRY_S, Context, Failures, LinkChange, Manager
from calico_felix.dataplane.neighbours import WorkloadNeighbours
from calico_felix.dataplane.owners import admit
from calico_felix.dataplane.readiness import Readiness
from calico_felix.dataplane.routes import Routes
from calico_felix.dataplane.ruleset_writer import RulesetWriter
from calico_felix.dataplane.ways import Ways
from calico_felix.dataplane.workload_mtu import WorkloadMtu
from libcalico.calc.messages import Endpoint, Flush
from libcalico.clock import Clock
from libcalico.kernel.netlink import AddressEvent, LinkEvent, RouteEvent
from libcalico.kernel.objects import Link
from libcalico.model.keys import ResourceKey

ALIVE_S = 10.0
ANY_DEVICE = "any"
"""Reading routes again reads those of all devices, so all devices have one limit for it."""


class Rounds(NamedTuple):
    """How many applies there were, and how long the last one took, in seconds."""

    applies: int = 0
    last_s: float = 0.0


class Dataplane:
    """One host's kernel. All methods run on the event loop."""

    def __init__(self, config: DataplaneConfig, clock: Clock, handles: Handles | None = None) -> None:
        self.context = context = Context(config, handles or Handles(), clock, asyncio.Event(), Failures())
        self.ruleset = Ruleset(config.host, config.nft)
        owners = self.ruleset.owners
        self.interfaces = Interfaces(context, self._on_change)
        self.readiness = Readiness(owners)
        self.connections = Connections(context)
        self.writer = RulesetWriter(context, self.ruleset, self.connections, self.readiness)
        self.encapsulations = Encapsulations(
            context, lambda flush: self.on_flush(flush._replace(revision=self.readiness.revision))
        )
        self.ways = Ways(context, self.interfaces)
        self.routes = Routes(context, owners, self.interfaces, self.ways)
        self.settings = InterfaceSettings(context, owners, self.interfaces)
        self.foreign = ForeignRules(config.nft.interface_prefixes, self.writer.commit, context.handles.open_reader)
        self._of_host: tuple[Manager, ...] = (self.routes, *self.ways.managers, self.settings)
        self.managers: tuple[Manager, ...] = (
            self.encapsulations, self.writer, self.readiness, self.interfaces, *self.ways.managers, self.routes,
            WorkloadNeighbours(context, owners, self.interfaces), self.settings, self.foreign,
            WorkloadMtu(context, self.interfaces, self.ways), self.connections,
        )  # fmt: skip
        """In the order of their work; `writer` takes in a flush before all who ask for the owners of interfaces."""
        self._forgetful: EventLimit[str, int] = EventLimit(clock, self._on_forgotten)
        self.rounds = Rounds()

    async def open(self) -> None:
        """Get hold of the kernel and list its interfaces; nothing is changed yet."""
        programmer = await self.context.handles.open()
        self.foreign.changed = programmer.others
        await self.connections.open()
        await self.interfaces.refresh()
        self.settings.open()

    def close(self) -> None:
        """Let go of the kernel; what was programmed stays."""
        self.connections.close()
        self.context.handles.close()

    def on_flush(self, flush: Flush) -> None:
        """Take in what the graph has changed."""
        flush = self.encapsulations.admit(admit(flush, self.context.config.nft.interface_prefixes))
        for manager in self.managers:
            manager.on_flush(flush)
        self.context.wake.set()

    def note_revision(self, revision: int) -> None:
        """The datastore has moved on, and nothing of it concerns the kernel."""
        self.readiness.note_revision(revision, self.writer.progress.is_clean)

    def forget_revisions(self) -> None:
        """The datastore was restored from a backup: its revisions begin again at a lower one."""
        self.readiness.forget()

    @property
    def programmed_revision(self) -> int:
        """The datastore's revision that the kernel reflects, 0 when it reflects none."""
        return self.readiness.programmed_revision

    @property
    def links(self) -> Mapping[str, Link]:
        """The interfaces of the host by name."""
        return self.interfaces.links

    def on_link(self, event: LinkEvent) -> None:
        """The kernel reports an interface that came, changed or went."""
        self.interfaces.on_event(event)

    def _on_change(self, change: LinkChange) -> None:
        for manager in self.managers:
            manager.on_link(change)
        self.context.wake.set()

    def on_address(self, event: AddressEvent) -> None:
        """With a device's last IPv4 address the kernel forgets its routes and neighbours, and reports none of them."""
        device, may_forget = event.address.device, event.deleted and ":" not in event.address.cidr
        if self.ways.uses(device) or (may_forget and self.interfaces.is_ours(device)):
            self._forgetful.on_event(ANY_DEVICE, device)

    def _on_forgotten(self, ifindex: int) -> None:
        for manager in self.managers:
            manager.on_forgotten(ifindex)
        self.context.wake.set()

    def on_route(self, event: RouteEvent) -> None:
        """A route of the host has changed."""
        self.routes.on_route(event)

    async def on_overrun(self) -> None:
        """Events were lost: read all of which they would have reported."""
        await self.interfaces.refresh()
        self._on_forgotten(0)

    async def run(self, alive: Callable[[], None]) -> None:
        """Apply whenever something has changed, and when a retry or refresh is due; calls `alive` every ten seconds."""
        while True:
            alive()
            try:
                async with asyncio.timeout(min(self._next_try_s() or ALIVE_S, ALIVE_S)):
                    await self.context.wake.wait()
            except TimeoutError:
                pass
            self.context.wake.clear()
            if self.writer.is_started:
                await self.apply()

    def _next_try_s(self) -> float | None:
        """Seconds until a manager has something to do; None before the first flush."""
        if not self.writer.is_started:
            return None
        now_s = self.context.clock.monotonic_s()
        times = [time for manager in self.managers if (time := manager.next_try_s(now_s)) is not None]
        return max(min(times), RETRY_S) if times else None

    async def apply(self) -> None:
        """One round. Never raises for a failure that may pass; a broken ruleset raises `Bug`."""
        clock = self.context.clock
        started_s = clock.monotonic_s()
        for manager in self.managers:
            await manager.apply(clock.monotonic_s())
        self.rounds = Rounds(self.rounds.applies + 1, clock.monotonic_s() - started_s)

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Until the kernel enforces an endpoint's policy as of a datastore revision; raises `TimeoutError`."""
        await self.readiness.wait_programmed(key, revision, timeout_s)

    def is_unused(self, interface: str) -> bool:
        """No interface of the host and no endpoint of this node has this name."""
        return interface not in self.interfaces.links and self.ruleset.owners.active(interface) is None

    def is_held(self, interface: str, own: ResourceKey) -> bool:
        """An endpoint of this node other than `own` has this interface."""
        return self.ruleset.owners.is_held(interface, own)

    def endpoint_problem(self, endpoint: Endpoint) -> str:
        """Why an endpoint is not up; empty when it is."""
        if not self.ruleset.owners.has_interface(endpoint):
            return "another endpoint has the same interface"
        link = self.interfaces.links.get(endpoint.interface)
        if link is None:
            return "the interface is not there"
        return self.settings.problem(endpoint.interface) if link.up else "the interface is down"

    def resync(self) -> None:
        """Read the kernel's state, and write it, again at the next apply."""
        self.interfaces.forget()
        self.writer.spoil()
        self._on_forgotten(0)

    def pending(self) -> list[str]:
        """What could not be programmed and is tried again, and chains that wait for a better policy."""
        others = [line for one in self.managers if one not in (self.writer, *self._of_host) for line in one.pending()]
        return [*self.writer.pending(), *self.failing(), *others]

    def failing(self) -> list[str]:
        """The part of it that concerns the host: routes, tunnels, settings."""
        return [line for one in self._of_host for line in one.pending()]

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return {
            "felix_applies": self.rounds.applies,
            "felix_int_dataplane_failures": self.context.failures.count,
            "felix_last_apply_seconds": self.rounds.last_s,
            **{name: value for manager in self.managers for name, value in manager.figures().items()},
        }

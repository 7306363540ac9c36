"""Routes of the main table: to the workloads of this host, by way of others to theirs, and blackholes for our blocks.

Two subjects may claim one destination: two interfaces while an address moves from one to the other, or an interface
and the way to another host. Each keeps its claim, one of them has the route, and when that gives it up the other has
it. The way to another host goes before an interface, a later claim of an interface before an earlier one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.owners import Owners
from calico_felix.dataplane.switching import Switches
from calico_felix.dataplane.ways import Ways
from libcalico.calc.messages import Flush
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.netlink import Netlink, RouteEvent
from libcalico.kernel.objects import (
    RT_SCOPE_LINK,
    RT_TABLE_MAIN,
    RTN_BLACKHOLE,
    RTN_UNICAST,
    RTPROT_BIRD,
    RTPROT_CALICO,
    Route,
)
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.delta import Delta
from libcalico.reconcile.reconciler import Reconciler

RouteKey = tuple[str, int]

REFRESH_S = 90.0
STRANGER_GRACE_S = 10.0
"""A route that we do not know, on a workload's interface, may be one that a CNI plug-in has just made."""
ROUTE_METRIC = 1024
ROUTE_PAUSE_S = 1.0  # between two repairs of a route, however often another process changes it
LINK_LOCAL = "fe80::/64"
ELSEWHERE = ""
"""Who claims routes that do not lead to an interface of a workload."""


class Claims:
    """Who wants which route, and whose of several counts."""

    def __init__(self, entries: Reconciler[RouteKey, Route]) -> None:
        self._entries = entries
        self._keys_of: dict[str, set[RouteKey]] = {}
        self._claims: dict[RouteKey, dict[str, Route]] = {}

    def replace(self, who: str, wanted: Mapping[RouteKey, Route]) -> set[RouteKey]:
        """An interface, or `ELSEWHERE`, wants exactly these routes; the keys that it wants no more."""
        given_up = self._keys_of.pop(who, set()) - wanted.keys()
        for key in given_up:
            del self._claims[key][who]
            self._decide(key)
        for key, route in wanted.items():
            claims = self._claims.setdefault(key, {})
            if claims.get(who) != route:
                claims.pop(who, None)  # the newest claim is the last one
                claims[who] = route
                self._decide(key)
        if wanted:
            self._keys_of[who] = set(wanted)
        return given_up

    def _decide(self, key: RouteKey) -> None:
        claims = self._claims[key]
        if not claims:
            del self._claims[key]
            self._entries.delete(key)
            return
        self._entries.set(key, claims.get(ELSEWHERE) or list(claims.values())[-1])

    def of(self, who: str) -> set[RouteKey]:
        """The keys of the routes that it wants."""
        return self._keys_of.get(who, set())


class Routes(Manager):
    """Wants routes for endpoints' addresses and for what the graph says, and keeps the kernel's equal to them."""

    def __init__(self, context: Context, owners: Owners, interfaces: Interfaces, ways: Ways) -> None:
        self._context = context
        self._owners = owners
        self._interfaces = interfaces
        self._ways = ways
        self.entries: Reconciler[RouteKey, Route] = Reconciler(
            "route", RouteDriver(context.handles.netlink, interfaces, context.config),
            grace_s=STRANGER_GRACE_S, refresh_interval_s=REFRESH_S, on_failure=context.failures.report,
        )  # fmt: skip
        self._claims = Claims(self.entries)
        self._elsewhere: dict[str, WantedRoute] = {}
        self._planned: dict[str, Route] = {}
        """The routes to those destinations."""
        self._planned_for = -1
        """The generation of the ways for which they were planned; -1: they must be planned."""
        self._switches = Switches(ways)
        self._mended_s: dict[RouteKey, float] = {}
        self._harmed: set[RouteKey] = set()

    @property
    def delta(self) -> Delta[RouteKey, Route]:
        """What is wanted, and what the kernel has as far as we know."""
        return self.entries.delta

    def on_flush(self, flush: Flush) -> None:
        """Endpoints and destinations have come, changed or gone."""
        for interface in self._owners.touched:
            self._plan_interface(interface)
        for destination, route in flush.routes.items():
            if route is None:
                self._elsewhere.pop(destination, None)
                self._switches.forget(destination)
            else:
                self._elsewhere[destination] = route
        if flush.routes:
            self._planned_for = -1

    def on_link(self, change: LinkChange) -> None:
        """With a device that is down, the kernel has forgotten its routes."""
        if not change.is_up:
            for key in self._claims.of(change.link.name):
                actual = self.delta.actual.get(key)
                if actual is None or actual.device == change.link.ifindex:
                    self.entries.forget(key)
        if change.was_up != change.is_up and self._ways.uses(change.link.ifindex):
            self.on_forgotten(change.link.ifindex)
        self._plan_interface(change.link.name)

    def on_forgotten(self, ifindex: int) -> None:
        """What the kernel has is not known: read it again, and write what is missing."""
        self.entries.refresh()
        self.entries.retry_all()

    def on_route(self, event: RouteEvent) -> None:
        """A route of the host has changed; when it is one of ours and not what it should be, it is mended."""
        key = route_key(event.route)
        if event.route.table != RT_TABLE_MAIN or key not in self.delta.desired:
            return
        if event.deleted or event.route != self.delta.desired[key]:
            self._mend(key)

    def _mend(self, key: RouteKey) -> None:
        now_s = self._context.clock.monotonic_s()
        pause_s = self._mended_s.get(key, now_s - ROUTE_PAUSE_S) + ROUTE_PAUSE_S - now_s
        if pause_s <= 0:
            self._mended_s[key] = now_s
            self.entries.forget(key)
            self._context.wake.set()
        elif key not in self._harmed:
            self._harmed.add(key)
            asyncio.get_running_loop().call_later(pause_s, self._mend_later, key)

    def _mend_later(self, key: RouteKey) -> None:
        self._harmed.discard(key)
        if key in self.delta.desired:
            self._mend(key)

    def _plan_interface(self, interface: str) -> None:
        """Routes to the addresses of the endpoint that has the interface, while it is there and up."""
        endpoint, link = self._owners.active(interface), self._interfaces.links.get(interface)
        wanted: dict[RouteKey, Route] = {}
        if endpoint is not None and link is not None and link.up:
            for net in endpoint.nets:
                route = Route(
                    str(net), link.ifindex,
                    scope=RT_SCOPE_LINK if net.family == 4 else 0,
                    protocol=self._context.config.device_protocol, metric=ROUTE_METRIC,
                )  # fmt: skip
                wanted[route_key(route)] = route
        self._claim(interface, wanted)

    def _plan_elsewhere(self, now_s: float) -> None:
        """Of destinations whose way is not there yet there is no route."""
        due_s = self._switches.due_s()
        if self._planned_for == self._ways.generation and (due_s is None or now_s < due_s):
            return
        self._planned_for, former, self._planned = self._ways.generation, self._planned, {}
        for destination, wanted in self._elsewhere.items():
            route = self._switches.choose(wanted, former.get(destination), now_s)
            if route is not None:
                self._planned[destination] = route
        routes = self._planned.values()
        self._claim(
            ELSEWHERE,
            {route_key(route): route for route in (*filter(None, map(self._ways.to_gateway, routes)), *routes)},
        )

    def _claim(self, who: str, wanted: Mapping[RouteKey, Route]) -> None:
        for key in self._claims.replace(who, wanted):
            self._mended_s.pop(key, None)

    async def apply(self, now_s: float) -> None:
        """Delete, then write."""
        self._plan_elsewhere(now_s)
        await self.entries.apply(now_s)

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until a retry, the next reading, or until a destination takes its new way."""
        due_s, other = self._switches.due_s(), self.entries.next_try_s(now_s)
        if due_s is None:
            return other
        return max(0.0, due_s - now_s) if other is None else min(max(0.0, due_s - now_s), other)

    def pending(self) -> list[str]:
        """Routes that could not be written."""
        return [f"route {key}: {failure.error}" for key, failure in self.entries.status().failures.items()]

    def figures(self) -> Mapping[str, float]:
        """How many there should be."""
        return {"felix_routes": len(self.delta.desired)}


class RouteDriver:
    """Routes of the main table that are ours: by their protocol, or by their device."""

    def __init__(self, netlink: Netlink, interfaces: Interfaces, config: DataplaneConfig) -> None:
        self._netlink = netlink
        self._interfaces = interfaces
        self._protocols = {RTPROT_CALICO, config.route_protocol}
        self._program_ipip = config.program_ipip

    async def read(self) -> Mapping[RouteKey, Route]:
        """Every route of ours."""
        found = await self._netlink.run(_all_routes)
        return {route_key(route): route for route in found if self._owns(route)}

    def _owns(self, route: Route) -> bool:
        if route.type not in (RTN_UNICAST, RTN_BLACKHOLE) or route.destination == LINK_LOCAL:
            return False
        if route.protocol in self._protocols:
            return True
        if not route.device or route.destination.startswith("ff"):
            return False
        if route.protocol == RTPROT_BIRD and self._program_ipip and self._interfaces.is_ipip(route.device):
            return True
        return self._interfaces.is_ours(route.device)

    async def apply(
        self, deletes: Mapping[RouteKey, Route], updates: Mapping[RouteKey, Route]
    ) -> Mapping[RouteKey, Exception]:
        """Delete, then replace; first those routes that lead to others' gateways."""
        wanted = sorted(updates.values(), key=lambda route: bool(route.gateway))
        failed = await self._netlink.run(Rtnl.apply_routes, list(deletes.values()), wanted)
        return {route_key(route): error for route, error in failed.items()}


def route_key(route: Route) -> RouteKey:
    """What makes two routes the same one: destination and metric."""
    return (route.destination, route.metric)


def _all_routes(rtnl: Rtnl) -> list[Route]:
    return [route for family in (socket.AF_INET, socket.AF_INET6) for route in rtnl.routes(family)]

"""The dataplane: desired state in, kernel state out.

`on_flush` and `on_link` only remember; `apply` does the work, in this order: the nftables table, the end of old
connections of addresses that are in use again, then waiting callers are told, then the VXLAN device, neighbours and
routes, interface settings, and last the connections of endpoints that are gone. A failed part stays dirty and is tried
again; a ruleset that the kernel keeps refusing ends the process, with the former rules in force. When somebody else
changes the table it is written anew (`watch_ruleset`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from calico_felix.dataplane import drivers
from calico_felix.dataplane.backends.nft.programmer import Programmer
from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.connections import Flows, addresses_of
from calico_felix.dataplane.foreign_watch import ForeignRules
from calico_felix.dataplane.link_events import LinkEvents
from calico_felix.dataplane.mtu import MtuFile, host_mtu, workload_mtu
from calico_felix.dataplane.neighbours import WorkloadNeighbours
from calico_felix.dataplane.vxlan import ANYWHERE, Tunnels
from libcalico.calc.messages import Endpoint, Flush
from libcalico.calc.messages import Route as WantedRoute
from libcalico.clock import Clock
from libcalico.conventions import VXLAN_DEVICES
from libcalico.errors import Bug
from libcalico.kernel import sysctl
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import AddressEvent, LinkEvent, Netlink, RouteEvent
from libcalico.kernel.nft import NftError
from libcalico.kernel.objects import RT_SCOPE_LINK, RT_TABLE_MAIN, Link, Route
from libcalico.kernel.rtnl import Rtnl
from libcalico.model.keys import ResourceKey
from libcalico.policy.nft.table import Table
from libcalico.reconcile.reconciler import Reconciler

log = logging.getLogger(__name__)

STRICT = 1  # rp_filter (Documentation/networking/ip-sysctl)
REFRESH_S = 90.0
STRANGER_GRACE_S = 10.0
ROUTE_METRIC = 1024
RULESET_TRIES = 10
MOST_NAMED = 20  # refused chains and sets in one line of the log
RETRY_S = 0.2
ALIVE_S = 10.0
ROUTE_PAUSE_S = 1.0  # between two repairs of a route, as above
REPAIR_INTERVAL_S = 0.1  # between two rewrites because of others: who fights with us must not keep us busy


class Waiter(NamedTuple):
    """Somebody who waits until an endpoint is programmed."""

    key: ResourceKey
    revision: int
    done: asyncio.Future[None]


class Dataplane:
    """One host's kernel. All methods run on the event loop."""

    def __init__(self, config: DataplaneConfig, clock: Clock) -> None:
        self.config = config
        self._clock = clock
        self.ruleset = Ruleset(config.host, config.nft)
        self._programmed: Table | None = None
        self._forgotten = False  # while a transaction was at work
        self._nft_thread = ThreadPoolExecutor(1, thread_name_prefix="nft")
        self._programmer: Programmer | None = None
        self.netlink = Netlink()
        self.links: dict[str, Link] = {}
        self.on_link = LinkEvents(clock, self._on_link).on_event
        self._links_lock = asyncio.Lock()
        self._links_due_s = 0.0
        self._told_meanwhile: list[LinkEvent] | None = None
        self.routes = Reconciler(
            "route", drivers.RouteDriver(self.netlink, self._is_our_device),
            grace_s=STRANGER_GRACE_S, refresh_interval_s=REFRESH_S, on_failure=self._on_failure,
        )  # fmt: skip
        self.tunnels = Tunnels(config, self.netlink, self._on_failure)
        self.neighbours = WorkloadNeighbours(self.netlink, self._workload_devices, config.ipv6 and sysctl.has_ipv6())
        self._mtu_file = MtuFile(config.mtu_file)
        self._mtu_due = True
        self._route_mended_s: dict[drivers.RouteKey, float] = {}
        self._routes_harmed: set[drivers.RouteKey] = set()
        self._wanted_routes: dict[str, WantedRoute] = {}
        self._routes_of: dict[str, set[drivers.RouteKey]] = {}
        self._waiters: list[Waiter] = []
        self.programmed_revisions: dict[ResourceKey, int] = {}
        self.programmed_revision = 0
        self._revision = 0
        self.flows = Flows(clock, self._nft_thread, self._on_failure)
        self.foreign = ForeignRules(config.nft.interface_prefixes, self._commit)
        self.standing = asyncio.Event()
        self._unset: dict[str, str] = {}
        self._settings = drivers.interface_settings(config.ipv6, STRICT, sysctl.has_ipv6())
        self._ready = False
        self._nft_dirty = True
        self._applying = False
        self.failures = 0
        self.repairs = 0
        self.applies = 0
        self.last_apply_s = 0.0
        self.wake = asyncio.Event()

    async def open(self) -> None:
        """Get hold of the kernel and list its interfaces; nothing is changed yet."""
        loop = asyncio.get_running_loop()
        self._programmer = await loop.run_in_executor(self._nft_thread, Programmer)
        self.foreign.changed = self._programmer.others
        await self.flows.open()
        await self.refresh_links()
        try:
            rp_filter = int(sysctl.read("net/ipv4/conf/default/rp_filter"))
            self._settings = drivers.interface_settings(self.config.ipv6, rp_filter, sysctl.has_ipv6())
        except KernelError as error:
            log.info("%s: taking %d", error, STRICT)

    async def refresh_links(self) -> None:
        """Read every interface anew; what is told meanwhile is newer."""
        async with self._links_lock:
            self._links_due_s = self._clock.monotonic_s() + REFRESH_S
            self._told_meanwhile = told = list[LinkEvent]()
            try:
                self.links = {link.name: link for link in await self.netlink.run(Rtnl.links)}
            finally:
                self._told_meanwhile = None
            for event in told:
                self._take_in_link(event)
        self._mtu_due = True
        self._refresh_interface_state()

    def close(self) -> None:
        """Let go of the kernel; what was programmed stays."""
        self.flows.close()
        self._nft_thread.shutdown()
        self.netlink.close()

    def on_flush(self, flush: Flush) -> None:
        """Take in what the graph has changed."""
        flush = self._without_foreign_interfaces(flush)
        interfaces: set[str] = set()
        for key, endpoint in flush.endpoints.items():
            former = self.ruleset.endpoints.get(key)
            interfaces |= {one.interface for one in (former, endpoint) if one is not None}
            self.flows.on_endpoint(former, endpoint)
        self.ruleset.on_flush(flush)
        for key, endpoint in flush.endpoints.items():
            if endpoint is None:
                self.programmed_revisions.pop(key, None)
        for interface in interfaces:
            self._plan_interface(interface)
        for destination, route in flush.routes.items():
            if route is None:
                self._wanted_routes.pop(destination, None)
            else:
                self._wanted_routes[destination] = route
        self.tunnels.on_vteps(flush.vteps)
        self._revision = flush.revision
        self.flows.started()
        self._ready = True
        self._nft_dirty = True
        self.wake.set()

    def _without_foreign_interfaces(self, flush: Flush) -> Flush:
        """An endpoint on an interface that is no workload's (the host's own, say) must not rule it."""
        foreign = {k: e for k, e in flush.endpoints.items() if e is not None and not self._is_workload(e.interface)}
        for key, endpoint in foreign.items():
            prefixes = ", ".join(self.config.nft.interface_prefixes)
            log.warning("%s is ignored: interfaceName %r begins with none of %s", key, endpoint.interface, prefixes)
        return flush._replace(endpoints={**flush.endpoints, **dict.fromkeys(foreign)}) if foreign else flush

    def _on_link(self, event: LinkEvent) -> None:
        """An interface appeared, changed or is gone."""
        if self._told_meanwhile is not None:
            self._told_meanwhile.append(event)
        if event.link.name not in self.links:
            self._on_rename(event.link)
        was_up = (former := self.links.get(event.link.name)) is not None and former.up
        self._take_in_link(event)
        self._on_down_or_up(event.link, was_up, event.link.up and not event.deleted)
        self._plan_interface(event.link.name)
        self._mtu_due = self._mtu_due or not self._is_workload(event.link.name)
        self.wake.set()

    def _on_rename(self, link: Link) -> None:
        """An interface of which the kernel tells for the first time may be one that had another name."""
        former = next((one for one in self.links.values() if one.ifindex == link.ifindex), None)
        if former is not None:
            log.info("interface %s is called %s now", former.name, link.name)
            self._on_link(LinkEvent(former, deleted=True))

    def _on_down_or_up(self, link: Link, was_up: bool, is_up: bool) -> None:
        """The kernel forgets a device's routes and neighbours when it goes down, and tells of none of them."""
        if not is_up:
            for key in self._routes_of.get(link.name, ()):
                actual = self.routes.delta.actual.get(key)
                if actual is None or actual.device == link.ifindex:
                    self.routes.forget(key)
        if was_up != is_up and self.tunnels.on_device(link.ifindex):
            self.routes.refresh()
            self.routes.retry_all()

    def _take_in_link(self, event: LinkEvent) -> None:
        name = event.link.name
        if not event.deleted:
            self.links[name] = event.link
        elif name in self.links and self.links[name].ifindex == event.link.ifindex:
            del self.links[name]

    def on_address(self, event: AddressEvent) -> None:
        """With a device's last IPv4 address the kernel forgets its routes and neighbours, and tells of none of them."""
        device, may_forget = event.address.device, event.deleted and ":" not in event.address.cidr
        if self.tunnels.on_device(device) or (may_forget and self._is_our_device(device)):
            self.routes.refresh()
            self.routes.retry_all()
            self.neighbours.entries.refresh()
            self.wake.set()

    def on_route(self, event: RouteEvent) -> None:
        """A route of the host has changed; when it is one of ours and not what it should be, it is mended."""
        key = drivers.route_key(event.route)
        if event.route.table != RT_TABLE_MAIN or key not in self.routes.delta.desired:
            return
        if event.deleted or event.route != self.routes.delta.desired[key]:
            self._mend_route(key)

    def _mend_route(self, key: drivers.RouteKey) -> None:
        """At most once a second: who fights with us must not keep us busy."""
        now_s = self._clock.monotonic_s()
        pause_s = self._route_mended_s.get(key, 0.0) + ROUTE_PAUSE_S - now_s
        if pause_s <= 0:
            self._route_mended_s[key] = now_s
            self.routes.forget(key)
            self.wake.set()
        elif key not in self._routes_harmed:
            self._routes_harmed.add(key)
            asyncio.get_running_loop().call_later(pause_s, self._mend_later, key)

    def _mend_later(self, key: drivers.RouteKey) -> None:
        self._routes_harmed.discard(key)
        if key in self.routes.delta.desired:
            self._mend_route(key)

    def is_unused(self, interface: str) -> bool:
        """No interface of the host and no endpoint of this node has this name."""
        return interface not in self.links and self.ruleset.active(interface) is None

    def is_held(self, interface: str, own: ResourceKey) -> bool:
        """An endpoint of this node other than `own` has this interface."""
        holder = self.ruleset.active(interface)
        return holder is not None and holder.key != own

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Until the kernel enforces an endpoint's policy as of a datastore revision; raises `TimeoutError`."""
        if self.programmed_revisions.get(key, 0) >= revision:
            return
        waiter = Waiter(key, revision, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.done
        finally:
            self._waiters.remove(waiter)

    async def run(self, alive: Callable[[], None]) -> None:
        """Apply whenever something has changed, and when a retry or refresh is due; says `alive` every ten seconds."""
        while True:
            alive()
            try:
                async with asyncio.timeout(min(self._next_try_s() or ALIVE_S, ALIVE_S)):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()
            if self._ready:
                await self.apply()

    def _next_try_s(self) -> float | None:
        if not self._ready:
            return None
        if self._nft_dirty:
            return RETRY_S
        now = self._clock.monotonic_s()
        times = [
            self.routes.next_try_s(now),
            self.tunnels.next_try_s(now),
            self.neighbours.entries.next_try_s(now),
            RETRY_S if self._unset else None,
            self.flows.next_try_s(now),
        ]
        known = [max(time, RETRY_S) for time in times if time is not None]
        return min(known) if known else None

    async def apply(self) -> None:
        """One round. Never raises for a failure that may pass; a broken ruleset raises `Bug`."""
        started = self._clock.monotonic_s()
        self.applies += 1
        await self._apply_ruleset()
        if started >= self._links_due_s:
            await self.refresh_links()  # nobody tells of a setting that somebody has changed
        self._plan_tunnel_routes()
        now = self._clock.monotonic_s()
        await self.tunnels.apply(self.links, now)
        self._plan_tunnel_routes()
        await self.routes.apply(now)
        await self.neighbours.entries.apply(now)
        await self._apply_settings()
        await self._apply_mtu()
        await self.flows.end_in_time()
        self.last_apply_s = self._clock.monotonic_s() - started

    async def _apply_ruleset(self) -> None:
        if not self._nft_dirty:
            return
        self._nft_dirty, self._applying = False, True
        try:
            await self._apply_table()
        finally:
            self._applying = False
        if not self._nft_dirty:  # revisions that came meanwhile had nothing for the kernel
            self.programmed_revision = max(self.programmed_revision, self._revision)

    async def _apply_table(self) -> None:
        revision = self._revision
        endpoints = {k: e for k, e in self.ruleset.endpoints.items() if self.ruleset.active(e.interface) is e}
        tries = 0
        while tries < RULESET_TRIES:
            wanted = self.ruleset.table.copy()
            lost = self.flows.take_lost()
            former = self._programmed
            try:
                self._forgotten = False
                await self._write(wanted, former)
                self._programmed = None if self._forgotten else wanted
                if unended := await self.flows.on_rules(lost):
                    endpoints = {k: e for k, e in endpoints.items() if not addresses_of(e) & unended}
                    self._nft_dirty = True  # to try again
                self._announce(endpoints, revision)
                return
            except NftError as error:
                self.flows.take_back(lost)
                self.failures += 1
                log.error("nftables refused a transaction: %s", error)
                self._programmed = None
                if not self._quarantine(error):
                    tries += 1
        raise Bug(f"nftables refused the ruleset {RULESET_TRIES} times: the former rules stay in force")

    def _quarantine(self, error: NftError) -> bool:
        """True when the rest may be accepted now: a chain or a set more is closed."""
        closed = []
        for refusal in error.refusals:
            words = refusal.command.split()
            what, name = words[1:2], words[4] if len(words) > 4 else ""
            if (what == ["rule"] and self.ruleset.quarantine(name, refusal.text)) or (
                what == ["set"] and self.ruleset.quarantine_set(name, refusal.text)
            ):
                closed.append(f"{what[0]} {name} ({refusal.text})")
        if closed:
            more = f" and {len(closed) - MOST_NAMED} more" if len(closed) > MOST_NAMED else ""
            log.error("closed until their policies or members change: %s%s", ", ".join(closed[:MOST_NAMED]), more)
        return bool(closed)

    async def _write(self, wanted: Table, former: Table | None) -> None:
        """The thread renders, too: a big set costs tens of milliseconds."""
        assert self._programmer is not None
        await asyncio.get_running_loop().run_in_executor(self._nft_thread, self._programmer.write, wanted, former)

    async def _commit(self, text: str) -> None:
        assert self._programmer is not None
        await asyncio.get_running_loop().run_in_executor(self._nft_thread, self._programmer.commit, text)

    async def watch_ruleset(self) -> None:
        """Whenever somebody else has changed our table (`nft flush ruleset`, say), write it anew."""
        assert self._programmer is not None
        while True:
            changes = await self._programmer.changes()
            if self._programmed is not None or self._applying:  # else it is about to be written as a whole anyway
                more = f"; {len(changes) - 1} more changes" if len(changes) > 1 else ""
                log.warning("the nftables table was changed (%s%s): writing it anew", changes[0], more)
                self.repairs += 1
                self.forget_programmed()
            await asyncio.sleep(max(REPAIR_INTERVAL_S, self.last_apply_s))

    def _announce(self, endpoints: dict[ResourceKey, Endpoint], revision: int) -> None:
        """`endpoints` are those whose policy the kernel enforces: not one whose interface is another's."""
        self.standing.set()
        self.programmed_revision = max(self.programmed_revision, revision)
        for key in self.programmed_revisions.keys() - endpoints.keys():
            del self.programmed_revisions[key]
        for key, endpoint in endpoints.items():
            if key in self.ruleset.endpoints:  # else it was removed while the transaction ran
                self.programmed_revisions[key] = endpoint.revision
        for waiter in self._waiters:
            if self.programmed_revisions.get(waiter.key, 0) >= waiter.revision and not waiter.done.done():
                waiter.done.set_result(None)

    def _is_workload(self, name: str) -> bool:
        return name.startswith(self.config.nft.interface_prefixes)

    def _workload_devices(self) -> set[int]:
        return {link.ifindex for name, link in self.links.items() if self._is_workload(name)}

    def _is_our_device(self, ifindex: int) -> bool:
        ours = tuple(VXLAN_DEVICES.values())
        return any(link.ifindex == ifindex and (self._is_workload(n) or n in ours) for n, link in self.links.items())

    def _refresh_interface_state(self) -> None:
        for interface in {endpoint.interface for endpoint in self.ruleset.endpoints.values()} | set(self._routes_of):
            self._plan_interface(interface)

    def _plan_interface(self, interface: str) -> None:
        """Routes and settings of one workload's interface, as far as it is there."""
        endpoint, link = self.ruleset.active(interface), self.links.get(interface)
        wanted: dict[drivers.RouteKey, Route] = {}
        unset = False
        if endpoint is not None and link is not None and link.up:
            for net in endpoint.nets:
                route = Route(
                    str(net), link.ifindex,
                    scope=RT_SCOPE_LINK if net.family == 4 else 0,
                    protocol=self.config.device_protocol, metric=ROUTE_METRIC,
                )  # fmt: skip
                wanted[drivers.route_key(route)] = route
            unset = bool(drivers.unset_settings(self._settings, link))
        if unset:
            self._unset.setdefault(interface, "")
        else:
            self._unset.pop(interface, None)
        for key in self._routes_of.pop(interface, set()) - set(wanted):
            self._drop_route(key)
        for key, route in wanted.items():
            if self.routes.delta.desired.get(key) != route:
                self.routes.retry(key)
            self.routes.set(key, route)
        if wanted:
            self._routes_of[interface] = set(wanted)
        self.neighbours.plan(interface, endpoint, link)

    def _drop_route(self, key: drivers.RouteKey) -> None:
        """One that wanted a route wants it no more; another interface may have taken over its address."""
        heir = next((name for name, keys in self._routes_of.items() if name and key in keys), "")
        self.routes.delete(key)
        self._route_mended_s.pop(key, None)
        if heir:
            self._plan_interface(heir)

    def _plan_tunnel_routes(self) -> None:
        wanted = self.tunnels.plan_routes(self._wanted_routes, self.links)
        former = self._routes_of.pop("", set())
        for key in former - set(wanted):
            self._drop_route(key)
        for key, route in wanted.items():
            self.routes.set(key, route)
        if wanted:
            self._routes_of[""] = set(wanted)

    async def _apply_settings(self) -> None:
        links = {name: self.links[name] for name in self._unset if name in self.links}
        wanted = {name: drivers.unset_settings(self._settings, link) for name, link in links.items()}
        if not wanted:
            return
        problems = await asyncio.to_thread(drivers.apply_all_settings, wanted)
        for interface, problem in problems.items():
            link = self.links.get(interface)
            if link is not None and link.ifindex != links[interface].ifindex:
                continue  # another one of that name has come meanwhile
            if not problem or link is None:
                self._unset.pop(interface, None)
                if link is not None:
                    self.links[interface] = drivers.with_settings(link, wanted[interface])
            elif interface in self._unset:
                self._unset[interface] = problem

    async def _apply_mtu(self) -> None:
        """When an interface that is no workload's has changed, and at every refresh of the interfaces."""
        if not self._mtu_due:
            return
        self._mtu_due = False
        default = await self.netlink.run(Rtnl.device_to, ANYWHERE[False])
        host = host_mtu(self.links.values(), self.config.mtu_pattern, default)
        await asyncio.to_thread(self._mtu_file.write, workload_mtu(host, self.tunnels.mtus()))

    def _on_failure(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.warning("%s: %s", what, error)

    def forget_links(self) -> None:
        """Read the interfaces, and their settings, anew at the next apply."""
        self._links_due_s = 0.0
        self.wake.set()

    def forget_programmed(self) -> None:
        """Write the whole ruleset anew at the next apply."""
        self._programmed = None
        self._forgotten = self._nft_dirty = True
        self.wake.set()

    def note_revision(self, revision: int) -> None:
        """The datastore has moved on, and nothing of it concerns the kernel."""
        self._revision = revision
        if not self._nft_dirty and not self._applying:
            self.programmed_revision = max(self.programmed_revision, revision)

    def endpoint_problem(self, endpoint: Endpoint) -> str:
        """Why an endpoint is not up; empty when it is."""
        if self.ruleset.active(endpoint.interface) is not endpoint:
            return "another endpoint has the same interface"
        link = self.links.get(endpoint.interface)
        if link is None:
            return "the interface is not there"
        if not link.up:
            return "the interface is down"
        return self._unset.get(endpoint.interface, "")

    def pending(self) -> list[str]:
        """What could not be programmed and is tried again."""
        return [f"chain {chain}: {why}" for chain, why in self.ruleset.quarantined.items()] + [
            *self.failing(),
            *(f"neighbour {key}: {one.error}" for key, one in self.neighbours.entries.status().failures.items()),
            *self.foreign.pending(),
            *filter(None, [self._mtu_file.problem]),
        ]

    def failing(self) -> list[str]:
        """The same without the chains that wait for a better policy: what concerns the host."""
        found = [f"route {key}: {failure.error}" for key, failure in self.routes.status().failures.items()]
        found += self.tunnels.pending()
        found += [f"settings of {name}: {why}" for name, why in self._unset.items() if why]
        return found

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return {
            "felix_programmed_revision": self.programmed_revision,
            "felix_active_local_endpoints": len(self.ruleset.endpoints),
            "felix_active_local_policies": len(self.ruleset.policies),
            "felix_ruleset_chains": len(self.ruleset.table.chains),
            "felix_ipsets_calico": len(self.ruleset.table.sets),
            "felix_routes": len(self.routes.delta.desired),
            "felix_applies": self.applies,
            "felix_int_dataplane_failures": self.failures,
            "felix_ruleset_repairs": self.repairs,
            "felix_foreign_accepts": self.foreign.accepts,
            "felix_last_apply_seconds": self.last_apply_s,
        }

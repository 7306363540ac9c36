"""Wire a workload's interface up and take it down: all or nothing, no fork, no move between namespaces.

`attach` and `detach` block (1 ms and 20 ms) and belong in a worker thread; `Attacher` is that thread pool. The thread
that attaches visits the container's namespace once: for a socket there, the veth pair, whose host end is born directly
in the host's, and kernel settings. All else goes through sockets that live in the one namespace or the other.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple, TypeVar

from libcalico.errors import BadData, Unavailable
from libcalico.kernel import netns, objects, sysctl
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Address, Link, Neighbour, Route
from libcalico.kernel.rtnl import Rtnl
from libcalico.net import bare_address
from libcalico.workload import routes
from libcalico.workload.plan import GATEWAY, HOST_MAC, Setting, Wiring

T = TypeVar("T")

_log = logging.getLogger(__name__)
_LOOK_AGAIN_S = (0.001, 0.001, 0.001, 0.001, 0.001, 0.003)
"""A removal is over after 3 ms or so; of those that take longer many are at work, and each look costs them time."""
_LINK_LOCAL_WAITS_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05)
DETACH_TIMEOUT_S = 20.0


class InterfaceExists(BadData):
    """The container has an interface of that name already."""


class NameTaken(BadData):
    """The host has an interface of that name, which leads elsewhere."""


class LeadsElsewhere(BadData):
    """The host interface leads into another network namespace than the container's; nothing was removed."""


class RouteTaken(BadData):
    """The host has a route for the address through another interface."""


class EndState(NamedTuple):
    """One end of a wiring as it is: its link and addresses (without link-local ones)."""

    link: Link
    addresses: tuple[str, ...]


class Inspection(NamedTuple):
    """Both ends, None where there is nothing, and the addresses that the host routes to its end.

    `families` are those in which the container's end has its default route. `far_name`: the name that the host end's
    other end has in this container, "" when it is not there."""

    host: EndState | None
    container: EndState | None
    routed: tuple[str, ...]
    families: frozenset[int]
    far_name: str

    @property
    def leads_here(self) -> bool:
        """The host end's other end is in this container, under whatever name."""
        return bool(self.far_name)

    @property
    def is_wired(self) -> bool:
        """The two ends are there and belong to each other."""
        host, container = self.host, self.container
        return (
            self.leads_here and host is not None and container is not None and host.link.lower == container.link.ifindex
        )

    def has_mac(self, mac: str) -> bool:
        """The container's end has this MAC."""
        return bool(mac) and self.container is not None and self.container.link.mac == mac.lower()


def attach(wiring: Wiring, netns_path: str, host_netns: str = "") -> str:
    """Do all of a wiring; returns the container end's MAC. On any error nothing is left behind.

    A host interface of that name which leads to no other container is a left-over and goes first. `host_netns` is
    for tests: the namespace that plays the host ("" = ours)."""
    with Rtnl(host_netns) as here, ExitStack() as opened, ExitStack() as undo:
        home = netns.open_path(host_netns) if host_netns else netns.open_here()
        opened.callback(os.close, home)
        with netns.entered(netns_path):
            there = opened.enter_context(Rtnl())
            _create_pair(wiring, here, there, home)
            undo.callback(_quietly, here.delete_link, wiring.host_interface)
            _apply_settings((*wiring.container_settings, *wiring.forwarding_settings))
        _set_up(wiring, here, there, host_netns)
        mac = wiring.mac or _mac_of(there, wiring.container_interface)
        undo.pop_all()
    return mac


def make_pair(wiring: Wiring, host_netns: str = "") -> str:
    """The pair with both ends in the host's namespace, up, for an engine that moves the inner one and gives it its
    addresses; returns the gateway for IPv6 ("" = no such address). On any error nothing is left behind.

    A pair of the same names that nobody has moved goes first."""
    with Rtnl(host_netns) as here, ExitStack() as opened, ExitStack() as undo:
        home = netns.open_path(host_netns) if host_netns else netns.open_here()
        opened.callback(os.close, home)
        _create_pair(wiring, here, here, home)
        undo.callback(_quietly, here.delete_link, wiring.host_interface)
        near, far = _expect(here, wiring.host_interface), _expect(here, wiring.container_interface)
        with netns.entered(host_netns):
            _apply_settings(wiring.host_settings)
        here.set_link(near, up=True, ipv4=wiring.host_ipv4)
        here.set_link(far, up=True)
        for address in wiring.addresses:
            _route_host(wiring.host_interface, near, address, here)
        gateway = _wait_link_local(here, near) if wiring.has_v6 else ""
        undo.pop_all()
    return gateway


def complete(wiring: Wiring, netns_path: str, host_netns: str = "") -> None:
    """Do to a pair that stands what an interrupted `attach` left undone, or another process undid since."""
    with Rtnl(host_netns) as here, ExitStack() as opened:
        with netns.entered(netns_path):
            there = opened.enter_context(Rtnl())
            _apply_settings((*wiring.container_settings, *wiring.forwarding_settings))
        _set_up(wiring, here, there, host_netns)


def _set_up(wiring: Wiring, here: Rtnl, there: Rtnl, host_netns: str) -> None:
    """All that the two ends of a pair need; may be repeated."""
    near, far = _expect(here, wiring.host_interface), _expect(there, wiring.container_interface)
    with netns.entered(host_netns):
        _apply_settings(wiring.host_settings)
    here.set_link(near, up=True, ipv4=wiring.host_ipv4)
    _set_up_container(wiring, there, far, here, near)
    for address in wiring.addresses:
        _route_host(wiring.host_interface, near, address, here)


def detach(netns_path: str, container_interface: str, host_interfaces: Iterable[str], host_netns: str = "") -> None:
    """Take an interface away, from both sides; what is gone already is fine.

    Only a veth is taken from the container, and nothing at all when its namespace is the host's own."""
    with closing(_Removal(netns_path, container_interface, host_interfaces, host_netns)) as removal:
        removal.run()


class _Removal:
    """A `detach` at work, which other threads may watch. `unless_elsewhere`: it raises `LeadsElsewhere` instead when a
    host interface is another container's."""

    def __init__(
        self,
        netns_path: str,
        container_interface: str,
        host_interfaces: Iterable[str],
        host_netns: str,
        unless_elsewhere: bool = False,
    ) -> None:
        self._unless_elsewhere = unless_elsewhere
        self._netns_path = netns_path
        self._container_interface = container_interface
        self._host_interfaces = tuple(host_interfaces)
        self._host_netns = host_netns
        self._sockets = ExitStack()
        self._there: Rtnl | None = None
        self._ends: list[tuple[Rtnl, int]] = []

    def run(self) -> None:
        """See `detach`. By index: before the kernel is done with one end, another may have been given its name."""
        here = self._sockets.enter_context(Rtnl(self._host_netns))
        if self._unless_elsewhere:
            ends = [(here, link.ifindex) for link in self._checked_links(here)]
        else:
            ends = [(here, index) for index in map(here.index, self._host_interfaces) if index]
        try:
            far = self._find_container_end()
            if far is not None:
                self._ends = [*ends, far]
                far[0].delete_index(far[1])
        except KernelError as error:
            _log.warning("detach %s from %s: %s", self._container_interface, self._netns_path, error)
        self._ends = self._ends or ends
        for rtnl, index in ends:
            rtnl.delete_index(index)

    def _checked_links(self, here: Rtnl) -> list[Link]:
        links = [link for link in map(here.link, self._host_interfaces) if link is not None]
        away = [link for link in links if link.leads_away]
        if away:
            try:
                is_elsewhere = not all(_far_name(self._open_container(), link) for link in away)
            except KernelError:  # the namespace has ended meanwhile
                is_elsewhere = True
            if is_elsewhere:
                raise LeadsElsewhere(f"host interface {away[0].name} leads into another network namespace")
        return links

    def _find_container_end(self) -> tuple[Rtnl, int] | None:
        """The interface in the container, if it is there, and a veth."""
        identity = netns.identity(self._netns_path) if self._netns_path else None
        if identity is None or identity == netns.identity(self._host_netns or "/proc/thread-self/ns/net"):
            return None
        there = self._open_container()
        link = there.link(self._container_interface)
        return (there, link.ifindex) if link is not None and link.kind == "veth" else None

    def _open_container(self) -> Rtnl:
        if self._there is None:
            self._there = self._sockets.enter_context(Rtnl(self._netns_path))
        return self._there

    def is_out_of_sight(self) -> bool:
        """Nobody can see or use either end any more; takes microseconds."""
        return bool(self._ends) and not any(rtnl.has_index(index) for rtnl, index in self._ends)

    def close(self) -> None:
        """Once `run` has ended."""
        self._sockets.close()


def inspect(netns_path: str, container_interface: str, host_interface: str, host_netns: str = "") -> Inspection:
    """What stands of a wiring."""
    with Rtnl(host_netns) as here:
        host = _state(here, host_interface)
        routed = [
            bare_address(route.destination)
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in (here.routes(family, device=host.link.ifindex) if host else ())
        ]
    container, families, far_name = None, frozenset[int](), ""
    if netns_path and os.path.exists(netns_path):
        with Rtnl(netns_path) as there:
            container = _state(there, container_interface)
            families = routes.routed_families(there, container.link.ifindex) if container else families
            far_name = _far_name(there, host.link) if host else ""
    return Inspection(host, container, tuple(routed), families, far_name)


def is_used_elsewhere(netns_path: str, host_interface: str, host_netns: str = "") -> bool:
    """The host interface stands, and its other end is in a network namespace that is not the one at the path.

    Part of what `inspect` tells, for a third of its time."""
    with Rtnl(host_netns) as here:
        link = here.link(host_interface) if host_interface else None
    if link is None or not link.leads_away:
        return False
    with Rtnl(netns_path) as there:
        return not _far_name(there, link)


def calico_addresses(netns_path: str, host_netns: str = "") -> list[str]:
    """The addresses of a container's Calico interfaces; none where there is no such namespace."""
    if not netns_path or not os.path.exists(netns_path):
        return []
    with Rtnl(netns_path) as there, Rtnl(host_netns) as here:
        devices = [link.ifindex for link in there.links() if routes.is_calico_end(there, link.ifindex, here)]
        found = [address for device in devices for address in there.addresses(device)]
    return [address.address for address in found if address.scope == objects.RT_SCOPE_UNIVERSE]


def _far_name(there: Rtnl, near: Link) -> str:
    """The name of a host interface's other end, "" when it is not `there`."""
    far = routes.link_at(there, near.lower) if near.leads_away else None
    return far.name if far is not None and far.lower == near.ifindex else ""


def _state(rtnl: Rtnl, name: str) -> EndState | None:
    link = rtnl.link(name) if name else None
    if link is None:
        return None
    try:
        found = [address.address for address in rtnl.addresses(link.ifindex)]
    except KernelError as error:
        if error.gone:  # a moment ago it was there
            return None
        raise
    return EndState(link, tuple(address for address in found if not address.startswith("fe80:")))


def _create_pair(wiring: Wiring, here: Rtnl, there: Rtnl, home: int) -> None:
    try:
        _create_veth(wiring, there, home)
        return
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
    near, far = here.link(wiring.host_interface), there.link(wiring.container_interface)
    if near is not None and leads_elsewhere(near, far):
        raise NameTaken(f"host interface {wiring.host_interface} stands, and leads to another network namespace")
    if near is not None:
        here.delete_index(near.ifindex)  # its other end, if it has one here, goes with it
    if there.index(wiring.container_interface):
        text = f"interface {wiring.container_interface} exists already in the container's network namespace"
        raise InterfaceExists(text)
    _create_veth(wiring, there, home)


def leads_elsewhere(near: Link, far: Link | None) -> bool:
    """The other end of a host interface is in a network namespace, and is not the container's `far`."""
    return near.leads_away and (far is None or near.lower != far.ifindex or far.lower != near.ifindex)


def _create_veth(wiring: Wiring, there: Rtnl, home: int) -> None:
    there.create_veth(
        wiring.container_interface,
        wiring.host_interface,
        peer_netns=home,
        mac=wiring.mac,
        peer_mac=HOST_MAC,
        mtu=wiring.mtu,
        queues=wiring.queues,
    )


def _expect(rtnl: Rtnl, name: str) -> int:
    index = rtnl.index(name)
    if not index:
        raise KernelError(f"get link {name}", errno.ENODEV, "it vanished while it was being wired up")
    return index


def _mac_of(rtnl: Rtnl, name: str) -> str:
    link = rtnl.link(name)
    return link.mac if link is not None else ""


def _apply_settings(settings: Sequence[Setting]) -> None:
    for setting in settings:
        try:
            sysctl.write(setting.key, setting.value)
        except KernelError as error:
            if setting.required:
                raise
            if "ipv6" not in setting.key or sysctl.has_ipv6():
                _log.warning("%s", error)


def _set_up_container(wiring: Wiring, there: Rtnl, far: int, here: Rtnl, near: int) -> None:
    """Up, then routes, then addresses: in one system call without IPv6, whose gateway comes to be only after "up"."""

    def missing(gateway: str) -> list[Route]:
        return routes.missing_routes(there, far, gateway, lambda device: routes.is_calico_end(there, device, here))

    wanted = missing(GATEWAY) if wiring.has_v4 else []
    with there.together():
        there.set_link(far, up=True)
        for route in wanted:
            there.create_route(route)
        if wiring.has_v4:
            there.replace_neighbour(Neighbour(far, GATEWAY, HOST_MAC))
            _give_addresses(wiring, there, far, socket.AF_INET)
    if wiring.has_v6:
        wanted = missing(_wait_link_local(here, near))
        with there.together():
            for route in wanted:
                there.create_route(route)
            _give_addresses(wiring, there, far, socket.AF_INET6)


def _give_addresses(wiring: Wiring, there: Rtnl, far: int, family: int) -> None:
    for address in wiring.addresses:
        if objects.family_of(address) == family:
            there.replace_address(Address(far, _host_cidr(address)))


def _wait_link_local(here: Rtnl, near: int) -> str:
    for pause_s in _LINK_LOCAL_WAITS_S:
        time.sleep(pause_s)
        for address in here.addresses(near, socket.AF_INET6):
            if address.address.startswith("fe80:") and not address.flags & objects.IFA_F_TENTATIVE:
                return address.address
    raise Unavailable("the host's end of the veth got no IPv6 link-local address in half a second")


def _route_host(name: str, near: int, address: str, here: Rtnl) -> None:
    scope = objects.RT_SCOPE_UNIVERSE if ":" in address else objects.RT_SCOPE_LINK
    route = Route(_host_cidr(address), near, scope=scope)
    try:
        here.create_route(route)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        _judge_collision(name, route, here, error)


def _judge_collision(name: str, wanted: Route, here: Rtnl, error: KernelError) -> None:
    """The kernel has this route: fine when it leads to our interface."""
    default_metric = 1024 if wanted.family == socket.AF_INET6 else 0
    for found in here.routes(wanted.family):
        if found.destination != wanted.destination or found.metric != default_metric:
            continue
        if found.device == wanted.device and not found.gateway:
            return
        other = next((link.name for link in here.links() if link.ifindex == found.device), "")
        ours = f"route (Ifindex: {wanted.device}, Dst: {wanted.destination}, Scope: link)"
        theirs = f"route (Ifindex: {found.device}, Dst: {found.destination}, Scope: {_scope(found)}, Iface: {other})"
        text = f"{ours} already exists for an interface other than '{name}': {theirs}"
        raise RouteTaken(f"error adding host side routes for interface: {name}, error: {text}") from error
    raise error


def _scope(route: Route) -> str:
    return {objects.RT_SCOPE_LINK: "link", objects.RT_SCOPE_HOST: "host"}.get(route.scope, "universe")


def _host_cidr(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"


def _quietly(call: Callable[[str], object], name: str) -> None:
    try:
        call(name)
    except KernelError as error:
        _log.warning("undo: %s", error)


class Attacher:
    """`attach`, `detach` and the rest for coroutines, on a few threads: the kernel makes a deletion wait 20 ms.

    What a thread has begun it ends, whatever becomes of the caller: callers see to it that they are not cancelled."""

    def __init__(self, host_netns: str = "", workers: int = 8) -> None:
        self._host_netns = host_netns
        self._own_identity: tuple[int, int] | None = None
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="attach")

    def close(self) -> None:
        """End the threads once they are idle."""
        self._executor.shutdown(wait=False)

    def is_host(self, netns_path: str) -> bool:
        """The path leads to the host's own network namespace."""
        if self._own_identity is None:
            self._own_identity = netns.identity(self._host_netns or "/proc/thread-self/ns/net")
        return self._own_identity is not None and netns.identity(netns_path) == self._own_identity

    def check_netns(self, netns_path: str) -> None:
        """`KernelError` unless the path leads to a network namespace."""
        os.close(netns.open_path(netns_path))

    async def attach(self, wiring: Wiring, netns_path: str) -> str:
        """See `attach`."""
        return await self._run(attach, wiring, netns_path, self._host_netns)

    async def make_pair(self, wiring: Wiring) -> str:
        """See `make_pair`."""
        return await self._run(make_pair, wiring, self._host_netns)

    async def complete(self, wiring: Wiring, netns_path: str) -> None:
        """See `complete`."""
        await self._run(complete, wiring, netns_path, self._host_netns)

    async def detach(
        self,
        netns_path: str,
        container_interface: str,
        host_interfaces: Iterable[str],
        *,
        unless_elsewhere: bool = False,
    ) -> None:
        """See `detach`; `TimeoutError` after 20 s (a hung file system below the namespace's path). `unless_elsewhere`:
        `LeadsElsewhere`, and nothing done, when a host interface is another container's.

        Returns as soon as nobody can see or use the interface any more, after 3 ms or so: the kernel needs 20 to 40 ms
        more to free it, which no signal can interrupt and nobody needs to wait for."""
        removal = _Removal(netns_path, container_interface, host_interfaces, self._host_netns, unless_elsewhere)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DETACH_TIMEOUT_S):
            work = loop.run_in_executor(self._executor, removal.run)
            work.add_done_callback(lambda _work: removal.close())
            for look in itertools.count():
                if work.done():
                    break
                if removal.is_out_of_sight():
                    work.add_done_callback(_log_failure)
                    return
                pause_s = _LOOK_AGAIN_S[min(look, len(_LOOK_AGAIN_S) - 1)]
                await asyncio.wait({work}, timeout=pause_s)
            await work

    async def inspect(self, netns_path: str, container_interface: str, host_interface: str) -> Inspection:
        """See `inspect`."""
        return await self._run(inspect, netns_path, container_interface, host_interface, self._host_netns)

    async def is_used_elsewhere(self, netns_path: str, host_interface: str) -> bool:
        """See `is_used_elsewhere`."""
        return await self._run(is_used_elsewhere, netns_path, host_interface, self._host_netns)

    async def calico_addresses(self, netns_path: str) -> list[str]:
        """See `calico_addresses`."""
        return await self._run(calico_addresses, netns_path, self._host_netns) if netns_path else []

    async def host_interfaces(self) -> dict[str, Link]:
        """The host's interfaces by name."""
        return await self._run(_list_links, self._host_netns)

    async def host_addresses(self) -> list[str]:
        """The host's own addresses, without those of loopback and link-local ones."""
        return await self._run(_list_addresses, self._host_netns)

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


def _log_failure(work: asyncio.Future[None]) -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _log.warning("detach, after the interface had gone: %s", error)


def _list_links(host_netns: str) -> dict[str, Link]:
    with Rtnl(host_netns) as here:
        return {link.name: link for link in here.links()}


def _list_addresses(host_netns: str) -> list[str]:
    with Rtnl(host_netns) as here:
        found = [address.address for address in here.addresses() if address.scope == objects.RT_SCOPE_UNIVERSE]
    return sorted(address for address in found if not address.startswith("127."))

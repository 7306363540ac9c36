"""What the reconcilers read and write: routes, VXLAN neighbours, and interface settings."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

from libcalico.kernel import sysctl
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.objects import AF_BRIDGE, Link, Neighbour, Route
from libcalico.kernel.rtnl import Rtnl

log = logging.getLogger(__name__)

OUR_PROTOCOL = 80
DEVICE_PROTOCOL = 3
LINK_LOCAL = "fe80::/64"
RTN_UNICAST = 1
RTN_BLACKHOLE = 6
PROXY_DELAY = "proxy_delay"

RouteKey = tuple[str, int]
NeighbourKey = tuple[int, str, str]


class RouteDriver:
    """Routes of the main table that are ours: by their protocol, or by their device."""

    def __init__(self, netlink: Netlink, is_ours: Callable[[int], bool]) -> None:
        """`is_ours(ifindex)`: is this a workload's interface or one of our tunnel devices?"""
        self._netlink = netlink
        self._is_ours = is_ours

    async def read(self) -> Mapping[RouteKey, Route]:
        """Every route of ours."""
        found = await self._netlink.run(_all_routes)
        return {route_key(route): route for route in found if self._owns(route)}

    def _owns(self, route: Route) -> bool:
        if route.type not in (RTN_UNICAST, RTN_BLACKHOLE) or route.destination == LINK_LOCAL:
            return False
        if route.protocol == OUR_PROTOCOL:
            return True
        return bool(route.device) and self._is_ours(route.device) and not route.destination.startswith("ff")

    async def apply(
        self, deletes: Mapping[RouteKey, Route], updates: Mapping[RouteKey, Route]
    ) -> Mapping[RouteKey, Exception]:
        """Delete, then replace."""
        failed = await self._netlink.run(Rtnl.apply_routes, list(deletes.values()), list(updates.values()))
        return {route_key(route): error for route, error in failed.items()}


def route_key(route: Route) -> RouteKey:
    """What makes two routes the same one: destination and metric."""
    return (route.destination, route.metric)


def _all_routes(rtnl: Rtnl) -> list[Route]:
    return [route for family in (socket.AF_INET, socket.AF_INET6) for route in rtnl.routes(family)]


class NeighbourDriver:
    """Permanent neighbour and forwarding entries of our VXLAN devices."""

    def __init__(self, netlink: Netlink, devices: Callable[[], dict[int, int]]) -> None:
        """`devices()`: ifindex -> address family of the VXLAN devices that are there."""
        self._netlink = netlink
        self._devices = devices

    async def read(self) -> Mapping[NeighbourKey, Neighbour]:
        """Every permanent entry."""
        found = await self._netlink.run(_all_neighbours, self._devices())
        return {neighbour_key(entry): entry for entry in found}

    async def apply(
        self, deletes: Mapping[NeighbourKey, Neighbour], updates: Mapping[NeighbourKey, Neighbour]
    ) -> Mapping[NeighbourKey, Exception]:
        """Delete, then replace."""
        failed = await self._netlink.run(Rtnl.apply_neighbours, list(deletes.values()), list(updates.values()))
        return {neighbour_key(entry): error for entry, error in failed.items()}


def neighbour_key(entry: Neighbour) -> NeighbourKey:
    """What makes two entries the same one to the kernel: the address, and in the forwarding table the MAC as well."""
    return (entry.device, entry.address, entry.mac if entry.fdb else "")


def _all_neighbours(rtnl: Rtnl, devices: dict[int, int]) -> list[Neighbour]:
    found = []
    for device, family in devices.items():
        for table in (family, AF_BRIDGE):
            found += [
                entry for entry in rtnl.neighbours(device, table) if entry.state == Neighbour._field_defaults["state"]
            ]
    return found


class InterfaceSetting(NamedTuple):
    """One file of an interface below /proc/sys/net; `needed` False: a failure is only logged."""

    area: str
    name: str
    value: int
    needed: bool = True

    def key(self, interface: str) -> str:
        """The file."""
        return f"net/{self.area}/{'neigh' if self.name == PROXY_DELAY else 'conf'}/{interface}/{self.name}"


def interface_settings(ipv6: bool, rp_filter: int, known_ipv6: bool = True) -> tuple[InterfaceSetting, ...]:
    """What a workload's interface needs (spec/felix.md 4.6); `known_ipv6`: the kernel has settings of IPv6."""
    settings = [InterfaceSetting("ipv6", "accept_ra", 0, False)] if known_ipv6 else []
    settings += [
        InterfaceSetting("ipv4", "route_localnet", 1),
        InterfaceSetting("ipv4", PROXY_DELAY, 0, False),
        InterfaceSetting("ipv4", "proxy_arp", 1),
        InterfaceSetting("ipv4", "forwarding", 1),
        InterfaceSetting("ipv4", "rp_filter", rp_filter),
    ]
    if ipv6 and known_ipv6:
        settings += [InterfaceSetting("ipv6", "proxy_ndp", 1), InterfaceSetting("ipv6", "forwarding", 1)]
    return tuple(settings)


def unset_settings(settings: tuple[InterfaceSetting, ...], link: Link) -> tuple[InterfaceSetting, ...]:
    """Those that are not what they should be, as the kernel told with the link.

    It does not tell of `proxy_delay`: that is taken for set when every other one of IPv4 is, for who wires sets all.
    An interface of which it tells IPv4's settings and none of IPv6 has no IPv6 (its MTU is below 1280): nothing is
    missing there, and what it has later is reported with it."""
    if link.ipv4 and not link.ipv6:
        settings = tuple(s for s in settings if s.area != "ipv6")
    unset = tuple(s for s in settings if s.name != PROXY_DELAY and link.setting(s.area, s.name) != s.value)
    if any(s.area == "ipv4" for s in unset):
        unset += tuple(s for s in settings if s.name == PROXY_DELAY)
    return unset


def with_settings(link: Link, written: tuple[InterfaceSetting, ...]) -> Link:
    """The link as it is after that."""
    for setting in written:
        if setting.name != PROXY_DELAY and link.setting(setting.area, setting.name) is not None:
            link = link.with_setting(setting.area, setting.name, setting.value)
    return link


def apply_all_settings(wanted: Mapping[str, tuple[InterfaceSetting, ...]]) -> dict[str, str]:
    """`apply_settings` for several interfaces."""
    return {name: apply_settings(name, settings) for name, settings in wanted.items()}


def apply_settings(interface: str, settings: tuple[InterfaceSetting, ...]) -> str:
    """Write what differs; the first failure that matters, empty if there was none."""
    problem = ""
    for setting in settings:
        try:
            sysctl.ensure(setting.key(interface), setting.value)
        except KernelError as error:
            if setting.needed:
                problem = problem or str(error)
            else:
                log.info("%s", error)
    return problem

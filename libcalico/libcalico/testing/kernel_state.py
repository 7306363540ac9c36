"""What the fake kernel knows, and how each piece of it comes, changes and goes as in Linux.

The numbers of errors, and what goes silently together with something else, are those on which the code of this
repository depends.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

from libcalico.kernel.netlink import AddressEvent, Event, LinkEvent, RouteEvent
from libcalico.kernel.objects import (
    IPV4_SETTINGS,
    IPV6_SETTINGS,
    RT_SCOPE_LINK,
    RT_TABLE_MAIN,
    RTN_BLACKHOLE,
    Address,
    Link,
    Neighbour,
    Route,
)
from libcalico.testing.kernel_nft import FakeRuleset

RouteKey = tuple[str, int, int]
NeighbourKey = tuple[int, str, str]
AREAS: Mapping[str, Mapping[str, int]] = {"ipv4": IPV4_SETTINGS, "ipv6": IPV6_SETTINGS}
ACCEPT_RA = "accept_ra"
LEAST_IPV6_MTU = 1280


class Refusal(NamedTuple):
    """What is refused: commands that contain `words`, with this number, so many `times`."""

    words: str
    number: int
    times: int


class KilledError(BaseException):
    """The process under test is killed with this command; the kernel did not do it."""


class KernelState:
    """One network namespace as values."""

    def __init__(self, *, ipv6: bool = True) -> None:
        """Without `ipv6` the kernel knows no settings of it."""
        self.links: dict[int, Link] = {}
        self.addresses: list[Address] = []
        self.routes: dict[RouteKey, Route] = {}
        self.neighbours: dict[NeighbourKey, Neighbour] = {}
        self.sysctls: dict[str, str] = {"net/ipv4/conf/default/rp_filter": "2"}
        self.flows: list[tuple[str, str]] = []
        self.nft = FakeRuleset(self.ask)
        self.commands: list[str] = []
        self.events: list[Event] = []
        self.reads: list[str] = []
        self._refusals: list[Refusal] = []
        self.has_ipv6 = ipv6
        self.kill_after: int | None = None
        """So many commands are done yet, and the next one kills who asks; None: none does."""
        self._next_index = 1
        self.add_link("lo", mtu=65536)

    def refuse(self, words: str, number: int, times: int = 1) -> None:
        """Refuse the next `times` commands, or listings, that contain these words, with an error's number."""
        self._refusals.append(Refusal(words, number, times))

    def refused(self, words: str) -> int:
        """The number with which a test wants this to be refused, 0 for none."""
        for place, one in enumerate(self._refusals):
            if one.words in words:
                self._refusals[place : place + 1] = [one._replace(times=one.times - 1)] if one.times > 1 else []
                return one.number
        return 0

    def ask(self, command: str) -> int:
        """Note a command; the number with which it is refused, 0 when it is not."""
        if self.kill_after is not None:
            if self.kill_after == 0:
                raise KilledError(command)
            self.kill_after -= 1
        self.commands.append(command)
        return self.refused(command)

    def change(self, command: str, act: Callable[[], int]) -> int:
        """Do what a command asks for, unless it is refused; the error's number."""
        return self.ask(command) or act()

    def put_link(self, link: Link) -> None:
        """A link comes or changes; one that is down has no routes and neighbours."""
        former = self.links.get(link.ifindex)
        self.links[link.ifindex] = link
        self._next_index = max(self._next_index, link.ifindex + 1)
        if former is None or former.name != link.name:
            self._name_settings(former, link)
        if not link.up:
            self._forget(link.ifindex)
        self.events.append(LinkEvent(self.as_told(link), False))

    def drop_link(self, index: int) -> int:
        """A link goes, and all that is on it."""
        link = self.links.pop(index, None)
        if link is None:
            return errno.ENODEV
        self._forget(index)
        self.addresses = [one for one in self.addresses if one.device != index]
        self.sysctls = {key: value for key, value in self.sysctls.items() if f"/{link.name}/" not in key}
        self.events.append(LinkEvent(link, True))
        return 0

    def _forget(self, index: int, family: int = 0) -> None:
        """Of this the kernel reports nothing."""
        self.routes = {
            key: one for key, one in self.routes.items() if one.device != index or family not in {0, one.family}
        }
        self.neighbours = {key: one for key, one in self.neighbours.items() if one.device != index}

    def _name_settings(self, former: Link | None, link: Link) -> None:
        if former is not None:
            old, new = f"/{former.name}/", f"/{link.name}/"
            self.sysctls = {key.replace(old, new): value for key, value in self.sysctls.items()}
            return
        for area, names in AREAS.items():
            if area == "ipv4" or (self.has_ipv6 and link.mtu >= LEAST_IPV6_MTU):
                for name in names:
                    self.sysctls[f"net/{area}/conf/{link.name}/{name}"] = "1" if name == ACCEPT_RA else "0"
        self.sysctls[f"net/ipv4/neigh/{link.name}/proxy_delay"] = "80"

    def as_told(self, link: Link) -> Link:
        """With its settings, as the kernel reports it."""
        tables = {}
        for area, names in AREAS.items():
            values = bytearray(4 * (max(names.values()) + 1))
            known = False
            for name, place in names.items():
                value = self.sysctls.get(f"net/{area}/conf/{link.name}/{name}")
                known = known or value is not None
                at = 4 * (place - 1 if area == "ipv4" else place)
                values[at : at + 4] = int(value or 0).to_bytes(4, "little", signed=True)
            tables[area] = bytes(values) if known else b""
        return link._replace(ipv4=tables["ipv4"], ipv6=tables["ipv6"])

    def put_address(self, address: Address) -> None:
        """An address comes."""
        self.addresses = [one for one in self.addresses if (one.device, one.cidr) != (address.device, address.cidr)]
        self.addresses.append(address)
        self.events.append(AddressEvent(address, False))

    def drop_address(self, device: int, cidr: str) -> int:
        """An address goes; with the last one of IPv4 go the device's routes and neighbours of IPv4."""
        left = [one for one in self.addresses if (one.device, one.cidr) != (device, cidr)]
        if len(left) == len(self.addresses):
            return errno.EADDRNOTAVAIL
        self.addresses = left
        if ":" not in cidr and not any(one.device == device and ":" not in one.cidr for one in left):
            self._forget(device, socket.AF_INET)
        self.events.append(AddressEvent(Address(device, cidr), True))
        return 0

    def put_route(self, route: Route, exclusive: bool = False) -> int:
        """A route comes, or takes the place of another; the error's number."""
        link = self.links.get(route.device)
        if route.device and link is None:
            return errno.ENODEV
        if link is not None and not link.up:
            return errno.ENETDOWN
        if route.gateway and not route.onlink and not self._reaches(route.device, route.gateway):
            return errno.ENETUNREACH
        key = (route.destination, route.metric, route.table)
        if exclusive and key in self.routes:
            return errno.EEXIST
        self.routes[key] = route
        self.events.append(RouteEvent(route, False))
        return 0

    def drop_route(self, route: Route) -> int:
        """A route goes."""
        gone = self.routes.pop((route.destination, route.metric, route.table), None)
        if gone is None:
            return errno.ESRCH
        self.events.append(RouteEvent(gone, True))
        return 0

    def _reaches(self, device: int, gateway: str) -> bool:
        own = (ipaddress.ip_interface(one.cidr).network for one in self.addresses if one.device == device)
        return any(ipaddress.ip_address(gateway) in network for network in own)

    def device_to(self, address: str) -> int:
        """The index of the interface by which packets to an address leave, 0 for none."""
        wanted = ipaddress.ip_address(address)
        ways = [(ipaddress.ip_network(one.destination), one) for one in self.routes.values()]
        ways += [
            (ipaddress.ip_interface(one.cidr).network, Route(one.cidr, one.device))
            for one in self.addresses
        ]  # fmt: skip
        found = [(network.prefixlen, -one.metric, one.device) for network, one in ways if wanted in network]
        return max(found)[2] if found else 0

    def index(self, name: str) -> int:
        """The index of the interface of that name, 0 if there is none."""
        return next((link.ifindex for link in self.links.values() if link.name == name), 0)

    def add_link(self, name: str, *, up: bool = True, mtu: int = 1500, kind: str = "", mac: str = "") -> int:
        """An interface that another process has made; its index."""
        link = Link(self._next_index, name, up, up, mtu, mac, kind)
        self.put_link(link)
        return link.ifindex

    def name(self, index: int) -> str:
        """The name of an interface; of one that is not there its number."""
        return self.links[index].name if index in self.links else f"#{index}"

    def route_line(self, route: Route) -> str:
        """A route as `ip route` shows it."""
        words = [
            "blackhole" if route.type == RTN_BLACKHOLE else "", route.destination,
            f"via {route.gateway}" if route.gateway else "", f"dev {self.name(route.device)}" if route.device else "",
            f"proto {route.protocol}", "scope link" if route.scope == RT_SCOPE_LINK else "",
            f"metric {route.metric}" if route.metric else "", f"mtu {route.mtu}" if route.mtu else "",
            "onlink" if route.onlink else "", f"table {route.table}" if route.table != RT_TABLE_MAIN else "",
        ]  # fmt: skip
        return " ".join(filter(None, words))

    def neighbour_line(self, entry: Neighbour) -> str:
        """A neighbour as `ip neigh` shows it, a forwarding entry as `bridge fdb` does."""
        if entry.fdb:
            return f"fdb {entry.mac} dst {entry.address} dev {self.name(entry.device)}"
        mac = f" lladdr {entry.mac}" if entry.mac else ""
        return f"{entry.address} dev {self.name(entry.device)}{mac}{' learned' if entry.learned else ''}"

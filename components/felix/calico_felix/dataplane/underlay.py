"""The network below the tunnels: by which interface this host reaches the others, and how large its packets may be."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import NamedTuple

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.mtu import matching_mtus
from libcalico.calc.messages import Flush, NodeAddresses
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Link
from libcalico.kernel.rtnl import Rtnl

CHECK_S = 10.0
RETRY_S = 1.0
ANYWHERE = {False: "192.0.2.1", True: "2001:db8::1"}
"""Of no network (RFC 5737, 3849): reached by the default route."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Way(NamedTuple):
    """This node's address, the interface that has it, and the one by which packets to other nodes leave.

    They differ when the address is that of a host which several ways lead to, on `lo` or a dummy interface."""

    address: str
    holder: Link
    parent: Link


class Underlay(Manager):
    """One way out per family, as far as a tunnel or a route to another host needs it."""

    def __init__(self, context: Context, interfaces: Interfaces) -> None:
        self._context = context
        self._interfaces = interfaces
        self._hosts: dict[str, NodeAddresses] = {}
        self._tunnels: frozenset[int] = frozenset()
        self._near: dict[int, set[str]] = {4: set(), 6: set()}
        self._ways: dict[int, Way] = {}
        self._problems: dict[int, str] = {}
        self._check_at_s = 0.0
        self.generation = 0
        """Grows when a way is another one."""

    def on_flush(self, flush: Flush) -> None:
        """Nodes have other addresses, or other ways are needed."""
        for node, addresses in flush.hosts.items():
            if addresses is None:
                self._hosts.pop(node, None)
            else:
                self._hosts[node] = addresses
        if flush.pools is not None:
            self._tunnels = flush.pools.vxlan | ({4} if flush.pools.ipip else frozenset())
        for destination, route in flush.routes.items():
            near = self._near[6 if ":" in destination else 4]
            if route is not None and route.kind == "same-subnet":
                near.add(destination)
            else:
                near.discard(destination)
        if flush.hosts or flush.pools is not None or flush.routes:
            self._check_at_s = 0.0

    def on_link(self, change: LinkChange) -> None:
        """An interface is up, down, or has another MTU."""
        if not self._interfaces.is_workload(change.link.name):
            self._check_at_s = 0.0

    def on_forgotten(self, ifindex: int) -> None:
        """An interface may have other addresses."""
        self._check_at_s = 0.0

    def own(self, family: int) -> str:
        """This node's address, empty when it has none."""
        own = self._hosts.get(self._context.config.host)
        return own.own[0 if family == 4 else 1] if own is not None else ""

    def way(self, family: int) -> Way | None:
        """The way out, None while there is none."""
        return self._ways.get(family)

    def mtu(self, way: Way) -> int:
        """The largest packet in octets that every interface which may be a way out takes."""
        pattern = self._context.config.mtu_pattern
        return min([way.parent.mtu, *matching_mtus(self._interfaces.links.values(), pattern)])

    def uses(self, ifindex: int) -> bool:
        """Packets to other nodes leave by it."""
        return any(way.parent.ifindex == ifindex for way in self._ways.values())

    def _families(self) -> list[int]:
        return [family for family in (4, 6) if family in self._tunnels or self._near[family]]

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until the next look: an address may come to an interface, or the default route be another."""
        return max(0.0, self._check_at_s - now_s) if self._families() else None

    async def apply(self, now_s: float) -> None:
        """Look for the ways that are needed."""
        if now_s < self._check_at_s:
            return
        self._check_at_s = now_s + CHECK_S
        for family in (4, 6):
            way, problem = None, ""
            if family in self._families() and self.own(family):
                try:
                    way, problem = await self._find(family)
                except KernelError as error:
                    way, problem = self._ways.get(family), str(error)
            self._note(family, way, problem, now_s)

    async def _find(self, family: int) -> tuple[Way | None, str]:
        address, place = self.own(family), 0 if family == 4 else 1
        host = self._context.config.host
        peers = [one.own[place] for node, one in self._hosts.items() if node != host and one.own[place]]
        holder, parent = await self._context.handles.netlink.run(_find_parent, address, peers)
        if holder is None or parent is None:
            return None, _no_parent(address, holder)
        return Way(address, holder, parent), ""

    def _note(self, family: int, way: Way | None, problem: str, now_s: float) -> None:
        if problem:
            self._check_at_s = now_s + RETRY_S
            if problem != self._problems.get(family):
                self._context.failures.report(f"underlay of IPv{family}", KernelError(problem))
            self._problems[family] = problem
        else:
            self._problems.pop(family, None)
        if way != self._ways.get(family):
            self.generation += 1
        if way is None:
            self._ways.pop(family, None)
        else:
            self._ways[family] = way

    def pending(self) -> list[str]:
        """Why there is no way out."""
        return [f"underlay of IPv{family}: {why}" for family, why in self._problems.items()]


def _find_parent(rtnl: Rtnl, address: str, peers: Iterable[str]) -> tuple[Link | None, Link | None]:
    """The interface that has this node's address, and the one by which packets to other nodes leave: when the address
    is on no interface that leads anywhere, that is the narrowest of the ways to the peers, or the default route's."""
    holders = {entry.device for entry in rtnl.addresses() if entry.address == address}
    links = rtnl.links()
    holder = next((link for link in links if link.ifindex in holders), None)
    if holder is None or not _is_nowhere(holder):
        return holder, holder
    ways = {rtnl.device_to(peer) for peer in peers} or {rtnl.device_to(ANYWHERE[":" in address])}
    leaving = [link for link in links if link.ifindex in ways and not _is_nowhere(link)]
    return holder, min(leaving, key=lambda link: link.mtu, default=None)


def _is_nowhere(link: Link) -> bool:
    return link.name == "lo" or link.kind == "dummy"


def _no_parent(address: str, holder: Link | None) -> str:
    if holder is None:
        return f"no interface has this node's address {address}"
    return f"this node's address {address} is on {holder.name}, and no route leads to other nodes"

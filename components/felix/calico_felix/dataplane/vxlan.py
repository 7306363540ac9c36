"""The VXLAN device of this host and the way through it to other hosts (spec/felix.md 4.7, 4.8)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from calico_felix.dataplane import drivers
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.mtu import VXLAN_OVERHEAD
from libcalico.calc.messages import Route as WantedRoute
from libcalico.calc.messages import Vtep
from libcalico.conventions import VXLAN_DEVICES
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.objects import RT_SCOPE_LINK, Link, Neighbour, Route, VxlanAttributes
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.reconciler import Reconciler

CHECK_S = 10.0
RETRY_S = 1.0
ANYWHERE = {False: "192.0.2.1", True: "2001:db8::1"}
"""Of no network (RFC 5737, 3849): reached by the default route."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Tunnels:
    """One VXLAN device per family that has a tunnel address here."""

    def __init__(self, config: DataplaneConfig, netlink: Netlink, on_failure: Callable[[str, Exception], None]) -> None:
        self._config = config
        self._netlink = netlink
        self._on_failure = on_failure
        self._vteps: dict[tuple[str, int], Vtep] = {}
        self._ready: dict[int, Link] = {}
        self._parents: dict[int, Link] = {}
        self._problems: dict[int, str] = {}
        self._check_at_s = 0.0
        self._replan = False
        self.neighbours: Reconciler[drivers.NeighbourKey, Neighbour] = Reconciler(
            "neighbour", drivers.NeighbourDriver(netlink, self._devices), refresh_interval_s=90.0, on_failure=on_failure
        )

    def on_vteps(self, vteps: Mapping[tuple[str, int], Vtep | None]) -> None:
        """Tunnel ends appeared, changed or are gone."""
        for key, vtep in vteps.items():
            if vtep is None:
                self._vteps.pop(key, None)
            else:
                self._vteps[key] = vtep
        if vteps:
            self._check_at_s = 0.0
            self._replan = True

    def on_device(self, ifindex: int) -> bool:
        """A device went down, up or away, or has other addresses: if it is one of ours, or below one, what the kernel
        has forgotten is written again, and True is returned."""
        if ifindex not in {link.ifindex for link in (*self._ready.values(), *self._parents.values())}:
            return False
        self._check_at_s = 0.0
        self.neighbours.refresh()
        self.neighbours.retry_all()
        return True

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do."""
        if not self._vteps and not self._ready:
            return None
        check = max(0.0, self._check_at_s - now_s)
        other = self.neighbours.next_try_s(now_s)
        return check if other is None else min(check, other)

    async def apply(self, links: dict[str, Link], now_s: float) -> None:
        """Devices first, then the entries that lead through them."""
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_S
            for family in (4, 6):
                try:
                    await self._ensure_device(family, links)
                    self._problems.pop(family, None)
                except KernelError as error:
                    self._check_at_s = now_s + RETRY_S
                    self._problems[family] = str(error)
                    self._on_failure(f"device {VXLAN_DEVICES[family]}", error)
        if self._replan:
            self._replan = False
            self._set_neighbours(self._plan_neighbours())
        if self._ready:
            await self.neighbours.apply(now_s)

    async def _ensure_device(self, family: int, links: dict[str, Link]) -> None:
        own, name = self._vteps.get((self._config.host, family)), VXLAN_DEVICES[family]
        if own is None:
            self._forget_device(family)
            if name in links:
                await self._netlink.run(Rtnl.delete_link, name)
                links.pop(name, None)
            return
        peers = [v.parent for (node, of), v in self._vteps.items() if of == family and node != self._config.host]
        holder, parent = await self._netlink.run(_find_parent, own.parent, peers)
        if parent is None:
            self._forget_device(family)
            raise KernelError(_no_parent(own.parent, holder))
        mtu = self._config.vxlan_mtu or parent.mtu - VXLAN_OVERHEAD[family]
        lower = parent.ifindex if parent == holder else 0  # else the kernel's routes decide, for each peer
        attributes = VxlanAttributes(self._config.vxlan_vni, self._config.nft.vxlan_port, own.parent, lower)
        link = await self._netlink.run(Rtnl.ensure_vxlan, name, attributes, own.mac, mtu)
        length = 32 if family == 4 else 128
        await self._netlink.run(Rtnl.ensure_only_address, link.ifindex, [f"{own.address}/{length}"], FAMILIES[family])
        if self._ready.get(family) != link:
            self.neighbours.refresh()
            self._replan = True
        self._ready[family], self._parents[family] = link, parent
        links[name] = link

    def mtus(self) -> dict[int, int]:
        """Of each family that wants a tunnel, its MTU in octets, 0 when it is not there yet."""
        mtu = self._config.vxlan_mtu
        return {f: mtu or (self._ready[f].mtu if f in self._ready else 0) for f in self._config.nft.vxlan_families}

    def _forget_device(self, family: int) -> None:
        self._replan = self._replan or family in self._ready
        self._ready.pop(family, None)

    def _devices(self) -> dict[int, int]:
        return {link.ifindex: FAMILIES[family] for family, link in self._ready.items()}

    def _plan_neighbours(self) -> dict[drivers.NeighbourKey, Neighbour]:
        """Of two nodes with the same tunnel address the one whose name comes first has it."""
        wanted = []
        for (node, family), vtep in sorted(self._vteps.items(), reverse=True):
            link = self._ready.get(family)
            if node != self._config.host and link is not None:
                wanted.append(Neighbour(link.ifindex, vtep.address, vtep.mac))
                wanted.append(Neighbour(link.ifindex, vtep.parent, vtep.mac, fdb=True))
        return {drivers.neighbour_key(entry): entry for entry in wanted}

    def _set_neighbours(self, wanted: Mapping[drivers.NeighbourKey, Neighbour]) -> None:
        for key in self.neighbours.delta.desired.keys() - wanted.keys():
            self.neighbours.delete(key)
        for key, entry in wanted.items():
            self.neighbours.set(key, entry)

    def plan_routes(self, routes: Mapping[str, WantedRoute], _links: dict[str, Link]) -> dict[drivers.RouteKey, Route]:
        """Kernel routes for destinations elsewhere; one whose way is not there yet is left out."""
        planned = {}
        for wanted in routes.values():
            route = self._plan_route(wanted)
            if route is not None:
                planned[drivers.route_key(route)] = route
        return planned

    def _plan_route(self, wanted: WantedRoute) -> Route | None:
        family = 6 if ":" in wanted.destination else 4
        metric = 1024 if family == 6 else 0
        if wanted.kind == "blackhole":
            return Route(
                wanted.destination, type=drivers.RTN_BLACKHOLE, protocol=drivers.OUR_PROTOCOL, metric=metric,
                device=1 if family == 6 else 0,
            )  # fmt: skip
        vtep, link, parent = self._vteps.get((wanted.node, family)), self._ready.get(family), self._parents.get(family)
        if vtep is None or link is None or parent is None:
            return None
        if wanted.kind == "same-subnet":
            return Route(
                wanted.destination,
                parent.ifindex,
                vtep.parent,
                protocol=drivers.OUR_PROTOCOL,
                metric=metric,
                onlink=True,
            )
        protocol = self._config.device_protocol
        if wanted.kind == "vxlan-direct":
            scope = RT_SCOPE_LINK if family == 4 else 0
            return Route(wanted.destination, link.ifindex, scope=scope, protocol=protocol, metric=metric, mtu=link.mtu)
        return Route(
            wanted.destination, link.ifindex, vtep.address, protocol=protocol, metric=metric, onlink=True, mtu=link.mtu
        )

    def pending(self) -> list[str]:
        """What could not be programmed and is tried again."""
        found = [f"device {VXLAN_DEVICES[family]}: {why}" for family, why in self._problems.items()]
        return found + [f"neighbour {key}: {f.error}" for key, f in self.neighbours.status().failures.items()]


def _find_parent(rtnl: Rtnl, address: str, peers: Iterable[str]) -> tuple[Link | None, Link | None]:
    """The interface that has this node's address, and the one by which packets to other nodes leave.

    They differ when the address is that of a host which several ways lead to, on `lo` or a dummy interface: then the
    narrowest of the ways to the peers counts, or that of the default route."""
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

"""The VXLAN device of this host and the way through it to other hosts (spec/felix.md 4.7, 4.8)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.mtu import VXLAN_OVERHEAD
from libcalico.calc.messages import Flush, Vtep
from libcalico.calc.messages import Route as WantedRoute
from libcalico.conventions import VXLAN_DEVICES
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.objects import (
    AF_BRIDGE,
    NUD_PERMANENT,
    RT_SCOPE_LINK,
    RTN_BLACKHOLE,
    RTPROT_CALICO,
    Link,
    Neighbour,
    Route,
    VxlanAttributes,
)
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.reconciler import Reconciler
from libcalico.workload.plan import LEAST_MTU_V6

NeighbourKey = tuple[int, str, str]

CHECK_S = 10.0
DEVICE_RETRY_S = 1.0
REFRESH_S = 90.0
ANYWHERE = {False: "192.0.2.1", True: "2001:db8::1"}
"""Of no network (RFC 5737, 3849): reached by the default route."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Vxlan(Manager):
    """One VXLAN device per family that has a tunnel address here, and the entries that lead through it."""

    def __init__(self, context: Context, interfaces: Interfaces) -> None:
        self._context = context
        self._config = context.config
        self._interfaces = interfaces
        self._netlink = context.handles.netlink
        self._vteps: dict[tuple[str, int], Vtep] = {}
        self._ready: dict[int, Link] = {}
        self._parents: dict[int, Link] = {}
        self._problems: dict[int, str] = {}
        self._check_at_s = 0.0
        self.generation = 0
        """Grows when a way to other hosts may be another one."""
        self._planned = 0
        """The generation for which the entries were planned."""
        self.entries: Reconciler[NeighbourKey, Neighbour] = Reconciler(
            "neighbour", NeighbourDriver(self._netlink, self._devices),
            refresh_interval_s=REFRESH_S, on_failure=context.failures.report,
        )  # fmt: skip

    def on_flush(self, flush: Flush) -> None:
        """Tunnel ends appeared, changed or are gone."""
        for key, vtep in flush.vteps.items():
            if vtep is None:
                self._vteps.pop(key, None)
            else:
                self._vteps[key] = vtep
        if flush.vteps:
            self._check_at_s = 0.0
            self.generation += 1

    def uses(self, ifindex: int) -> bool:
        """It is one of our devices, or below one."""
        return ifindex in {link.ifindex for link in (*self._ready.values(), *self._parents.values())}

    def on_link(self, change: LinkChange) -> None:
        """With a device that is down, the kernel has forgotten its entries."""
        if change.was_up != change.is_up:
            self.on_forgotten(change.link.ifindex)

    def on_forgotten(self, ifindex: int) -> None:
        """A device went down, up or away, or has other addresses: what leads through it is written again."""
        if not ifindex or self.uses(ifindex):
            self._check_at_s = 0.0
            self.entries.refresh()
            self.entries.retry_all()

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do."""
        if not self._vteps and not self._ready:
            return None
        check = max(0.0, self._check_at_s - now_s)
        other = self.entries.next_try_s(now_s) if self._ready else None
        return check if other is None else min(check, other)

    async def apply(self, now_s: float) -> None:
        """Devices first, then the entries that lead through them."""
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_S
            for family in (4, 6):
                await self._check_device(family, now_s)
        if self._planned != self.generation:
            self._planned = self.generation
            self._set_entries(self._plan_entries())
        if self._ready:
            await self.entries.apply(now_s)

    async def _check_device(self, family: int, now_s: float) -> None:
        try:
            await self._ensure_device(family)
            self._problems.pop(family, None)
        except KernelError as error:
            self._check_at_s = now_s + DEVICE_RETRY_S
            self._problems[family] = str(error)
            self._context.failures.report(f"device {VXLAN_DEVICES[family]}", error)

    async def _ensure_device(self, family: int) -> None:
        own, name = self._vteps.get((self._config.host, family)), VXLAN_DEVICES[family]
        if own is None:
            self._forget_device(family)
            if name in self._interfaces.links:
                await self._netlink.run(Rtnl.delete_link, name)
                self._interfaces.drop(name)
            return
        peers = [v.parent for (node, of), v in self._vteps.items() if of == family and node != self._config.host]
        holder, parent = await self._netlink.run(_find_parent, own.parent, peers)
        if parent is None:
            self._forget_device(family)
            raise KernelError(_no_parent(own.parent, holder))
        mtu = self._wanted_mtu(family) or parent.mtu - VXLAN_OVERHEAD[family]
        if family == 6 and mtu < LEAST_MTU_V6:
            self._forget_device(family)
            raise KernelError(f"make device {name}", detail=_too_small(mtu, parent))
        lower = parent.ifindex if parent == holder else 0  # else the kernel's routes decide, for each peer
        attributes = VxlanAttributes(self._config.vxlan_vni, self._config.nft.vxlan_port, own.parent, lower)
        link = await self._make(name, attributes, own.mac, mtu)
        length = 32 if family == 4 else 128
        await self._netlink.run(Rtnl.ensure_only_address, link.ifindex, [f"{own.address}/{length}"], FAMILIES[family])
        if self._ready.get(family) != link:
            self.entries.refresh()
        if (self._ready.get(family), self._parents.get(family)) != (link, parent):
            self.generation += 1
        self._ready[family], self._parents[family] = link, parent
        self._interfaces.put(link)

    async def _make(self, name: str, attributes: VxlanAttributes, mac: str, mtu: int) -> Link:
        try:
            return await self._netlink.run(Rtnl.ensure_vxlan, name, attributes, mac, mtu)
        except KernelError as error:
            if error.errno not in {errno.EEXIST, errno.EADDRINUSE}:
                raise
            links = await self._netlink.run(Rtnl.links)
            raise KernelError(f"make device {name}", error.errno, _taken(name, attributes, links)) from error

    def _wanted_mtu(self, family: int) -> int:
        return self._config.vxlan_mtu if family == 4 else self._config.vxlan_mtu_v6

    def mtus(self) -> dict[int, int]:
        """Of each family that wants a tunnel, its MTU in octets, 0 when it is not there yet."""
        return {
            family: self._wanted_mtu(family) or (self._ready[family].mtu if family in self._ready else 0)
            for family in self._config.nft.vxlan_families
        }

    def _forget_device(self, family: int) -> None:
        if self._ready.pop(family, None) is not None:
            self.generation += 1

    def _devices(self) -> dict[int, int]:
        return {link.ifindex: FAMILIES[family] for family, link in self._ready.items()}

    def _plan_entries(self) -> dict[NeighbourKey, Neighbour]:
        """Of two nodes with the same tunnel address the one whose name comes first has it."""
        wanted = []
        for (node, family), vtep in sorted(self._vteps.items(), reverse=True):
            link = self._ready.get(family)
            if node != self._config.host and link is not None:
                wanted.append(Neighbour(link.ifindex, vtep.address, vtep.mac))
                wanted.append(Neighbour(link.ifindex, vtep.parent, vtep.mac, fdb=True))
        return {neighbour_key(entry): entry for entry in wanted}

    def _set_entries(self, wanted: Mapping[NeighbourKey, Neighbour]) -> None:
        for key in self.entries.delta.desired.keys() - wanted.keys():
            self.entries.delete(key)
        for key, entry in wanted.items():
            self.entries.set(key, entry)

    def plan_route(self, wanted: WantedRoute) -> Route | None:
        """The kernel's route to a destination elsewhere; None while the way to it is not there."""
        family = 6 if ":" in wanted.destination else 4
        metric = 1024 if family == 6 else 0
        if wanted.kind == "blackhole":
            device = 1 if family == 6 else 0
            return Route(
                wanted.destination, device, type=RTN_BLACKHOLE, protocol=RTPROT_CALICO, metric=metric
            )  # fmt: skip
        vtep, link, parent = self._vteps.get((wanted.node, family)), self._ready.get(family), self._parents.get(family)
        if vtep is None or link is None or parent is None:
            return None
        if wanted.kind == "same-subnet":
            return Route(
                wanted.destination, parent.ifindex, vtep.parent, protocol=RTPROT_CALICO, metric=metric, onlink=True
            )
        by_tunnel = Route(
            wanted.destination, link.ifindex, protocol=self._config.device_protocol, metric=metric, mtu=link.mtu
        )
        if wanted.kind == "vxlan-direct":
            return by_tunnel._replace(scope=RT_SCOPE_LINK if family == 4 else 0)
        return by_tunnel._replace(gateway=vtep.address, onlink=True)

    def pending(self) -> list[str]:
        """What could not be programmed and is tried again."""
        found = [f"device {VXLAN_DEVICES[family]}: {why}" for family, why in self._problems.items()]
        return found + [f"neighbour {key}: {f.error}" for key, f in self.entries.status().failures.items()]


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
    found = [
        entry
        for device, family in devices.items()
        for table in (family, AF_BRIDGE)
        for entry in rtnl.neighbours(device, table)
    ]
    return [entry for entry in found if entry.state == NUD_PERMANENT]


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


def _taken(name: str, wanted: VxlanAttributes, links: Iterable[Link]) -> str:
    """Who has what a device needs: the kernel allows one VXLAN device for a VNI on a port."""
    settings = "set another vxlanVNI or vxlanPort (FELIX_VXLANVNI, FELIX_VXLANPORT) on all nodes"
    for link in links:
        one = link.vxlan
        if one is not None and (one.vni, one.port) == (wanted.vni, wanted.port) and link.name != name:
            where = f"VNI {one.vni} on UDP port {one.port} is that of device {link.name}"
            return f"{where}, which is another program's: {settings}, or remove {link.name}"
    where = f"VNI {wanted.vni} or UDP port {wanted.port} is in use by another program"
    return f"{where} (`ss -ulpn`, `ip -d link show type vxlan`): {settings}"


def _too_small(mtu: int, parent: Link) -> str:
    least = LEAST_MTU_V6 + VXLAN_OVERHEAD[6]
    return (
        f"its MTU would be {mtu}, and IPv6 needs {LEAST_MTU_V6}: {parent.name} has {parent.mtu},"
        f" which must be at least {least}, or pools of IPv6 must have vxlanMode Never"
    )


def _is_nowhere(link: Link) -> bool:
    return link.name == "lo" or link.kind == "dummy"


def _no_parent(address: str, holder: Link | None) -> str:
    if holder is None:
        return f"no interface has this node's address {address}"
    return f"this node's address {address} is on {holder.name}, and no route leads to other nodes"

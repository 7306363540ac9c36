"""The VXLAN device of this host and the entries that lead through it to other hosts (spec/felix.md 4.8)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.mtu import OVERHEAD
from calico_felix.dataplane.underlay import FAMILIES, Underlay, Way
from libcalico.calc.messages import Flush, Vtep
from libcalico.conventions import VXLAN_DEVICES
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.objects import AF_BRIDGE, NUD_PERMANENT, Link, Neighbour, VxlanAttributes
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.reconciler import Reconciler
from libcalico.workload.plan import LEAST_MTU_V6

NeighbourKey = tuple[int, str, str]

CHECK_S = 10.0
DEVICE_RETRY_S = 1.0
REFRESH_S = 90.0


class Vxlan(Manager):
    """One VXLAN device per family that pools want and for which this host has a tunnel address, and the entries that
    lead through it."""

    def __init__(self, context: Context, interfaces: Interfaces, underlay: Underlay) -> None:
        self._context = context
        self._config = context.config
        self._interfaces = interfaces
        self._underlay = underlay
        self._netlink = context.handles.netlink
        self._wanted: frozenset[int] = frozenset()
        self._vteps: dict[tuple[str, int], Vtep] = {}
        self._ready: dict[int, Link] = {}
        self._problems: dict[int, str] = {}
        self._check_at_s = 0.0
        self._below = 0
        """The underlay's generation for which the devices were checked."""
        self.generation = 0
        """Grows when a way to other hosts may be another one."""
        self._planned = 0
        """The generation for which the entries were planned."""
        self.entries: Reconciler[NeighbourKey, Neighbour] = Reconciler(
            "neighbour", NeighbourDriver(self._netlink, self._devices),
            refresh_interval_s=REFRESH_S, on_failure=context.failures.report,
        )  # fmt: skip

    def on_flush(self, flush: Flush) -> None:
        """Tunnel ends appeared, changed or are gone, or pools want another encapsulation."""
        for key, vtep in flush.vteps.items():
            if vtep is None:
                self._vteps.pop(key, None)
            else:
                self._vteps[key] = vtep
        if flush.pools is not None:
            self._wanted = flush.pools.vxlan
        if flush.vteps or flush.pools is not None:
            self._check_at_s = 0.0
            self.generation += 1

    def device(self, family: int) -> Link | None:
        """The device, None while it is not there."""
        return self._ready.get(family)

    def end(self, node: str, family: int) -> Vtep | None:
        """A node's end of the tunnels, None while it has none."""
        return self._vteps.get((node, family))

    def uses(self, ifindex: int) -> bool:
        """It is one of our devices."""
        return any(link.ifindex == ifindex for link in self._ready.values())

    def on_link(self, change: LinkChange) -> None:
        """With a device that is down, the kernel has forgotten its entries."""
        if change.was_up != change.is_up:
            self.on_forgotten(change.link.ifindex)

    def on_forgotten(self, ifindex: int) -> None:
        """A device went down, up or away, or has other addresses: what leads through it is written again."""
        if not ifindex or self.uses(ifindex) or self._underlay.uses(ifindex):
            self._check_at_s = 0.0
            self.entries.refresh()
            self.entries.retry_all()

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do."""
        if not self._ready and not (self._wanted and self._vteps):
            return None
        check = max(0.0, self._check_at_s - now_s)
        other = self.entries.next_try_s(now_s) if self._ready else None
        return check if other is None else min(check, other)

    async def apply(self, now_s: float) -> None:
        """Devices first, then the entries that lead through them."""
        if now_s >= self._check_at_s or self._below != self._underlay.generation:
            self._check_at_s, self._below = now_s + CHECK_S, self._underlay.generation
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
            if self._problems.get(family) != str(error):
                self._context.failures.report(f"device {VXLAN_DEVICES[family]}", error)
            self._problems[family] = str(error)

    async def _ensure_device(self, family: int) -> None:
        own, name = self._vteps.get((self._config.host, family)), VXLAN_DEVICES[family]
        if own is None or family not in self._wanted:
            self._forget_device(family)
            if name in self._interfaces.links:
                await self._netlink.run(Rtnl.delete_link, name)
                self._interfaces.drop(name)
            return
        way = self._underlay.way(family)
        if way is None or way.address != own.parent:  # the underlay says why, and has this called again
            self._forget_device(family)
            return
        link = await self._make(name, self._attributes(way), own.mac, self._mtu(family, way))
        length = 32 if family == 4 else 128
        await self._netlink.run(Rtnl.ensure_only_address, link.ifindex, [f"{own.address}/{length}"], FAMILIES[family])
        if self._ready.get(family) != link:
            self.entries.refresh()
            self.generation += 1
        self._ready[family] = link
        self._interfaces.put(link)

    def _attributes(self, way: Way) -> VxlanAttributes:
        lower = way.parent.ifindex if way.parent == way.holder else 0  # else the kernel's routes decide, for each peer
        return VxlanAttributes(self._config.vxlan_vni, self._config.nft.vxlan_port, way.address, lower)

    def _mtu(self, family: int, way: Way) -> int:
        mtu = self._wanted_mtu(family) or self._underlay.mtu(way) - OVERHEAD[VXLAN_DEVICES[family]]
        if family == 6 and mtu < LEAST_MTU_V6:
            self._forget_device(family)
            raise KernelError(f"make device {VXLAN_DEVICES[6]}", detail=_too_small(mtu, way.parent))
        return mtu

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

    def mtus(self) -> dict[str, int]:
        """Of each device that is wanted, its MTU in octets, 0 when it is not there yet."""
        return {
            VXLAN_DEVICES[family]: self._wanted_mtu(family) or (self._ready[family].mtu if family in self._ready else 0)
            for family in self._wanted
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
    least = LEAST_MTU_V6 + OVERHEAD[VXLAN_DEVICES[6]]
    return (
        f"its MTU would be {mtu}, and IPv6 needs {LEAST_MTU_V6}: {parent.name} has {parent.mtu},"
        f" which must be at least {least}, or pools of IPv6 must have vxlanMode Never"
    )

"""Neighbour entries for the addresses of local workloads, which a full neighbour table does not cost them.

The kernel has one table of a limited size for all interfaces and network namespaces of a host, and makes room in it
when it is full; who fills it cuts others off. Entries that count as externally learned take no part in that. They are
kept without a MAC: the kernel finds it, and follows it when it changes (docs/adr/0019-neighbours-are-kept.md).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.owners import Owners
from libcalico.calc.messages import Flush
from libcalico.kernel.objects import Neighbour
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.reconciler import Reconciler

REFRESH_S = 90.0
Key = tuple[int, str]


class WorkloadNeighbours(Manager):
    """What each workload's interface needs, and the way to get there."""

    def __init__(self, context: Context, owners: Owners, interfaces: Interfaces) -> None:
        self._has_ipv6 = context.config.ipv6 and context.handles.sysctl.has_ipv6()
        self._keys_of: dict[str, set[Key]] = {}
        self._owners = owners
        self._interfaces = interfaces
        self.entries: Reconciler[Key, Neighbour] = Reconciler(
            "neighbour", KeptNeighbours(context, interfaces), refresh_interval_s=REFRESH_S
        )

    def on_flush(self, flush: Flush) -> None:
        """Endpoints have come, changed or gone."""
        for interface in self._owners.touched:
            self._plan(interface)

    def on_link(self, change: LinkChange) -> None:
        """The kernel forgets what it has of an interface that is down."""
        self._plan(change.link.name)

    def on_forgotten(self, ifindex: int) -> None:
        """What the kernel has is not known: read it again."""
        self.entries.refresh()

    def _plan(self, interface: str) -> None:
        endpoint, link = self._owners.active(interface), self._interfaces.links.get(interface)
        is_running = link is not None and link.up and link.running
        nets = endpoint.nets if endpoint is not None and is_running else ()
        addresses = [net.brief for net in nets if net.family == 4 or self._has_ipv6]
        wanted = {(link.ifindex, address) for address in addresses} if link is not None else set()
        former = self._keys_of.pop(interface, set())
        for key in former - wanted:
            self.entries.delete(key)
            if not is_running:
                self.entries.forget(key)
        for key in wanted - former:
            self.entries.set(key, Neighbour(*key, "", learned=True))
        if wanted:
            self._keys_of[interface] = wanted

    async def apply(self, now_s: float) -> None:
        """Delete, then keep."""
        await self.entries.apply(now_s)

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until a retry, or the next reading."""
        return self.entries.next_try_s(now_s)

    def pending(self) -> list[str]:
        """Entries that could not be written."""
        return [f"neighbour {key}: {one.error}" for key, one in self.entries.status().failures.items()]


class KeptNeighbours:
    """Entries of workloads' interfaces that count as learned."""

    def __init__(self, context: Context, interfaces: Interfaces) -> None:
        self._netlink = context.handles.netlink
        self._interfaces = interfaces
        has_ipv6 = context.config.ipv6 and context.handles.sysctl.has_ipv6()
        self._families = (socket.AF_INET, socket.AF_INET6) if has_ipv6 else (socket.AF_INET,)

    async def read(self) -> Mapping[Key, Neighbour]:
        """Those that are there."""
        return await self._netlink.run(self._read, self._interfaces.workloads())

    def _read(self, rtnl: Rtnl, devices: set[int]) -> dict[Key, Neighbour]:
        found = [entry for family in self._families for entry in rtnl.neighbours(0, family)]
        mine = [entry for entry in found if entry.learned and entry.device in devices]
        return {(e.device, e.address): Neighbour(e.device, e.address, "", learned=True) for e in mine}

    async def apply(
        self, deletes: Mapping[Key, Neighbour], updates: Mapping[Key, Neighbour]
    ) -> Mapping[Key, Exception]:
        """Delete, then keep."""
        failed = await self._netlink.run(Rtnl.keep_neighbours, list(deletes.values()), list(updates.values()))
        return {(entry.device, entry.address): error for entry, error in failed.items()}

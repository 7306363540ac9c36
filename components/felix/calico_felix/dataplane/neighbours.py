"""Neighbour entries for the addresses of local workloads, which a full neighbour table does not cost them.

The kernel has one table of a limited size for all interfaces and network namespaces of a host, and makes room in it
when it is full; who fills it cuts others off. Entries that count as externally learned take no part in that. They are
kept without a MAC: the kernel finds it, and follows it when it changes (docs/adr/0019-neighbours-are-kept.md).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from libcalico.calc.messages import Endpoint
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.objects import Link, Neighbour
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile.reconciler import Reconciler

REFRESH_S = 90.0
Key = tuple[int, str]


class WorkloadNeighbours:
    """What each workload's interface needs, and the way to get there."""

    def __init__(self, netlink: Netlink, devices: Callable[[], set[int]], ipv6: bool) -> None:
        """`devices()`: the indices of workloads' interfaces; without `ipv6` the kernel has no such neighbours."""
        self._families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
        self._keys_of: dict[str, set[Key]] = {}
        self._netlink = netlink
        self._devices = devices
        self.entries: Reconciler[Key, Neighbour] = Reconciler("neighbour", self, refresh_interval_s=REFRESH_S)

    def plan(self, interface: str, endpoint: Endpoint | None, link: Link | None) -> None:
        """An interface or its endpoint has changed; the kernel forgets what it has of one that is down."""
        nets = endpoint.nets if endpoint is not None and link is not None and link.up and link.running else ()
        addresses = [net.brief for net in nets if net.family == 4 or self._has_ipv6]
        wanted = {(link.ifindex, address) for address in addresses} if link is not None else set()
        former = self._keys_of.pop(interface, set())
        for key in former - wanted:
            self.entries.delete(key)
            if not nets:
                self.entries.forget(key)
        for key in wanted - former:
            self.entries.set(key, Neighbour(*key, "", learned=True))
        if wanted:
            self._keys_of[interface] = wanted

    @property
    def _has_ipv6(self) -> bool:
        return socket.AF_INET6 in self._families

    async def read(self) -> Mapping[Key, Neighbour]:
        """Those of workloads' interfaces that are kept."""
        return await self._netlink.run(self._read, self._devices())

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

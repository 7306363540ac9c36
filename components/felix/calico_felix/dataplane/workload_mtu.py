"""Keeps the file with the MTU of workloads' interfaces up to date (`mtu` says what stands in it)."""

from __future__ import annotations

import asyncio

from calico_felix.dataplane.interfaces import REFRESH_S, Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.mtu import MtuFile, host_mtu, workload_mtu
from calico_felix.dataplane.underlay import ANYWHERE
from calico_felix.dataplane.ways import Ways
from libcalico.calc.messages import Flush
from libcalico.kernel.rtnl import Rtnl


class WorkloadMtu(Manager):
    """Looks at the interfaces of the host when one has changed, and every 90 s: the default route may be another."""

    def __init__(self, context: Context, interfaces: Interfaces, ways: Ways) -> None:
        self._context = context
        self._interfaces = interfaces
        self._ways = ways
        self._file = MtuFile(context.config.mtu_file)
        self._due_s = 0.0

    def on_flush(self, flush: Flush) -> None:
        """Other tunnels may be wanted."""
        if flush.pools is not None:
            self._due_s = 0.0

    def on_link(self, change: LinkChange) -> None:
        """An interface that is no workload's may be a way out."""
        if not self._interfaces.is_workload(change.link.name):
            self._due_s = 0.0

    async def apply(self, now_s: float) -> None:
        """Write the file when the number may be another, or the file may be gone."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + REFRESH_S
        default = await self._context.handles.netlink.run(Rtnl.device_to, ANYWHERE[False])
        host = host_mtu(self._interfaces.links.values(), self._context.config.mtu_pattern, default)
        await asyncio.to_thread(self._file.write, workload_mtu(host, self._ways.mtus()))

    def next_try_s(self, now_s: float) -> float | None:
        """The file may be deleted, and the default route may change, without a word of the kernel."""
        return max(0.0, self._due_s - now_s)

    def pending(self) -> list[str]:
        """The file cannot be written."""
        return [self._file.problem] if self._file.problem else []

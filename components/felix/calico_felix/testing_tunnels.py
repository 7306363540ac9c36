"""For tests: what routes to other hosts ask, wired as the loop wires it."""

from __future__ import annotations

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.ways import Ways
from libcalico.calc.messages import Flush, Pools
from libcalico.testing.flushes import flush, node


class Tunnels:
    """What routes to other hosts ask, over a kernel: interfaces, the underlay and tunnels, which pools of both families
    want with VXLAN."""

    def __init__(self, context: Context) -> None:
        self.clock = context.clock
        self.interfaces = Interfaces(context, self.on_change)
        self.ways = Ways(context, self.interfaces)
        self.vxlan, self.ipip = self.ways.vxlan, self.ways.ipip
        self.managers: list[Manager] = [*self.ways.managers]
        """In the order of their work; a test adds its own."""
        self._own: dict[str, list[str]] = {}
        self.on_flush(flush(pools=Pools(vxlan=frozenset((4, 6)))))

    def on_change(self, change: LinkChange) -> None:
        """As the loop hands it on."""
        for manager in self.managers:
            manager.on_link(change)

    def on_flush(self, changes: Flush) -> None:
        """As the loop hands it on. A node that gets a tunnel end has the address that stands there, too."""
        for (name, family), end in changes.vteps.items():
            if end is not None:
                self._own.setdefault(name, ["", ""])[family == 6] = end.parent
        brought = {name: node(*self._own[name]) for name, _ in changes.vteps if name in self._own}
        changes = changes._replace(hosts={**brought, **changes.hosts})
        for manager in self.managers:
            manager.on_flush(changes)

    def on_forgotten(self, ifindex: int) -> None:
        """As the loop hands it on."""
        for manager in self.managers:
            manager.on_forgotten(ifindex)

    async def apply_all(self) -> None:
        """One round, as the loop does it."""
        for manager in (self.interfaces, *self.managers):
            await manager.apply(self.clock.monotonic_s())

    def pending(self) -> list[str]:
        """Of all."""
        return [line for manager in self.managers for line in manager.pending()]

    def next_try_s(self) -> float | None:
        """The next one's."""
        times = [manager.next_try_s(self.clock.monotonic_s()) for manager in self.managers]
        return min((time for time in times if time is not None), default=None)

"""Connections of addresses whose owner has gone: they end before another may have them.

Established traffic passes before any policy is asked, so whoever gets an address must not get its flows. An address
that an endpoint loses is remembered, and its flows end once the rules stand without it: at once if another endpoint has
it by then, else together with others (a listing of the kernel's flows costs 10 ms).

Before we started, owners may have gone unseen. So flows that are there at the start, of addresses that no endpoint has,
end when an endpoint gets their address. Those of the endpoints that stand at the start are their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from calico_felix.dataplane.manager import Context, Manager
from libcalico.calc.messages import Endpoint, Flush
from libcalico.kernel.conntrack import Conntrack
from libcalico.kernel.errors import KernelError
from libcalico.model.keys import ResourceKey

PAUSE_S = 1.0  # between two endings for which no call waits


class Connections(Manager):
    """What is known of old flows, and the way to end them: on the thread that has the kernel's rules to itself, too."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._conntrack: Conntrack | None = None
        self._listing: asyncio.Future[None] | None = None
        self._started = False
        """The endpoints of the first flush are taken in: they stood when we started."""
        self._addresses: dict[ResourceKey, set[str]] = {}
        self._in_use: dict[str, int] = {}
        self._of_start: set[str] = set()
        self._found: set[str] | None = None  # without the addresses in use; None: not known (yet)
        self._lost: set[str] = set()
        self._due: set[str] = set()
        self._at_s = 0.0

    async def open(self) -> None:
        """Get hold of the kernel's flows, and begin to list them."""
        self._conntrack = await self._context.handles.run(self._context.handles.open_conntrack)
        self._listing = asyncio.ensure_future(self.find())

    def close(self) -> None:
        """The flows stay as they are."""
        if self._listing is not None:
            self._listing.cancel()

    async def find(self) -> None:
        """List the flows that are there when we start."""
        try:
            found = await asyncio.to_thread(self._list)
        except KernelError as error:
            self._context.failures.report("conntrack", error)
            return  # every address that is gained counts as one with flows, then
        self._found = found - self._in_use.keys()

    def _list(self) -> set[str]:
        with self._context.handles.open_conntrack() as conntrack:
            return conntrack.addresses()

    def on_flush(self, flush: Flush) -> None:
        """Endpoints have come, changed or gone; those of the first flush stood when we started."""
        for key, endpoint in flush.endpoints.items():
            former, now = self._addresses.pop(key, set()), addresses_of(endpoint)
            if now:
                self._addresses[key] = now
            self._on_addresses(lost=former - now, gained=now - former)
        self._started = True

    def _on_addresses(self, lost: set[str], gained: set[str]) -> None:
        if self._started:
            self._lost |= {address for address in gained if self._is_anothers(address)}
        else:
            self._of_start |= gained
        if self._found is not None:
            self._found -= gained
        for address in gained:
            self._in_use[address] = self._in_use.get(address, 0) + 1
        for address in lost:
            self._in_use[address] -= 1
            if not self._in_use[address]:
                del self._in_use[address]
        self._lost |= lost
        self._of_start -= lost

    def _is_anothers(self, address: str) -> bool:
        """May have flows of another endpoint: one that went before we started, or has the address, too."""
        return self._found is None or address in self._found or address in self._in_use

    def take_lost(self) -> set[str]:
        """The addresses whose flows end when the rules of now stand. Give them to `on_rules`, or `take_back`."""
        lost, self._lost = self._lost, set()
        return lost

    def take_back(self, lost: set[str]) -> None:
        """The rules do not stand."""
        self._lost |= lost

    async def on_rules(self, lost: set[str]) -> set[str]:
        """The rules stand: end the flows of what is in use again. Returns those of which that failed."""
        self._due |= lost
        if self._due & self._in_use.keys():
            await self._end()
        return self._due & self._in_use.keys()

    async def apply(self, now_s: float) -> None:
        """End those that no call waits for, if the last ending is long enough ago."""
        if self._due and now_s >= self._at_s:
            await self._end()

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do, None if it has nothing."""
        return max(0.0, self._at_s - now_s) if self._due else None

    async def end_inherited(self, addresses: Iterable[str]) -> None:
        """Before an interface is made: its addresses have no old flows, even if its endpoint was stored before we had
        started, and counts as one that stood. Raises `KernelError`."""
        wanted = self._of_start.intersection(addresses) if self._started else set(addresses)
        if wanted and self._conntrack is not None:
            await self._delete(self._conntrack, wanted)
            self._of_start -= wanted

    async def _end(self) -> None:
        if self._conntrack is None or not self._due:
            return
        addresses, self._due = self._due, set()
        self._at_s = self._context.clock.monotonic_s() + PAUSE_S
        try:
            await self._delete(self._conntrack, addresses)
        except KernelError as error:
            self._due |= addresses
            self._context.failures.report("conntrack", error)

    async def _delete(self, conntrack: Conntrack, addresses: set[str]) -> None:
        await self._context.handles.run(conntrack.delete_flows, addresses)


def addresses_of(endpoint: Endpoint | None) -> set[str]:
    """Its addresses as text."""
    return {net.brief for net in endpoint.nets} if endpoint is not None else set()

"""Connections of addresses whose owner has gone: they end before anybody else may have them.

Established traffic passes before any policy is asked, so whoever gets an address must not get its flows. An address
that an endpoint loses is remembered, and its flows end once the rules stand without it: at once if another endpoint has
it by then, else together with others (a listing of the kernel's flows costs 10 ms).

Before we started, owners may have gone unseen. So flows that are there at the start, of addresses that no endpoint has,
end when an endpoint gets their address. Those of the endpoints that stand at the start are their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from libcalico.calc.messages import Endpoint
from libcalico.clock import Clock
from libcalico.kernel.conntrack import Conntrack
from libcalico.kernel.errors import KernelError

PAUSE_S = 1.0  # between two endings that nobody waits for


class Flows:
    """What is known of old flows, and the way to end them: on `thread`, which has the kernel's rules to itself, too."""

    def __init__(self, clock: Clock, thread: ThreadPoolExecutor, on_failure: Callable[[str, Exception], None]) -> None:
        self._clock = clock
        self._thread = thread
        self._on_failure = on_failure
        self._conntrack: Conntrack | None = None
        self._listing: asyncio.Future[None] | None = None
        self._started = False
        self._in_use: dict[str, int] = {}
        self._of_start: set[str] = set()
        self._found: set[str] | None = None  # without the addresses in use; None: not known (yet)
        self._lost: set[str] = set()
        self._due: set[str] = set()
        self._at_s = 0.0

    async def open(self) -> None:
        """Get hold of the kernel's flows, and begin to list them."""
        self._conntrack = await asyncio.get_running_loop().run_in_executor(self._thread, Conntrack)
        self._listing = asyncio.ensure_future(self.find())

    def close(self) -> None:
        """The flows stay as they are."""
        if self._listing is not None:
            self._listing.cancel()

    async def find(self) -> None:
        """List the flows that are there when we start."""
        try:
            found = await asyncio.to_thread(_addresses_of_flows)
        except KernelError as error:
            self._on_failure("conntrack", error)  # every address that is gained counts as one with flows, then
            return
        self._found = found - self._in_use.keys()

    def on_endpoint(self, former: Endpoint | None, endpoint: Endpoint | None) -> None:
        """An endpoint has come, changed or gone."""
        old, new = addresses_of(former), addresses_of(endpoint)
        lost, gained = old - new, new - old
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
        """May have flows of somebody else: who went before we started, or has the address, too."""
        return self._found is None or address in self._found or address in self._in_use

    def started(self) -> None:
        """The endpoints so far are those that stood when we started."""
        self._started = True

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

    async def end_in_time(self) -> None:
        """End those that nobody waits for, if the last ending is long enough ago."""
        if self._due and self._clock.monotonic_s() >= self._at_s:
            await self._end()

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `end_in_time` has something to do, None if it has nothing."""
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
        self._at_s = self._clock.monotonic_s() + PAUSE_S
        try:
            await self._delete(self._conntrack, addresses)
        except KernelError as error:
            self._due |= addresses
            self._on_failure("conntrack", error)

    async def _delete(self, conntrack: Conntrack, addresses: set[str]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, conntrack.delete_flows, addresses)


def addresses_of(endpoint: Endpoint | None) -> set[str]:
    """Its addresses as text."""
    return {net.brief for net in endpoint.nets} if endpoint is not None else set()


def _addresses_of_flows() -> set[str]:
    with Conntrack() as conntrack:
        return conntrack.addresses()

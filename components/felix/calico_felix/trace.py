"""One object's way from the datastore to the kernel, as it happens: lines for a person who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from libcalico.clock import Clock, SystemClock
from libcalico.datastore.syncer import Batch, Update
from libcalico.model.keys import parse_key

MOST_CHANGES = 1000
"""More than these, not yet reported, are not kept: the reader is too slow."""
LOOK_S = 0.005
LONGEST_WAIT_S = 10.0


class _Change(NamedTuple):
    update: Update
    at_s: float


class Trace:
    """`name` is the object's, as `problems` and `show` spell it."""

    def __init__(self, name: str, follower: Follower, dataplane: Dataplane, clock: Clock | None = None) -> None:
        self._name = name
        self._follower = follower
        self._dataplane = dataplane
        self._clock = clock or SystemClock()
        self._changes = asyncio.Queue[_Change](MOST_CHANGES)

    async def run(self) -> AsyncIterator[str]:
        """Lines, for ever; follows the object for as long as the caller reads them."""
        self._follower.listeners.append(self._on_batch)
        try:
            yield f"{self._name}: {self._state()}; waiting for changes"
            while True:
                change = await self._changes.get()
                revision, value = change.update.revision, change.update.value
                yield f"revision {revision}: {'deleted' if value is None else f'stored, {len(value)} octets'}"
                yield f"revision {revision}: {await self._outcome(change)}"
        finally:
            self._follower.listeners.remove(self._on_batch)

    def _on_batch(self, batch: Batch) -> None:
        for update in batch.updates:
            key = parse_key(update.key)
            if key is not None and str(key) == self._name and not self._changes.full():
                self._changes.put_nowait(_Change(update, self._clock.monotonic_s()))

    def _state(self) -> str:
        problem = self._follower.graph.problems.get(self._name) or self._follower.departures.describe().get(self._name)
        return problem or "no problem"

    async def _outcome(self, change: _Change) -> str:
        """When the kernel reflects the change; a deletion may have to wait before it counts."""
        ends_s = change.at_s + LONGEST_WAIT_S
        while self._dataplane.programmed_revision < change.update.revision and self._clock.monotonic_s() < ends_s:
            await self._clock.sleep(LOOK_S)
        passed_s = self._clock.monotonic_s() - change.at_s
        if self._dataplane.programmed_revision < change.update.revision:
            return f"not in the kernel after {passed_s:.0f} s; {self._state()}"
        return f"the kernel reflects it after {passed_s * 1000:.1f} ms; {self._state()}"

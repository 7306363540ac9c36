"""A client of the syncer that remembers what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from libcalico.datastore.contract import Datastore
from libcalico.datastore.syncer import Status, Syncer

ROOT = "/calico/resources/"


class Follower:
    """What a client of the syncer knows."""

    def __init__(self, source: Syncer) -> None:
        self.source = source
        self.known: dict[bytes, bytes] = {}
        self.updates = 0
        self.in_sync = False
        self.revision = 0

    async def run(self) -> None:
        """Apply batches for ever."""
        async with contextlib.aclosing(self.source.run()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for update in batch.updates:
                    self.updates += 1
                    if update.value is None:
                        del self.known[update.key]
                    else:
                        self.known[update.key] = update.value
                self.in_sync = batch.status is Status.IN_SYNC
                self.revision = batch.revision

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait for a condition; it is asked often."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "it did not come"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def following(store: Datastore) -> AsyncIterator[Follower]:
    """A follower that runs meanwhile."""
    follower = Follower(Syncer(store, (ROOT,)))
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def key(name: str) -> bytes:
    """The key of an object that is followed."""
    return (ROOT + name).encode()

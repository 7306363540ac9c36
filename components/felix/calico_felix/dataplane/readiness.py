"""What the kernel enforces, and who waits for it: the answer to an ADD goes out when this says so.

An endpoint is ready at a revision when the kernel has accepted a ruleset with its policy as of that revision, and the
connections of the former owners of its addresses have ended. One whose interface is another endpoint's never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple

from calico_felix.dataplane.manager import Manager
from calico_felix.dataplane.owners import Owners
from libcalico.calc.messages import Endpoint, Flush
from libcalico.model.keys import ResourceKey


class Waiter(NamedTuple):
    """A call that waits until an endpoint is programmed."""

    key: ResourceKey
    revision: int
    done: asyncio.Future[None]


class Readiness(Manager):
    """Revisions of the datastore: the newest that was taken in, and those that the kernel reflects."""

    def __init__(self, owners: Owners) -> None:
        self.revision = 0
        self.programmed_revision = 0
        self.programmed: dict[ResourceKey, int] = {}
        """Of each endpoint that is enforced, its revision."""
        self.standing = asyncio.Event()
        """Set when the kernel has accepted a ruleset of ours."""
        self._owners = owners
        self._waiters: list[Waiter] = []

    def on_flush(self, flush: Flush) -> None:
        """Endpoints that are gone are ready no more; a changed one still is, as of its former revision."""
        for key, endpoint in flush.endpoints.items():
            if endpoint is None:
                self.programmed.pop(key, None)
        self.revision = flush.revision

    def note_revision(self, revision: int, is_clean: bool) -> None:
        """The datastore has moved on, and nothing of it concerns the kernel, which may have all else."""
        self.revision = revision
        if is_clean:
            self.on_clean()

    def on_rules(self, endpoints: Mapping[ResourceKey, Endpoint], revision: int) -> None:
        """The kernel enforces the policies of `endpoints` as of `revision`, and those of no other endpoint."""
        self.standing.set()
        self.programmed_revision = max(self.programmed_revision, revision)
        for key in self.programmed.keys() - endpoints.keys():
            del self.programmed[key]
        for key, endpoint in endpoints.items():
            if key in self._owners.endpoints:  # else it went while the transaction was at work
                self.programmed[key] = endpoint.revision
        self._answer(self._waiters)

    def on_clean(self) -> None:
        """The kernel holds what is wanted: revisions that came meanwhile had nothing for it."""
        self.programmed_revision = max(self.programmed_revision, self.revision)

    def forget(self) -> None:
        """What was programmed at revisions until now says nothing of those that come."""
        self.programmed_revision = 0

    def _answer(self, waiters: Collection[Waiter]) -> None:
        for waiter in waiters:
            if self.programmed.get(waiter.key, 0) >= waiter.revision and not waiter.done.done():
                waiter.done.set_result(None)

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Until the kernel enforces an endpoint's policy as of a datastore revision; raises `TimeoutError`."""
        if self.programmed.get(key, 0) >= revision:
            return
        waiter = Waiter(key, revision, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.done
        finally:
            self._waiters.remove(waiter)

    def figures(self) -> Mapping[str, float]:
        """The revision that the kernel reflects."""
        return {"felix_programmed_revision": self.programmed_revision}

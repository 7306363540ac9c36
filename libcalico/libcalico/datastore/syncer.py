"""The syncer: everything below some prefixes, first as a snapshot, then as changes, without a gap.

One watch over `/calico/` gives one total order; keys of other areas are dropped here. A lost connection is resumed
with the last event that was seen: etcd must send it again, word for word, or it was restored from a backup and its
revisions are of another history. Then, and when etcd has forgotten that event (compaction), and after several
failures in a row, a new snapshot is compared with what is known, and only the differences are delivered, deletions
included.
Source: spec/datastore.md 5.
"""

from __future__ import annotations

import contextlib
import enum
import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from libcalico.clock import Clock, SystemClock
from libcalico.datastore.contract import Compacted, Datastore, Event, WatchBatch
from libcalico.errors import DatastoreError
from libcalico.model.keys import ROOT

log = logging.getLogger(__name__)

WATCH_ROOT = ROOT.encode()
PAGE_SIZE = 1000
LARGEST_BATCH = 1000
RETRY_LIST_S = 1.0
RETRY_WATCH_S = 0.5
WATCH_FAILURES_BEFORE_RESYNC = 5


class Status(enum.Enum):
    """RESYNC: a snapshot is on its way. IN_SYNC: what was delivered is the state of the datastore."""

    RESYNC = "resync"
    IN_SYNC = "in-sync"


class Update(NamedTuple):
    """One key's new value; None is a deletion."""

    key: bytes
    value: bytes | None
    revision: int


class Batch(NamedTuple):
    """Updates in order. `revision`: everything up to it was delivered (only meaningful when IN_SYNC).

    `snapshot`: the updates are what a snapshot differs in. They are true even when a key's revision is lower than one
    that was delivered before: etcd was restored from a backup."""

    updates: tuple[Update, ...]
    status: Status
    revision: int
    snapshot: bool = False


class Syncer:
    """Follows the keys below `prefixes`. `run` is called once.

    `last_heard_s` is when the datastore last answered, by the clock; `reason` says why it is not `connected`."""

    def __init__(self, datastore: Datastore, prefixes: Sequence[str], clock: Clock | None = None) -> None:
        self._datastore = datastore
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        self._clock = clock or SystemClock()
        self._known: dict[bytes, tuple[int, int]] = {}
        self._revision = 0
        self._last_event: Event | None = None
        self.resyncs = 0
        self.connected = False
        self.reason = "it has not answered yet"
        self.last_heard_s = self._clock.monotonic_s()

    async def run(self) -> AsyncIterator[Batch]:
        """Batches for ever. Datastore errors are logged and retried, never raised."""
        while True:
            async for batch in self._resync():
                yield batch
            async for batch in self._follow():
                yield batch

    async def _resync(self) -> AsyncIterator[Batch]:
        self.resyncs += 1
        while True:
            yield Batch((), Status.RESYNC, self._revision)
            try:
                async for batch in self._snapshot():
                    yield batch
                return
            except Compacted:
                log.info("the snapshot was compacted while it was read: starting again")
            except DatastoreError as error:
                self._lost(error)
                log.warning("cannot read the datastore, trying again in %.0f s: %s", RETRY_LIST_S, error)
                await self._clock.sleep(RETRY_LIST_S)

    async def _snapshot(self) -> AsyncIterator[Batch]:
        revision = 0
        seen: set[bytes] = set()
        for prefix in self._prefixes:
            start, more = b"", True
            while more:
                page = await self._datastore.range(prefix, start=start, limit=PAGE_SIZE, revision=revision)
                self._heard()
                revision = revision or page.revision
                seen.update(kv.key for kv in page.kvs)
                updates = []
                for key, value, _created, changed, _version in page.kvs:
                    if self._known.get(key) != (changed, hash(value)):
                        self._known[key] = (changed, hash(value))
                        updates.append(Update(key, value, changed))
                if updates:
                    yield Batch(tuple(updates), Status.RESYNC, revision, snapshot=True)
                more = page.more
                if more:
                    start = page.kvs[-1].key + b"\0"
        gone = [key for key in self._known if key not in seen]
        for key in gone:
            del self._known[key]
        self._revision = revision
        self._last_event = None
        yield Batch(tuple(Update(key, None, revision) for key in gone), Status.IN_SYNC, revision, snapshot=True)

    async def _follow(self) -> AsyncIterator[Batch]:
        failures = 0
        while failures < WATCH_FAILURES_BEFORE_RESYNC:
            before, witness = self._revision, self._last_event
            start = self._revision + 1 if witness is None else witness.mod_revision
            try:
                async with contextlib.aclosing(self._datastore.watch(WATCH_ROOT, start)) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        self._heard()
                        if witness is not None and witness not in batch.events:
                            log.warning("the datastore has another history: comparing with a new snapshot")
                            return
                        witness = None
                        for part in self._split(batch):
                            yield part
            except Compacted as error:
                log.warning(
                    "the datastore forgot revision %d: comparing with a new snapshot: %s", self._revision, error
                )
                return
            except DatastoreError as error:
                self._lost(error)
                failures = 1 if self._revision > before else failures + 1
                log.warning("lost the watch at revision %d (failure %d): %s", self._revision, failures, error)
                await self._clock.sleep(RETRY_WATCH_S)
                if self._last_event is None:
                    return  # nothing has happened since the snapshot by which the history could be known again

    def _split(self, batch: WatchBatch) -> list[Batch]:
        updates = []
        if batch.events:
            self._last_event = batch.events[-1]
        for event in batch.events:
            if not event.key.startswith(self._prefixes):
                continue
            if event.value is None:
                if self._known.pop(event.key, None) is None:
                    continue
            elif event.key in self._known and self._known[event.key][0] >= event.mod_revision:
                continue
            else:
                self._known[event.key] = (event.mod_revision, hash(event.value))
            updates.append(Update(event.key, event.value, event.mod_revision))
        self._revision = max(self._revision, batch.revision)
        parts = [tuple(updates[place : place + LARGEST_BATCH]) for place in range(0, len(updates), LARGEST_BATCH)]
        return [Batch(part, Status.IN_SYNC, self._revision) for part in parts or [()]]

    def _heard(self) -> None:
        self.last_heard_s = self._clock.monotonic_s()
        self.connected, self.reason = True, ""

    def _lost(self, error: DatastoreError) -> None:
        self.connected, self.reason = False, str(error)

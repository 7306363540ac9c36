"""The datastore in memory: the same contract as etcd, for tests, for dry runs and for playing vector files.

Every write is one revision, kept with its history until `compact`; `break_watches` plays a lost connection.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Sequence

from libcalico.datastore.contract import (
    Compacted,
    Compare,
    Delete,
    Event,
    KeyValue,
    Operation,
    Put,
    RangeResult,
    Target,
    TxnResult,
    WatchBatch,
)
from libcalico.errors import DatastoreError

_BROKEN = None


class MemoryDatastore:
    """One store, shared by everybody who holds it."""

    def __init__(self) -> None:
        self.revision = 1
        self.requests = 0
        self._compacted = 0
        self._keys: list[bytes] = []
        self._versions: dict[bytes, list[tuple[int, KeyValue | None]]] = {}
        self._history: list[Event] = []
        self._watchers: dict[asyncio.Queue[Event | None], bytes] = {}
        self._next_lease = 1000

    @property
    def endpoint(self) -> str:
        """No URL: it is in this process."""
        return "memory"

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key, now or at `revision`."""
        self.requests += 1
        self._check_revision(revision)
        return self._at(key, revision)

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix`, in order."""
        self.requests += 1
        self._check_revision(revision)
        found = self._below(prefix, start, revision)
        more = bool(limit) and len(found) > limit
        kvs = tuple(found[:limit] if limit else found)
        if keys_only:
            kvs = tuple(kv._replace(value=b"") for kv in kvs)
        return RangeResult(kvs, self.revision, more)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition."""
        return (await self.txn((), (Put(key, value, lease),))).revision

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """Atomic: nothing else runs between the comparisons and the last operation."""
        self.requests += 1
        succeeded = all(self._holds(compare) for compare in compares)
        operations = success if succeeded else failure
        written = [operation.key for operation in operations if isinstance(operation, Put)]
        if len(written) != len(set(written)):
            raise DatastoreError("etcdserver: duplicate key given in txn request")
        revision = self.revision + 1
        events: list[Event] = []
        responses = tuple(self._apply(operation, revision, events) for operation in operations)
        if events:
            self.revision = revision
            self._history.extend(events)
            for queue, prefix in self._watchers.items():
                for event in events:
                    if event.key.startswith(prefix):
                        queue.put_nowait(event)
        return TxnResult(succeeded, responses, self.revision)

    async def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes from `start_revision` on."""
        if start_revision <= self._compacted:
            raise Compacted(self._compacted)
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        past = [
            event for event in self._history if event.mod_revision >= start_revision and event.key.startswith(prefix)
        ]
        self._watchers[queue] = prefix
        try:
            yield WatchBatch(tuple(past), self.revision)
            while True:
                events = [await queue.get()]
                while not queue.empty():
                    events.append(queue.get_nowait())
                whole = tuple(event for event in events if event is not None)
                if whole:
                    yield WatchBatch(whole, whole[-1].mod_revision)
                if len(whole) != len(events):
                    raise DatastoreError("watch: the connection was lost")
        finally:
            del self._watchers[queue]

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease that never ends here."""
        self._next_lease += 1
        return self._next_lease

    async def close(self) -> None:
        """Nothing to give back."""

    def compact(self, revision: int) -> None:
        """Forget all history before `revision`."""
        self._compacted = revision
        self._history = [event for event in self._history if event.mod_revision > revision]

    def break_watches(self) -> None:
        """End every watch with an error, as a lost connection does."""
        for queue in self._watchers:
            queue.put_nowait(_BROKEN)

    def _check_revision(self, revision: int) -> None:
        if revision and revision < self._compacted:
            raise Compacted(self._compacted)

    def _at(self, key: bytes, revision: int) -> KeyValue | None:
        versions = self._versions.get(key)
        if not versions:
            return None
        if not revision:
            return versions[-1][1]
        place = bisect.bisect_right(versions, revision, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    def _below(self, prefix: bytes, start: bytes, revision: int) -> list[KeyValue]:
        found = []
        for place in range(bisect.bisect_left(self._keys, max(prefix, start)), len(self._keys)):
            key = self._keys[place]
            if not key.startswith(prefix):
                break
            kv = self._at(key, revision)
            if kv is not None:
                found.append(kv)
        return found

    def _holds(self, compare: Compare) -> bool:
        kv = self._at(compare.key, 0)
        if compare.target is Target.VALUE:
            return kv is not None and kv.value == compare.value
        if kv is None:
            return compare.value == 0
        return compare.value == (kv.version if compare.target is Target.VERSION else kv.mod_revision)

    def _apply(self, operation: Operation, revision: int, events: list[Event]) -> tuple[KeyValue, ...]:
        if isinstance(operation, Put):
            self._store(operation.key, operation.value, revision)
            events.append(Event(operation.key, operation.value, revision))
            return ()
        if operation.prefix:
            found = tuple(self._below(operation.key, b"", 0))
        else:
            one = self._at(operation.key, 0)
            found = () if one is None else (one,)
        if isinstance(operation, Delete):
            for kv in found:
                self._versions[kv.key].append((revision, None))
                events.append(Event(kv.key, None, revision))
        elif operation.keys_only:
            return tuple(kv._replace(value=b"") for kv in found)
        return found

    def _store(self, key: bytes, value: bytes, revision: int) -> None:
        versions = self._versions.get(key)
        if versions is None:
            versions = self._versions[key] = []
            bisect.insort(self._keys, key)
        last = versions[-1][1] if versions else None
        if last is None:
            fresh = KeyValue(key, value, revision, revision, 1)
        else:
            fresh = KeyValue(key, value, last.create_revision, revision, last.version + 1)
        versions.append((revision, fresh))

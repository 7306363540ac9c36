"""etcd over gRPC for a caller that has no event loop: each call blocks until a loop of its own has answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from libcalico.datastore.contract import Compare, KeyValue, Operation, RangeResult, TxnResult, WatchBatch
from libcalico.datastore.etcd import EtcdDatastore

T = TypeVar("T")


class LoopedDatastore:
    """`open_datastore` is called, and everything done, in the loop's thread. `watch` wants a loop of the caller."""

    def __init__(self, open_datastore: Callable[[], EtcdDatastore]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="calico-datastore", daemon=True)
        self._thread.start()
        self._datastore = self._run(_opened(open_datastore))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def endpoint(self) -> str:
        """Where it is reached."""
        return self._datastore.endpoint

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key."""
        return self._run(self._datastore.get(key, revision))

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix`."""
        work = self._datastore.range(prefix, start=start, limit=limit, revision=revision, keys_only=keys_only)
        return self._run(work)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition."""
        return self._run(self._datastore.put(key, value, lease))

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """A transaction."""
        return self._run(self._datastore.txn(compares, success, failure))

    async def txn_again(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """A transaction that may have been carried out already."""
        return self._run(self._datastore.txn_again(compares, success, failure))

    async def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes; the caller's loop goes on while there are none."""
        batches = self._datastore.watch(prefix, start_revision)
        try:
            while True:
                reading = asyncio.run_coroutine_threadsafe(_next(batches), self._loop)
                batch = await asyncio.wrap_future(reading)
                if batch is None:
                    return
                yield batch
        finally:
            self._run(_closed(batches))

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease."""
        return self._run(self._datastore.grant_lease(ttl_s))

    async def close(self) -> None:
        """Close it, and end the thread."""
        self._run(self._datastore.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _opened(open_datastore: Callable[[], EtcdDatastore]) -> EtcdDatastore:
    return open_datastore()


async def _next(batches: AsyncIterator[WatchBatch]) -> WatchBatch | None:
    return await anext(batches, None)


async def _closed(batches: AsyncIterator[WatchBatch]) -> None:
    assert isinstance(batches, AsyncGenerator)
    await batches.aclose()

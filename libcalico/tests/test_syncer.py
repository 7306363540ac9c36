"""The syncer: snapshot, changes, and what becomes of both when the connection or the history is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from libcalico.datastore import syncer
from libcalico.datastore.contract import Delete, RangeResult
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Status, Syncer
from libcalico.errors import DatastoreError
from tests.services import Etcd

ROOT = "/calico/resources/"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncer, "RETRY_LIST_S", 0.01)
    monkeypatch.setattr(syncer, "RETRY_WATCH_S", 0.01)


class Follower:
    """What a client of the syncer knows."""

    def __init__(self, source: Syncer) -> None:
        self.source = source
        self.known: dict[bytes, bytes] = {}
        self.updates = 0
        self.in_sync = False
        self.revision = 0

    async def run(self) -> None:
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
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "it did not come"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def following(store: MemoryDatastore | EtcdDatastore) -> AsyncIterator[Follower]:
    follower = Follower(Syncer(store, (ROOT,)))
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def key(name: str) -> bytes:
    return (ROOT + name).encode()


async def test_snapshot_then_changes_and_nothing_from_elsewhere() -> None:
    store = MemoryDatastore()
    await store.put(key("a"), b"1")
    await store.put(b"/calico/other", b"x")
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        assert follower.known == {key("a"): b"1"}
        revision = await store.put(b"/calico/other", b"y")
        await follower.until(lambda: follower.revision >= revision)
        await store.put(key("b"), b"2")
        await store.txn((), (Delete(key("a")),))
        await follower.until(lambda: follower.known == {key("b"): b"2"})


async def test_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncer, "PAGE_SIZE", 7)
    store = MemoryDatastore()
    for number in range(50):
        await store.put(key(f"{number:02}"), b"1")
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        assert len(follower.known) == 50
        assert follower.updates == 50


async def test_a_lost_watch_goes_on_where_it_stopped() -> None:
    store = MemoryDatastore()
    await store.put(key("a"), b"1")
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        store.break_watches()
        await store.put(key("b"), b"2")
        await follower.until(lambda: key("b") in follower.known)
        assert follower.source.resyncs == 1
        assert follower.updates == 2


async def test_compaction_during_an_outage_is_mended_by_difference() -> None:
    store = MemoryDatastore()
    for name in "abc":
        await store.put(key(name), b"1")
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        store.break_watches()
        while store._watchers:  # until it knows; it tries again later
            await asyncio.sleep(0)
        await store.put(key("b"), b"2")
        await store.txn((), (Delete(key("c")),))
        store.compact(await store.put(key("d"), b"4"))
        await follower.until(lambda: follower.source.resyncs == 2 and follower.in_sync)
        assert follower.known == {key("a"): b"1", key("b"): b"2", key("d"): b"4"}
        assert follower.updates <= 3 + 3


class Unreliable(MemoryDatastore):
    """Fails the first reads."""

    failures = 3

    async def range(self, *args: object, **kwargs: object) -> RangeResult:
        if self.failures:
            self.failures -= 1
            raise DatastoreError("no")
        return await super().range(*args, **kwargs)  # type: ignore[arg-type]


async def test_an_unreachable_datastore_is_tried_again() -> None:
    store = Unreliable()
    await store.put(key("a"), b"1")
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        assert follower.known == {key("a"): b"1"}


async def test_etcd_killed_and_started_again(etcd: Etcd) -> None:
    store = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    try:
        await store.put(key("a"), b"1")
        async with following(store) as follower:
            await follower.until(lambda: follower.in_sync)
            etcd.kill()
            await asyncio.sleep(0.2)
            etcd.start()
            await follower.until(lambda: follower.in_sync)
            revision = await store.put(key("b"), b"2")
            await follower.until(lambda: follower.revision >= revision)
            assert follower.known[key("b")] == b"2"
    finally:
        await store.close()


async def write(etcd: Etcd, **values: str) -> dict[bytes, bytes]:
    """Put these keys with a connection of its own; what there is afterwards."""
    store = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    try:
        for name, value in values.items():
            await store.put(key(name), value.encode())
        return {kv.key: kv.value for kv in (await store.range(ROOT.encode())).kvs}
    finally:
        await store.close()


@pytest.mark.parametrize("more", [0, 1, 20], ids=["fewer writes", "as many", "more"])
async def test_etcd_restored_from_a_backup_is_not_taken_for_the_same(etcd: Etcd, more: int) -> None:
    """Its revisions go on from the backup's, and mean other values: those count, whatever their numbers."""
    await write(etcd, before="1")
    etcd.kill()
    etcd.backup()
    etcd.start()
    store = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    try:
        async with following(store) as follower:
            await follower.until(lambda: follower.in_sync)
            seen = await write(etcd, lost="1", policy="allow")
            await follower.until(lambda: follower.known == seen)
            etcd.kill()
            etcd.restore()
            etcd.start()
            wanted = await write(etcd, **{f"new-{number}": "2" for number in range(more)}, policy="deny")
            assert key("lost") not in wanted and wanted[key("policy")] == b"deny"
            await follower.until(lambda: follower.known == wanted)
    finally:
        await store.close()


class Switch:
    """A datastore that can be exchanged for another behind its client's back."""

    def __init__(self, store: MemoryDatastore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


async def test_another_history_is_noticed_even_if_nothing_has_happened_since_the_snapshot() -> None:
    stores = [MemoryDatastore(), MemoryDatastore()]
    for number, store in enumerate(stores):
        for name in ("a", f"only-{number}"):
            await store.put(key(name), f"{number}".encode())
    switch = Switch(stores[0])
    async with following(switch) as follower:  # type: ignore[arg-type]
        await follower.until(lambda: follower.in_sync)
        await follower.until(lambda: bool(stores[0]._watchers))
        switch.store = stores[1]
        stores[0].break_watches()
        await follower.until(lambda: follower.known == {key("a"): b"1", key("only-1"): b"1"})

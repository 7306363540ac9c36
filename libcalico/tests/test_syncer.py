"""The syncer: snapshot, changes, and what becomes of both when the connection or the history is lost."""

from __future__ import annotations

import asyncio

import pytest

from libcalico.datastore import syncer
from libcalico.datastore.contract import Delete, RangeResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import DatastoreError
from libcalico.testing.following import following, key


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncer, "RETRY_LIST_S", 0.01)
    monkeypatch.setattr(syncer, "RETRY_WATCH_S", 0.01)


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

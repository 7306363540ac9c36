"""What every datastore does, in memory as in etcd: `CHECKS`, each called with a datastore and a prefix of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from libcalico.datastore.contract import Compacted, Compare, Datastore, Delete, Event, Get, Put, Target, WatchBatch
from libcalico.errors import DatastoreError


async def versions_and_revisions(store: Datastore, area: bytes) -> None:
    """A key counts its versions; the whole counts revisions."""
    key = area + b"a"
    assert await store.get(key) is None
    first = await store.put(key, b"1")
    second = await store.put(key, b"2")
    assert second == first + 1
    kv = await store.get(key)
    assert kv is not None
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version) == (key, b"2", first, second, 2)
    old = await store.get(key, revision=first)
    assert old is not None and old.value == b"1"
    await store.txn((), (Delete(key),))
    await store.put(key, b"3")
    again = await store.get(key)
    assert again is not None and again.version == 1


async def range_in_pages_at_one_revision(store: Datastore, area: bytes) -> None:
    """Pages of one revision do not see what is written between them."""
    names = [b"a", b"a\xff", b"b", b"b/c", b"c"]
    for name in names:
        await store.put(area + name, name)
    page = await store.range(area, limit=3)
    assert [kv.key for kv in page.kvs] == [area + name for name in names[:3]] and page.more
    await store.put(area + b"d", b"later")
    rest = await store.range(area, start=page.kvs[-1].key + b"\0", limit=3, revision=page.revision)
    assert [kv.value for kv in rest.kvs] == names[3:] and not rest.more
    keys = await store.range(area, keys_only=True)
    assert len(keys.kvs) == 6 and {kv.value for kv in keys.kvs} == {b""}


async def a_prefix_of_the_highest_byte(store: Datastore, area: bytes) -> None:
    """A prefix has an end even if no byte is above its last."""
    await store.put(area + b"\xff\xff", b"1")
    await store.put(area + b"z", b"2")
    assert [kv.value for kv in (await store.range(area + b"\xff")).kvs] == [b"1"]


async def transactions_are_all_or_nothing(store: Datastore, area: bytes) -> None:
    """Every kind of comparison, and both branches."""
    a, b = area + b"a", area + b"b"
    absent = Compare(a, Target.VERSION, 0)
    assert (await store.txn((absent,), (Put(a, b"1"), Put(b, b"1")))).succeeded
    refused = await store.txn((absent,), (Put(a, b"2"), Put(b, b"2")), (Get(a), Get(area, prefix=True)))
    assert not refused.succeeded
    assert [[kv.value for kv in kvs] for kvs in refused.responses] == [[b"1"], [b"1", b"1"]]
    kv = await store.get(a)
    assert kv is not None
    for compare, holds in (
        (Compare(a, Target.MOD_REVISION, kv.mod_revision), True),
        (Compare(a, Target.MOD_REVISION, kv.mod_revision + 1), False),
        (Compare(a, Target.VALUE, b"1"), True),
        (Compare(a, Target.VALUE, b"2"), False),
        (Compare(area + b"none", Target.MOD_REVISION, 0), True),
    ):
        assert (await store.txn((compare,), ())).succeeded is holds, compare


async def deletion_answers_what_was_there(store: Datastore, area: bytes) -> None:
    """A deletion returns the pairs that it removed."""
    await store.put(area + b"a", b"1")
    await store.put(area + b"b", b"2")
    gone = await store.txn((), (Delete(area, prefix=True), Delete(area + b"none")))
    assert [[kv.value for kv in kvs] for kvs in gone.responses] == [[b"1", b"2"], []]
    assert (await store.range(area)).kvs == ()


async def one_key_twice_in_a_transaction_is_refused(store: Datastore, area: bytes) -> None:
    """As etcd does."""
    with pytest.raises(DatastoreError, match="duplicate key"):
        await store.txn((), (Put(area + b"a", b"1"), Put(area + b"a", b"2")))


async def read(batches: AsyncIterator[WatchBatch], count: int) -> list[Event]:
    """The next `count` events."""
    events: list[Event] = []
    while len(events) < count:
        events += (await asyncio.wait_for(anext(batches), 30)).events
    return events


async def watch_from_the_past_and_on(store: Datastore, area: bytes) -> None:
    """A watch begins at a revision and goes on with what comes."""
    first = await store.put(area + b"a", b"1")
    await store.put(b"/elsewhere" + area, b"x")
    async with contextlib.aclosing(store.watch(area, first)) as batches:  # type: ignore[type-var]
        assert await read(batches, 1) == [Event(area + b"a", b"1", first)]
        last = (await store.txn((), (Put(area + b"b", b"2"), Delete(area + b"a")))).revision
        events = await read(batches, 2)
        assert sorted(events) == [Event(area + b"a", None, last), Event(area + b"b", b"2", last)]


async def watch_of_a_compacted_revision(store: Datastore, area: bytes) -> None:
    """What is compacted cannot be watched or read."""
    first = await store.put(area + b"a", b"1")
    last = await store.put(area + b"a", b"2")
    compacted = store.compact(last)  # type: ignore[attr-defined]
    if compacted is not None:
        await compacted
    with pytest.raises(Compacted):
        await anext(store.watch(area, first))
    with pytest.raises(Compacted):
        await store.get(area + b"a", revision=first)


async def compare_and_swap_loses_nothing(store: Datastore, area: bytes) -> None:
    """Twenty writers add one each to one number."""
    key = area + b"n"
    await store.put(key, b"0")

    async def add() -> None:
        while True:
            kv = await store.get(key)
            assert kv is not None
            fresh = str(int(kv.value) + 1).encode()
            if (await store.txn((Compare(key, Target.MOD_REVISION, kv.mod_revision),), (Put(key, fresh),))).succeeded:
                return

    await asyncio.gather(*(add() for _ in range(20)))
    kv = await store.get(key)
    assert kv is not None and kv.value == b"20"


CHECKS: tuple[Callable[[Datastore, bytes], Awaitable[None]], ...] = (
    versions_and_revisions,
    range_in_pages_at_one_revision,
    a_prefix_of_the_highest_byte,
    transactions_are_all_or_nothing,
    deletion_answers_what_was_there,
    one_key_twice_in_a_transaction_is_refused,
    watch_from_the_past_and_on,
    watch_of_a_compacted_revision,
    compare_and_swap_loses_nothing,
)

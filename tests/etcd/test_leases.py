"""Keys under leases: they go when the lease ends, and a lease that has ended is an error, not a key without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from libcalico.datastore.contract import Compare, Put, Target
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import DatastoreError
from libcalico.testing.etcd import Etcd

TTL_S = 2
LONGEST_S = 30
KEY, KEPT, OTHER = (b"/calico/test/lease/" + name for name in (b"key", b"kept", b"other"))


@pytest.fixture
async def store(etcd: Etcd) -> AsyncIterator[EtcdDatastore]:
    made = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    yield made
    await made.close()


async def deletion_of(store: EtcdDatastore, key: bytes, since: int) -> None:
    """Wait until a watch says that a key is gone."""
    async for batch in store.watch(key, since + 1):
        if any(event.value is None for event in batch.events):
            return


async def test_a_lease_that_ends(store: EtcdDatastore) -> None:
    """What is written again under another lease, or under none, outlives the first one, as a heartbeat's key does."""
    lease = await store.grant_lease(TTL_S)
    await store.put(KEPT, b"1", lease)
    await store.txn([Compare(OTHER, Target.VERSION, 0)], [Put(OTHER, b"1", lease)])
    revision = await store.put(KEY, b"1", lease)
    await store.put(KEPT, b"2", await store.grant_lease(600))
    await store.put(OTHER, b"2")
    async with asyncio.timeout(LONGEST_S):
        await deletion_of(store, KEY, revision)
    assert await store.get(KEY) is None
    for key in (KEPT, OTHER):
        kv = await store.get(key)
        assert kv is not None and kv.value == b"2"
    before = (await store.range(KEY)).revision
    with pytest.raises(DatastoreError, match="requested lease not found"):
        await store.put(KEY, b"2", lease)
    with pytest.raises(DatastoreError, match="requested lease not found"):
        await store.txn([Compare(KEY, Target.VERSION, 0)], [Put(KEY, b"2", lease), Put(OTHER, b"3")])
    assert (await store.range(KEY)).revision == before

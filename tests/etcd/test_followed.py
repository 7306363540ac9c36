"""The syncer on a real etcd that is killed, and one that is restored from a backup."""

from __future__ import annotations

import asyncio

import pytest

from libcalico.datastore import syncer
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.testing.etcd import Etcd
from libcalico.testing.following import ROOT, following, key


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncer, "RETRY_LIST_S", 0.01)
    monkeypatch.setattr(syncer, "RETRY_WATCH_S", 0.01)


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

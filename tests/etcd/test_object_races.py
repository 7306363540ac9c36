"""Many clients at one object: each call that succeeds is one change, each that fails is none, and says why."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import (
    CalicoError,
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
)
from libcalico.model import GlobalNetworkSet, Metadata, ResourceKey, key_path
from libcalico.testing.etcd import Etcd
from tests.etcd.servers import cluster, leader, running

CLIENTS = 100
CONNECTIONS = 4
ROUNDS = 3
NAME = "shared"
PATH = key_path(ResourceKey("GlobalNetworkSet", NAME)).encode()

_replace = msgspec.structs.replace


class Quick(SystemClock):
    """A clock whose pauses between tries are short."""

    async def sleep(self, pause_s: float) -> None:
        """A hundredth of it."""
        await asyncio.sleep(pause_s / 100)


@asynccontextmanager
async def connected(*urls: str) -> AsyncIterator[list[AsyncClient]]:
    """Clients on a few connections; each asks the endpoints in an order of its own."""
    async with AsyncExitStack() as stack:
        stores = []
        for number in range(CONNECTIONS):
            first = number % len(urls)
            stores.append(EtcdDatastore(EtcdConfig((*urls[first:], *urls[:first]))))
            stack.push_async_callback(stores[-1].close)
        yield [AsyncClient(stores[number % CONNECTIONS], Quick()) for number in range(CLIENTS)]


def named(labels: dict[str, str]) -> GlobalNetworkSet:
    """The object that all are at."""
    return GlobalNetworkSet(metadata=Metadata(name=NAME, labels=labels))


async def add_label(client: AsyncClient, label: str, unsure: list[str]) -> None:
    """Read, add a label, write; again after a conflict. A write whose fate is unknown is made again, too."""
    while True:
        try:
            read = await client.get(GlobalNetworkSet, NAME)
            labels = {**read.metadata.labels, label: "yes"}
            await client.update(_replace(read, metadata=_replace(read.metadata, labels=labels)))
            return
        except ResourceUpdateConflict as error:
            assert str(error) == f"update conflict: GlobalNetworkSet({NAME})"
        except DatastoreError:
            unsure.append(label)
            await asyncio.sleep(0.2)


async def test_no_change_of_a_hundred_is_lost(etcd: Etcd) -> None:
    async with connected(etcd.endpoint) as clients:
        await clients[0].create(named({}))
        await asyncio.gather(*(add_label(client, f"c{number}", []) for number, client in enumerate(clients)))
        stored = await clients[0].get(GlobalNetworkSet, NAME)
        assert set(stored.metadata.labels) == {f"c{number}" for number in range(CLIENTS)}
        kv = await clients[0].datastore.get(PATH)
        assert kv is not None and kv.version == CLIENTS + 1  # each write was one
        await clients[0].delete(GlobalNetworkSet, NAME)


async def use(client: AsyncClient, number: int, done: list[str]) -> None:
    """Apply and delete in turns; what was done is noted, and every refusal is one of four."""
    for turn in range(ROUNDS):
        deletes = (number + turn) % 2 == 0
        try:
            if deletes:
                await client.delete(GlobalNetworkSet, NAME)
                done.append("gone")
            else:
                await client.apply(named({"by": f"c{number}-{turn}"}))
                done.append(f"c{number}-{turn}")
        except (ResourceDoesNotExist, ResourceUpdateConflict, ResourceAlreadyExists):
            pass
        except CalicoError as error:
            assert str(error).startswith("failed to update the resource: update conflict: "), repr(error)


async def test_every_success_of_a_hundred_that_apply_and_delete_is_one_change(etcd: Etcd) -> None:
    async with connected(etcd.endpoint) as clients:
        datastore = clients[0].datastore
        start = (await datastore.range(PATH)).revision
        done: list[str] = []
        async with asyncio.timeout(120):
            await asyncio.gather(*(use(client, number, done) for number, client in enumerate(clients)))
        end = (await datastore.range(PATH)).revision
        seen: list[str] = []
        async for batch in datastore.watch(PATH, start + 1):
            for event in batch.events:
                value = event.value
                seen.append("gone" if value is None else msgspec.json.decode(value)["metadata"]["labels"]["by"])
            if batch.revision >= end:
                break
        assert end - start == len(seen) > ROUNDS
        assert sorted(seen) == sorted(done)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["the leader", "the one that is asked"])
async def test_no_change_is_lost_while_a_member_is_frozen(tmp_path: Path, frozen: str) -> None:
    members = cluster(tmp_path)
    with running(*members):
        async with connected(*(member.url for member in members)) as clients:
            await clients[0].create(named({}))
            unsure: list[str] = []
            writers = [
                asyncio.ensure_future(add_label(client, f"c{number}", unsure)) for number, client in enumerate(clients)
            ]
            await asyncio.sleep(0.2)
            victim = leader(members) if frozen == "the leader" else members[0]
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(4)
            victim.send(signal.SIGCONT)
            async with asyncio.timeout(120):
                await asyncio.gather(*writers)
            stored = await clients[0].get(GlobalNetworkSet, NAME)
            assert set(stored.metadata.labels) == {f"c{number}" for number in range(CLIENTS)}
            kv = await clients[0].datastore.get(PATH)
            assert kv is not None
            assert CLIENTS + 1 <= kv.version <= CLIENTS + 1 + len(unsure)

"""Many writers while members of the cluster are frozen, killed and started again: nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import CalicoError
from libcalico.ipam.service import IpamService
from libcalico.model import IPPool, IPPoolSpec, Metadata, Node
from tests.etcd.servers import Server, cluster, running

WRITERS = 8
ROUNDS = 4
POOL = "10.61.0.0/18"


async def disturb(members: list[Server]) -> None:
    """Each in turn, the leader among them: frozen for a while, then killed and started again."""
    for number in range(ROUNDS):
        member = members[number % len(members)]
        member.send(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        member.send(signal.SIGCONT)
        await asyncio.sleep(1.5)
        member.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(member.start)


async def assign(ipam: IpamService, name: str, held: dict[str, str], failed: dict[str, str]) -> None:
    """One address after the other, every third given back, until it is cancelled."""
    number = 0
    while True:
        handle, number = f"{name}-{number}", number + 1
        try:
            found, _ = await ipam.auto_assign(num4=1, handle=handle)
            assert found is not None
            held[handle] = found.addresses[0]
            if number % 3 == 0:
                del held[handle]  # before the call: one that is cancelled may have freed the address
                await ipam.release_by_handle(handle)
        except CalicoError as error:
            held.pop(handle, None)
            failed[handle] = str(error)
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_no_address_is_given_twice_and_none_is_lost(tmp_path: Path) -> None:
    members = cluster(tmp_path)
    urls = [member.url for member in members]
    held: dict[str, str] = {}
    failed: dict[str, str] = {}
    with running(*members):
        orders = [tuple(urls[place % 3 :] + urls[: place % 3]) for place in range(WRITERS)]
        stores = [EtcdDatastore(EtcdConfig(order)) for order in orders]
        client = AsyncClient(stores[0])
        await client.ensure_initialized()
        await client.create(IPPool(metadata=Metadata(name="p"), spec=IPPoolSpec(cidr=POOL)))
        for number in range(3):
            await client.create(Node(metadata=Metadata(name=f"a{number}")))
        writers = [
            asyncio.ensure_future(assign(IpamService(store, f"a{n % 3}"), f"w{n}", held, failed))
            for n, store in enumerate(stores)
        ]
        await disturb(members)
        for writer in writers:
            writer.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
        counts = Counter(await in_use(stores[0]))
        print(f"{len(held)} held, {len(failed)} failed: {failed}")
        assert len(set(held.values())) == len(held) > 100
        assert {handle: counts[handle] for handle in held} == dict.fromkeys(held, 1)
        unsure = len(failed) + WRITERS  # the answer to these is not known, as for the call that was cancelled
        assert sum(counts.values()) - len(held) <= unsure
        assert all(count == 1 for count in counts.values()), counts
        for store in stores:
            await store.close()


async def in_use(store: EtcdDatastore) -> list[str]:
    """The handle of every address that is assigned, as the blocks say."""
    found = []
    for kv in (await store.range(b"/calico/ipam/v2/assignment/")).kvs:
        block = json.loads(kv.value)
        handles = [attribute.get("handle_id") for attribute in block["attributes"]]
        found += [handles[place] for place in block["allocations"] if place is not None]
    return found

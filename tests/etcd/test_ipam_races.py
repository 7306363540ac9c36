"""IPAM on a real etcd: many clients race, requests are counted, the server dies in between."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import DatastoreError, ResourceAlreadyExists
from libcalico.ipam.assignment import AssignError
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.testing.etcd import Etcd

CLIENTS = 64


def count_requests(server: Etcd) -> int:
    """KV requests that etcd has answered so far."""
    with urllib.request.urlopen(f"{server.endpoint}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'^grpc_server_handled_total\{[^}]*grpc_service="etcdserverpb.KV"[^}]*\} (\d+)', text, re.M)
    return sum(int(number) for number in found)


@pytest.fixture
async def store(etcd: Etcd) -> AsyncIterator[EtcdDatastore]:
    """An empty datastore with one pool and three nodes."""
    made = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    await made.txn([], [Delete(b"/calico/", prefix=True)])
    client = AsyncClient(made)
    await client.ensure_initialized()
    documents = [{"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.61.0.0/22", "blockSize": 27}}]
    documents += [{"kind": "Node", "metadata": {"name": f"a{n}"}, "spec": {}} for n in range(3)]
    for document in documents:
        await client.create(from_input({"apiVersion": "projectcalico.org/v3", **document}))
    yield made
    await made.close()


async def following_service(store: EtcdDatastore, host: str) -> IpamService:
    service = IpamService(store, host)
    for prefix in service.follow():
        for kv in (await store.range(prefix.encode())).kvs:
            service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    return service


async def in_use(store: EtcdDatastore) -> dict[str, int]:
    """Handle -> number of addresses, out of the blocks; the handles must say the same."""
    found: dict[str, int] = {}
    for kv in (await store.range(b"/calico/ipam/v2/assignment/")).kvs:
        block = json.loads(kv.value)
        for index in block["allocations"]:
            if index is not None:
                handle = block["attributes"][index]["handle_id"]
                found[handle] = found.get(handle, 0) + 1
    for kv in (await store.range(b"/calico/ipam/v2/handle/")).kvs:
        assert sum(json.loads(kv.value)["block"].values()) == found[kv.key.decode().rpartition("/")[2]]
    return found


async def test_a_warm_assignment_and_its_release_are_one_request_each(etcd: Etcd, store: EtcdDatastore) -> None:
    service = await following_service(store, "a0")
    await service.auto_assign(num4=1, handle="warm")
    before = count_requests(etcd)
    for number in range(10):
        await service.auto_assign(num4=1, handle=f"c{number}")
    assert count_requests(etcd) - before == 10
    for number in range(10):
        await service.release_by_handle(f"c{number}")
    assert count_requests(etcd) - before == 20
    assert await in_use(store) == {"warm": 1}


async def test_a_cold_assignment_is_three_requests(etcd: Etcd, store: EtcdDatastore) -> None:
    await IpamService(store, "a0").auto_assign(num4=1, handle="first")
    before = count_requests(etcd)
    await IpamService(store, "a0").auto_assign(num4=1, handle="second")
    assert count_requests(etcd) - before <= 3


@pytest.mark.parametrize("followed", [True, False])
async def test_64_clients_at_once_never_get_the_same_address(store: EtcdDatastore, followed: bool) -> None:
    """Three agents that follow, with many waiting callers each; or 64 processes that know nothing of each other."""
    if followed:
        agents = [await following_service(store, f"a{number}") for number in range(3)]
        services = [agents[number % 3] for number in range(CLIENTS)]
    else:
        services = [IpamService(store, f"a{number % 3}") for number in range(CLIENTS)]
    results = await asyncio.gather(*(s.auto_assign(num4=1, handle=f"c{n}") for n, s in enumerate(services)))
    addresses = [v4.addresses[0] for v4, _ in results if v4]
    assert len(addresses) == len(set(addresses)) == CLIENTS
    assert await in_use(store) == {f"c{number}": 1 for number in range(CLIENTS)}
    await asyncio.gather(*(service.release_by_handle(f"c{number}") for number, service in enumerate(services)))
    assert await in_use(store) == {}


async def test_one_address_has_one_winner(store: EtcdDatastore) -> None:
    services = [IpamService(store, f"a{number % 3}") for number in range(12)]
    results = await asyncio.gather(
        *(service.assign_ip("10.61.1.7", f"c{number}") for number, service in enumerate(services)),
        return_exceptions=True,
    )
    assert results.count(None) == 1
    assert sum(isinstance(result, ResourceAlreadyExists) for result in results) == 11


async def test_a_server_that_dies_leaves_no_half_and_work_goes_on(etcd: Etcd, store: EtcdDatastore) -> None:
    service = await following_service(store, "a0")
    tasks = [asyncio.ensure_future(service.auto_assign(num4=1, handle=f"c{number}")) for number in range(200)]
    await asyncio.sleep(0.02)
    etcd.kill()
    etcd.start()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(result, AssignError | DatastoreError) for result in failed), failed
    for attempt in range(20):
        try:
            await service.auto_assign(num4=1, handle="after")
            break
        except AssignError:
            assert attempt < 19
            await asyncio.sleep(0.2)
    held = await in_use(store)
    assert held["after"] >= 1 and len(held) >= len(results) - len(failed) + 1

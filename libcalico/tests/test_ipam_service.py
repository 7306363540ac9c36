"""The IPAM service against the datastore in memory: one transaction, conflicts, races, invariants."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import TxnResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, ResourceAlreadyExists, ResourceDoesNotExist
from libcalico.ipam.assignment import AssignError
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.model.ipam_data import Config


class SlowDatastore(MemoryDatastore):
    """One that takes a moment for each transaction, as a network does."""

    async def txn(self, *arguments: Any, **options: Any) -> TxnResult:
        await asyncio.sleep(0.001)
        return await super().txn(*arguments, **options)


async def cluster(*hosts: str, cidr: str = "10.61.0.0/24", block_size: int = 29) -> MemoryDatastore:
    store = SlowDatastore()
    client = AsyncClient(store)
    await client.ensure_initialized()
    pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": cidr, "blockSize": block_size}}
    for document in [pool, *({"kind": "Node", "metadata": {"name": host}, "spec": {}} for host in hosts)]:
        await client.create(from_input({"apiVersion": "projectcalico.org/v3", **document}))
    return store


async def following_service(store: MemoryDatastore, host: str) -> IpamService:
    """A service whose cache holds all that is stored now, as the agent's does after its snapshot."""
    service = IpamService(store, host)
    for prefix in service.follow():
        for kv in (await store.range(prefix.encode())).kvs:
            service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    return service


async def check_invariants(store: MemoryDatastore) -> dict[str, str | None]:
    """spec/ipam.md 2.4; returns the addresses in use with their handles."""
    used: dict[str, str | None] = {}
    for kv in (await store.range(b"/calico/ipam/v2/assignment/")).kvs:
        block = json.loads(kv.value)
        allocations, free, attributes = block["allocations"], block["unallocated"], block["attributes"]
        assert {index for index in allocations if index is not None} == set(range(len(attributes)))
        assert len(free) == len(set(free))
        assert sorted([*free, *(o for o, index in enumerate(allocations) if index is not None)]) == list(
            range(len(allocations))
        )
        network = ipaddress.ip_network(block["cidr"])
        for ordinal, index in enumerate(allocations):
            if index is not None:
                used[str(network[ordinal])] = attributes[index].get("handle_id")
    counted: dict[str, int] = {}
    for kv in (await store.range(b"/calico/ipam/v2/handle/")).kvs:
        counted[kv.key.decode().rpartition("/")[2]] = sum(json.loads(kv.value)["block"].values())
    truth: dict[str, int] = {}
    for handle in used.values():
        if handle is not None:
            truth[handle] = truth.get(handle, 0) + 1
    assert counted == truth
    return used


async def test_a_warm_assignment_is_one_request() -> None:
    store = await cluster("a1")
    service = await following_service(store, "a1")
    await service.auto_assign(num4=1, handle="net.first")
    before = store.requests
    v4, v6 = await service.auto_assign(num4=1, handle="net.second", attributes={"node": "a1"})
    assert store.requests - before == 1
    assert v6 is None and v4 is not None and len(v4.addresses) == 1
    assert await check_invariants(store) == {
        address.partition("/")[0]: handle
        for address, handle in zip(
            (await service.ips_by_handle("net.first")) + (await service.ips_by_handle("net.second")),
            ("net.first", "net.second"),
            strict=True,
        )
    }


async def test_many_at_once_share_transactions_and_get_different_addresses() -> None:
    store = await cluster("a1", block_size=26)
    service = await following_service(store, "a1")
    await service.auto_assign(num4=1, handle="warm")
    before = store.requests
    results = await asyncio.gather(*(service.auto_assign(num4=1, handle=f"h{n}") for n in range(60)))
    addresses = [v4.addresses[0] for v4, _ in results if v4]
    assert len(set(addresses)) == 60
    assert store.requests - before <= 4
    assert len(await check_invariants(store)) == 61


async def test_a_failure_in_a_group_does_not_spoil_its_neighbours() -> None:
    store = await cluster("a1", cidr="10.61.0.0/29")
    service = await following_service(store, "a1")
    results = await asyncio.gather(
        *(service.assign_ip("10.61.0.3", handle=f"h{n}") for n in range(3)),
        service.auto_assign(num4=2, handle="other"),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ResourceAlreadyExists) for result in results) == 2
    assert len(await check_invariants(store)) == 3


async def test_two_services_race_for_one_block() -> None:
    store = await cluster("a1", cidr="10.61.0.0/27", block_size=27)
    one, other = await following_service(store, "a1"), await following_service(store, "a1")
    results = await asyncio.gather(
        *((one if n % 2 else other).auto_assign(num4=1, handle=f"h{n}") for n in range(32)), return_exceptions=True
    )
    assert not [result for result in results if isinstance(result, BaseException)]
    assert len(await check_invariants(store)) == 32


async def test_a_foreign_writer_is_never_overwritten() -> None:
    store = await cluster("a1")
    service = await following_service(store, "a1")
    await service.auto_assign(num4=1, handle="h1")
    foreign = IpamService(store, "a1")
    taken = await foreign.auto_assign(num4=3, handle="foreign")
    mine = await service.auto_assign(num4=1, handle="h2")
    assert taken[0] and mine[0] and not set(taken[0].addresses) & set(mine[0].addresses)
    assert len(await check_invariants(store)) == 5


async def test_exhausted_pool_says_what_is_missing() -> None:
    store = await cluster("a1", cidr="10.61.0.0/30", block_size=30)
    service = IpamService(store, "a1")
    v4, _ = await service.auto_assign(num4=6, handle="h")
    assert v4 is not None and len(v4.addresses) == 4
    assert v4.shortfall == ("Assigned 4 out of 6 requested IPv4 addresses; No IPs available in pools: [10.61.0.0/30]")


async def test_a_negative_limit_of_blocks_is_none() -> None:
    """Upstream's `ipam configure` stores it."""
    store = await cluster("a1", cidr="10.61.0.0/24", block_size=26)
    service = IpamService(store, "a1")
    await service.set_config((await service.get_config())._replace(max_blocks_per_host=-1))
    v4, _ = await service.auto_assign(num4=1, handle="h", max_blocks=-1)
    assert v4 is not None and len(v4.addresses) == 1


async def test_strict_affinity_does_not_borrow() -> None:
    store = await cluster("a1", "a2", cidr="10.61.0.0/30", block_size=30)
    await IpamService(store, "a1").set_config(Config(strict_affinity=True))
    await IpamService(store, "a1").auto_assign(num4=1, handle="h1")
    v4, _ = await IpamService(store, "a2").auto_assign(num4=1, handle="h2")
    assert v4 is not None and v4.addresses == () and "strict affinity" in v4.shortfall


async def test_borrowing_takes_an_address_of_another_hosts_block() -> None:
    store = await cluster("a1", "a2", cidr="10.61.0.0/30", block_size=30)
    await IpamService(store, "a1").auto_assign(num4=1, handle="h1")
    v4, _ = await IpamService(store, "a2").auto_assign(num4=1, handle="h2")
    assert v4 is not None and len(v4.addresses) == 1


async def test_release_by_handle_returns_everything_and_may_be_repeated() -> None:
    store = await cluster("a1")
    service = await following_service(store, "a1")
    await service.auto_assign(num4=10, handle="h")
    await service.release_by_handle("h")
    assert await check_invariants(store) == {}
    with pytest.raises(ResourceDoesNotExist):
        await service.release_by_handle("h")


async def test_release_checks_handle_and_reports_free_addresses() -> None:
    store = await cluster("a1")
    service = IpamService(store, "a1")
    v4, _ = await service.auto_assign(num4=1, handle="h")
    assert v4 is not None
    address = v4.addresses[0].partition("/")[0]
    with pytest.raises(Exception, match=f"update conflict: {address}"):
        await service.release_ips([Release(address, "somebody-else")])
    released = await service.release_ips([address, address])
    assert released.done == (address,) and released.unallocated == ()
    assert (await service.release_ips([address])).unallocated == (address,)


async def test_missing_node_and_disabled_pools_are_named() -> None:
    store = await cluster()
    with pytest.raises(AssignError, match=r"resource does not exist: Node\(ghost\)"):
        await IpamService(store, "ghost").auto_assign(num4=1)


@pytest.mark.parametrize("is_followed", [False, True])
async def test_a_damaged_block_costs_its_own_addresses_only(is_followed: bool) -> None:
    store = await cluster("a1")
    damaged = b"/calico/ipam/v2/assignment/ipv4/block/10.61.0.0-29"
    await store.put(b"/calico/ipam/v2/host/a1/ipv4/block/10.61.0.0-29", b'{"state":"confirmed"}')
    await store.put(damaged, b"{not json")
    await store.put(b"/calico/ipam/v2/assignment/ipv4/block/\xff", b"{}")
    service = IpamService(store, "a1")
    if is_followed:
        for prefix in service.follow():
            for kv in (await store.range(prefix.encode())).kvs:
                if b"\xff" not in kv.key:
                    service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    assigned, _ = await service.auto_assign(num4=3, handle="h")
    assert assigned is not None and len(assigned.addresses) == 3
    assert not any(ipaddress.ip_interface(one).ip in ipaddress.ip_network("10.61.0.0/29") for one in assigned.addresses)
    stored = await store.get(damaged)
    assert stored is not None and stored.value == b"{not json"
    with pytest.raises(BadData, match="failed to parse datastore entry key=/calico/ipam/v2/assignment"):
        await service.assign_ip("10.61.0.1")
    await service.release_by_handle("h")


@settings(max_examples=settings().max_examples // 4, deadline=None)
@example(  # the second conflict must not make what the first has told be forgotten
    [
        *(("assign", 0, 0, 1), ("assign", 0, 0, 1), ("affinities", 0, 0, 0)),
        *(("release", 0, 0, 0), ("assign", 0, 1, 1), ("affinities", 0, 0, 0)),
        *(("assign", 0, 1, 1), ("assign", 1, 1, 1), ("release", 0, 0, 0)),
    ]
)
@example(  # a handle that came to be between the reading of its key and that of its block
    [
        *(("affinities", 0, 0, 0), ("assign", 1, 1, 4), ("assign", 1, 0, 5)),
        *(("affinities", 0, 0, 0), ("assign", 1, 0, 5), ("release", 0, 2, 0)),
        *(("release", 1, 1, 0), ("release", 0, 3, 0), ("assign", 1, 3, 3)),
        *(("assign", 0, 1, 2), ("assign", 0, 2, 4), ("release", 0, 1, 0)),
        *(("assign", 1, 0, 5), ("affinities", 0, 0, 0), ("assign", 0, 1, 2)),
        *(("assign", 0, 4, 3), ("affinities", 0, 0, 0), ("release", 1, 4, 0)),
    ]
)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("assign"), st.integers(0, 1), st.integers(0, 4), st.integers(1, 5)),
            st.tuples(st.just("release"), st.integers(0, 1), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("affinities"), st.integers(0, 1), st.just(0), st.just(0)),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_invariants_hold_under_any_history(history: list[tuple[str, int, int, int]]) -> None:
    async def play() -> None:
        store = await cluster("a1", "a2", cidr="10.61.0.0/27")
        services = [IpamService(store, "a1"), IpamService(store, "a2")]

        async def step(kind: str, host: int, handle: int, count: int) -> None:
            try:
                if kind == "assign":
                    await services[host].auto_assign(num4=count, handle=f"h{handle}")
                elif kind == "release":
                    await services[host].release_by_handle(f"h{handle}")
                else:
                    await services[host].release_host_affinities()
            except (ResourceDoesNotExist, AssignError):
                pass

        for start in range(0, len(history), 3):
            await asyncio.gather(*(step(*one) for one in history[start : start + 3]))
            await check_invariants(store)

    asyncio.run(play())

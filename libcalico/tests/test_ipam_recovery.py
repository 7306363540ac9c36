"""IPAM when something went wrong before: lost indexes, other people's blocks, cancelled callers, lost answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Compare, Delete, Operation, Put, Target, TxnResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, CalicoError, DatastoreError, ResourceAlreadyExists, ResourceDoesNotExist
from libcalico.ipam.affinity import ClaimConflict
from libcalico.ipam.assignment import AssignError
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.ipam.usage import AddressCooling
from libcalico.model.codec import from_input
from libcalico.model.ipam_data import Config
from libcalico.model.keys import BlockKey, HandleKey, key_path
from libcalico.testing.clock import ManualClock

POOL = "10.61.0.0/24"


class Wire(MemoryDatastore):
    """A datastore whose writes can be held up, or be done while their answer is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()  # by a write
        self.open = asyncio.Event()
        self.open.set()
        self.lose_answers = 0
        self.lose_requests = 0

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        await asyncio.sleep(0)
        if compares:
            self.reached.set()
            await self.open.wait()
        if compares and self.lose_requests:
            self.lose_requests -= 1
            raise DatastoreError("connection refused")
        answer = await super().txn(compares, success, failure)
        if compares and self.lose_answers:
            self.lose_answers -= 1
            raise DatastoreError("connection lost")
        return answer


async def cluster(*hosts: str, cidr: str = POOL, size: int = 29) -> tuple[Wire, AsyncClient]:
    """A pool and some nodes."""
    store = Wire()
    client = AsyncClient(store)
    await client.ensure_initialized()
    pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": cidr, "blockSize": size}}
    for document in [pool, *({"kind": "Node", "metadata": {"name": host}, "spec": {}} for host in hosts)]:
        await client.create(from_input({"apiVersion": "projectcalico.org/v3", **document}))
    return store, client


async def following_service(store: MemoryDatastore, host: str) -> IpamService:
    """A service that knows what is stored."""
    service = IpamService(store, host)
    for prefix in service.follow():
        for kv in (await store.range(prefix.encode())).kvs:
            service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    return service


async def used(store: MemoryDatastore) -> dict[str, list[str]]:
    """Handle -> addresses, out of the blocks; every handle key must say the same."""
    found: dict[str, list[str]] = {}
    counts: dict[str, dict[str, int]] = {}
    for kv in (await store.range(b"/calico/ipam/v2/assignment/")).kvs:
        block = json.loads(kv.value)
        first = block["cidr"].partition("/")[0]
        base, last = first.rsplit(".", 1)
        for ordinal, index in enumerate(block["allocations"]):
            handle = None if index is None else block["attributes"][index].get("handle_id")
            if handle is not None:
                found.setdefault(handle, []).append(f"{base}.{int(last) + ordinal}")
                count = counts.setdefault(handle, {})
                count[block["cidr"]] = count.get(block["cidr"], 0) + 1
    stored = {
        kv.key.decode().rpartition("/")[2]: json.loads(kv.value)["block"]
        for kv in (await store.range(b"/calico/ipam/v2/handle/")).kvs
    }
    assert stored == counts
    return found


async def wipe(store: MemoryDatastore, path: str) -> None:
    await store.txn([], [Delete(path.encode())])


def bare(cidr: str) -> str:
    return cidr.partition("/")[0]


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("damage", [None, b"", b"{not json", b'{"block":{"10.61.0.248/29":7}}'])
async def test_a_handle_that_is_lost_or_wrong_still_frees_its_addresses(damage: bytes | None, followed: bool) -> None:
    store, _ = await cluster("a1")
    service = await following_service(store, "a1") if followed else IpamService(store, "a1")
    await service.auto_assign(num4=10, handle="c1", attributes={"node": "a1"})
    path = key_path(HandleKey("c1"))
    if damage is None:
        await wipe(store, path)
    else:
        await store.put(path.encode(), damage)
    again = await following_service(store, "a1") if followed else service
    assert len(await again.ips_by_handle("c1")) == 10
    await again.release_by_handle("c1")
    assert await used(store) == {}
    with pytest.raises(ResourceDoesNotExist):
        await again.release_by_handle("c1")


async def test_two_hosts_with_one_container_id_free_only_their_own() -> None:
    store, _ = await cluster("a1", "a2")
    services = {host: IpamService(store, host) for host in ("a1", "a2")}
    for host, service in services.items():
        await service.auto_assign(num4=2, handle="same", attributes={"node": host})
    theirs = [address for address in (await used(store))["same"] if await _node_of(services["a2"], address) == "a2"]
    await services["a1"].release_by_handle("same")
    assert (await used(store))["same"] == theirs
    await services["a2"].release_by_handle("same")
    assert await used(store) == {}


async def _node_of(service: IpamService, address: str) -> str:
    return dict((await service.get_assignment_attributes(address)).secondary)["node"]


async def test_deleting_a_node_frees_more_addresses_than_fit_into_a_transaction() -> None:
    store, client = await cluster("a1", "a2", cidr="10.61.0.0/23", size=26)
    service = await following_service(store, "a1")
    await asyncio.gather(*(service.auto_assign(num4=1, handle=f"c{n}", attributes={"node": "a1"}) for n in range(300)))
    await IpamService(store, "a2").auto_assign(num4=2, handle="kept", attributes={"node": "a2"})
    await IpamService(store, "a1").auto_assign(num4=1, handle="nobody")
    await client.delete("Node", "a1")
    assert set(await used(store)) == {"kept", "nobody"}


async def test_plans_that_do_not_fit_into_one_transaction_are_split() -> None:
    store, _ = await cluster("a1", size=26)
    service = await following_service(store, "a1")
    held = await asyncio.gather(*(service.auto_assign(num4=1, handle=f"h{n}") for n in range(120)))
    addresses = [bare(v4.addresses[0]) for v4, _ in held if v4]
    before = store.requests
    parts = [addresses[start : start + 40] for start in range(0, 120, 40)]
    done = await asyncio.gather(*(service.release_ips(part) for part in parts))
    assert store.requests - before == 2  # two of the three fit into the first
    assert [len(one.done) for one in done] == [40, 40, 40] and await used(store) == {}


async def test_a_caller_that_is_cancelled_leaves_the_others_alone() -> None:
    store, _ = await cluster("a1")
    service = await following_service(store, "a1")
    await service.auto_assign(num4=1, handle="warm")
    store.reached.clear()
    store.open.clear()
    tasks = [asyncio.ensure_future(service.auto_assign(num4=1, handle="h0"))]
    await store.reached.wait()  # h0 is on its way, the others wait
    tasks += [asyncio.ensure_future(service.auto_assign(num4=1, handle=f"h{n}")) for n in range(1, 9)]
    while len(service._transactions._waiting) < 8:
        await asyncio.sleep(0)
    for place in (0, 3):
        tasks[place].cancel()
    await asyncio.wait((tasks[0], tasks[3]), timeout=1)  # both are told before h0's write goes on
    store.reached.clear()
    store.open.set()
    store.open.clear()
    async with asyncio.timeout(10):  # now all the others are, and h1 is the one that writes for them
        await store.reached.wait()
    tasks[1].cancel()
    await asyncio.wait((tasks[1],), timeout=1)
    store.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = [place for place, result in enumerate(results) if isinstance(result, asyncio.CancelledError)]
    assert cancelled == [0, 1, 3]
    await service.get_config()
    held = await used(store)
    assert "h3" not in held and all(len(addresses) == 1 for addresses in held.values())
    assert {f"h{n}" for n in (2, 4, 5, 6, 7, 8)} <= set(held)


async def test_a_lost_answer_is_an_error_and_the_next_call_sees_what_was_done() -> None:
    store, _ = await cluster("a1")
    service = await following_service(store, "a1")
    await service.auto_assign(num4=1, handle="warm")
    store.lose_answers = 1
    with pytest.raises(AssignError, match="connection lost"):
        await service.auto_assign(num4=1, handle="c1")
    v4, _ = await service.auto_assign(num4=1, handle="c1")
    assert v4 is not None and len((await used(store))["c1"]) == 2
    await service.release_by_handle("c1")
    assert set(await used(store)) == {"warm"}


async def test_dying_before_or_after_any_transaction_leaves_no_half() -> None:
    store, _ = await cluster("a1", size=30)
    for turn in range(12):
        store.lose_requests, store.lose_answers = (1, 0) if turn % 2 else (0, 1)
        for step in (
            IpamService(store, "a1").auto_assign(num4=6, handle=f"h{turn}"),
            IpamService(store, "a1").release_by_handle(f"h{turn - 3}"),
        ):
            try:
                await step
            except (AssignError, DatastoreError, ResourceDoesNotExist):
                pass
            await used(store)  # blocks and handles say the same


async def test_cooling_addresses_are_nobodys_until_their_time_is_over() -> None:
    store, _ = await cluster("a1", cidr="10.61.0.0/30", size=30)
    watch = ManualClock()
    service = IpamService(store, "a1", watch)
    await service.set_config(Config(strict_affinity=True, cooldown_s=30))
    await service.auto_assign(num4=4, handle="c1")
    await service.release_by_handle("c1")
    v4, _ = await service.auto_assign(num4=1, handle="c2")
    assert v4 is not None and v4.addresses == ()
    with pytest.raises(AddressCooling, match=r"address 10\.61\.0\.1 is in cooldown"):
        await service.get_assignment_attributes("10.61.0.1")
    with pytest.raises(ResourceAlreadyExists):
        await service.assign_ip("10.61.0.1", "c2")
    assert (await service.release_ips(["10.61.0.1"])).unallocated == ("10.61.0.1",)
    watch.at_s += 31
    v4, _ = await service.auto_assign(num4=1, handle="c2")
    assert v4 is not None and v4.addresses == ("10.61.0.0/30",)
    assert await used(store) == {"c2": ["10.61.0.0"]}


async def _left_over(store: MemoryDatastore, service: IpamService, client: AsyncClient) -> None:
    """The pool had /30 blocks, one of them is in use; now it has /28."""
    await service.assign_ip("10.61.0.5", "old")
    pool: Any = await client.get("IPPool", "p")
    document = json.loads((await store.get(b"/calico/resources/v3/projectcalico.org/ippools/p")).value)  # type: ignore[union-attr]
    document["spec"]["blockSize"] = 28
    await store.put(b"/calico/resources/v3/projectcalico.org/ippools/p", json.dumps(document).encode())
    assert pool.spec.block_size == 30


async def test_blocks_of_another_size_never_lead_to_an_address_given_twice() -> None:
    store, client = await cluster("a1", "a2", cidr="10.61.0.0/26", size=30)
    service = IpamService(store, "a1")
    await _left_over(store, service, client)
    with pytest.raises(ResourceAlreadyExists):
        await IpamService(store, "a1").assign_ip("10.61.0.5", "new")
    await service.assign_ip("10.61.0.6", "new")  # in the block that really holds it
    with pytest.raises(ClaimConflict, match=r"10\.61\.0\.4/30 already claimed by host:a1"):
        await service.assign_ip("10.61.0.1", "new")
    claimed, failed = await service.claim_affinity("10.61.0.0/26", "a2")
    assert failed == ("10.61.0.0/28",) and len(claimed) == 3
    v4, _ = await IpamService(store, "a2").auto_assign(num4=64, handle="rest")
    assert v4 is not None and len({bare(address) for address in v4.addresses} & {"10.61.0.5", "10.61.0.6"}) == 0
    assert (await service.release_ips([Release("10.61.0.5", "old")])).done == ("10.61.0.5",)


async def test_a_claim_that_is_being_given_up_is_confirmed_again_and_the_other_meets_a_conflict() -> None:
    store, _ = await cluster("a1")
    service = IpamService(store, "a1")
    v4, _ = await service.auto_assign(num4=8, handle="full")
    assert v4 is not None
    cidr = "10.61.0." + str(int(bare(v4.addresses[0]).rsplit(".", 1)[1]) // 8 * 8) + "/29"
    affinity = f"/calico/ipam/v2/host/a1/ipv4/block/{cidr.replace('/', '-')}".encode()
    block = key_path(BlockKey(cidr)).encode()
    before = await store.get(block)
    assert before is not None
    await store.put(affinity, b'{"state":"pendingDeletion","deleted":false}')  # upstream's first step
    await IpamService(store, "a1").auto_assign(num4=1, handle="more")
    stale = await store.txn([Compare(block, Target.MOD_REVISION, before.mod_revision)], [Put(block, before.value)])
    assert not stale.succeeded
    kept = await store.get(affinity)
    assert kept is not None and json.loads(kept.value)["state"] == "confirmed"


async def test_what_a_fed_service_merely_read_is_read_again() -> None:
    store, _ = await cluster("a1", "a2")
    service = await following_service(store, "a1")
    await IpamService(store, "a2").auto_assign(num4=1, handle="x")
    await service.release_pool_affinities(POOL)
    await IpamService(store, "a2").auto_assign(num4=1, handle="y")
    for kv in (await store.range(b"/calico/ipam/v2/assignment/")).kvs:
        service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    await service.release_pool_affinities(POOL)
    assert not (await store.range(b"/calico/ipam/v2/host/")).kvs


async def test_a_fed_service_does_not_remember_every_container_there_ever_was() -> None:
    store, _ = await cluster("a1")
    service = await following_service(store, "a1")
    for number in range(50):
        await service.auto_assign(num4=1, handle=f"c{number}")
        await service.release_by_handle(f"c{number}")
    known = service._transactions.cache.values
    assert [path for path in known if "/handle/" in path] == []


async def test_a_foreign_writer_that_writes_block_and_handle_apart() -> None:
    """Upstream's order: handle first, then block; both by compare-and-swap on what it read."""
    store, _ = await cluster("a1", size=26)
    services = [await following_service(store, "a1"), IpamService(store, "a1")]
    first, _ = await services[0].auto_assign(num4=1, handle="warm")
    assert first is not None
    path = key_path(BlockKey(str(bare(first.addresses[0]).rsplit(".", 1)[0]) + f".{_start(first.addresses[0])}/26"))
    results = await asyncio.gather(
        *(services[n % 2].auto_assign(num4=1, handle=f"h{n}") for n in range(30)),
        *(_upstream_assign(store, path, f"go{n}") for n in range(10)),
        return_exceptions=True,
    )
    assert not [result for result in results if isinstance(result, BaseException)]
    held = await used(store)
    addresses = [address for of_handle in held.values() for address in of_handle]
    assert len(addresses) == len(set(addresses)) == 41


def _start(cidr: str) -> int:
    return int(bare(cidr).rsplit(".", 1)[1]) // 64 * 64


async def _upstream_assign(store: MemoryDatastore, path: str, handle: str) -> None:
    cidr = path.rpartition("/")[2].replace("-", "/")
    await store.put(key_path(HandleKey(handle)).encode(), json.dumps({"block": {cidr: 1}}).encode())
    for _ in range(100):
        read = await store.get(path.encode())
        assert read is not None
        await asyncio.sleep(0)
        block = json.loads(read.value)
        ordinal = block["unallocated"].pop(0)
        block["attributes"].append({"handle_id": handle})
        block["allocations"][ordinal] = len(block["attributes"]) - 1
        block["sequenceNumberForAllocation"][str(ordinal)] = block["sequenceNumber"]
        block["sequenceNumber"] += 1
        compare = Compare(path.encode(), Target.MOD_REVISION, read.mod_revision)
        if (await store.txn([compare], [Put(path.encode(), json.dumps(block).encode())])).succeeded:
            return
    raise AssertionError("never won")


async def test_a_configuration_that_cannot_be_is_refused() -> None:
    store, _ = await cluster("a1")
    service = IpamService(store, "a1")
    with pytest.raises(BadData, match="Cannot disable"):
        await service.set_config(Config(False, False))
    with pytest.raises(BadData, match="MaxBlocksPerHost requires StrictAffinity"):
        await service.set_config(Config(False, True, 3))
    await service.set_config(Config(True, True, 1))
    with pytest.raises(CalicoError, match="per host block limit"):
        await service.auto_assign(num4=9, handle="h")


async def test_a_fed_service_goes_on_after_the_datastore_went_back_to_lower_revisions() -> None:
    """etcd restored from a backup: what was known has revisions that do not come again for a while."""
    store, _ = await cluster("a1")
    service = await following_service(store, "a1")
    for number in range(20):
        await service.auto_assign(num4=1, handle=f"lost{number}")
    for kv in (await store.range(b"/calico/ipam/")).kvs:
        service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    restored, _ = await cluster("a1")
    await IpamService(restored, "a1").auto_assign(num4=1, handle="kept")
    assert restored.revision < store.revision
    service._transactions._datastore = restored
    assigned, _ = await service.auto_assign(num4=2, handle="new")
    assert assigned is not None and len(assigned.addresses) == 2
    held = {handle: await IpamService(restored, "a1").ips_by_handle(handle) for handle in ("kept", "new")}
    assert set(held["new"]) == {cidr.partition("/")[0] for cidr in assigned.addresses}
    assert not set(held["new"]) & set(held["kept"])


async def test_a_handle_is_not_put_right_by_blocks_that_are_out_of_date() -> None:
    """A service whose watch lags sees another host's handle, and not yet the address in that host's block."""
    store, _ = await cluster("a1", "a2")
    other = IpamService(store, "a2")
    await other.auto_assign(num4=1, handle="first")
    service = await following_service(store, "a1")
    await other.auto_assign(num4=1, handle="second", attributes={"node": "a2"})
    assert await service.release_held(["second"]) == 0
    assert len(await other.ips_by_handle("second")) == 1
    assert await store.get(b"/calico/ipam/v2/handle/second") is not None


async def test_a_dropped_key_of_another_revision_stays() -> None:
    store, _ = await cluster("a1")
    service = IpamService(store, "a1")
    path = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/x"
    ours = await store.put(path.encode(), b"ours")
    await store.put(path.encode(), b"another's")
    await service.release_held(["none"], also_store=lambda view: view.drop(path, ours))
    kept = await store.get(path.encode())
    assert kept is not None and kept.value == b"another's"
    await service.release_held(["none"], also_store=lambda view: view.drop(path, kept.mod_revision))
    assert await store.get(path.encode()) is None

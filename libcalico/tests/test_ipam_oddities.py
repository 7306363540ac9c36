"""Blocks and handles that contradict themselves, load balancers' blocks, ranges where addresses are meant."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, CalicoError, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.ipam.assignment import AssignError
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.model.ipam_data import Config

BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.93.7.0-29"
HANDLES = "/calico/ipam/v2/handle/"
AFFINITY = "/calico/ipam/v2/host/m1/ipv4/block/10.93.7.0-29"


async def put(store: MemoryDatastore, path: str, value: Any) -> None:
    await store.put(path.encode(), value if isinstance(value, bytes) else json.dumps(value).encode())


async def cluster(unallocated: list[int] | None = None, uses: tuple[str, ...] = ()) -> MemoryDatastore:
    """One pool of one block; with `unallocated` the block is there, its first address in use by handle x."""
    store = MemoryDatastore()
    client = AsyncClient(store)
    spec = {"cidr": "10.93.7.0/29", "blockSize": 29, "allowedUses": list(uses)}
    for kind, name, member in (("IPPool", "p", spec), ("Node", "m1", {}), ("Node", "m2", {})):
        document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": member}
        await client.create(from_input(document))
    if unallocated is not None:
        block = {"cidr": "10.93.7.0/29", "affinity": "host:m1", "allocations": [0] + [None] * 7,
                 "unallocated": unallocated, "attributes": [{"handle_id": "x"}], "sequenceNumber": 7}  # fmt: skip
        await put(store, BLOCK, block)
        await put(store, HANDLES + "x", {"block": {"10.93.7.0/29": 1}})
        await put(store, AFFINITY, {"state": "confirmed"})
    return store


async def stored(store: MemoryDatastore, path: str) -> Any:
    found = await store.get(path.encode())
    return None if found is None else json.loads(found.value)


@pytest.mark.parametrize(
    ("ghosts", "free"),
    [([0], [1, 2, 3, 4, 5, 6, 7]), ([8, -1], [1, 2, 3, 4, 5, 6, 7]), ([3, 3], [3, 1, 2, 4, 5, 6, 7])],
    ids=["in use", "outside", "twice"],
)
@pytest.mark.parametrize("write", ["assign", "explicit", "release"])
async def test_a_free_list_with_ghosts_is_put_right_by_any_write_and_counted(
    caplog: pytest.LogCaptureFixture, ghosts: list[int], free: list[int], write: str
) -> None:
    caplog.set_level(logging.WARNING)
    store = await cluster([*ghosts, 1, 2, 3, 4, 5, 6, 7])
    service = IpamService(store, "m1")
    if write == "assign":
        assigned, _ = await service.auto_assign(1, handle="a")
        assert assigned is not None
        assert assigned.addresses == (f"10.93.7.{free[0]}/29",)
        expected = free[1:]
    elif write == "explicit":
        await service.assign_ip("10.93.7.5", "a")
        expected = [ordinal for ordinal in free if ordinal != 5]
    else:
        await service.release_by_handle("x")
        expected = [*free, 0]
    assert (await stored(store, BLOCK))["unallocated"] == expected
    assert service.mended_free_lists == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "10.93.7.0/29" in record.getMessage()


async def test_an_address_in_use_is_not_handed_out_even_when_nothing_else_is_free() -> None:
    store = await cluster([0])
    assigned, _ = await IpamService(store, "m1").auto_assign(1, handle="a")
    assert assigned is not None
    assert assigned.addresses == ()


@pytest.mark.parametrize("value", [b'{"block":{},"deleted":false}', b"{", b""], ids=["empty", "damaged", "no value"])
async def test_an_empty_handle_key_that_nothing_names_goes(value: bytes) -> None:
    store = await cluster()
    await put(store, HANDLES + "old", value)
    await IpamService(store, "m1").release_by_handle("old")
    assert await store.get((HANDLES + "old").encode()) is None
    with pytest.raises(ResourceDoesNotExist):
        await IpamService(store, "m1").release_by_handle("old")


async def test_an_empty_handle_key_that_a_block_names_frees_its_address() -> None:
    store = await cluster([1, 2, 3, 4, 5, 6, 7])
    await put(store, HANDLES + "x", {"block": {}})
    await IpamService(store, "m1").release_by_handle("x")
    assert (await stored(store, BLOCK))["allocations"] == [None] * 8
    assert await store.get((HANDLES + "x").encode()) is None


@pytest.mark.parametrize(("host", "owner"), [("load-balancer", "load-balancer"), ("", "load-balancer"), ("m2", "m2")])
@pytest.mark.parametrize("explicit", [True, False])
async def test_a_load_balancers_block_belongs_to_no_host(host: str, owner: str, explicit: bool) -> None:
    store = await cluster(uses=("LoadBalancer",))
    service = IpamService(store, "")
    if explicit:
        await service.assign_ip("10.93.7.3", "svc", host=host, use="LoadBalancer")
    else:
        await service.auto_assign(1, handle="svc", host=host, use="LoadBalancer")
    assert (await stored(store, BLOCK))["affinity"] == f"virtual:{owner}"
    keys = [kv.key.decode() for kv in (await store.range(b"/calico/ipam/v2/")).kvs]
    assert f"/calico/ipam/v2/virtual/{owner}/ipv4/block/10.93.7.0-29" in keys
    assert not [key for key in keys if "/v2/host/" in key]


async def test_a_range_is_no_address() -> None:
    store = await cluster()
    service = IpamService(store, "m1")
    assigned, _ = await service.auto_assign(2, handle="a")
    assert assigned is not None
    assert assigned.addresses == ("10.93.7.0/29", "10.93.7.1/29")
    for call in (service.release_ips, service.get_assignment_attributes, service.assign_ip):
        argument: Any = ["10.93.7.0/29"] if call == service.release_ips else "10.93.7.0/29"
        with pytest.raises(BadData, match=r"invalid IP address specified: 10\.93\.7\.0/29") as refused:
            await call(argument)
        assert refused.value.__notes__ == ["it is a range of 8 addresses: give each address that is meant"]
    assert (await service.release_ips(["10.93.7.1/29", "10.93.7.0/32"])).done == ("10.93.7.1", "10.93.7.0")
    assigned, _ = await service.auto_assign(8, handle="b")
    assert assigned is not None
    assert len((await service.release_ips(assigned.addresses)).done) == 8


async def test_a_pool_of_the_other_family_is_named_as_such() -> None:
    service = IpamService(await cluster(), "m1")
    for options, text in (
        ({"num4": 1, "pools4": ["fd00::/64"]}, "provided IPv4 IPPools list contains one or more IPv6 IPPools"),
        ({"num6": 1, "pools6": ["10.93.7.0/29"]}, "provided IPv6 IPPools list contains one or more IPv4 IPPools"),
    ):
        with pytest.raises(AssignError, match=f"^{text}$"):
            await service.auto_assign(**options)  # type: ignore[arg-type]


async def overlapping() -> MemoryDatastore:
    """The block of the pool's size, and one of another size around it that was left over; both have x's node m1."""
    store = await cluster([1, 2, 3, 4, 5, 6, 7])
    wide = {"cidr": "10.93.7.0/28", "affinity": "host:m1", "allocations": [0, 1] + [None] * 14,
            "unallocated": list(range(2, 16)), "sequenceNumber": 7, "sequenceNumberForAllocation": {"0": 5, "1": 5},
            "attributes": [{"handle_id": "y", "secondary": {"node": "m1"}}, {"handle_id": "z"}]}  # fmt: skip
    await put(store, BLOCK.replace("-29", "-28"), wide)
    return store


async def test_an_address_is_released_from_the_block_that_holds_it() -> None:
    store = await overlapping()
    service = IpamService(store, "m1")
    assert (await service.get_assignment_attributes("10.93.7.1")).handle == "z"
    assert (await service.release_ips(["10.93.7.1"])).unallocated == ()
    assert (await service.release_ips(["10.93.7.1"])).unallocated == ("10.93.7.1",)
    assert (await service.release_ips([Release("10.93.7.0", "y", 5)])).unallocated == ()
    assert (await stored(store, BLOCK.replace("-29", "-28")))["allocations"] == [None] * 16
    assert (await stored(store, BLOCK))["allocations"] == [0] + [None] * 7
    with pytest.raises(ResourceUpdateConflict):
        await service.release_ips([Release("10.93.7.0", "y", 5)])


async def test_a_node_can_be_deleted_though_two_blocks_hold_its_address() -> None:
    store = await overlapping()
    await AsyncClient(store).delete("Node", "m1")
    assert (await stored(store, BLOCK.replace("-29", "-28")))["allocations"][0] is None
    assert (await stored(store, BLOCK))["allocations"][0] == 0


CONFIG = "/calico/ipam/v2/config"
COOLDOWN = b'{"strict_affinity":"yes","auto_allocate_blocks":true,"ipCooldownSeconds":30}'


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "it is not an object"),
        (b'{"strict_affinity":"yes"}', "strict_affinity = 'yes': it must be true or false"),
        (b'{"auto_allocate_blocks":1}', "auto_allocate_blocks = 1: it must be true or false"),
        (b'{"maxBlocksPerHost":"4"}', "maxBlocksPerHost = '4': it must be a whole number"),
        (b'{"maxBlocksPerHost":18446744073709551616}', "maxBlocksPerHost = 18446744073709551616: it is out of range"),
        (b'{"ipCooldownSeconds":1.5}', "ipCooldownSeconds = 1.5: it must be a whole number"),
        (b'{"kubeVirtVMAddressPersistence":true}', "kubeVirtVMAddressPersistence = True: it must be text"),
    ],
)
async def test_no_address_is_assigned_under_a_configuration_that_cannot_be_read(value: bytes, cause: str) -> None:
    """What it forbids is unknown: the message names the key, the member and its value. The next call reads it again."""
    store = await cluster([1, 2, 3, 4, 5, 6, 7])
    await put(store, CONFIG, value)
    service = IpamService(store, "m1")
    for call in (
        lambda: service.auto_assign(1, handle="a"),
        lambda: service.assign_ip("10.93.7.5", "a"),
        service.ensure_block,
        service.get_config,
    ):
        with pytest.raises(CalicoError) as raised:
            await call()
        assert f"key={CONFIG}" in str(raised.value) and cause in str(raised.value)
    assert (await stored(store, BLOCK))["allocations"] == [0] + [None] * 7
    assert await service.ips_by_handle("x") == ("10.93.7.0",)
    await service.set_config(Config(strict_affinity=True))
    assert (await service.auto_assign(1, handle="a"))[0] is not None


async def test_addresses_are_released_under_a_configuration_that_cannot_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A container must be able to go. The cooldown counts where it can be read; one line says what is wrong."""
    caplog.set_level(logging.WARNING)
    store = await cluster([1, 2, 3, 4, 5, 6, 7])
    await put(store, CONFIG, b"{")
    service = IpamService(store, "m1")
    await service.release_by_handle("x")
    assert (await stored(store, BLOCK))["allocations"] == [None] * 8
    assert len([line for line in caplog.messages if "no address is assigned" in line]) == 1
    cooling = await cluster([1, 2, 3, 4, 5, 6, 7])
    await put(cooling, CONFIG, COOLDOWN)
    await IpamService(cooling, "m1").release_by_handle("x")
    block = await stored(cooling, BLOCK)
    assert block["allocations"][0] == 0 and "releasedAt" in block["attributes"][0]

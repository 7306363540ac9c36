"""The audit: blocks and handles against endpoints and nodes. What cannot be read is named, never guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import CalicoError, ResourceDoesNotExist
from libcalico.ipam import audit
from libcalico.ipam.audit import Audit, block_problems
from libcalico.ipam.service import IpamService
from libcalico.model import ipam_data
from libcalico.model.codec import from_input
from libcalico.model.ipam_data import Attribute, Block, Config
from libcalico.model.keys import BlockKey

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.61.0.0-29"
SOUND: dict[str, Any] = {
    "cidr": "10.61.0.0/29",
    "affinity": "host:a1",
    "allocations": [0, 1, None, None, None, None, None, None],
    "unallocated": [2, 3, 4, 5, 6, 7],
    "attributes": [{"handle_id": "h"}, {"handle_id": "g", "secondary": {"node": "a2"}}],
    "sequenceNumber": 9,
    "sequenceNumberForAllocation": {"0": 7},
}


def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


async def cluster() -> AsyncClient:
    """Two hosts, one pool."""
    client = AsyncClient(MemoryDatastore())
    await client.ensure_initialized()
    for one in (
        document("IPPool", "p", {"cidr": "10.61.0.0/24", "blockSize": 29}),
        document("Node", "a1", {}),
        document("Node", "a2", {"ipv4VXLANTunnelAddr": "10.61.0.9", "bgp": {"ipv4IPIPTunnelAddr": "10.61.0.10"}}),
    ):
        await client.create(from_input(one))
    return client


async def endpoint(client: AsyncClient, container: str, *networks: str, node: str = "a1") -> None:
    spec = {"node": node, "orchestrator": "cni", "containerID": container, "endpoint": "eth0",
            "interfaceName": f"cali{container}", "ipNetworks": list(networks)}  # fmt: skip
    await client.create(from_input(document("WorkloadEndpoint", "", spec, namespace="default")))


async def put(client: AsyncClient, path: str, value: Any) -> None:
    await client.datastore.put(path.encode(), value if isinstance(value, bytes) else json.dumps(value).encode())


async def taken(client: AsyncClient) -> Audit:
    return await audit.take(client.datastore, SystemClock())


async def test_an_address_is_leaked_when_nothing_names_it() -> None:
    client = await cluster()
    ipam = IpamService(client.datastore, "a1")
    await ipam.auto_assign(2, handle="h", attributes={"node": "a1"})
    addresses = await ipam.ips_by_handle("h")
    await endpoint(client, "c1", f"{addresses[0]}/32")
    found = await taken(client)
    assert [one.address for one in found.leaked] == [addresses[1]]
    (leak,) = found.leaked
    assert (leak.handle, leak.node, leak.borrowed, leak.sequence > 0) == ("h", "a1", False, True)
    assert found.used[addresses[0]] == ["Workload(default/a1-cni-c1-eth0)"]
    assert found.named_handles == set(found.handles) == {"h"}
    assert found.nodes == [("a1", 2)]


async def test_every_address_of_a_nodes_tunnels_is_used() -> None:
    client = await cluster()
    spec = {"ipv6VXLANTunnelAddr": "fd00::1", "wireguard": {"interfaceIPv4Address": "10.61.0.11"}}
    await client.create(from_input(document("Node", "a3", spec)))
    found = await taken(client)
    assert [use.address for use in found.tunnels] == ["10.61.0.9", "10.61.0.10", "fd00::1", "10.61.0.11"]
    assert found.unallocated() == (["fd00::1"], ["10.61.0.9", "10.61.0.10", "10.61.0.11"])


async def test_an_address_in_another_spelling_is_the_same() -> None:
    client = await cluster()
    block = {**SOUND, "cidr": "fd00::/125"}
    await put(client, "/calico/ipam/v2/assignment/ipv6/block/fd00::-125", block)
    await endpoint(client, "c1", "FD00:0::0/128", "::ffff:10.61.0.77/128")
    found = await taken(client)
    assert [one.address for one in found.leaked] == ["fd00::1"]
    assert "10.61.0.77" in found.unallocated()[1]


async def test_a_cooling_address_is_not_leaked() -> None:
    client = await cluster()
    ipam = IpamService(client.datastore, "a1")
    await ipam.set_config(Config(cooldown_s=600))
    await ipam.auto_assign(1, handle="h")
    await ipam.release_by_handle("h")
    found = await taken(client)
    assert found.leaked == []
    assert [one.is_cooling for one in found.allocations] == [True]


async def test_a_disabled_pool_is_not_active() -> None:
    client = await cluster()
    await endpoint(client, "c1", "10.61.0.3/32")
    pool = await client.get("IPPool", "p")
    await client.update(from_input({**document("IPPool", "p", {"cidr": "10.61.0.0/24", "blockSize": 29,
        "disabled": True}), "metadata": {"name": "p", "uid": pool.metadata.uid, "resourceVersion":
        pool.metadata.resource_version, "creationTimestamp": pool.metadata.creation_timestamp}}))  # fmt: skip
    found = await taken(client)
    assert found.pools == ()
    assert "10.61.0.3" in found.unallocated()[0]


@pytest.mark.parametrize("value", [b"{", b"", b'{"spec":{"ipNetworks":["nonsense"]}}', b'{"spec":{"ipNetworks":3}}'])
async def test_what_cannot_be_read_is_named(value: bytes) -> None:
    client = await cluster()
    path = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/a1-cni-c9-eth0"
    await put(client, path, value)
    await put(client, "/calico/resources/v3/projectcalico.org/nodes/a9", b"{")
    await put(client, BLOCK, b"[[")
    found = await taken(client)
    assert found.unreadable == ("/calico/resources/v3/projectcalico.org/nodes/a9", path)
    assert [(block.cidr, block.allocations, bool(block.problem)) for block in found.blocks] == [
        ("10.61.0.0/29", (), True)
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"unallocated": [0, 2, 3, 4, 5, 6, 7]}, "the free list names an address in use"),
        ({"unallocated": [2, 2, 3, 4, 5, 6, 7]}, "the free list names an ordinal twice"),
        ({"unallocated": [2, 3, 4, 5, 6, 7, 8]}, "the free list names an ordinal beyond the block"),
        ({"unallocated": [2, 3, 4, 5]}, "2 addresses are neither in use nor free"),
        ({"attributes": [{}, {}, {}]}, "an attribute is used by no address"),
        ({"attributes": [{}, {"releasedAt": "2999-01-01T00:00:00Z"}]}, "an address was released in the future"),
        ({"attributes": [{}, {"releasedAt": "soon"}]}, "an address was released in the future"),
        ({"attributes": [{}, {"releasedAt": "2026-01-01T00:00:00Z"}]}, ""),
    ],
)
async def test_a_block_that_contradicts_itself_says_how(change: dict[str, Any], problem: str) -> None:
    client = await cluster()
    await put(client, BLOCK, {**SOUND, **change})
    (block,) = (await taken(client)).blocks
    assert block.problem == problem
    assert len(block.allocations) == 2


async def test_an_allocation_of_a_block_without_sequence_numbers_has_zero() -> None:
    client = await cluster()
    await put(client, BLOCK, SOUND)
    found = list((await taken(client)).allocations)
    assert [(one.address, one.sequence, one.node, one.borrowed) for one in found] == [
        ("10.61.0.0", 7, "a1", False),
        ("10.61.0.1", 0, "a2", True),
    ]


async def test_a_datastore_that_was_never_initialised_is_an_error() -> None:
    client = AsyncClient(MemoryDatastore())
    await put(client, "/calico/resources/v3/projectcalico.org/clusterinformations/defaults", b"{}")
    with pytest.raises(ResourceDoesNotExist, match=r"ClusterInformation\(default\)"):
        await taken(client)


async def test_a_handle_is_dropped_only_as_it_was_seen() -> None:
    client = await cluster()
    await put(client, "/calico/ipam/v2/handle/old", {"block": {}})
    revision = (await taken(client)).handles["old"]
    await put(client, "/calico/ipam/v2/handle/old", {"block": {"10.61.0.0/29": 1}})
    assert not await audit.drop_handle(client.datastore, "old", revision)
    assert await audit.drop_handle(client.datastore, "old", (await taken(client)).handles["old"])
    assert (await taken(client)).handles == {}


@given(
    allocations=st.lists(st.none() | st.integers(0, 2), min_size=8, max_size=8),
    unallocated=st.lists(st.integers(-1, 8), max_size=9),
    released=st.none() | st.timedeltas(timedelta(days=-9), timedelta(days=9)),
)
def test_a_block_without_problems_keeps_the_invariants(
    allocations: list[int | None], unallocated: list[int], released: timedelta | None
) -> None:
    released_at = None if released is None else (NOW + released).isoformat()
    attributes = (Attribute("a"), Attribute("b"), Attribute(released_at=released_at))
    block = Block("10.61.0.0/29", None, None, tuple(allocations), tuple(unallocated), attributes, 1, ())
    free = [ordinal for ordinal, index in enumerate(allocations) if index is None]
    is_sound = (
        sorted(unallocated) == free
        and {index for index in allocations if index is not None} == {0, 1, 2}
        and (released is None or released <= timedelta(0))
    )
    assert (block_problems(block, NOW) == []) == is_sound


@given(st.binary(max_size=200))
def test_any_bytes_are_a_block_or_one_kind_of_error(value: bytes) -> None:
    try:
        ipam_data.decode_block(BlockKey("10.61.0.0/29"), value)
    except CalicoError:
        pass

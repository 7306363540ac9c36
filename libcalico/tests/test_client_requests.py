"""How many requests each operation makes, and that no request is a write that cannot succeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Compare, Get, KeyValue, Operation, RangeResult, TxnResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import CalicoError, ResourceAlreadyExists, ResourceDoesNotExist
from libcalico.model import API_VERSION, Resource, from_input

SPECS: dict[str, dict[str, Any]] = {
    "NetworkSet": {"nets": ["192.0.2.0/24"]},
    "GlobalNetworkSet": {"nets": ["192.0.2.0/24"]},
    "IPPool": {"cidr": "10.61.0.0/16"},
    "Node": {},
    "Profile": {"labelsToApply": {"a": "b"}},
    "Tier": {"order": 50},
    "NetworkPolicy": {"selector": "all()"},
    "GlobalNetworkPolicy": {"selector": "all()", "tier": "guard"},
    "FelixConfiguration": {},
    "WorkloadEndpoint": {
        "orchestrator": "cni", "node": "n", "containerID": "c", "endpoint": "eth0", "interfaceName": "cali1",
        "ipNetworks": ["10.61.0.1/32"],
    },
}  # fmt: skip
NAMESPACED = ("NetworkSet", "NetworkPolicy", "WorkloadEndpoint")
ONE_KEY = ("NetworkSet", "GlobalNetworkSet", "Profile", "FelixConfiguration", "WorkloadEndpoint")


class Counting(MemoryDatastore):
    """Counts requests; a transaction that would write and whose conditions do not hold is `vain`."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def taken(self) -> list[str]:
        """The requests since the last call."""
        log, self.log = self.log, []
        return log

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        self.log.append("read")
        return await super().get(key, revision)

    async def range(self, prefix: bytes, **options: Any) -> RangeResult:
        self.log.append("read")
        return await super().range(prefix, **options)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        answer = await super().txn(compares, success, failure)
        writes = not all(isinstance(operation, Get) for operation in success)
        self.log.append("read" if not writes else "write" if answer.succeeded else "vain")
        return answer


def made(kind: str, labels: dict[str, str] | None = None) -> Resource:
    """An object of a kind."""
    metadata: dict[str, Any] = {"name": "" if kind == "WorkloadEndpoint" else "x", "labels": labels or {}}
    if kind in NAMESPACED:
        metadata["namespace"] = "default"
    return from_input({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": SPECS[kind]})


@pytest.fixture
async def world() -> tuple[Counting, AsyncClient]:
    """An initialised cluster with a tier of its own."""
    store = Counting()
    client = AsyncClient(store)
    await client.ensure_initialized()
    await client.create(
        from_input({"apiVersion": API_VERSION, "kind": "Tier", "metadata": {"name": "guard"}, "spec": {}})
    )
    store.taken()
    return store, client


@pytest.mark.parametrize("kind", SPECS)
async def test_an_apply_reads_once_and_writes_once(world: tuple[Counting, AsyncClient], kind: str) -> None:
    store, client = world
    for labels in ({"is": "new"}, {"is": "changed"}):
        applied = await client.apply(made(kind, labels))
        assert applied.metadata.labels["is"] == labels["is"]
        assert store.taken() == ["read", "write"]


@pytest.mark.parametrize("kind", SPECS)
async def test_a_create_reads_only_what_it_depends_on(world: tuple[Counting, AsyncClient], kind: str) -> None:
    store, client = world
    await client.create(made(kind))
    alone = kind in (*ONE_KEY, "Tier")
    assert store.taken() == (["write"] if alone else ["read", "write"])
    with pytest.raises(ResourceAlreadyExists):
        await client.create(made(kind))
    assert len(store.taken()) <= 2


@pytest.mark.parametrize("kind", SPECS)
async def test_get_list_replace_and_update(world: tuple[Counting, AsyncClient], kind: str) -> None:
    store, client = world
    name = (await client.create(made(kind))).metadata.name
    store.taken()
    stored = await client.get(kind, name, "default" if kind in NAMESPACED else "")
    assert store.taken() == ["read"]
    await client.list(kind)
    assert store.taken() == ["read"]
    await client.update(stored)
    assert store.taken() in (["write"], ["read", "write"])
    await client.replace(made(kind))
    assert store.taken() == ["read", "write"]


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind not in ("Node", "IPPool")])
async def test_a_delete(world: tuple[Counting, AsyncClient], kind: str) -> None:
    store, client = world
    stored = await client.create(made(kind))
    place = (kind, stored.metadata.name, stored.metadata.namespace)
    store.taken()
    await client.delete(*place)
    assert store.taken() == (["write"] if kind in ONE_KEY else ["read", "write"])
    with pytest.raises(ResourceDoesNotExist):
        await client.delete(*place)
    stored = await client.create(made(kind))
    store.taken()
    await client.delete(*place, stored.metadata.resource_version)
    assert store.taken()[-2:] == ["read", "write"]


async def test_what_goes_with_a_node_goes_together(world: tuple[Counting, AsyncClient]) -> None:
    """A node without addresses: its endpoints, tunnels, blocks (two reads), claims, marker and configuration are read,
    and only what is there is deleted."""
    store, client = world
    folder = b"/calico/resources/v3/projectcalico.org/"
    for name in ("felixconfigurations/node.x", "felixconfigurations/node.y"):
        await store.put(folder + name.encode(), b'{"kind":"FelixConfiguration","spec":{}}')
    for kind in ("bgppeers", "hostendpoints"):
        for node in ("x", "y"):
            await store.put(folder + f"{kind}/of-{node}".encode(), f'{{"spec":{{"node":"{node}"}}}}'.encode())
    await client.create(made("Node"))
    store.taken()
    await client.delete("Node", "x")
    log = store.taken()
    assert log.count("write") == 2 and len(log) <= 9, log
    left = {kv.key.removeprefix(folder).decode() for kv in (await store.range(folder)).kvs}
    assert left >= {"felixconfigurations/node.y", "bgppeers/of-y", "hostendpoints/of-y"}
    assert not any(name.endswith(("node.x", "of-x", "nodes/x")) for name in left)


async def test_making_a_cluster_ready_is_one_write_and_later_one_read() -> None:
    store = Counting()
    client = AsyncClient(store)
    information = await client.ensure_initialized("v3.30.0", "dcos")
    assert store.taken() == ["read", "write"]
    assert await client.ensure_initialized() == information
    assert store.taken() == ["read"]
    await client.ensure_initialized("v3.31.0")
    assert store.taken() == ["read", "write"]


async def test_the_first_node_makes_a_cluster_ready() -> None:
    store = Counting()
    await AsyncClient(store).apply(made("Node"))
    assert store.taken() == ["read", "write", "write"]
    assert len((await store.range(b"/calico/")).kvs) == 5


async def test_two_that_make_a_cluster_ready_at_once() -> None:
    """The second finds out by its write, takes what is there and does not wait."""

    class Second(Counting):
        met = False

        async def txn(self, compares: Any, success: Any, failure: Any = ()) -> TxnResult:
            if compares and not self.met:
                Second.met = True
                await AsyncClient(self).ensure_initialized()
                self.taken()
            return await super().txn(compares, success, failure)

    store = Second()
    information = await AsyncClient(store).ensure_initialized()
    assert store.taken() == ["vain"]
    stored = await AsyncClient(store).get("ClusterInformation", "default")
    assert information.spec == getattr(stored, "spec", None)


async def test_a_damaged_cluster_information_keeps_no_tier_from_being_made() -> None:
    store = Counting()
    path = b"/calico/resources/v3/projectcalico.org/clusterinformations/default"
    await store.put(path, b"{")
    with pytest.raises(CalicoError, match="failed to parse datastore entry"):
        await AsyncClient(store).ensure_initialized()
    assert len((await AsyncClient(store).list("Tier")).items) == 3
    stored = await store.get(path)
    assert stored is not None and stored.value == b"{"

"""Nothing that is stored ends IPAM, a CNI call or the client: a damaged object counts as absent, or is named."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libcalico.client.objects import AsyncClient
from libcalico.cni import CniRequestData, handle
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import CalicoError
from libcalico.ipam.service import IpamService
from libcalico.model.keys import key_path
from libcalico.model.resources import STRUCTS
from libcalico.testing.cni_world import World
from libcalico.testing.damaged import BLOCK, HANDLE, HOST, OBJECTS, damages, to_bytes

STORED = {key_path(key).encode(): to_bytes(value) for key, value in OBJECTS.items()}
Damages = list[tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def fill(store: MemoryDatastore, damaged: Damages) -> None:
    for path, value in {**STORED, **dict(damaged)}.items():
        await store.put(path, value)


async def tried(step: Callable[[], Awaitable[object]]) -> None:
    """A call may be refused in words; anything else is a mistake of ours."""
    try:
        await step()
    except CalicoError as error:
        assert len(str(error)) < 5000


async def use_ipam(damaged: Damages, is_followed: bool) -> None:
    store = MemoryDatastore()
    await fill(store, damaged)
    service = IpamService(store, HOST)
    if is_followed:
        for prefix in service.follow():
            for kv in (await store.range(prefix.encode())).kvs:
                service.observe(kv.key.decode("utf-8", "replace"), kv.value, kv.mod_revision)
    for step in (
        lambda: service.auto_assign(num4=2, handle="new", attributes={"node": HOST}),
        lambda: service.assign_ip("10.61.0.5", handle="new"),
        lambda: service.assign_ip("10.61.8.5", handle="new"),
        lambda: service.ips_by_handle(HANDLE),
        lambda: service.get_assignment_attributes("10.61.0.2"),
        lambda: service.release_ips(["10.61.0.1", "10.61.0.10"]),
        lambda: service.release_by_handle(HANDLE),
        lambda: service.release_by_handle("new"),
        lambda: service.addresses_of_node(HOST),
        lambda: service.claim_affinity("10.61.16.0/28"),
        service.ensure_block,
        service.get_config,
        service.get_utilization,
        lambda: service.release_block_affinity(BLOCK),
        lambda: service.release_pool_affinities("10.61.0.0/16"),
        lambda: service.remove_host(HOST),
    ):
        await tried(step)


@settings(max_examples=2 * settings().max_examples)
@given(st.lists(damages(), min_size=1, max_size=3), st.booleans())
def test_ipam_goes_on(damaged: Damages, is_followed: bool) -> None:
    asyncio.run(use_ipam(damaged, is_followed))


async def use_client(damaged: Damages) -> None:
    store = MemoryDatastore()
    await fill(store, damaged)
    client = AsyncClient(store)
    client.warn = lambda _text: None
    for kind in STRUCTS:
        await client.list(kind)
    for key, document in OBJECTS.items():
        if isinstance(document, dict) and "metadata" in document:
            await tried(lambda key=key: client.get(*key))  # type: ignore[misc]
    await tried(lambda: client.delete("Node", "there"))
    await tried(client.ensure_initialized)


@settings(max_examples=settings().max_examples * 3 // 2)
@given(st.lists(damages(), min_size=1, max_size=3))
def test_the_client_goes_on(damaged: Damages) -> None:
    asyncio.run(use_client(damaged))


async def use_cni(damaged: Damages) -> list[int]:
    """The status of each call."""
    world, statuses = World(), []
    await fill(world.store, damaged)
    conf = {
        "name": "p", "type": "calico", "cniVersion": "1.1.0", "nodename": HOST, "nodename_file_optional": True,
        "ipam": {"type": "calico-ipam"}, "cni.dev/valid-attachments": [],
    }  # fmt: skip
    for command, container in (
        ("ADD", "new"),
        ("CHECK", "c1"),
        ("DEL", "new"),
        ("DEL", "c1"),
        ("GC", ""),
        ("STATUS", ""),
    ):
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": "/box", "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni",
        }  # fmt: skip
        answer = await handle(CniRequestData("calico", environment, json.dumps(conf).encode()), world.host)
        if answer.exit_code:
            found = json.loads(answer.stdout)
            assert "panicked" not in found["msg"], found
        statuses.append(answer.exit_code)
    return statuses


def test_what_is_sound_works() -> None:
    """Else the tests here would show nothing."""
    assert asyncio.run(use_cni([])) == [0, 1, 0, 0, 0, 0]  # nothing was made for the container that is checked


@settings(max_examples=settings().max_examples * 3 // 2)
@given(st.lists(damages(), min_size=1, max_size=3))
def test_cni_calls_go_on(damaged: Damages) -> None:
    asyncio.run(use_cni(damaged))

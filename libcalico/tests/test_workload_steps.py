"""The steps of an attachment one by one, over the datastore in memory and a kernel that only remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from libcalico.datastore.contract import Put
from libcalico.errors import DatastoreError
from libcalico.testing.cni_world import NODE, World, started
from libcalico.workload import steps
from libcalico.workload.errors import CallerGone, OutOfOrder, Refused, TryAgain
from libcalico.workload.request import AddressRequest, Attachment, Device, Identity
from libcalico.workload.work import Work

ENDPOINT = "ab12" * 16
HOST_INTERFACE = "caliab12ab12ab1"


@pytest.fixture(params=[False, True], ids=["alone", "agent"])
async def world(request: pytest.FixtureRequest) -> World:
    return await started(request.param)


def work(world: World, endpoint: str = ENDPOINT, **changed: Any) -> Work:
    """What the node API makes of a request."""
    identity = Identity(NODE, "default", "libnetwork", endpoint, "libnetwork")
    wanted = Attachment(identity, "net", **changed)
    return Work(wanted, world.host, world.client, world.host.open_ipam(world.client, NODE))


async def assign(world: World, handle: str = "h1", **wanted: Any) -> list[str]:
    found = await steps.assign_addresses(work(world, given_handle=handle, addresses=AddressRequest(**wanted)))
    return [cidr.partition("/")[0] for cidr in found]


async def release(world: World, handle: str = "h1", listed: Sequence[str] = ()) -> None:
    given = work(world, given_handle=handle)
    if not handle:
        given = replace(given, attachment=given.attachment._replace(network=""))
    await steps.release_addresses(given, listed)


async def test_the_steps_forwards_and_backwards_each_twice(world: World) -> None:
    bare = await assign(world)
    assert await assign(world) == bare
    first = await steps.put_endpoint(work(world), bare)
    assert (await steps.put_endpoint(work(world), bare)).metadata.uid == first.metadata.uid
    assert (first.spec.interface_name, first.spec.endpoint, first.spec.workload) == (
        HOST_INTERFACE,
        ENDPOINT,
        "libnetwork",
    )
    assert world.waited == []  # no interface, so nothing to wait for
    for number in (1, 2):
        made, gateway = await steps.wire(work(world))
        assert (made.container_interface, made.mac, gateway) == ("tempab12ab12ab1", first.spec.mac, "")
        assert world.waited == [first.metadata.name] * number
    for _ in range(2):
        await steps.unwire(work(world))
        assert world.kernel.host == {}
    for _ in range(2):
        await steps.drop_endpoint(work(world))
        assert await world.endpoints() == []
    for _ in range(2):
        await release(world)
    assert await world.is_clean()


async def test_a_step_without_the_one_before_it_does_nothing(world: World) -> None:
    with pytest.raises(OutOfOrder, match=r"address 172\.29\.0\.5 is not assigned: call Assign first"):
        await steps.put_endpoint(work(world), ["172.29.0.5"])
    with pytest.raises(OutOfOrder, match="is not stored: call PutEndpoint first"):
        await steps.wire(work(world))
    assert await world.is_clean()


@pytest.mark.parametrize("by_handle", [True, False])
async def test_addresses_of_an_endpoint_are_not_released(world: World, by_handle: bool) -> None:
    bare = await assign(world)
    await steps.put_endpoint(work(world), bare)
    handle, listed = ("h1", []) if by_handle else ("", bare)
    with pytest.raises(OutOfOrder, match=f"in use by endpoint .*{ENDPOINT}: call DropEndpoint first"):
        await release(world, handle, listed)
    assert await world.held() == set(bare)
    await steps.drop_endpoint(work(world))
    await release(world, handle, listed)
    assert await world.is_clean()


async def test_dropping_an_endpoint_takes_a_standing_interface_first(world: World) -> None:
    bare = await assign(world)
    await steps.put_endpoint(work(world), bare)
    await steps.wire(work(world))
    await steps.drop_endpoint(work(world))
    await release(world)
    assert await world.is_clean()


async def test_an_interface_that_an_engine_has_moved_is_not_made_again(world: World) -> None:
    bare = await assign(world)
    await steps.put_endpoint(work(world), bare)
    await steps.wire(work(world))
    world.kernel.move("tempab12ab12ab1", "/box", "cali0")
    before = dict(world.kernel.boxes)
    with pytest.raises(OutOfOrder, match="leads into a container already: call Unwire first"):
        await steps.wire(work(world))
    assert world.kernel.boxes == before
    await steps.unwire(work(world))
    await steps.wire(work(world))
    assert set(world.kernel.host) == {HOST_INTERFACE}


async def test_an_update_of_a_wired_endpoint_waits_for_its_policy(world: World) -> None:
    bare = await assign(world)
    stored = await steps.put_endpoint(work(world), bare)
    await steps.wire(work(world))
    world.waited.clear()
    changed = await steps.put_endpoint(
        work(world, labels={"role": "web"}, device=Device(mac="0a:58:00:00:00:01")), bare
    )
    assert world.waited == [stored.metadata.name]
    assert (changed.metadata.labels["role"], changed.spec.mac) == ("web", "0a:58:00:00:00:01")
    world.wait_error = TimeoutError()
    with pytest.raises(TryAgain, match="it is stored and stays closed"):
        await steps.put_endpoint(work(world, labels={"role": "db"}), bare)


async def test_an_endpoint_is_not_turned_into_another(world: World) -> None:
    first, second = await assign(world), await assign(world, "h2")
    await steps.put_endpoint(work(world), first)
    with pytest.raises(Refused, match=r"is stored with addresses .*: call DropEndpoint first"):
        await steps.put_endpoint(work(world), second)
    with pytest.raises(Refused, match=r"handle h1 has .* already, not 172\.29\.0\.33"):
        await assign(world, fixed=("172.29.0.33",))
    assert await world.held() == {*first, *second}


async def test_an_interface_whose_policy_does_not_come_is_taken_away(world: World) -> None:
    bare = await assign(world)
    await steps.put_endpoint(work(world), bare)
    world.wait_error = TimeoutError()
    with pytest.raises(TryAgain, match="the interface was taken away again"):
        await steps.wire(work(world))
    assert world.kernel.host == {} and len(await world.endpoints()) == 1


async def test_an_endpoint_whose_storing_was_not_confirmed_is_taken_back(world: World) -> None:
    """The engine then releases the address, and drops no endpoint, for it has none."""
    bare = await assign(world)
    real = world.store.txn
    lost: list[int] = []

    async def txn(compares: Any, success: Any, failure: Any = ()) -> Any:
        answer = await real(compares, success, failure)
        if not lost and any(isinstance(one, Put) and b"/workloadendpoints/" in one.key for one in success):
            lost.append(1)
            raise DatastoreError("context deadline exceeded")
        return answer

    world.store.txn = txn  # type: ignore[method-assign]
    with pytest.raises(DatastoreError):
        await steps.put_endpoint(work(world), bare)
    await release(world)
    assert lost and await world.is_clean()


async def test_a_caller_that_goes_away_leaves_no_step_half_done(world: World) -> None:
    for step in ("assign", "put", "wire"):
        given = work(world, given_handle="h1")
        bare = [] if step == "assign" else await assign(world)
        if step == "wire":
            await steps.put_endpoint(work(world), bare)
        given.gone.set()
        with pytest.raises(CallerGone):
            if step == "assign":
                await steps.assign_addresses(given)
            elif step == "put":
                await steps.put_endpoint(given, bare)
            else:
                await steps.wire(given)
        await steps.drop_endpoint(work(world))
        await release(world)
        assert await world.is_clean()


async def test_a_host_interface_of_another_endpoint_is_left_alone(world: World) -> None:
    """Two ids that begin alike: each has an interface of its own, and the end of one leaves the other's."""
    other = ENDPOINT[:11] + "f" * 53
    for handle, endpoint in (("h1", ENDPOINT), ("h2", other)):
        bare = await assign(world, handle)
        await steps.put_endpoint(work(world, endpoint), bare)
        await steps.wire(work(world, endpoint))
    names = {stored.spec.interface_name for stored in await world.endpoints()}
    assert len(names) == 2 and set(world.kernel.host) == names
    await steps.drop_endpoint(work(world, other))
    await steps.drop_endpoint(work(world, other))
    assert set(world.kernel.host) == {HOST_INTERFACE}


async def test_calls_about_one_endpoint_wait_for_each_other(world: World) -> None:
    bare = await assign(world)
    first, second = work(world), work(world)
    both = [one.alone(lambda one=one: steps.put_endpoint(one, bare)) for one in (first, second)]  # type: ignore[misc]
    stored = await asyncio.gather(*both)
    assert stored[0].metadata.uid == stored[1].metadata.uid and len(await world.endpoints()) == 1

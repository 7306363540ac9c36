"""CNI calls that go wrong half-way: killed callers, lost answers, conflicts, calls that meet each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from libcalico.datastore.contract import Delete, Operation, Put
from libcalico.errors import DatastoreError, Unreachable
from libcalico.testing.cni_world import World, started
from libcalico.workload.plan import plan_wiring

Writes = Callable[[Operation], bool]


@pytest.fixture(params=[False, True], ids=["alone", "agent"])
async def world(request: pytest.FixtureRequest) -> World:
    return await started(request.param)


def in_namespace(name: str) -> dict[str, str]:
    return {"args": f"CNI_TEST_NAMESPACE={name}"}


def puts(part: bytes) -> Writes:
    return lambda one: isinstance(one, Put) and part in one.key


def deletes(part: bytes) -> Writes:
    return lambda one: isinstance(one, Delete) and part in one.key


class Gate:
    """The first transaction with such a write waits, before or after it is done, until it is let through."""

    def __init__(self, world: World, writes: Writes, *, done: bool = False) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        real = world.store.txn

        async def txn(compares: Any, success: Sequence[Operation], failure: Any = ()) -> Any:
            mine = not self.reached.is_set() and any(map(writes, success))
            answer = await real(compares, success, failure) if done or not mine else None
            if mine:
                self.reached.set()
                await self.opened.wait()
            return answer if answer is not None else await real(compares, success, failure)

        world.store.txn = txn  # type: ignore[method-assign]


def lose_answers(world: World, writes: Writes, times: int = 1) -> None:
    """So many transactions with such a write are done, and nobody hears of it."""
    real, left = world.store.txn, [times]

    async def txn(compares: Any, success: Sequence[Operation], failure: Any = ()) -> Any:
        answer = await real(compares, success, failure)
        if answer.succeeded and left[0] and any(map(writes, success)):
            left[0] -= 1
            raise DatastoreError("context deadline exceeded")
        return answer

    world.store.txn = txn  # type: ignore[method-assign]


async def cancel(call: asyncio.Future[Any], times: int) -> None:
    """As the end of the RPC does it, and the time limit of the call."""
    for _ in range(times):
        call.cancel()
        await asyncio.sleep(0.01)


async def ended(call: asyncio.Future[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call


async def is_whole(world: World) -> bool:
    """One container with all that belongs to it."""
    (endpoint,) = await world.endpoints()
    address = endpoint.spec.ip_networks[0].partition("/")[0]
    stands = world.kernel.boxes["/box", "eth0"]
    return await world.held() == {address} and stands.addresses == (address,)


# --- callers that are killed


@pytest.mark.parametrize("times", [1, 2])
async def test_a_killed_del_ends_before_the_add_that_follows(world: World, times: int) -> None:
    await world.ok("ADD")
    gate = Gate(world, deletes(b"/workloadendpoints/"))
    removal = asyncio.ensure_future(world.call("DEL"))
    await gate.reached.wait()
    await cancel(removal, times)
    again = asyncio.ensure_future(world.ok("ADD"))
    await asyncio.sleep(0.01)
    assert not removal.done() and not again.done()
    gate.opened.set()
    await again
    assert removal.cancelled()
    assert await is_whole(world)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("part", [b"/handle/", b"/workloadendpoints/"])
async def test_a_killed_add_is_undone_before_the_next_call(world: World, part: bytes, done: bool, times: int) -> None:
    for command in ("DEL", "ADD"):
        gate = Gate(world, puts(part), done=done)
        first = asyncio.ensure_future(world.call("ADD"))
        await gate.reached.wait()
        await cancel(first, times)
        second = asyncio.ensure_future(world.ok(command))
        await asyncio.sleep(0.01)
        assert not second.done()
        gate.opened.set()
        await second
        await ended(first)
        assert await (world.is_clean() if command == "DEL" else is_whole(world))


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_killed_add_of_calico_ipam_keeps_no_address(world: World, done: bool) -> None:
    gate = Gate(world, puts(b"/handle/"), done=done)
    first = asyncio.ensure_future(world.call("ADD", program="calico-ipam"))
    await gate.reached.wait()
    await cancel(first, 2)
    removal = asyncio.ensure_future(world.ok("DEL", program="calico-ipam"))
    await asyncio.sleep(0.01)
    assert not removal.done()
    gate.opened.set()
    await removal
    await ended(first)
    assert await world.is_clean()


async def test_a_caller_that_goes_while_its_add_is_undone(world: World) -> None:
    gate = Gate(world, deletes(b"/workloadendpoints/"))
    world.wait_error = TimeoutError()
    first = asyncio.ensure_future(world.call("ADD"))
    await gate.reached.wait()
    world.wait_error = None
    await cancel(first, 2)
    second = asyncio.ensure_future(world.ok("ADD"))
    await asyncio.sleep(0.01)
    gate.opened.set()
    await second
    assert await is_whole(world)


async def test_another_ipam_plugin_ends_with_the_caller(world: World, tmp_path: Any) -> None:
    """And is asked to take back what it may have assigned."""
    log = tmp_path / "log"
    plugin = tmp_path / "slow-ipam"
    plugin.write_text(f"#!/bin/sh\necho $CNI_COMMAND >> {log}\n[ $CNI_COMMAND = DEL ] || sleep 60\n")
    plugin.chmod(0o755)
    world.plugin_path = str(tmp_path)
    call = asyncio.ensure_future(world.call("ADD", ipam={"type": "slow-ipam"}))
    log.touch()
    while log.read_text() != "ADD\n":
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        call.cancel()
        await ended(call)
    assert log.read_text().split() == ["ADD", "DEL"]
    assert await world.is_clean()


async def test_an_endpoint_whose_policy_does_not_come_waits_no_longer_than_its_caller(world: World) -> None:
    async def never(*_arguments: Any) -> None:
        await asyncio.sleep(60)

    programmed, world.host.wait_programmed = world.host.wait_programmed, never  # type: ignore[assignment]
    first = asyncio.ensure_future(world.call("ADD", policy_setup_timeout_seconds=300))
    while ("/box", "eth0") not in world.kernel.boxes:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await cancel(first, 1)
        world.host.wait_programmed = programmed  # type: ignore[method-assign]
        await world.ok("ADD")
    await ended(first)
    assert await is_whole(world)


async def test_a_call_ends_in_time_whatever_it_waits_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_arguments: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("libcalico.cni.handler.CALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(world.host, "wait_programmed", never)
    async with asyncio.timeout(10):
        shown = await world.refused("ADD", policy_setup_timeout_seconds=300)
    assert shown["code"] == 11
    assert await world.is_clean()


# --- answers that are lost


@pytest.mark.parametrize("part", [b"/handle/", b"/workloadendpoints/"])
async def test_an_add_whose_answer_is_lost_leaves_nothing_and_says_try_again(world: World, part: bytes) -> None:
    lose_answers(world, puts(part))
    shown = await world.refused("ADD")
    assert (shown["code"], shown["msg"]) == (11, "context deadline exceeded: try again later")
    assert await world.is_clean()


async def test_a_fixed_address_whose_answer_is_lost_is_given_back(world: World) -> None:
    lose_answers(world, puts(b"/handle/"))
    assert (await world.refused("ADD", args="IP=172.29.0.9"))["code"] == 11
    assert await world.is_clean()


async def test_what_cannot_be_given_back_is_told_beside_the_first_failure(world: World) -> None:
    lose_answers(world, lambda _one: True, times=2)
    answer = await world.call("ADD", args="IP=172.29.0.9")
    assert b"context deadline exceeded: try again later" in answer.stdout
    assert b"give 172.29.0.9 back: context deadline exceeded" in answer.stderr


# --- two networks on one interface


async def test_a_further_network_goes_once_however_often_it_is_deleted(world: World) -> None:
    await world.ok("ADD", name="neta")
    await world.ok("ADD", name="netb")
    for _ in range(3):
        await world.ok("DEL", name="netb")
        (endpoint,) = await world.endpoints()
        assert endpoint.spec.profiles == ["neta"]
        assert await is_whole(world)
    await world.ok("ADD", name="netb")
    (endpoint,) = await world.endpoints()
    assert (endpoint.spec.profiles, endpoint.metadata.annotations) == (["neta", "netb"], {})
    await world.ok("DEL", name="netb")
    await world.ok("DEL", name="neta")
    assert await world.is_clean()


async def test_a_further_network_whose_del_got_no_answer_or_met_another_writer(world: World) -> None:
    await world.ok("ADD", name="neta")
    await world.ok("ADD", name="netb")
    lose_answers(world, puts(b"/workloadendpoints/"))
    await world.refused("DEL", name="netb")
    await world.ok("DEL", name="netb")
    assert await is_whole(world)
    await world.ok("ADD", name="netb")
    gate = Gate(world, puts(b"/workloadendpoints/"))
    removal = asyncio.ensure_future(world.ok("DEL", name="netb"))
    await gate.reached.wait()
    (endpoint,) = await world.endpoints()
    labels = {**endpoint.metadata.labels, "tier": "web"}
    await world.client.update(
        msgspec.structs.replace(endpoint, metadata=msgspec.structs.replace(endpoint.metadata, labels=labels))
    )
    gate.opened.set()
    await removal
    (endpoint,) = await world.endpoints()
    assert (endpoint.spec.profiles, endpoint.metadata.labels["tier"]) == (["neta"], "web")
    assert await is_whole(world)


async def test_an_add_for_an_interface_that_stands_changes_nothing_in_its_container(world: World) -> None:
    """Its programs may have changed routes and settings since."""
    await world.ok("ADD", name="neta")
    await world.ok("ADD", name="neta")
    await world.ok("ADD", name="netb")
    assert world.kernel.completed == 0


# --- names of interfaces


@pytest.mark.parametrize("first", ["a", "b"])
async def test_names_are_unique_across_namespaces(world: World, first: str) -> None:
    second = "b" if first == "a" else "a"
    await world.ok("ADD", "frontend-web1", "/one", **in_namespace(first))
    await world.ok("DEL", "frontend-web3", "/three", **in_namespace(second))
    await world.ok("ADD", "frontend-web2", "/two", **in_namespace(second))
    assert set(world.kernel.boxes) == {("/one", "eth0"), ("/two", "eth0")}
    assert len(set(world.kernel.host)) == len({e.spec.interface_name for e in await world.endpoints()}) == 2
    await world.ok("DEL", "frontend-web1", "/one", **in_namespace(first))
    assert set(world.kernel.boxes) == {("/two", "eth0")}
    await world.ok("DEL", "frontend-web2", "/two", **in_namespace(second))
    assert await world.is_clean()


async def test_the_networks_of_one_container_may_be_of_several_namespaces(world: World) -> None:
    await world.ok("ADD", interface="eth0", name="neta", **in_namespace("a"))
    await world.ok("ADD", interface="eth1", name="netb", **in_namespace("b"))
    assert set(world.kernel.boxes) == {("/box", "eth0"), ("/box", "eth1")}
    await world.ok("DEL", interface="eth1", name="netb", **in_namespace("b"))
    assert await is_whole(world)
    await world.ok("DEL", interface="eth0", name="neta", **in_namespace("a"))
    assert await world.is_clean()


async def test_an_interface_that_no_endpoint_tells_of_is_left_to_its_container(world: World) -> None:
    """Somebody else is between making it and storing its endpoint."""
    await world.kernel.attach(plan_wiring("cali5f0c9e11-2b", "eth0", ["172.29.0.9"]), "/other")
    await world.ok("ADD")
    assert world.kernel.host["cali5f0c9e11-2b"] == ("/other", "eth0")
    assert len(world.kernel.host) == 2
    for _ in range(2):
        await world.ok("DEL")
        assert set(world.kernel.host) == {"cali5f0c9e11-2b"}


# --- calls that meet


async def test_a_del_of_one_interface_does_not_free_the_address_of_another_that_is_being_made(world: World) -> None:
    await world.ok("ADD", interface="eth0")
    world.kernel.pause_s = 0.05
    addition = asyncio.ensure_future(world.ok("ADD", interface="eth1"))
    await asyncio.sleep(0.02)
    world.kernel.pause_s = 0
    await world.ok("DEL", interface="eth0")
    await addition
    (endpoint,) = await world.endpoints()
    assert await world.held() == {endpoint.spec.ip_networks[0].partition("/")[0]}


async def test_garbage_collection_knows_networks_whose_names_begin_alike(world: World) -> None:
    await world.ok("ADD", name="prod.eu")
    listed: dict[str, Any] = {"cni.dev/valid-attachments": [], "cniVersion": "1.1.0"}
    for program in ("calico", "calico-ipam"):
        await world.ok("GC", name="prod", program=program, **listed)
        assert await is_whole(world)
    await world.ok("GC", name="prod.eu", **listed)
    assert await world.held() == set()


# --- steps that hang


async def test_a_step_that_hangs_does_not_hang_its_caller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it let the next call come to the container before it has ended."""
    monkeypatch.setattr("libcalico.cni.handler.CALL_TIMEOUT_S", 0.1)
    monkeypatch.setattr("libcalico.workload.locks.LINGER_S", 0.1)
    world.kernel.may_go_on.clear()
    shown = await world.refused("ADD")
    assert (shown["code"], world.host.locks.is_busy) == (11, True)
    monkeypatch.undo()
    deletion = asyncio.ensure_future(world.ok("DEL"))
    done, _ = await asyncio.wait([deletion], timeout=0.1)
    assert not done
    world.kernel.may_go_on.set()
    await deletion
    assert (await world.is_clean(), world.host.locks.is_busy) == (True, False)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
async def test_an_etcd_that_is_not_reached_is_asked_once(world: World, command: str) -> None:
    """Each request goes on connecting for 10 s: an undo of what was never sent would double that."""
    if command == "DEL":
        await world.ok("ADD")
    asked: list[str] = []

    async def unreachable(*_arguments: Any, **_options: Any) -> Any:
        asked.append("txn")
        raise Unreachable("cannot reach etcd at http://192.0.2.1:2379")

    world.store.txn = unreachable  # type: ignore[method-assign]
    shown = await world.refused(command)
    assert (shown["code"], "192.0.2.1" in shown["msg"]) == (11, True)
    assert asked == ["txn"]

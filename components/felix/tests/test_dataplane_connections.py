"""Old connections end before the new owner of an address is called ready."""

from __future__ import annotations

import asyncio
import errno

import pytest

from calico_felix.dataplane.loop import Dataplane
from calico_felix.dataplane.manager import Context
from libcalico.calc.messages import Endpoint, Flush
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import endpoint, flush
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

A, B = endpoint("a", "10.0.0.1/32"), endpoint("b", "10.0.0.1/32", revision=7)


class Host:
    """A dataplane over a kernel whose commands are grouped: a ruleset is one "commit"."""

    def __init__(self, context: Context, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.dataplane = Dataplane(context.config, context.clock, context.handles)
        self.connections = self.dataplane.connections

    async def open(self, *, listed: bool = True) -> None:
        """As `Dataplane.open`, with the listing of flows at its end or not yet."""
        await self.dataplane.context.handles.open()
        self.connections._conntrack = self.kernel.conntrack()
        if listed:
            await self.connections.find()

    async def apply(self, *flushes: Flush) -> list[str]:
        """Take in, and write the rules; what was asked of the kernel."""
        for one in flushes:
            self.dataplane.on_flush(one)
        await self.dataplane.writer.apply(0.0)
        return self.taken()

    def taken(self) -> list[str]:
        """What was asked of the kernel since."""
        found: list[str] = []
        for command in self.kernel.take_commands():
            word = command if command.startswith("end flows") else "commit"
            if not found or found[-1] != word:
                found.append(word)
        return found

    def flows(self) -> list[str]:
        """The kernel's."""
        return self.kernel.show("flows").splitlines()


@pytest.fixture
async def host(context: Context, kernel: FakeKernel) -> Host:
    return Host(context, kernel)


@pytest.mark.parametrize(
    "flushes",
    [(flush(gone=(A,)), flush(B)), (flush(B, gone=(A,)),), (flush(endpoint("a", "10.0.0.2/32")), flush(B))],
    ids=["one after the other", "at once", "moved"],
)
async def test_an_address_in_new_hands_has_lost_its_flows_when_its_owner_is_ready(
    host: Host, flushes: tuple[Flush, ...]
) -> None:
    await host.open()
    await host.apply(flush(A))
    host.kernel.add_flow("10.0.0.1", "10.0.0.9")
    host.kernel.add_flow("10.0.0.8", "10.0.0.9")
    for one in flushes:
        host.dataplane.on_flush(one)
    waiting = asyncio.ensure_future(host.dataplane.wait_programmed(B.key, 7, 5))
    at_ready: list[list[str]] = []
    waiting.add_done_callback(lambda _done: at_ready.append(host.flows()))
    await asyncio.sleep(0)
    assert await host.apply() == ["commit", "end flows of 10.0.0.1"]
    await waiting
    await asyncio.sleep(0)
    assert at_ready == [["10.0.0.8 > 10.0.0.9"]]


@pytest.mark.parametrize("listed", ["before", "between", "after"])
async def test_flows_of_an_owner_that_went_unseen_end_before_the_heir_is_ready(host: Host, listed: str) -> None:
    """And those of endpoints that stood when we started do not: a restart cuts nothing."""
    host.kernel.add_flow("10.0.0.1", "192.0.2.9")
    host.kernel.add_flow("10.0.0.2", "192.0.2.9")
    await host.open(listed=listed == "before")
    assert await host.apply(flush(A)) == ["commit"]
    if listed == "between":
        await host.connections.find()
    heir, another = endpoint("heir", "10.0.0.2/32"), endpoint("another", "10.0.0.3/32")
    assert await host.apply(flush(heir)) == ["commit", "end flows of 10.0.0.2"]
    assert await host.apply(flush(heir)) == []
    if listed == "after":
        await host.connections.find()
    assert await host.apply(flush(another)) == ["commit"]
    assert host.flows() == ["10.0.0.1 > 192.0.2.9"]


async def test_without_a_list_every_address_that_is_gained_counts_as_one_with_flows(host: Host) -> None:
    host.kernel.refuse("list connections", errno.EIO)
    await host.open()
    assert host.dataplane.context.failures.count == 1
    await host.apply(flush(A))
    assert await host.apply(flush(endpoint("b", "10.0.0.2/32"))) == ["commit", "end flows of 10.0.0.2"]


async def test_an_address_that_is_wired_up_while_we_start_has_no_old_flows(host: Host) -> None:
    """Its endpoint may have been stored before the first flush, and counts there as one that stood."""
    await host.open()
    await host.connections.end_inherited(["10.0.0.2"])
    assert host.taken() == ["end flows of 10.0.0.2"]
    assert await host.apply(flush(A)) == ["commit"]
    await host.connections.end_inherited(["10.0.0.1", "10.0.0.3"])
    assert host.taken() == ["end flows of 10.0.0.1"]
    await host.connections.end_inherited(["10.0.0.1", "10.0.0.3"])
    assert host.taken() == []


async def test_an_endpoint_that_keeps_its_address_keeps_its_flows(host: Host, clock: ManualClock) -> None:
    await host.open()
    await host.apply(flush(A))
    host.kernel.add_flow("10.0.0.1", "10.0.0.9")
    await host.apply(flush(endpoint("a", "10.0.0.1/32", "10.0.0.2/32", revision=2)))
    await host.connections.apply(clock.monotonic_s())
    assert host.flows() == ["10.0.0.1 > 10.0.0.9"]


async def test_flows_end_only_after_the_rules_stand_and_are_tried_again(host: Host, clock: ManualClock) -> None:
    await host.open()
    await host.apply(flush(A))
    host.kernel.refuse("end flows", errno.EIO)
    host.kernel.refuse("nft ", errno.EIO)
    assert await host.apply(flush(gone=(A,))) == ["commit"]
    await host.connections.apply(clock.monotonic_s())
    wait_s = host.connections.next_try_s(clock.monotonic_s())
    assert wait_s == 1.0
    clock.at_s += wait_s
    host.taken()
    await host.connections.apply(clock.monotonic_s())
    assert host.taken() == ["end flows of 10.0.0.1"]
    assert host.connections.next_try_s(clock.monotonic_s()) is None


async def test_an_heir_whose_flows_cannot_be_ended_is_not_ready_until_they_are(host: Host) -> None:
    await host.open()
    await host.apply(flush(A))
    host.kernel.refuse("end flows", errno.EIO)
    await host.apply(flush(B, gone=(A,)))
    assert host.dataplane.readiness.programmed == {}
    assert host.dataplane.writer.next_try_s(0.0) is not None
    assert await host.apply() == ["end flows of 10.0.0.1"]
    assert host.dataplane.readiness.programmed == {B.key: 7}


async def test_flows_for_which_no_call_waits_are_listed_once_a_second(host: Host, clock: ManualClock) -> None:
    """A listing costs 10 ms: many endpoints that go one after the other must not cost one each."""
    await host.open()
    many = [endpoint(str(number), f"10.0.0.{number}/32") for number in range(3)]
    await host.apply(flush(*many))
    ended: list[str] = []
    for one in many:
        ended += await host.apply(flush(gone=(one,)))
        await host.connections.apply(clock.monotonic_s())
        ended += host.taken()
    assert [one for one in ended if one != "commit"] == ["end flows of 10.0.0.0"]
    assert host.connections.next_try_s(clock.monotonic_s()) == 1.0
    clock.at_s += 1.0
    await host.connections.apply(clock.monotonic_s())
    assert host.taken() == ["end flows of 10.0.0.1,10.0.0.2"]


async def test_flows_for_which_no_call_waits_end_with_those_for_which_one_does(host: Host) -> None:
    """Addresses that are in use again, one after the other, must not keep the others waiting for ever."""
    await host.open()
    gone = endpoint("gone", "10.0.0.2/32")
    await host.apply(flush(A, gone))
    assert await host.apply(flush(gone=(A, gone)), flush(B)) == ["commit", "end flows of 10.0.0.1,10.0.0.2"]


async def test_an_address_that_two_endpoints_have_is_clean_for_each(host: Host) -> None:
    await host.open()
    await host.apply(flush(A))
    assert await host.apply(flush(B)) == ["commit", "end flows of 10.0.0.1"]
    assert host.dataplane.readiness.programmed.keys() == {A.key, B.key}


async def test_an_endpoint_on_the_interface_of_another_is_never_ready(host: Host) -> None:
    """The chains of the interface are those of the other; when that goes, they are its own."""
    await host.open()
    second = endpoint("b", "10.0.0.2/32", revision=7, interface=A.interface)
    await host.apply(flush(A), flush(second))
    with pytest.raises(TimeoutError):
        await host.dataplane.wait_programmed(second.key, 7, 0.01)
    await host.dataplane.wait_programmed(A.key, 1, 1)
    assert host.dataplane.is_held(A.interface, second.key)
    assert not host.dataplane.is_held(A.interface, A.key)
    await host.apply(flush(gone=(A,)))
    await host.dataplane.wait_programmed(second.key, 7, 1)
    first = endpoint("0", "10.0.0.3/32", revision=9, interface=A.interface)
    await host.apply(flush(first))
    assert host.dataplane.readiness.programmed.keys() == {first.key}


async def test_who_waits_is_answered_at_the_revision_and_not_before(host: Host) -> None:
    await host.open()
    await host.apply(flush(A))
    newer: Endpoint = A._replace(revision=5)
    waiting = asyncio.ensure_future(host.dataplane.wait_programmed(A.key, 5, 30))
    await host.apply(flush(endpoint("c", "10.0.0.5/32")))
    assert not waiting.done()
    await host.apply(flush(newer))
    await waiting
    assert host.dataplane.readiness._waiters == []


async def test_opening_begins_to_list_and_closing_stops_it(host: Host) -> None:
    host.kernel.add_flow("10.0.0.7", "192.0.2.9")
    await host.connections.open()
    assert host.connections._listing is not None
    await host.connections._listing
    assert host.connections._found == {"10.0.0.7", "192.0.2.9"}
    host.connections.close()

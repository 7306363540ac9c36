"""Old connections end before a new owner of their address is told that it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from calico_felix.dataplane import connections, drivers, loop
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.loop import Dataplane
from libcalico.calc.messages import Endpoint, Flush, IPSet, Vtep
from libcalico.clock import SystemClock
from libcalico.errors import Bug
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import LinkEvent, RouteEvent
from libcalico.kernel.nft import NftError, Refusal
from libcalico.kernel.objects import Link, Route
from libcalico.model.keys import ResourceKey
from libcalico.net import Cidr
from libcalico.policy.ir import EndpointPolicy
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Table
from libcalico.testing.clock import ManualClock

ADDRESS = Cidr(4, 0x0A000001, 32)
OTHER = Cidr(4, 0x0A000002, 32)


class Kernel:
    """Stands for libnftables and conntrack; writes down what was asked."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failing: list[Exception] = []

    def write(self, wanted: Table, former: Table | None) -> None:
        if former is not None and not wanted.render_steps(former):
            return
        if self.failing and isinstance(self.failing[0], NftError):
            raise self.failing.pop(0)
        self.log.append("commit")

    def delete_flows(self, addresses: Iterable[str]) -> int:
        if self.failing:
            raise self.failing.pop(0)
        self.log.append(f"end {','.join(sorted(addresses))}")
        return 0


def endpoint(name: str, *nets: Cidr, revision: int = 1) -> Endpoint:
    key = ResourceKey("WorkloadEndpoint", name, "default")
    return Endpoint(key, f"cali{name}", "", nets, EndpointPolicy((), ()), revision)


def flush(*endpoints: Endpoint, gone: tuple[Endpoint, ...] = ()) -> Flush:
    changes: dict[ResourceKey, Endpoint | None] = {one.key: one for one in endpoints}
    changes |= {one.key: None for one in gone}
    return Flush({}, {}, changes, {}, {}, None, None, 1)


async def settled(kernel: Kernel, *flushes: Flush) -> Dataplane:
    """A dataplane over a fake kernel, with the first endpoint programmed, then told all of `flushes` at once."""
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
    dataplane._programmer = kernel  # type: ignore[assignment]
    dataplane.flows._conntrack = kernel  # type: ignore[assignment]
    dataplane.flows._found = set()
    dataplane.on_flush(flush(endpoint("a", ADDRESS)))
    await dataplane._apply_ruleset()
    kernel.log.clear()
    for one in flushes:
        dataplane.on_flush(one)
    return dataplane


A, B = endpoint("a", ADDRESS), endpoint("b", ADDRESS, revision=7)


@pytest.mark.parametrize(
    "flushes",
    [(flush(gone=(A,)), flush(B)), (flush(B, gone=(A,)),), (flush(endpoint("a", OTHER)), flush(B))],
    ids=["one after the other", "at once", "moved"],
)
def test_an_address_in_new_hands_has_lost_its_flows_when_its_owner_is_ready(flushes: tuple[Flush, ...]) -> None:
    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, *flushes)
        waiting = asyncio.ensure_future(dataplane.wait_programmed(B.key, 7, 5))
        waiting.add_done_callback(lambda _done: kernel.log.append("ready"))
        await asyncio.sleep(0)
        await dataplane._apply_ruleset()
        await waiting
        await asyncio.sleep(0)
        assert kernel.log == ["commit", "end 10.0.0.1", "ready"]
        dataplane.close()

    asyncio.run(scenario())


@pytest.fixture
def old_flows(monkeypatch: pytest.MonkeyPatch) -> list[set[str] | KernelError]:
    """What a listing of the kernel's flows tells: the first of them, or a failure."""
    told: list[set[str] | KernelError] = [{"10.0.0.1", "10.0.0.2", "192.0.2.9"}]

    def listed() -> set[str]:
        if isinstance(told[0], KernelError):
            raise told[0]
        return told[0]

    monkeypatch.setattr(connections, "_addresses_of_flows", listed)
    return told


def fresh(kernel: Kernel) -> Dataplane:
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
    dataplane._programmer = dataplane.flows._conntrack = kernel  # type: ignore[assignment]
    return dataplane


@pytest.mark.parametrize("listed", ["before", "between", "after"])
async def test_flows_of_an_owner_that_went_unseen_end_before_the_heir_is_ready(
    listed: str, old_flows: list[set[str] | KernelError]
) -> None:
    """And those of endpoints that stood when we started do not: a restart cuts nothing."""
    kernel = Kernel()
    dataplane = fresh(kernel)
    if listed == "before":
        await dataplane.flows.find()
    dataplane.on_flush(flush(A))
    await dataplane._apply_ruleset()
    assert kernel.log == ["commit"]
    if listed == "between":
        await dataplane.flows.find()
    heir, another = endpoint("heir", OTHER), endpoint("another", Cidr(4, 0x0A000003, 32))
    for _ in range(2):
        dataplane.on_flush(flush(heir))
        await dataplane._apply_ruleset()
        assert kernel.log == ["commit", "commit", "end 10.0.0.2"]
    if listed == "after":
        await dataplane.flows.find()
    dataplane.on_flush(flush(another))
    await dataplane._apply_ruleset()
    assert kernel.log == ["commit", "commit", "end 10.0.0.2", "commit"], "nobody had that address"
    assert dataplane.programmed_revisions.keys() == {A.key, heir.key, another.key}
    dataplane.close()


async def test_when_the_old_flows_cannot_be_listed_every_address_may_have_some(
    old_flows: list[set[str] | KernelError],
) -> None:
    old_flows[0] = KernelError("list connections")
    kernel = Kernel()
    dataplane = fresh(kernel)
    await dataplane.flows.find()
    dataplane.on_flush(flush(A))
    await dataplane._apply_ruleset()
    for name, net in (("heir", OTHER), ("another", Cidr(4, 0x0A000003, 32))):
        dataplane.on_flush(flush(endpoint(name, net)))
        await dataplane._apply_ruleset()
    assert kernel.log == ["commit", "commit", "end 10.0.0.2", "commit", "end 10.0.0.3"]
    dataplane.close()


async def test_nobody_is_ready_whose_address_still_has_flows_of_another() -> None:
    kernel = Kernel()
    dataplane = await settled(kernel, flush(B, endpoint("c", OTHER), gone=(A,)))
    kernel.failing = [KernelError("list connections")]
    await dataplane._apply_ruleset()
    assert {key.name for key in dataplane.programmed_revisions} == {"c"}
    assert dataplane._next_try_s() is not None
    await dataplane._apply_ruleset()
    assert kernel.log == ["commit", "end 10.0.0.1"]
    assert {key.name for key in dataplane.programmed_revisions} == {"b", "c"}
    dataplane.close()


async def test_an_address_that_is_wired_up_while_we_start_has_no_old_flows() -> None:
    """Its endpoint may have been stored before the first flush, and counts there as one that stood."""
    kernel = Kernel()
    dataplane = fresh(kernel)
    await dataplane.flows.end_inherited(["10.0.0.2"])
    dataplane.on_flush(flush(A))
    await dataplane._apply_ruleset()
    for _ in range(2):
        await dataplane.flows.end_inherited(["10.0.0.1", "10.0.0.3"])
        assert kernel.log == ["end 10.0.0.2", "commit", "end 10.0.0.1"]
    dataplane.close()


async def test_an_endpoint_on_the_interface_of_another_is_never_ready() -> None:
    """The chains of the interface are those of the other; when that goes, they are its own."""
    kernel = Kernel()
    dataplane = await settled(kernel)
    second = endpoint("b", OTHER, revision=7)._replace(interface=A.interface)
    dataplane.on_flush(flush(second))
    await dataplane._apply_ruleset()
    with pytest.raises(TimeoutError):
        await dataplane.wait_programmed(second.key, 7, 0.01)
    await dataplane.wait_programmed(A.key, 1, 1)
    assert dataplane.is_held(A.interface, second.key)
    assert not dataplane.is_held(A.interface, A.key)
    dataplane.on_flush(flush(gone=(A,)))
    await dataplane._apply_ruleset()
    await dataplane.wait_programmed(second.key, 7, 1)
    first = endpoint("0", Cidr(4, 9, 32), revision=9)._replace(interface=A.interface)
    dataplane.on_flush(flush(first))
    await dataplane._apply_ruleset()
    assert dataplane.programmed_revisions.keys() == {first.key}
    dataplane.close()


def test_an_endpoint_that_keeps_its_address_keeps_its_flows() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, flush(endpoint("a", ADDRESS, OTHER, revision=2)))
        await dataplane._apply_ruleset()
        await dataplane.flows._end()
        assert kernel.log == [] or kernel.log == ["commit"]
        dataplane.close()

    asyncio.run(scenario())


def test_flows_end_only_after_the_rules_stand_and_are_tried_again() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, flush(gone=(A,)))
        kernel.failing = [NftError("no", 0, "")]
        await dataplane._apply_ruleset()
        assert kernel.log == ["commit"]
        kernel.failing = [KernelError("list connections")]
        await dataplane.flows._end()
        assert dataplane._next_try_s() is not None or not dataplane._ready
        await dataplane.flows._end()
        assert kernel.log == ["commit", "end 10.0.0.1"]
        dataplane.close()

    asyncio.run(scenario())


def test_flows_that_nobody_waits_for_are_listed_once_a_second() -> None:
    """A listing costs 10 ms: many endpoints that go one after the other must not cost one each."""

    async def scenario() -> None:
        kernel = Kernel()
        many = [endpoint(str(number), Cidr(4, number, 32)) for number in range(3)]
        dataplane = await settled(kernel, flush(*many))
        await dataplane._apply_ruleset()
        for one in many:
            dataplane.on_flush(flush(gone=(one,)))
            await dataplane._apply_ruleset()
            await dataplane.flows.end_in_time()
        ends = [entry for entry in kernel.log if entry.startswith("end")]
        assert ends == ["end 0.0.0.0"]
        wait_s = dataplane._next_try_s()
        assert wait_s is not None and 0.2 <= wait_s <= 1.0
        dataplane.flows._at_s = 0
        await dataplane.flows.end_in_time()
        assert kernel.log[-1] == "end 0.0.0.1,0.0.0.2"
        dataplane.close()

    asyncio.run(scenario())


def test_flows_that_nobody_waits_for_end_with_those_that_somebody_waits_for() -> None:
    """Addresses that are in use again, one after the other, must not keep the others waiting for ever."""

    async def scenario() -> None:
        kernel = Kernel()
        gone = endpoint("gone", OTHER)
        dataplane = await settled(kernel, flush(gone))
        await dataplane._apply_ruleset()
        dataplane.on_flush(flush(gone=(A, gone)))
        dataplane.on_flush(flush(B))
        await dataplane._apply_ruleset()
        assert kernel.log[-1] == "end 10.0.0.1,10.0.0.2"
        dataplane.close()

    asyncio.run(scenario())


def test_an_endpoint_that_goes_while_its_rules_are_written_is_not_remembered() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, flush(B))

        def write(_wanted: Table, _former: Table | None) -> None:
            asyncio.run_coroutine_threadsafe(gone(), loop).result()

        async def gone() -> None:
            dataplane.on_flush(flush(gone=(A, B)))

        loop, kernel.write = asyncio.get_running_loop(), write  # type: ignore[method-assign, assignment]
        await dataplane._apply_ruleset()
        assert dataplane.programmed_revisions == {}
        assert dataplane._nft_dirty
        dataplane.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("order", ["a b", "b a"])
async def test_an_address_that_moves_keeps_a_route(order: str) -> None:
    """Whichever interface is planned first, the new holder's route is wanted afterwards."""
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
    dataplane.links = {
        f"cali{name}": Link(index, f"cali{name}", True, True, 1500, "") for index, name in enumerate("ab", 5)
    }
    dataplane.on_flush(flush(A))
    dataplane.ruleset.on_flush(flush(B, gone=(A,)))
    for name in order.split():
        dataplane._plan_interface(f"cali{name}")
    assert [route.device for route in dataplane.routes.delta.desired.values()] == [6]


async def test_who_fights_over_a_route_gets_one_answer_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ROUTE_PAUSE_S", 0.2)
    clock = ManualClock(100.0)
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), clock)
    route = Route("10.0.0.1/32", 7, metric=loop.ROUTE_METRIC)
    key = drivers.route_key(route)
    dataplane.routes.set(key, route)
    answers = 0
    for _ in range(10):
        dataplane.routes.delta.set_actual(key, route)
        dataplane.wake.clear()
        dataplane.on_route(RouteEvent(route, True))
        answers += dataplane.wake.is_set()
    assert answers == 1
    clock.at_s += 0.2
    async with asyncio.timeout(30):
        await dataplane.wake.wait()
    assert dict(dataplane.routes.delta.updates()) == {key: route}
    dataplane.close()


async def test_a_revision_that_comes_during_an_apply_counts_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    dataplane = await settled(kernel, flush(B))

    async def write(*_tables: object) -> None:
        dataplane.note_revision(9)

    monkeypatch.setattr(dataplane, "_write", write)
    await dataplane._apply_ruleset()
    assert dataplane.programmed_revision == 9
    dataplane.close()


async def test_an_endpoint_on_a_foreign_interface_is_ignored() -> None:
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
    dataplane.on_flush(flush(A, B._replace(interface="eth0")))
    assert set(dataplane.ruleset.endpoints) == {A.key}


def test_a_difference_of_which_nothing_is_to_blame_is_followed_by_the_whole() -> None:
    """Another process has deleted the table a moment ago: the rules are fine, and the next try writes all of it."""

    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, flush(B))
        chain = next(name for name in dataplane.ruleset.table.chains if name.startswith("tw-"))
        refused = NftError("No such file or directory", 1, f"add rule inet calico {chain} accept")
        refused.refusals = []
        kernel.failing = [refused]
        await dataplane._apply_ruleset()
        assert kernel.log[0] == "commit"
        assert dataplane.ruleset.quarantined == {}
        dataplane.close()

    asyncio.run(scenario())


def test_what_others_change_during_a_transaction_is_written_anew_after_it() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        dataplane = await settled(kernel, flush(B))
        whole: list[bool] = []
        loop = asyncio.get_running_loop()

        def write(_wanted: Table, former: Table | None) -> None:
            whole.append(former is None)
            if len(whole) == 1:
                asyncio.run_coroutine_threadsafe(notice(), loop).result()

        async def notice() -> None:
            dataplane.forget_programmed()

        kernel.write = write  # type: ignore[method-assign, assignment]
        for _ in range(2):
            await dataplane._apply_ruleset()
        assert whole == [False, True]
        dataplane.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["between", "meanwhile"])
async def test_an_interface_that_goes_down_and_up_gets_its_route_again(when: str) -> None:
    """The kernel forgets the route and tells nobody, also while the route is being written."""
    dataplane = fresh(Kernel())
    link = Link(5, "calia", True, True, 1500, "")
    dataplane.links = {"calia": link}
    bounced: list[bool] = []

    class Routes:
        async def read(self) -> dict[drivers.RouteKey, Route]:
            return {}

        async def apply(self, deletes: object, updates: object) -> dict[drivers.RouteKey, Exception]:
            if when == "meanwhile" and not bounced:
                bounce()
            return {}

    def bounce() -> None:
        bounced.append(True)
        dataplane.on_link(LinkEvent(link._replace(up=False), False))
        dataplane.on_link(LinkEvent(link, False))

    dataplane.routes._driver = Routes()
    dataplane.on_flush(flush(A))
    await dataplane.routes.apply(0.0)
    if when == "between":
        assert len(dataplane.routes.delta) == 0
        bounce()
    assert [key for key, _ in dataplane.routes.delta.updates()] == [("10.0.0.1/32", 1024)]
    await dataplane.routes.apply(0.0)
    assert len(dataplane.routes.delta) == 0
    dataplane.close()


async def test_a_fight_over_a_route_leaves_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    dataplane = fresh(Kernel())
    key, timers = ("10.0.0.1/32", 1024), list[object]()
    route = Route("10.0.0.1/32", 5, metric=1024)
    dataplane.routes.set(key, route)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda *arguments: timers.append(arguments))
    for _ in range(100):
        dataplane.on_route(RouteEvent(route._replace(device=6), False))
    assert len(timers) == 1
    dataplane.close()


async def test_an_address_that_two_endpoints_have_is_clean_for_each() -> None:
    kernel = Kernel()
    dataplane = await settled(kernel, flush(B))
    await dataplane._apply_ruleset()
    assert kernel.log == ["commit", "end 10.0.0.1"]
    assert dataplane.programmed_revisions.keys() == {A.key, B.key}
    dataplane.close()


async def test_many_chains_that_the_kernel_refuses_are_closed_one_by_one() -> None:
    """But not one that every packet of the host goes through."""
    kernel = Kernel()
    dataplane = fresh(kernel)
    dataplane.on_flush(flush(*(endpoint(f"e{number}", Cidr(4, number + 1, 32)) for number in range(20))))
    chains = [name for name in dataplane.ruleset.table.chains if name.startswith("tw-")]
    assert len(chains) == 20
    kernel.failing = [NftError("no", 1, f"add rule inet calico {chain} accept") for chain in chains]
    await dataplane._apply_ruleset()
    assert set(dataplane.ruleset.quarantined) == set(chains)
    assert kernel.log == ["commit"]
    base = next(name for name, chain in dataplane.ruleset.table.chains.items() if chain.hook)
    dataplane.forget_programmed()
    kernel.failing = [NftError("no", 1, f"add rule inet calico {base} accept")] * 10
    with pytest.raises(Bug, match="refused the ruleset 10 times"):
        await dataplane._apply_ruleset()
    dataplane.close()


async def test_all_that_one_answer_refuses_is_closed_before_the_next_try() -> None:
    kernel = Kernel()
    dataplane = fresh(kernel)
    dataplane.on_flush(flush(*(endpoint(f"e{number}", Cidr(4, number + 1, 32)) for number in range(20))))
    dataplane.ruleset.on_flush(flush()._replace(sets={"s:x": IPSet("s:x", False, frozenset())}))
    chains = [name for name in dataplane.ruleset.table.chains if name.startswith("tw-")]
    refusals = [Refusal(number, f"add rule inet calico {chain} accept", "no") for number, chain in enumerate(chains)]
    refusals.append(Refusal(99, "add set inet calico ip4-s-x { type ipv4_addr; elements = { x } }", "no"))
    kernel.failing = [NftError("no", 1, refusals[0].command, refusals)]
    await dataplane._apply_ruleset()
    assert set(dataplane.ruleset.quarantined) == set(chains)
    assert (kernel.log, dataplane.failures) == (["commit"], 1)
    assert not dataplane.ruleset.quarantine_set("ip4-s-x", "is closed already")
    dataplane.close()


def vtep(node: str, address: str, mac: str, parent: str) -> tuple[tuple[str, int], Vtep]:
    return (node, 4), Vtep(node, 4, address, mac, parent)


def test_of_two_nodes_with_one_tunnel_address_the_other_s_entry_outlives_the_first() -> None:
    tunnels = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock()).tunnels
    tunnels._ready[4] = Link(7, "vxlan.calico", True, True, 1450, "")
    tunnels.on_vteps(dict([vtep("a", "10.9.0.1", "66:00:00:00:00:01", "192.0.2.1")]))
    tunnels.on_vteps(dict([vtep("b", "10.9.0.1", "66:00:00:00:00:02", "192.0.2.2")]))
    tunnels._set_neighbours(tunnels._plan_neighbours())
    key = (7, "10.9.0.1", "")
    assert tunnels.neighbours.delta.desired[key].mac == "66:00:00:00:00:01"
    tunnels.neighbours.delta.replace_actual(dict(tunnels.neighbours.delta.desired))
    tunnels.on_vteps({("a", 4): None})
    tunnels._set_neighbours(tunnels._plan_neighbours())
    assert dict(tunnels.neighbours.delta.updates())[key].mac == "66:00:00:00:00:02"
    assert [gone for gone, _ in tunnels.neighbours.delta.deletes()] == [(7, "192.0.2.1", "66:00:00:00:00:01")]


async def test_what_an_interface_had_under_its_former_name_goes_when_it_is_renamed() -> None:
    dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
    before, after = Link(5, "calia", True, True, 1500, ""), Link(5, "renamed", True, True, 1500, "")
    dataplane.on_flush(flush(A))
    dataplane.on_link(LinkEvent(before, False))
    assert len(dataplane.routes.delta.desired) == 1
    dataplane.on_link(LinkEvent(after, False))
    assert set(dataplane.links) == {"renamed"}
    assert dataplane.endpoint_problem(A) == "the interface is not there"
    assert not dataplane.routes.delta.desired
    dataplane.on_link(LinkEvent(before, False))
    assert set(dataplane.links) == {"calia"}
    assert len(dataplane.routes.delta.desired) == 1
    dataplane.close()

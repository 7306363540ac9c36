"""The loop orders and wakes: from a flush to a whole kernel, printed."""

from __future__ import annotations

import asyncio
import errno
import re

import pytest

from calico_felix.dataplane.interfaces import REFRESH_S
from calico_felix.dataplane.link_events import BURST
from calico_felix.dataplane.loop import ALIVE_S, Dataplane
from calico_felix.dataplane.manager import RETRY_S, Context
from libcalico.calc.messages import Flush, IPSet, Pools
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.netlink import AddressEvent, LinkEvent, RouteEvent
from libcalico.kernel.objects import Address
from libcalico.net import parse_cidrs
from libcalico.obs.figures import BY_NAME
from libcalico.policy.ir import Action, Policy, PolicyId, Rule, Side
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import endpoint, flush, node, vtep
from libcalico.testing.kernel import FakeKernel
from libcalico.testing.kernel_state import KilledError

pytest_plugins = ["calico_felix.testing"]

A = endpoint("a", "10.0.1.7/32")
OWN = vtep("here", "10.0.1.0", "66:00:00:00:00:01", "172.16.0.1")
FAR = vtep("far", "10.0.2.0", "66:00:00:00:00:02", "172.16.0.2")
HOSTS = {"here": node("172.16.0.1"), "far": node("172.16.0.2")}
WHOLE = flush(
    A, vteps=[OWN, FAR], pools=Pools(frozenset({"10.0.0.0/16"}), frozenset({"10.0.0.0/16"}), frozenset({4})),
    hosts=HOSTS,
    routes={"10.0.2.0/26": WantedRoute("10.0.2.0/26", "vxlan", "far"),
            "10.0.1.0/26": WantedRoute("10.0.1.0/26", "blackhole")},
)  # fmt: skip
STATE = """\
links
  eth0 up mtu 1500
  calia up mtu 1500
  vxlan.calico up mtu 1450 mac 66:00:00:00:00:01 vxlan 4096 port 4789 local 172.16.0.1 dev eth0
addresses
  eth0 172.16.0.1/24
  vxlan.calico 10.0.1.0/32
routes
  0.0.0.0/0 via 172.16.0.254 dev eth0 proto 3
  10.0.1.7/32 dev calia proto 3 scope link metric 1024
  10.0.2.0/26 via 10.0.2.0 dev vxlan.calico proto 3 mtu 1450 onlink
  blackhole 10.0.1.0/26 proto 80
neighbours
  10.0.1.7 dev calia learned
  10.0.2.0 dev vxlan.calico lladdr 66:00:00:00:00:02
  fdb 66:00:00:00:00:02 dst 172.16.0.2 dev vxlan.calico
"""
NUMBER = re.compile(r"(set [^/ ]+|@[^/ ]+)/[0-9]+(?= )")
SECTIONS = ("links", "addresses", "routes", "neighbours")


@pytest.fixture
async def dataplane(context: Context, kernel: FakeKernel) -> Dataplane:
    kernel.add_link("calia")
    made = Dataplane(context.config, context.clock, context.handles)
    await made.open()
    kernel.take_events()
    return made


def plain(text: str) -> str:
    """Without the numbers that are in the kernel's names of sets that were made again."""
    return NUMBER.sub(r"\1", text)


def deliver(kernel: FakeKernel, dataplane: Dataplane) -> None:
    """What the monitor has read since, as the daemon hands it on."""
    for event in kernel.take_events():
        if isinstance(event, LinkEvent):
            dataplane.on_link(event)
        elif isinstance(event, RouteEvent):
            dataplane.on_route(event)
        elif isinstance(event, AddressEvent):
            dataplane.on_address(event)


async def test_a_flush_makes_a_whole_kernel_and_the_same_again_nothing(
    dataplane: Dataplane, kernel: FakeKernel
) -> None:
    assert kernel.commands == [], "nothing before in-sync"
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE
    assert "set masq-ipam-pools-4 { type ipv4_addr; flags interval; } = { 10.0.0.0/16 }" in plain(kernel.show("nft"))
    assert '"calia" : jump tw-calia' in kernel.show("nft") and "set all-vxlan-net-4" in kernel.show("nft")
    deliver(kernel, dataplane)
    await dataplane.apply()
    kernel.take_commands()
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    assert (kernel.commands, dataplane.pending()) == ([], [])


async def test_what_is_done_does_not_depend_on_the_way_to_it(dataplane: Dataplane, kernel: FakeKernel) -> None:
    for piece in (
        flush(endpoint("b", "10.0.1.7/32"), vteps=[FAR._replace(mac="66:00:00:00:00:09")]),
        flush(A, vteps=[OWN]), flush(gone=[endpoint("b")]), flush(routes=WHOLE.routes),
        flush(vteps=[FAR], pools=WHOLE.pools), flush(hosts=HOSTS),
    ):  # fmt: skip
        dataplane.on_flush(piece)
        await dataplane.apply()
        deliver(kernel, dataplane)
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE


async def test_an_agent_that_is_started_again_finds_all_in_its_place(
    context: Context, dataplane: Dataplane, kernel: FakeKernel
) -> None:
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    written = kernel.show()
    kernel.take_commands()
    again = Dataplane(context.config, context.clock, context.handles)
    await again.open()
    again.on_flush(WHOLE)
    await again.apply()
    assert [one for one in kernel.commands if not one.startswith("nft ")] == []
    assert plain(kernel.show()) == plain(written)


async def start(context: Context, wanted: Flush) -> None:
    """An agent's life: what it finds, what it is to make, and a minute later."""
    made = Dataplane(context.config, context.clock, context.handles)
    await made.open()
    made.on_flush(wanted)
    await made.apply()
    assert isinstance(context.clock, ManualClock)
    context.clock.at_s += 60
    await made.apply()
    made.connections.close()


async def test_killed_at_any_command_the_next_agent_brings_it_to_an_end(context: Context, kernel: FakeKernel) -> None:
    kernel.add_link("calia")
    kernel.add_link("calib")
    policy = Policy(PolicyId("Profile", "", "p"), "", (Rule(Action.ALLOW, 1, source=Side(sets=("s:x",))),), ())
    networks = IPSet("s:x", False, frozenset(parse_cidrs(["10.9.0.0/24", "10.8.0.0/24"])[0]))
    other = flush(
        endpoint("a", "10.0.1.9/32"), endpoint("b", "10.0.1.7/32"), policies={policy.id: policy},
        sets={"s:x": networks}, vteps=[OWN._replace(address="10.0.1.1"), FAR._replace(mac="66:00:00:00:00:09")],
        routes={"10.0.3.0/26": WantedRoute("10.0.3.0/26", "same-subnet", "far")},
    )  # fmt: skip
    wanted: dict[str, str] = {}
    killed = 0
    for target, name in ((other, "other"), (WHOLE, "whole")):
        await start(context, target)
        wanted[name] = plain(kernel.show(*SECTIONS, "nft"))
    while True:
        kernel.kill_after = killed
        try:
            await start(context, other)
            break
        except KilledError:
            killed += 1
        kernel.kill_after = None
        await start(context, other)
        assert plain(kernel.show(*SECTIONS, "nft")) == wanted["other"], killed
        await start(context, WHOLE)
        assert plain(kernel.show(*SECTIONS, "nft")) == wanted["whole"], killed
    assert killed > 30, "so many commands were in between"


async def test_policy_comes_before_everything_else(dataplane: Dataplane, kernel: FakeKernel) -> None:
    dataplane.on_flush(WHOLE)
    kernel.take_commands()
    waiting = asyncio.ensure_future(dataplane.wait_programmed(A.key, 1, 30))
    await dataplane.apply()
    first_other = next(place for place, one in enumerate(kernel.commands) if not one.startswith("nft "))
    assert not any(one.startswith("nft ") for one in kernel.commands[first_other:])
    await waiting


async def test_the_loop_does_nothing_before_the_first_flush_and_then_wakes_for_changes(
    dataplane: Dataplane, kernel: FakeKernel
) -> None:
    lived = asyncio.Event()
    running = asyncio.ensure_future(dataplane.run(lived.set))
    await lived.wait()
    dataplane.context.wake.set()
    await asyncio.sleep(0)
    assert dataplane.rounds.applies == 0 and dataplane._next_try_s() is None
    dataplane.on_flush(WHOLE)
    async with asyncio.timeout(30):
        await dataplane.wait_programmed(A.key, 1, 30)
        while not dataplane.rounds.applies:
            await asyncio.sleep(0.01)
    assert kernel.show(*SECTIONS) == STATE
    running.cancel()


async def test_the_loop_wakes_when_a_manager_wants_to(
    dataplane: Dataplane, kernel: FakeKernel, clock: ManualClock
) -> None:
    kernel.refuse("add route blackhole", errno.EBUSY)
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    assert dataplane._next_try_s() == RETRY_S
    assert len(dataplane.failing()) == 1 and dataplane.pending() == dataplane.failing()
    clock.at_s += RETRY_S
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE and dataplane.pending() == []
    assert (dataplane._next_try_s() or 0) > RETRY_S and ALIVE_S < REFRESH_S


async def test_the_state_of_an_endpoint(dataplane: Dataplane, kernel: FakeKernel) -> None:
    second = endpoint("b", "10.0.1.8/32", interface="calia")
    dataplane.on_flush(flush(A, second))
    kernel.refuse("set net/ipv4/conf/calia/proxy_arp", errno.EACCES)
    await dataplane.apply()
    assert dataplane.endpoint_problem(A) == "set net/ipv4/conf/calia/proxy_arp=1: Permission denied"
    assert dataplane.endpoint_problem(second) == "another endpoint has the same interface"
    await dataplane.apply()
    assert dataplane.endpoint_problem(A) == ""
    assert not dataplane.is_unused("calia") and not dataplane.is_unused("eth0") and dataplane.is_unused("calib")
    kernel.set_up("calia", False)
    deliver(kernel, dataplane)
    assert dataplane.endpoint_problem(A) == "the interface is down"
    kernel.remove_link("calia")
    deliver(kernel, dataplane)
    assert dataplane.endpoint_problem(A) == "the interface is not there"


async def test_what_goes_with_a_device_s_last_address_is_written_again(
    dataplane: Dataplane, kernel: FakeKernel
) -> None:
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    deliver(kernel, dataplane)
    kernel.remove_address("vxlan.calico", "10.0.1.0/32")
    assert kernel.show(*SECTIONS) != STATE
    deliver(kernel, dataplane)
    assert dataplane.context.wake.is_set()
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE


async def test_a_flood_of_address_events_is_answered_a_few_times_a_second(
    dataplane: Dataplane, kernel: FakeKernel, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer reads all routes and neighbours of the host."""
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    timers: list[object] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda *arguments: timers.append(arguments))
    event = AddressEvent(Address(kernel.index("eth0"), "172.16.0.9/24"), deleted=False)
    answers = 0
    for _ in range(10_000):
        clock.at_s += 0.0001
        dataplane.context.wake.clear()
        dataplane.on_address(event)
        answers += dataplane.context.wake.is_set()
    assert (answers, len(timers)) == (BURST, 1)
    dataplane.on_address(event._replace(address=Address(99, "10.9.9.9/32"), deleted=True))
    assert answers == BURST, "an address of a stranger is none of its business"


async def test_after_lost_events_all_is_read_again(dataplane: Dataplane, kernel: FakeKernel) -> None:
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    kernel.remove_route("10.0.2.0/26")
    kernel.set_up("calia", False)
    kernel.set_up("calia", True)
    kernel.take_events()
    dataplane.context.wake.clear()
    await dataplane.on_overrun()
    assert dataplane.context.wake.is_set()
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE


async def test_a_resync_reads_and_writes_everything(dataplane: Dataplane, kernel: FakeKernel) -> None:
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    kernel.remove_route("10.0.2.0/26")
    kernel.nft.run("delete table inet calico", asked=False)
    kernel.neighbours.clear()
    kernel.sysctls["net/ipv4/conf/calia/proxy_arp"] = "0"
    kernel.take_events()
    dataplane.resync()
    await dataplane.apply()
    assert kernel.show(*SECTIONS) == STATE
    assert "chain fw-calia" in kernel.show("nft") and kernel.sysctls["net/ipv4/conf/calia/proxy_arp"] == "1"


async def test_figures_are_those_of_the_table(dataplane: Dataplane) -> None:
    dataplane.on_flush(WHOLE)
    await dataplane.apply()
    figures = dataplane.figures()
    assert figures.keys() <= BY_NAME.keys()
    assert figures["felix_active_local_endpoints"] == figures["felix_applies"] == 1
    assert figures["felix_routes"] == 3 and figures["felix_int_dataplane_failures"] == 0

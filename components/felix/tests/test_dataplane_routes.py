"""Routes: what endpoints, interfaces and the graph want, and what a kernel holds then."""

from __future__ import annotations

import asyncio
import errno

import pytest

from calico_felix.dataplane import routes as module
from calico_felix.dataplane.manager import Context
from calico_felix.dataplane.owners import Owners
from calico_felix.dataplane.routes import STRANGER_GRACE_S, Routes
from calico_felix.testing_tunnels import Tunnels
from libcalico.calc.messages import Flush
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.netlink import AddressEvent, LinkEvent, RouteEvent
from libcalico.kernel.objects import Route
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import endpoint, flush, vtep
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

DEFAULT = "0.0.0.0/0 via 172.16.0.254 dev eth0 proto 3"
A, B = endpoint("a", "10.0.0.1/32"), endpoint("b", "10.0.0.1/32")
ROUTE_A, ROUTE_B = (f"10.0.0.1/32 dev cali{name} proto 3 scope link metric 1024" for name in "ab")
OWN = vtep("here", "10.0.1.0", "66:00:00:00:00:01", "172.16.0.1")
BLOCK_V6 = "fd00:0:0:2::/122"
FAR = vtep("far", "10.0.2.0", "66:00:00:00:00:02", "172.16.0.2")


class Host(Tunnels):
    """Routes, with the managers that they ask, over a kernel."""

    def __init__(self, context: Context, kernel: FakeKernel) -> None:
        super().__init__(context)
        self.kernel, self.wake = kernel, context.wake
        self.owners = Owners()
        self.routes = Routes(context, self.owners, self.interfaces, self.ways)
        self.managers.append(self.routes)

    def on_flush(self, changes: Flush) -> None:
        """As the loop hands it on."""
        if hasattr(self, "owners"):
            self.owners.on_flush(changes)
        super().on_flush(changes)

    async def apply(self) -> list[str]:
        """One round; the routes then, without the host's own."""
        await self.apply_all()
        return [line for line in self.kernel.show("routes").splitlines() if line != DEFAULT]

    def deliver(self) -> None:
        """What a monitor has read since."""
        for event in self.kernel.take_events():
            if isinstance(event, LinkEvent):
                self.interfaces.on_event(event)
            elif isinstance(event, RouteEvent):
                self.routes.on_route(event)
            else:
                assert isinstance(event, AddressEvent)


@pytest.fixture
async def host(context: Context, kernel: FakeKernel) -> Host:
    made = Host(context, kernel)
    kernel.add_link("calia")
    kernel.add_link("calib")
    await made.apply()
    kernel.take_events()
    return made


async def test_an_endpoint_s_addresses_have_routes_while_its_interface_is_up(host: Host) -> None:
    two = endpoint("a", "10.0.0.1/32", "fd00::1/128")
    host.on_flush(flush(two))
    both = [ROUTE_A, "fd00::1/128 dev calia proto 3 metric 1024"]
    assert await host.apply() == both
    host.kernel.take_commands()
    host.on_flush(flush(two))
    assert await host.apply() == both and host.kernel.commands == []
    host.kernel.set_up("calia", False)
    host.deliver()
    assert await host.apply() == []
    host.kernel.set_up("calia", True)
    host.deliver()
    assert await host.apply() == both
    host.on_flush(flush(gone=[two]))
    assert await host.apply() == []


@pytest.mark.parametrize("order", ["b comes first", "a goes first", "at once"])
async def test_an_address_that_moves_keeps_a_route(host: Host, order: str) -> None:
    host.on_flush(flush(A))
    assert await host.apply() == [ROUTE_A]
    flushes = {"b comes first": [flush(B), flush(gone=[A])], "a goes first": [flush(gone=[A]), flush(B)]}
    for one in flushes.get(order, [flush(B, gone=[A])]):
        host.on_flush(one)
    assert await host.apply() == [ROUTE_B]


async def test_of_two_interfaces_with_one_address_the_newer_has_the_route_and_the_other_inherits_it(host: Host) -> None:
    host.on_flush(flush(A))
    host.on_flush(flush(B))
    assert await host.apply() == [ROUTE_B]
    host.on_flush(flush(gone=[B]))
    assert await host.apply() == [ROUTE_A]


async def test_what_an_interface_had_under_its_former_name_goes_when_it_is_renamed(host: Host) -> None:
    host.on_flush(flush(A))
    await host.apply()
    link = host.kernel.links[host.kernel.index("calia")]
    host.kernel.put_link(link._replace(name="renamed"))
    host.deliver()
    assert "calia" not in host.interfaces.links and "renamed" in host.interfaces.links
    assert await host.apply() == []
    host.kernel.put_link(link)
    host.deliver()
    assert await host.apply() == [ROUTE_A]


async def test_the_ways_to_other_hosts_follow_the_devices(host: Host) -> None:
    host.on_flush(flush(routes={"10.0.2.0/26": WantedRoute("10.0.2.0/26", "vxlan", "far")}, vteps=[FAR]))
    assert await host.apply() == [], "there is no way yet"
    host.on_flush(flush(vteps=[OWN]))
    by_tunnel = "10.0.2.0/26 via 10.0.2.0 dev vxlan.calico proto 3 mtu 1450 onlink"
    assert await host.apply() == [by_tunnel]
    host.kernel.take_commands()
    assert await host.apply() == [by_tunnel] and host.kernel.commands == []
    host.on_flush(flush(routes={"10.0.2.0/26": None}))
    assert await host.apply() == []
    host.on_flush(flush(routes={"10.0.1.0/26": WantedRoute("10.0.1.0/26", "blackhole")}))
    assert await host.apply() == ["blackhole 10.0.1.0/26 proto 80"]


async def test_a_gateway_of_ipv6_has_a_route_of_its_own_before_others_go_by_it(host: Host) -> None:
    """Without it the kernel refuses a gateway to which any other route leads by another device."""
    host.kernel.add_address("eth0", "2001:db8::1/64")
    own, far = vtep("here", "fd00::1", OWN.mac, "2001:db8::1"), vtep("far", "fd00::2", FAR.mac, "2001:db8::2")
    host.on_flush(flush(vteps=[own, far], routes={BLOCK_V6: WantedRoute(BLOCK_V6, "vxlan", "far", "2001:db8::2")}))
    assert await host.apply() == [
        f"{BLOCK_V6} via fd00::2 dev vxlan-v6.calico proto 3 metric 1024 mtu 1430 onlink",
        "fd00::2/128 dev vxlan-v6.calico proto 3 metric 1024 mtu 1430",
    ]
    written = [one for one in host.kernel.take_commands() if one.startswith("add route")]
    assert written[0].startswith("add route fd00::2/128 ")
    host.on_flush(flush(routes={BLOCK_V6: None}))
    assert await host.apply() == []


async def test_the_way_to_another_host_goes_before_an_interface(host: Host) -> None:
    """An IPv6 address that was borrowed there, while its former endpoint is still stored here."""
    host.on_flush(flush(endpoint("a", "fd00::9/128"), routes={"fd00::9/128": WantedRoute("fd00::9/128", "blackhole")}))
    assert await host.apply() == ["blackhole fd00::9/128 dev lo proto 80 metric 1024"]
    host.on_flush(flush(routes={"fd00::9/128": None}))
    assert await host.apply() == ["fd00::9/128 dev calia proto 3 metric 1024"]


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EBUSY, errno.EEXIST])
async def test_a_route_that_is_refused_is_named_and_tried_again_alone(
    host: Host, clock: ManualClock, number: int
) -> None:
    host.kernel.refuse("add route 10.0.0.1/32", number)
    host.on_flush(flush(A, endpoint("b", "10.0.0.2/32")))
    assert await host.apply() == ["10.0.0.2/32 dev calib proto 3 scope link metric 1024"]
    assert len(host.routes.pending()) == 1 and "('10.0.0.1/32', 1024)" in host.routes.pending()[0]
    wait_s = host.routes.next_try_s(clock.monotonic_s())
    assert wait_s is not None and 0 < wait_s <= 1
    host.kernel.take_commands()
    clock.at_s += wait_s
    assert ROUTE_A in await host.apply()
    assert host.kernel.commands == [f"add route {ROUTE_A}"] and host.routes.pending() == []


async def test_routes_that_cannot_be_read_are_read_later(host: Host, clock: ManualClock) -> None:
    host.kernel.refuse("list routes", errno.EIO)
    host.routes.entries.refresh()
    host.on_flush(flush(A))
    assert await host.apply() == []
    clock.at_s += 1
    assert await host.apply() == [ROUTE_A]


async def test_a_stranger_on_a_workload_s_interface_goes_after_a_while_and_others_stay(
    host: Host, clock: ManualClock
) -> None:
    host.kernel.add_route("10.0.0.7/32", "calia")
    host.kernel.add_route("203.0.113.0/24", "eth0")
    host.kernel.add_route("fe80::/64", "calia", metric=256)
    host.routes.entries.refresh()
    assert "10.0.0.7/32 dev calia proto 3" in await host.apply()
    clock.at_s += STRANGER_GRACE_S
    assert await host.apply() == ["203.0.113.0/24 dev eth0 proto 3", "fe80::/64 dev calia proto 3 metric 256"]


async def test_a_route_of_ours_that_is_deleted_or_replaced_is_back_at_once(host: Host, clock: ManualClock) -> None:
    host.on_flush(flush(A))
    await host.apply()
    host.deliver()
    host.kernel.remove_route("10.0.0.1/32", 1024)
    host.deliver()
    assert host.wake.is_set() and await host.apply() == [ROUTE_A]
    host.deliver()
    clock.at_s += 2
    host.kernel.add_route("10.0.0.1/32", "calib", metric=1024)
    host.deliver()
    assert await host.apply() == [ROUTE_A]


async def test_who_fights_over_a_route_gets_one_answer_a_second(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUTE_PAUSE_S", 0.1)
    host.on_flush(flush(A))
    await host.apply()
    timers = list[tuple[float, object]]()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda pause_s, act, key: timers.append((pause_s, lambda: act(key))))
    route = next(iter(host.routes.delta.desired.values()))
    answers = 0
    for _ in range(100):
        host.routes.entries.delta.set_actual(("10.0.0.1/32", 1024), route)
        host.wake.clear()
        host.routes.on_route(RouteEvent(route, True))
        answers += host.wake.is_set()
    assert (answers, len(timers)) == (1, 1)
    host.wake.clear()
    assert isinstance(host.clock, ManualClock)
    host.clock.at_s += 0.1
    act = timers[0][1]
    assert callable(act)
    act()
    assert host.wake.is_set() and len(host.routes.delta) == 1
    host.on_flush(flush(gone=[A]))
    act()
    assert len(timers) == 1


async def test_routes_of_others_are_none_of_our_business(host: Host) -> None:
    host.on_flush(flush(A))
    await host.apply()
    host.wake.clear()
    link = host.kernel.index("calia")
    for route in (Route("10.0.0.1/32", link, table=100), Route("10.0.0.2/32", link)):
        host.routes.on_route(RouteEvent(route, True))
    assert not host.wake.is_set()


@pytest.mark.parametrize("when", ["between", "meanwhile"])
async def test_an_interface_that_goes_down_and_up_gets_its_route_again(host: Host, when: str) -> None:
    """The kernel forgets the route and reports nothing, also while the route is being written."""
    host.on_flush(flush(A))

    def bounce() -> None:
        host.kernel.set_up("calia", False)
        host.kernel.set_up("calia", True)
        host.deliver()

    if when == "meanwhile":
        put = host.kernel.put_route

        def put_and_bounce(route: Route, exclusive: bool = False) -> int:
            number = put(route, exclusive)
            bounce()
            return number

        host.kernel.put_route = put_and_bounce  # type: ignore[method-assign]
        assert await host.apply() == []
        host.kernel.put_route = put  # type: ignore[method-assign]
    else:
        assert await host.apply() == [ROUTE_A]
        bounce()
    assert await host.apply() == [ROUTE_A]


async def test_routes_by_way_of_a_device_that_went_down_and_up_are_read_and_written_again(host: Host) -> None:
    ways = {"10.0.2.0/26": WantedRoute("10.0.2.0/26", "same-subnet", "far", "172.16.0.2")}
    host.on_flush(flush(routes=ways, vteps=[OWN, FAR]))
    same_subnet = "10.0.2.0/26 via 172.16.0.2 dev eth0 proto 80 onlink"
    assert await host.apply() == [same_subnet]
    host.deliver()
    host.kernel.set_up("eth0", False)
    host.kernel.set_up("eth0", True)
    host.deliver()
    assert await host.apply() == [same_subnet]


async def test_figures_count_what_is_wanted(host: Host) -> None:
    host.on_flush(flush(A, endpoint("b", "10.0.0.2/32", "10.0.0.3/32")))
    assert host.routes.figures() == {"felix_routes": 3}

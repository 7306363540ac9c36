"""A pool's encapsulation changes: tunnels that go stand for a while, and new ones are used a little later."""

from __future__ import annotations

import pytest

from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.encapsulations import LINGER_S, Encapsulations
from calico_felix.dataplane.loop import Dataplane
from calico_felix.dataplane.manager import Context
from calico_felix.dataplane.switching import SWITCH_S
from libcalico.calc.messages import Flush, Pools
from libcalico.calc.messages import Route as WantedRoute
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import flush, node, vtep
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

OWN = vtep("here", "10.0.1.0", "66:00:00:00:00:01", "172.16.0.1")
FAR = vtep("far", "10.0.2.0", "66:00:00:00:00:02", "172.16.0.2")
HOSTS = {"here": node("172.16.0.1", ipip="10.0.1.1"), "far": node("172.16.0.2")}
Wanted = tuple[frozenset[int], tuple[str, ...]]
BOTH = frozenset((4, 6))
BLOCK = "10.0.2.0/26"
VXLAN, IPIP, PLAIN = Pools(vxlan=frozenset((4,))), Pools(ipip=("p",)), Pools()
BY_VXLAN = f"{BLOCK} via 10.0.2.0 dev vxlan.calico proto 3 mtu 1450 onlink"
BY_IPIP = f"{BLOCK} via 172.16.0.2 dev tunl0 proto 80 mtu 1480 onlink"
DIRECT = f"{BLOCK} via 172.16.0.2 dev eth0 proto 80 onlink"


def to_far(kind: str) -> dict[str, WantedRoute]:
    return {BLOCK: WantedRoute(BLOCK, kind, "far", "172.16.0.2")}


class Host:
    """A dataplane over a kernel."""

    def __init__(self, dataplane: Dataplane, kernel: FakeKernel, clock: ManualClock) -> None:
        self.dataplane, self.kernel, self.clock = dataplane, kernel, clock

    async def take(self, changes: Flush | None = None, after_s: float = 0.0) -> str:
        """A flush, or nothing, some time later; the route to the other host's block then, empty when there is none."""
        self.clock.at_s += after_s
        if changes is not None:
            self.dataplane.on_flush(changes)
        await self.dataplane.apply()
        return next((line for line in self.kernel.show("routes").splitlines() if line.startswith(BLOCK)), "")

    def has(self, device: str) -> bool:
        """Is there this device?"""
        return bool(self.kernel.index(device))


@pytest.fixture
async def host(context: Context, kernel: FakeKernel, clock: ManualClock) -> Host:
    made = Dataplane(context.config, clock, context.handles)
    await made.open()
    return Host(made, kernel, clock)


async def test_from_vxlan_to_ipip_the_new_tunnel_is_used_later_and_the_old_one_stands_longer(host: Host) -> None:
    assert await host.take(flush(pools=VXLAN, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("vxlan"))) == BY_VXLAN
    gone = flush(pools=IPIP, vteps_gone=[OWN, FAR], routes=to_far("ipip"))
    assert await host.take(gone) == BY_VXLAN and host.has("tunl0")
    assert await host.take(after_s=SWITCH_S - 0.1) == BY_VXLAN
    assert await host.take(after_s=0.1) == BY_IPIP
    rules = host.kernel.show("nft")
    assert host.has("vxlan.calico") and "172.16.0.2" in host.kernel.show("neighbours")
    assert "udp dport 4789" in rules and "ip saddr @all-hosts-net-4" in rules
    assert await host.take(after_s=LINGER_S - SWITCH_S - 0.1) == BY_IPIP and host.has("vxlan.calico")
    assert await host.take(after_s=0.1) == BY_IPIP and not host.has("vxlan.calico")
    assert "udp dport 4789 notrack" not in host.kernel.show("nft")


async def test_from_ipip_to_vxlan_the_other_end_may_come_late(host: Host) -> None:
    assert await host.take(flush(pools=IPIP, hosts=HOSTS, routes=to_far("ipip"))) == BY_IPIP
    assert await host.take(flush(pools=VXLAN, vteps=[OWN], routes=to_far("vxlan"))) == BY_IPIP
    assert await host.take(after_s=3.0) == BY_IPIP and host.has("vxlan.calico")
    assert await host.take(flush(vteps=[FAR])) == BY_IPIP
    assert await host.take(after_s=SWITCH_S) == BY_VXLAN
    assert await host.take(after_s=LINGER_S) == BY_VXLAN
    assert "tunl0" not in host.kernel.show("addresses"), "the device itself is the kernel's for ever"


async def test_a_way_without_a_tunnel_is_taken_at_once_and_the_tunnel_stands_for_the_others(host: Host) -> None:
    await host.take(flush(pools=VXLAN, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("vxlan")))
    assert await host.take(flush(pools=PLAIN, routes=to_far("same-subnet"))) == DIRECT
    assert host.has("vxlan.calico")
    assert await host.take(flush(pools=VXLAN, routes=to_far("vxlan")), after_s=5.0) == DIRECT
    assert await host.take(after_s=SWITCH_S) == BY_VXLAN
    assert await host.take(after_s=LINGER_S) == BY_VXLAN and host.has("vxlan.calico"), "it is wanted again"


async def test_cross_subnet_to_always_and_back(host: Host) -> None:
    assert await host.take(flush(pools=VXLAN, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("same-subnet"))) == DIRECT
    assert await host.take(flush(routes=to_far("vxlan"))) == DIRECT
    assert await host.take(after_s=SWITCH_S) == BY_VXLAN
    assert await host.take(flush(routes=to_far("same-subnet"))) == DIRECT


async def test_a_node_that_loses_its_end_has_no_route(host: Host) -> None:
    await host.take(flush(pools=VXLAN, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("vxlan")))
    assert await host.take(flush(vteps_gone=[FAR])) == ""


async def test_a_way_that_never_comes_is_not_waited_for_forever(host: Host) -> None:
    await host.take(flush(pools=PLAIN, hosts=HOSTS, routes=to_far("same-subnet")))
    assert await host.take(flush(pools=VXLAN, vteps=[OWN], routes=to_far("vxlan"))) == DIRECT
    assert await host.take(after_s=LINGER_S - 0.1) == DIRECT
    assert await host.take(after_s=0.2) == ""


async def test_a_destination_that_goes_does_so_at_once(host: Host) -> None:
    await host.take(flush(pools=VXLAN, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("vxlan")))
    await host.take(flush(pools=IPIP, routes=to_far("ipip")))
    assert await host.take(flush(routes={BLOCK: None})) == ""
    assert await host.take(flush(routes=to_far("ipip"))) == BY_IPIP, "and a new one takes its way at once"


async def test_what_a_tunnel_lacks_on_this_node_is_named_with_who_makes_it(host: Host) -> None:
    await host.take(flush(pools=VXLAN._replace(ipip=("p",)), hosts={"here": node("172.16.0.1")}))
    vxlan, ipip = sorted(host.dataplane.encapsulations.pending(), reverse=True)
    assert vxlan.startswith("device vxlan.calico: node here has no spec.ipv4VXLANTunnelAddr: `calico-node -allocate")
    assert ipip.startswith("device tunl0: node here has no spec.bgp.ipv4IPIPTunnelAddr: `calico-node -allocate")
    assert set(host.dataplane.pending()) >= {vxlan, ipip} and host.dataplane.failing() == []
    await host.take(flush(vteps=[OWN], hosts=HOSTS))
    assert host.dataplane.encapsulations.pending() == []


@pytest.mark.parametrize(
    ("vxlan", "ipip", "pools", "wanted"),
    [
        (None, None, Pools(vxlan=frozenset((4, 6)), ipip=("p",)), (BOTH, ("p",))),
        (True, True, Pools(), (frozenset({4}), ("FelixConfiguration",))),
        (True, True, Pools(vxlan=frozenset((6,)), ipip=("p",)), (BOTH, ("p",))),
        (False, False, Pools(vxlan=frozenset((4, 6)), ipip=("p",)), (frozenset(), ())),
    ],
)
def test_settings_force_tunnels_on_and_off(
    context: Context,
    vxlan: bool | None,
    ipip: bool | None,
    pools: Pools,
    wanted: tuple[frozenset[int], tuple[str, ...]],
) -> None:
    config = DataplaneConfig("here", context.config.nft, vxlan_enabled=vxlan, ipip_enabled=ipip)
    seen = Encapsulations(context._replace(config=config), lambda _flush: None).admit(flush(pools=pools)).pools
    assert seen is not None and (seen.vxlan, seen.ipip) == wanted


async def test_an_ipip_device_that_is_refused_stops_nothing_else(host: Host) -> None:
    host.kernel.refuse("create link tunl0", 95)
    other = {"10.0.3.0/26": WantedRoute("10.0.3.0/26", "vxlan", "far", "172.16.0.2")}
    both = VXLAN._replace(ipip=("p",), networks=frozenset({"10.0.0.0/16"}))
    assert await host.take(flush(pools=both, vteps=[OWN, FAR], hosts=HOSTS, routes=to_far("ipip") | other)) == ""
    assert "10.0.3.0/26 via 10.0.2.0 dev vxlan.calico" in host.kernel.show("routes")
    assert "10.0.0.0/16" in host.kernel.show("nft") and len(host.dataplane.failing()) == 1

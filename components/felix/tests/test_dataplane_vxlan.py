"""VXLAN devices and the entries that lead through them: what is wanted, and what a kernel holds then."""

from __future__ import annotations

import errno

import pytest

from calico_felix.dataplane.manager import Context
from calico_felix.dataplane.vxlan import DEVICE_RETRY_S
from calico_felix.testing_tunnels import Tunnels
from libcalico.calc.messages import Pools
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.objects import Neighbour, VxlanAttributes
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import flush, vtep
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

MAC, MAC_A, MAC_B = "66:00:00:00:00:01", "66:00:00:00:00:0a", "66:00:00:00:00:0b"
OWN = vtep("here", "10.0.1.0", MAC, "172.16.0.1")
A, B = vtep("a", "10.0.2.0", MAC_A, "172.16.0.2"), vtep("b", "10.0.3.0", MAC_B, "198.51.100.3")
OWN_V6, A_V6 = vtep("here", "fd00::1", MAC, "2001:db8::1"), vtep("a", "fd00::2", MAC_A, "2001:db8::2")
DEVICE = f"vxlan.calico up mtu 1450 mac {MAC} vxlan 4096 port 4789 local 172.16.0.1 dev eth0"
WAY_TO_A = [f"10.0.2.0 dev vxlan.calico lladdr {MAC_A}", f"fdb {MAC_A} dst 172.16.0.2 dev vxlan.calico"]


class Host(Tunnels):
    """Tunnels over a kernel."""

    def __init__(self, context: Context, kernel: FakeKernel) -> None:
        super().__init__(context)
        self.kernel = kernel

    async def apply(self) -> None:
        """One round."""
        await self.apply_all()

    def links(self) -> list[str]:
        """The links beside the host's own."""
        return [line for line in self.kernel.show("links").splitlines() if not line.startswith("eth")]

    def neighbours(self) -> list[str]:
        """All entries."""
        return self.kernel.show("neighbours").splitlines()


@pytest.fixture
def host(context: Context, kernel: FakeKernel) -> Host:
    return Host(context, kernel)


async def test_without_a_tunnel_address_there_is_no_device(host: Host) -> None:
    host.on_flush(flush(vteps=[A]))
    await host.apply()
    assert (host.links(), host.neighbours(), host.kernel.commands) == ([], [], [])
    assert host.ways.plan_route(WantedRoute("10.0.2.0/26", "vxlan", "a")) is None


async def test_the_device_and_the_ways_to_other_hosts_are_made_once(host: Host) -> None:
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    assert host.links() == [DEVICE]
    assert host.neighbours() == WAY_TO_A
    assert "vxlan.calico 10.0.1.0/32" in host.kernel.show("addresses")
    host.kernel.take_commands()
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    assert host.kernel.commands == []
    assert host.ways.mtus() == {"vxlan.calico": 1450, "vxlan-v6.calico": 0}


async def test_both_families_have_a_device_each(host: Host) -> None:
    host.kernel.add_address("eth0", "2001:db8::1/64")
    host.on_flush(flush(vteps=[OWN, OWN_V6, A_V6]))
    await host.apply()
    assert host.links()[1] == f"vxlan-v6.calico up mtu 1430 mac {MAC} vxlan 4096 port 4789 local 2001:db8::1 dev eth0"
    assert "vxlan-v6.calico fd00::1/128" in host.kernel.show("addresses")
    assert host.neighbours() == [
        f"fd00::2 dev vxlan-v6.calico lladdr {MAC_A}", f"fdb {MAC_A} dst 2001:db8::2 dev vxlan-v6.calico",
    ]  # fmt: skip


async def test_a_vni_that_another_program_s_device_has_is_named_and_taken_when_it_is_free(
    host: Host, clock: ManualClock
) -> None:
    host.kernel.rtnl().ensure_vxlan("vtep1024", VxlanAttributes(4096, 4789, "172.16.0.1", 0), MAC_B, 1400)
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    (problem,) = host.pending()
    assert "VNI 4096 on UDP port 4789 is that of device vtep1024, which is another program's" in problem
    assert "set another vxlanVNI or vxlanPort (FELIX_VXLANVNI, FELIX_VXLANPORT) on all nodes, or remove" in problem
    assert host.ways.plan_route(WantedRoute("10.0.2.0/26", "vxlan", "a")) is None
    host.kernel.remove_link("vtep1024")
    clock.at_s += DEVICE_RETRY_S
    await host.apply()
    assert (host.links(), host.neighbours(), host.pending()) == ([DEVICE], WAY_TO_A, [])


async def test_another_device_on_the_same_port_stays_with_all_that_it_has(host: Host) -> None:
    theirs = host.kernel.rtnl().ensure_vxlan("vtep1024", VxlanAttributes(1024, 4789, "172.16.0.1", 0), MAC_B, 1400)
    host.kernel.rtnl().apply_neighbours([], [Neighbour(theirs.ifindex, "172.16.0.2", MAC_B, fdb=True)])
    before = host.links(), host.neighbours()
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    host.on_flush(flush(vteps_gone=[OWN, A]))
    await host.apply()
    assert (host.links(), host.neighbours()) == before


async def test_an_underlay_that_is_too_narrow_for_ipv6_is_named(host: Host) -> None:
    narrow = host.kernel.links[host.kernel.index("eth0")]._replace(mtu=1349)
    host.kernel.put_link(narrow)
    host.kernel.add_address("eth0", "2001:db8::1/64")
    host.on_flush(flush(vteps=[OWN_V6, A_V6]))
    await host.apply()
    assert host.links() == []
    assert host.pending() == [
        "device vxlan-v6.calico: make device vxlan-v6.calico: its MTU would be 1279, and IPv6 needs 1280: eth0 has "
        "1349, which must be at least 1350, or pools of IPv6 must have vxlanMode Never"
    ]


async def test_ipv6_has_a_setting_of_its_own(context: Context, kernel: FakeKernel) -> None:
    kernel.add_address("eth0", "2001:db8::1/64")
    host = Host(context._replace(config=context.config._replace(vxlan_mtu=1300, vxlan_mtu_v6=1400)), kernel)
    host.on_flush(flush(vteps=[OWN, OWN_V6]))
    await host.apply()
    assert host.ways.mtus() == {"vxlan.calico": 1300, "vxlan-v6.calico": 1400}


async def test_of_two_nodes_with_one_tunnel_address_the_other_s_entry_outlives_the_first(host: Host) -> None:
    twin = B._replace(address=A.address)
    host.on_flush(flush(vteps=[OWN, A, twin]))
    await host.apply()
    assert host.neighbours()[0] == f"10.0.2.0 dev vxlan.calico lladdr {MAC_A}"
    host.on_flush(flush(vteps_gone=[A]))
    await host.apply()
    assert host.neighbours() == [
        f"10.0.2.0 dev vxlan.calico lladdr {MAC_B}", f"fdb {MAC_B} dst 198.51.100.3 dev vxlan.calico",
    ]  # fmt: skip


async def test_a_host_that_loses_its_tunnel_address_loses_the_device(host: Host) -> None:
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    before = host.ways.generation
    host.on_flush(flush(vteps_gone=[OWN]))
    await host.apply()
    assert (host.links(), host.neighbours()) == ([], [])
    assert "vxlan.calico" not in host.interfaces.links and host.ways.generation > before
    assert host.next_try_s() is not None  # that of A may still lead somewhere
    host.on_flush(flush(vteps_gone=[A], pools=Pools()))
    await host.apply()
    assert host.next_try_s() is None


async def test_a_node_s_address_that_no_interface_has_is_waited_for(host: Host, clock: ManualClock) -> None:
    host.kernel.remove_address("eth0", "172.16.0.1/24")
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    assert host.pending() == ["underlay of IPv4: no interface has this node's address 172.16.0.1"]
    assert host.next_try_s() == DEVICE_RETRY_S
    host.kernel.add_address("eth0", "172.16.0.1/24")
    clock.at_s += DEVICE_RETRY_S
    await host.apply()
    assert (host.links(), host.pending()) == ([DEVICE], [])
    assert host.neighbours() == WAY_TO_A


async def test_an_address_on_lo_takes_the_narrowest_way_to_others(host: Host) -> None:
    kernel = host.kernel
    kernel.add_link("bond1", mtu=1400)
    kernel.add_address("lo", "203.0.113.1/32")
    kernel.add_route("198.51.100.0/24", "bond1")
    host.on_flush(flush(vteps=[OWN._replace(parent="203.0.113.1"), A, B]))
    await host.apply()
    assert host.links()[1:] == [f"vxlan.calico up mtu 1350 mac {MAC} vxlan 4096 port 4789 local 203.0.113.1"]
    host.on_flush(flush(vteps_gone=[A, B], hosts={"a": None, "b": None}))
    await host.apply()
    assert host.ways.mtus()["vxlan.calico"] == 1450, "without others it is the default route's"


async def test_an_address_on_lo_without_a_way_to_others_is_named(host: Host) -> None:
    host.kernel.add_address("lo", "203.0.113.1/32")
    host.kernel.remove_route("0.0.0.0/0")
    host.on_flush(flush(vteps=[OWN._replace(parent="203.0.113.1")]))
    await host.apply()
    assert host.pending() == [
        "underlay of IPv4: this node's address 203.0.113.1 is on lo, and no route leads to other nodes"
    ]


async def test_entries_that_are_refused_are_named_and_tried_again_alone(host: Host, clock: ManualClock) -> None:
    host.kernel.refuse(f"neighbour fdb {MAC_A}", errno.EBUSY)
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    assert host.neighbours() == WAY_TO_A[:1]
    assert [line.partition(": ")[2] for line in host.pending()] == [
        "program neighbour: Device or resource busy"
    ]  # fmt: skip
    host.kernel.take_commands()
    clock.at_s += 1
    await host.apply()
    assert host.kernel.commands == [f"add neighbour {WAY_TO_A[1]}"]
    assert host.pending() == []


@pytest.mark.parametrize("name", ["eth0", "vxlan.calico"])
async def test_what_the_kernel_forgets_with_a_device_is_written_again(
    host: Host, clock: ManualClock, name: str
) -> None:
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    index = host.kernel.index(name)
    assert host.ways.uses(index)
    host.kernel.neighbours.clear()
    host.on_forgotten(host.kernel.index("lo"))
    await host.apply()
    assert host.neighbours() == [], "another device is none of its business"
    host.on_forgotten(index)
    await host.apply()
    assert host.neighbours() == WAY_TO_A


async def test_a_device_that_another_process_deletes_is_made_again(host: Host, clock: ManualClock) -> None:
    host.on_flush(flush(vteps=[OWN, A]))
    await host.apply()
    before = host.ways.generation
    host.kernel.remove_link("vxlan.calico")
    clock.at_s += 10
    await host.apply()
    assert (host.links(), host.neighbours()) == ([DEVICE], WAY_TO_A)
    assert host.ways.generation > before, "routes must be planned for the new one"


async def test_routes_go_the_way_that_their_kind_says(host: Host) -> None:
    host.kernel.add_address("eth0", "2001:db8::1/64")
    host.on_flush(flush(vteps=[OWN, A, OWN_V6, A_V6]))
    await host.apply()
    wanted = [
        WantedRoute("10.0.2.0/26", "vxlan", "a"), WantedRoute("10.0.2.0/32", "vxlan-direct", "a"),
        WantedRoute("10.0.4.0/26", "same-subnet", "a", "172.16.0.2"), WantedRoute("10.0.1.0/26", "blackhole"),
        WantedRoute("fd00:0:0:2::/122", "vxlan", "a"), WantedRoute("fd00:0:0:1::/122", "blackhole"),
        WantedRoute("10.0.9.0/26", "vxlan", "nobody"),
    ]  # fmt: skip
    planned = [host.ways.plan_route(one) for one in wanted]
    assert [host.kernel.route_line(one) if one else None for one in planned] == [
        "10.0.2.0/26 via 10.0.2.0 dev vxlan.calico proto 3 mtu 1450 onlink",
        "10.0.2.0/32 dev vxlan.calico proto 3 scope link mtu 1450",
        "10.0.4.0/26 via 172.16.0.2 dev eth0 proto 80 onlink",
        "blackhole 10.0.1.0/26 proto 80",
        "fd00:0:0:2::/122 via fd00::2 dev vxlan-v6.calico proto 3 metric 1024 mtu 1430 onlink",
        "blackhole fd00:0:0:1::/122 dev lo proto 80 metric 1024",
        None,
    ]

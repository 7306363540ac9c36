"""Typed operations of route netlink over the fake kernel, which prints what they have made of it."""

from __future__ import annotations

import errno

import pytest

from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import LinkEvent
from libcalico.kernel.objects import Address, Neighbour, Route, VxlanAttributes
from libcalico.testing.kernel import FakeKernel

VXLAN = VxlanAttributes(4096, 4789, "192.0.2.1", 2)
MAC = "66:00:00:00:00:01"


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.add_link("eth0")
    made.add_address("eth0", "192.0.2.1/24")
    made.take_events()
    return made


def test_links_are_read_with_all_that_the_kernel_reports(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    assert [link.name for link in rtnl.links()] == ["lo", "eth0"]
    link = rtnl.link("eth0")
    assert link is not None and link.up and link.mtu == 1500 and link.setting("ipv4", "forwarding") == 0
    assert rtnl.link("eth9") is None
    assert (rtnl.index("eth0"), rtnl.index("eth9")) == (2, 0)
    assert rtnl.has_index(2) and not rtnl.has_index(9)


def test_a_vxlan_device_is_made_once_and_again_when_it_differs(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    rtnl.ensure_vxlan("vxlan.calico", VXLAN, MAC, 1450)
    assert kernel.show("links").splitlines()[1] == (
        f"vxlan.calico up mtu 1450 mac {MAC} vxlan 4096 port 4789 local 192.0.2.1 dev eth0"
    )
    kernel.take_commands()
    rtnl.ensure_vxlan("vxlan.calico", VXLAN, MAC, 1450)
    assert kernel.take_commands() == []
    rtnl.ensure_vxlan("vxlan.calico", VXLAN._replace(vni=1), MAC, 1400)
    assert kernel.take_commands() == ["delete link vxlan.calico", "create link vxlan.calico", "set link vxlan.calico"]


def test_a_device_has_exactly_the_addresses_that_it_is_given(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    assert rtnl.ensure_only_address(2, ["10.9.0.1/32"])
    assert kernel.show("addresses") == "eth0 10.9.0.1/32\n"
    assert not rtnl.ensure_only_address(2, ["10.9.0.1/32"])
    assert not rtnl.delete_address(Address(2, "10.9.0.2/32"))
    with pytest.raises(KernelError, match="add address"):
        rtnl.replace_address(Address(9, "10.9.0.1/32"))


def test_routes_are_written_many_at_once_and_one_failure_stops_no_other(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    good, bad = Route("10.0.0.1/32", 2, scope=253, metric=1024), Route("10.0.0.2/32", 9)
    unreachable = Route("10.0.0.3/32", 2, "198.51.100.1")
    failed = rtnl.apply_routes([Route("10.0.0.9/32", 2)], [good, bad, unreachable])
    assert {route.destination: error.errno for route, error in failed.items()} == {
        "10.0.0.2/32": errno.ENODEV, "10.0.0.3/32": errno.ENETUNREACH,
    }  # fmt: skip
    assert kernel.show("routes") == "10.0.0.1/32 dev eth0 proto 3 scope link metric 1024\n"
    with pytest.raises(KernelError) as refused:
        rtnl.create_route(good)
    assert refused.value.errno == errno.EEXIST
    assert rtnl.routes(2, device=2) == [good]
    assert rtnl.delete_route(good) and not rtnl.delete_route(good)


def test_the_way_to_an_address_is_the_narrowest(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    kernel.add_link("eth1")
    rtnl.replace_route(Route("0.0.0.0/0", 3))
    assert (rtnl.device_to("192.0.2.7"), rtnl.device_to("203.0.113.1"), rtnl.device_to("2001:db8::1")) == (2, 3, 0)


def test_neighbours_are_kept_with_the_mac_that_they_have(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    kept = [Neighbour(2, address, "", learned=True) for address in ("10.0.0.1", "10.0.0.2")]
    rtnl.replace_neighbour(Neighbour(2, "10.0.0.1", MAC))
    assert rtnl.keep_neighbours([], kept) == {}
    assert rtnl.keep_neighbours([], kept) == {}
    assert kernel.show("neighbours") == f"10.0.0.1 dev eth0 lladdr {MAC} learned\n10.0.0.2 dev eth0 learned\n"
    gone = Neighbour(9, "10.0.0.3", "", learned=True)
    assert [error.errno for error in rtnl.keep_neighbours([], [gone]).values()] == [errno.ENODEV]
    assert rtnl.keep_neighbours(kept[1:], []) == {}
    assert len(rtnl.neighbours(2, 2)) == 1


def test_what_goes_with_a_link_that_goes_down_is_not_reported(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    rtnl.replace_route(Route("10.0.0.1/32", 2))
    kernel.take_events()
    kernel.set_up("eth0", False)
    assert kernel.show("routes") == ""
    assert [type(event) for event in kernel.take_events()] == [LinkEvent]
    assert [error.errno for error in rtnl.apply_routes([], [Route("10.0.0.1/32", 2)]).values()] == [errno.ENETDOWN]


def test_a_test_refuses_what_it_names_as_often_as_it_says(kernel: FakeKernel) -> None:
    kernel.refuse("delete link eth0", errno.EBUSY, times=2)
    rtnl = kernel.rtnl()
    for _ in range(2):
        with pytest.raises(KernelError, match="busy"):
            rtnl.delete_link("eth0")
    assert rtnl.delete_link("eth0") and not rtnl.delete_link("eth0")
    kernel.refuse("list links", errno.EIO)
    with pytest.raises(KernelError, match="list links"):
        rtnl.links()


def test_requests_together_are_all_tried_and_the_first_error_is_raised(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    with pytest.raises(KernelError, match="add address"), rtnl.together():
        rtnl.replace_address(Address(9, "10.0.0.1/32"))
        rtnl.replace_address(Address(2, "10.0.0.2/32"))
    assert "eth0 10.0.0.2/32" in kernel.show("addresses")


def test_a_pair_is_made_and_set_up_and_everything_is_printed(kernel: FakeKernel) -> None:
    rtnl = kernel.rtnl()
    rtnl.create_veth("cali1", "eth0", mac=MAC)
    rtnl.set_link(3, up=True, mtu=1400)
    kernel.sysctl().write("net/ipv4/conf/cali1/proxy_arp", 1)
    kernel.add_flow("10.0.0.1", "10.0.0.2")
    kernel.nft.run("add table inet calico\nadd chain inet calico c { type filter hook forward priority 0; }")
    link = rtnl.link("cali1")
    assert link is not None and (link.setting("ipv4", "proxy_arp"), link.setting("ipv6", "accept_ra")) == (1, 1)
    assert kernel.show("links", "flows", "nft", "routes") == (
        "links\n  eth0 up mtu 1500\n  cali1 up mtu 1400 mac 66:00:00:00:00:01\n"
        "flows\n  10.0.0.1 > 10.0.0.2\n"
        "nft\n  table inet calico\n    chain c { type filter hook forward priority 0; }\n"
    )
    assert rtnl.delete_index(3) and "cali1" not in kernel.show()

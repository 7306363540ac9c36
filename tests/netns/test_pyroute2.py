"""pyroute2, a netlink codec that is not ours, as oracle: what ours writes it reads, and what it writes ours reads."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import NetNS

from libcalico.kernel import objects
from libcalico.kernel.objects import Address, Neighbour, Route, VxlanAttributes
from libcalico.kernel.rtnl import Rtnl
from tests.netns.spaces import Space

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

MAC, OTHER_MAC = "ee:ee:ee:ee:ee:ee", "66:00:00:00:00:01"
UNICAST, BLACKHOLE = 1, 6
LINK_SCOPE, BIRD = 253, 12
PERMANENT = 0x80
LOCAL_TABLE = 255
VXLAN = VxlanAttributes(4096, 4789, "10.0.0.1", 0)


@pytest.fixture
def ours(host: Space) -> Iterator[Rtnl]:
    """Our codec in the namespace."""
    with Rtnl(host.path) as rtnl:
        yield rtnl


@pytest.fixture
def theirs(host: Space) -> Iterator[Any]:
    """pyroute2 in the same."""
    with NetNS(host.name) as made:
        yield made


def near(ours: Rtnl, up: bool = True) -> int:
    """A veth pair, up; the index of its near end."""
    ours.create_veth("cali0", "peer0", mac=MAC, mtu=1410)
    for name in ("cali0", "peer0"):
        ours.set_link(ours.index(name), up=up)
    return ours.index("cali0")


def attributes(message: Any) -> dict[str, Any]:
    """Of one of pyroute2's messages."""
    return dict(message["attrs"])


def test_links_that_we_write(ours: Rtnl, theirs: Any) -> None:
    index = near(ours)
    ours.set_link(index, ipv4={"proxy_arp": 1})
    ours.ensure_vxlan("vxlan.calico", VXLAN, OTHER_MAC, 1400)
    (veth,) = theirs.get_links(index)
    found = attributes(veth)
    assert (veth["index"], veth["flags"] & 1, veth["state"]) == (index, 1, "up")
    assert (found["IFLA_IFNAME"], found["IFLA_ADDRESS"], found["IFLA_MTU"]) == ("cali0", MAC, 1410)
    assert found["IFLA_LINK"] == ours.index("peer0")
    assert attributes(found["IFLA_LINKINFO"])["IFLA_INFO_KIND"] == "veth"
    assert dict(attributes(found["IFLA_AF_SPEC"])["AF_INET"])["proxy_arp"] == 1
    (vxlan,) = theirs.get_links(ifname="vxlan.calico")
    found = attributes(vxlan)
    details = attributes(attributes(found["IFLA_LINKINFO"])["IFLA_INFO_DATA"])
    assert (found["IFLA_ADDRESS"], found["IFLA_MTU"], vxlan["state"]) == (OTHER_MAC, 1400, "up")
    assert [details[f"IFLA_VXLAN_{name}"] for name in ("ID", "PORT", "LOCAL", "LEARNING")] == [
        4096, 4789, "10.0.0.1", 0,
    ]  # fmt: skip


def test_links_that_it_writes(ours: Rtnl, theirs: Any) -> None:
    theirs.link("add", ifname="cali1", kind="veth", peer={"ifname": "peer1"}, address=MAC, mtu=1300)
    theirs.link("set", index=theirs.link_lookup(ifname="cali1")[0], state="up")
    theirs.link("add", ifname="vx", kind="vxlan", vxlan_id=7, vxlan_port=4790, vxlan_local="10.0.0.9",
                vxlan_learning=False, address=OTHER_MAC)  # fmt: skip
    link = ours.link("cali1")
    assert link is not None
    assert (link.kind, link.mac, link.mtu, link.up) == ("veth", MAC, 1300, True)
    assert link.lower == ours.index("peer1") == theirs.link_lookup(ifname="peer1")[0]
    vxlan = ours.link("vx")
    assert vxlan is not None and vxlan.vxlan == VxlanAttributes(7, 4790, "10.0.0.9", 0)
    assert (vxlan.mac, vxlan.up) == (OTHER_MAC, False)
    assert {found.name for found in ours.links()} == {attributes(found)["IFLA_IFNAME"] for found in theirs.get_links()}


@pytest.mark.parametrize("cidr", ["10.1.0.1/24", "10.1.0.1/32", "fd00:1::1/64", "fd00:1::1/128"])
def test_addresses(ours: Rtnl, theirs: Any, cidr: str) -> None:
    """The same address is written by each, read by the other, and taken away by the one that did not write it."""
    index, (address, _, length) = near(ours), cidr.partition("/")
    family = objects.family_of(address)
    ours.replace_address(Address(index, cidr))
    assert seen_addresses(theirs, index, family, cidr) == {(address, int(length))}
    theirs.addr("delete", index=index, address=address, prefixlen=int(length))
    assert cidr not in {one.cidr for one in ours.addresses(index)}
    theirs.addr("add", index=index, address=address, prefixlen=int(length))
    assert cidr in {one.cidr for one in ours.addresses(index, family)}
    assert ours.delete_address(Address(index, cidr))
    assert seen_addresses(theirs, index, family, cidr) == set()


def seen_addresses(theirs: Any, index: int, family: int, cidr: str) -> set[tuple[str, int]]:
    """Addresses of an interface but the link-local ones."""
    found = [(attributes(one)["IFA_ADDRESS"], one["prefixlen"]) for one in theirs.get_addr(family=family, index=index)]
    return {one for one in found if not str(one[0]).startswith("fe80")}


def our_routes(index: int) -> list[Route]:
    """One of every shape that the agent and the plug-in write."""
    return [
        Route("10.2.0.1/32", index, scope=LINK_SCOPE),
        Route("10.2.1.0/24", index, gateway="10.1.0.2", protocol=80, metric=1024),
        Route("10.2.2.0/26", index, gateway="10.9.9.9", onlink=True, protocol=80),
        Route("10.2.3.0/24", index, scope=LINK_SCOPE, source="10.1.0.1", mtu=1380, table=1234),
        Route("10.2.4.0/26", type=BLACKHOLE, protocol=80),
        Route("fd00:2::/64", index, gateway="fd00:1::2", metric=100, protocol=BIRD),
        Route("fd00:2::1/128", index, metric=1024),
    ]


def shape(message: Any) -> tuple[Any, ...]:
    """A route of pyroute2 in the order of `Route`'s fields."""
    found = attributes(message)
    none = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
    metrics = dict(attributes(found["RTA_METRICS"])) if "RTA_METRICS" in found else {}
    return (
        f"{found.get('RTA_DST', none)}/{message['dst_len']}", found.get("RTA_OIF", 0), found.get("RTA_GATEWAY", ""),
        message["scope"], message["proto"], found.get("RTA_PRIORITY", 0), message["type"], found["RTA_TABLE"],
        bool(message["flags"] & 4), metrics.get("RTAX_MTU", 0), found.get("RTA_PREFSRC", ""),
    )  # fmt: skip


def both_lists(ours: Rtnl, theirs: Any) -> tuple[set[Any], set[Any]]:
    """All routes of all tables, as each of the two reads them, without those that the kernel adds by itself."""
    families = (socket.AF_INET, socket.AF_INET6)
    read = {tuple(route) for family in families for route in ours.routes(family, table=0)}
    seen = {shape(route) for family in families for route in theirs.get_routes(family=family)}
    own = {one for one in read | seen if one[7] == LOCAL_TABLE or str(one[0]).startswith("fe80")}
    return read - own, seen - own


def test_routes_that_we_write(ours: Rtnl, theirs: Any) -> None:
    index = near(ours)
    for cidr in ("10.1.0.1/24", "fd00:1::1/64"):
        ours.replace_address(Address(index, cidr))
    wanted = our_routes(index)
    assert ours.apply_routes((), wanted) == {}
    read, seen = both_lists(ours, theirs)
    assert read == seen
    assert {tuple(route) for route in wanted if route.type != BLACKHOLE} <= seen
    assert [one[6] for one in seen if one[0] == "10.2.4.0/26"] == [BLACKHOLE]
    assert ours.apply_routes(wanted, ()) == {}
    assert not {route.destination for route in wanted} & {one[0] for one in both_lists(ours, theirs)[1]}


def test_routes_that_it_writes(ours: Rtnl, theirs: Any) -> None:
    index = near(ours)
    for cidr in ("10.1.0.1/24", "fd00:1::1/64"):
        ours.replace_address(Address(index, cidr))
    theirs.route("add", dst="10.3.0.0/24", gateway="10.1.0.9", oif=index, proto=BIRD, priority=32)
    theirs.route("add", dst="10.3.1.0/24", oif=index, scope=LINK_SCOPE, table=5000, metrics={"mtu": 1400})
    theirs.route("add", dst="default", gateway="10.1.0.9", oif=index)
    theirs.route("add", dst="10.3.2.0/24", type="unreachable")
    theirs.route("add", dst="fd00:3::/64", gateway="fd00:1::9", oif=index, priority=7)
    read, seen = both_lists(ours, theirs)
    assert read == seen
    assert {"10.3.0.0/24", "10.3.1.0/24", "0.0.0.0/0", "10.3.2.0/24", "fd00:3::/64"} <= {one[0] for one in read}


def neighbours(theirs: Any, index: int, family: int) -> set[tuple[str, str, int]]:
    """(address, MAC, state) of entries that have a MAC and stay."""
    found = [(attributes(one), one["state"]) for one in theirs.get_neighbours(family=family, ifindex=index)]
    return {(one["NDA_DST"], one["NDA_LLADDR"], state) for one, state in found
            if "NDA_DST" in one and "NDA_LLADDR" in one and state & PERMANENT}  # fmt: skip


def test_neighbours(ours: Rtnl, theirs: Any) -> None:
    index = near(ours)
    wanted = [Neighbour(index, "10.1.0.7", OTHER_MAC), Neighbour(index, "fd00:1::7", OTHER_MAC)]
    assert ours.apply_neighbours((), wanted) == {}
    for entry in wanted:
        family = objects.family_of(entry.address)
        assert neighbours(theirs, index, family) >= {(entry.address, OTHER_MAC, PERMANENT)}
    theirs.neigh("add", dst="10.1.0.8", lladdr=MAC, ifindex=index, state="permanent")
    theirs.neigh("delete", dst="10.1.0.7", lladdr=OTHER_MAC, ifindex=index)
    found = {(one.address, one.mac) for one in ours.neighbours(index, socket.AF_INET) if one.state & PERMANENT}
    assert found == {("10.1.0.8", MAC)}


def test_forwarding_entries_of_vxlan(ours: Rtnl, theirs: Any) -> None:
    index = ours.ensure_vxlan("vxlan.calico", VXLAN, OTHER_MAC, 1400).ifindex
    assert ours.apply_neighbours((), [Neighbour(index, "10.0.0.2", MAC, fdb=True)]) == {}
    assert (("10.0.0.2", MAC, PERMANENT)) in neighbours(theirs, index, socket.AF_BRIDGE)
    theirs.fdb("append", ifindex=index, lladdr="66:00:00:00:00:02", dst="10.0.0.3")
    found = {(one.address, one.mac) for one in ours.neighbours(index, objects.AF_BRIDGE) if one.fdb}
    assert {("10.0.0.2", MAC), ("10.0.0.3", "66:00:00:00:00:02")} <= found

"""The kernel room against the real kernel, each test in namespaces of its own, read back with `ip -j` and friends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from libcalico.kernel import netns, nlmsg, objects, sysctl
from libcalico.kernel.conntrack import Conntrack
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import AddressEvent, LinkEvent, Monitor, Netlink, RouteEvent
from libcalico.kernel.nft import Nft, NftError
from libcalico.kernel.nft_monitor import NftMonitor
from libcalico.kernel.objects import Address, Neighbour, Route, VxlanAttributes
from libcalico.kernel.rtnl import Rtnl
from libcalico.testing.machine import namespace_name

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]


def sh(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


class Space:
    """A throw-away namespace."""

    def __init__(self) -> None:
        self.name = namespace_name("kern")
        sh("ip", "netns", "add", self.name)
        self.path = f"/run/netns/{self.name}"
        sh("ip", "-n", self.name, "link", "set", "lo", "up")

    def ip(self, *argv: str) -> Any:
        out = sh("ip", "-n", self.name, "-j", "-d", *argv)
        return json.loads(out) if out.strip() else []

    def run(self, *argv: str, check: bool = True) -> str:
        return sh("ip", "netns", "exec", self.name, *argv, check=check)

    def close(self) -> None:
        sh("ip", "netns", "del", self.name, check=False)


@pytest.fixture
def space() -> Iterator[Space]:
    made = Space()
    yield made
    made.close()


@pytest.fixture
def far() -> Iterator[Space]:
    made = Space()
    yield made
    made.close()


def veth(rtnl: Rtnl) -> tuple[int, int]:
    """A veth pair in one namespace, both ends up."""
    rtnl.create_veth("va", "vb")
    ends = []
    for name in ("va", "vb"):
        link = rtnl.link(name)
        assert link is not None
        rtnl.set_link(link.ifindex, up=True)
        ends.append(link.ifindex)
    return ends[0], ends[1]


class TestRequests:
    def test_an_index_by_name(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            assert rtnl.index("lo") == 1
            assert rtnl.index("nobody") == 0
            assert (rtnl.has_index(1), rtnl.has_index(99)) == (True, False)

    def test_an_index_is_deleted_whoever_has_its_name_now(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            near, far = veth(rtnl)
            assert rtnl.delete_index(near)
            veth(rtnl)
            assert not rtnl.delete_index(near) and not rtnl.delete_index(far)
            assert rtnl.index("va")

    def test_together_is_in_order_and_names_the_first_that_failed(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            near, _far = veth(rtnl)
            with pytest.raises(KernelError, match=r"add route 10.1.0.0/24 via 10.9.9.9") as caught, rtnl.together():
                rtnl.replace_address(Address(near, "10.0.0.1/24"))
                rtnl.replace_route(Route("10.1.0.0/24", near, gateway="10.9.9.9"))
                rtnl.replace_route(Route("10.2.0.0/24", 999))
                rtnl.replace_route(Route("10.3.0.0/24", near, gateway="10.0.0.2"))
            assert caught.value.errno == errno.ENETUNREACH
            assert {route["dst"] for route in space.ip("route")} == {"10.0.0.0/24", "10.3.0.0/24"}
            with rtnl.together():
                pass

    def test_an_error_in_the_block_sends_nothing(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            near, _far = veth(rtnl)
            with pytest.raises(ZeroDivisionError), rtnl.together():
                rtnl.replace_address(Address(near, "10.0.0.1/24"))
                raise ZeroDivisionError
            assert rtnl.addresses(near, socket.AF_INET) == []

    def test_settings_come_with_a_link_and_go_with_it(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            near, _far = veth(rtnl)
            rtnl.set_link(near, ipv4={"proxy_arp": 1, "forwarding": 1, "route_localnet": 1})
            space.run("sysctl", "-qw", "net.ipv6.conf.va.accept_ra=0", "net.ipv4.conf.va.rp_filter=2")
            link = rtnl.link("va")
            assert link is not None
            names = ("forwarding", "proxy_arp", "rp_filter", "route_localnet")
            assert [link.setting("ipv4", name) for name in names] == [1, 1, 2, 1]
            assert [link.setting("ipv6", name) for name in ("accept_ra", "proxy_ndp")] == [0, 0]
            assert space.run("cat", "/proc/sys/net/ipv4/conf/va/proxy_arp") == "1\n"


class TestLinks:
    def test_a_veth_is_born_with_each_end_where_it_belongs(self, space: Space, far: Space) -> None:
        host = netns.open_path(space.path)
        with Rtnl(far.path) as there, Rtnl(space.path) as here:
            there.create_veth("eth0", "cali0", peer_netns=host, peer_mac="ee:ee:ee:ee:ee:ee", mtu=1400)
            near, end = here.link("cali0"), there.link("eth0")
        os.close(host)
        assert near is not None
        assert end is not None
        assert (near.mac, near.mtu, near.kind, near.up) == ("ee:ee:ee:ee:ee:ee", 1400, "veth", False)
        assert (end.mtu, end.kind) == (1400, "veth")
        assert [link["ifname"] for link in space.ip("link")] == ["lo", "cali0"]

    def test_deleting_one_end_takes_both_and_twice_is_fine(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            rtnl.create_veth("va", "vb")
            assert rtnl.delete_link("va") is True
            assert rtnl.delete_link("va") is False
            assert rtnl.link("vb") is None
            assert [link.name for link in rtnl.links()] == ["lo"]

    def test_a_refusal_names_the_operation_and_the_number(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            rtnl.create_veth("va", "vb")
            with pytest.raises(KernelError, match="create link va: ") as caught:
                rtnl.create_veth("va", "vc")
        assert caught.value.errno == 17
        assert not caught.value.gone

    def test_the_opening_thread_stays_at_home(self, space: Space) -> None:
        before = netns.identity()
        with Rtnl(space.path):
            assert netns.identity() == before

    def test_no_such_namespace(self) -> None:
        with pytest.raises(KernelError, match="/run/netns/t-kern-nowhere"):
            Rtnl("/run/netns/t-kern-nowhere")


class TestAddressesAndRoutes:
    def test_addresses_become_exactly_those_wanted(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, _ = veth(rtnl)
            rtnl.replace_address(Address(device, "10.9.0.1/24"))
            assert rtnl.ensure_only_address(device, ["10.9.0.2/32", "10.9.0.3/32"]) is True
            assert rtnl.ensure_only_address(device, ["10.9.0.2/32", "10.9.0.3/32"]) is False
            assert {address.cidr for address in rtnl.addresses(device, socket.AF_INET)} == {
                "10.9.0.2/32",
                "10.9.0.3/32",
            }
            rtnl.replace_address(Address(device, "fd00::1/128"))
            assert rtnl.ensure_only_address(device, [], socket.AF_INET6) is True
            assert all(address.cidr.startswith("fe80") for address in rtnl.addresses(device, socket.AF_INET6))

    def test_routes_read_back_as_they_were_written(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, _ = veth(rtnl)
            rtnl.replace_address(Address(device, "10.9.0.1/32"))
            wanted = {
                Route("10.1.0.1/32", device, scope=objects.RT_SCOPE_LINK, metric=1024),
                Route("10.2.0.0/26", device, gateway="192.168.7.7", onlink=True, protocol=80, mtu=1450),
                Route("10.3.0.0/26", type=objects.RTN_BLACKHOLE, protocol=80),
                Route("0.0.0.0/0", device, gateway="169.254.1.1", onlink=True, source="10.9.0.1"),
                Route("10.4.0.0/24", device, scope=objects.RT_SCOPE_LINK, table=5001),
            }
            for route in wanted:
                rtnl.replace_route(route)
            main = set(rtnl.routes(socket.AF_INET))
            assert main == {route for route in wanted if route.table == 254}
            assert rtnl.routes(socket.AF_INET, table=5001) == [route for route in wanted if route.table == 5001]
            assert set(rtnl.routes(socket.AF_INET, protocol=80)) == {route for route in wanted if route.protocol == 80}
            assert rtnl.routes(socket.AF_INET, table=4711) == []
            shown = {(route["dst"], route.get("metric"), route.get("protocol")) for route in space.ip("route")}
            assert ("10.1.0.1", 1024, "boot") in shown
            assert ("10.3.0.0/26", None, "80") in shown

    def test_ipv6_routes(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, _ = veth(rtnl)
            rtnl.replace_route(Route("fd00::7/128", device))
            found = rtnl.routes(socket.AF_INET6, device=device, protocol=3)
        assert found == [Route("fd00::7/128", device, metric=1024)]

    def test_a_second_create_is_refused_and_a_missing_delete_is_not(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, other = veth(rtnl)
            route = Route("10.1.0.1/32", device, scope=objects.RT_SCOPE_LINK)
            rtnl.create_route(route)
            with pytest.raises(KernelError) as caught:
                rtnl.create_route(route._replace(device=other))
            assert caught.value.errno == 17
            assert rtnl.delete_route(route) is True
            assert rtnl.delete_route(route) is False

    def test_a_batch_goes_on_past_failures_and_names_them(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, _ = veth(rtnl)
            good = [Route(f"10.{i >> 8}.{i & 255}.0/24", device, scope=253) for i in range(3000)]
            bad = Route("10.250.0.1/32", 4242, scope=253)
            absent = Route("10.251.0.0/24", device, scope=253)
            failures = rtnl.apply_routes([absent], [*good[:1500], bad, *good[1500:]])
            assert list(failures) == [bad]
            assert len(rtnl.routes(socket.AF_INET)) == 3000
            assert rtnl.apply_routes(good, []) == {}
            assert rtnl.routes(socket.AF_INET) == []


class TestTunnels:
    WANTED = VxlanAttributes(vni=4096, port=4789, local="10.9.0.1", lower=0)

    def test_a_vxlan_device_is_made_kept_and_remade(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device, _ = veth(rtnl)
            wanted = self.WANTED._replace(lower=device)
            made = rtnl.ensure_vxlan("vxlan.calico", wanted, "66:00:00:00:00:01", 1450)
            assert (made.mac, made.mtu, made.up, made.vxlan) == ("66:00:00:00:00:01", 1450, True, wanted)
            again = rtnl.ensure_vxlan("vxlan.calico", wanted, "66:00:00:00:00:01", 1400)
            assert (again.ifindex, again.mtu) == (made.ifindex, 1400)
            remade = rtnl.ensure_vxlan("vxlan.calico", wanted._replace(port=64000), "66:00:00:00:00:01", 1400)
            assert remade.ifindex != made.ifindex
            data = space.ip("link", "show", "vxlan.calico")[0]["linkinfo"]["info_data"]
            assert (data["id"], data["port"], data["learning"]) == (4096, 64000, False)

    def test_neighbours_and_forwarding_entries(self, space: Space) -> None:
        with Rtnl(space.path) as rtnl:
            device = rtnl.ensure_vxlan("vxlan.calico", self.WANTED, "66:00:00:00:00:01", 0).ifindex
            arp = Neighbour(device, "172.29.1.0", "66:00:00:00:00:02")
            fdb = Neighbour(device, "10.9.0.2", "66:00:00:00:00:02", fdb=True)
            absent = Neighbour(device, "172.29.1.9", "66:00:00:00:00:02")
            assert rtnl.apply_neighbours([absent], [arp, fdb]) == {}
            assert rtnl.neighbours(device, socket.AF_INET) == [arp]
            assert fdb in rtnl.neighbours(device, objects.AF_BRIDGE)
            assert rtnl.apply_neighbours([arp, fdb], []) == {}
            assert rtnl.neighbours(device, socket.AF_INET) == []
            assert fdb not in rtnl.neighbours(device, objects.AF_BRIDGE)


class TestMonitor:
    async def test_changes_arrive_in_order(self, space: Space) -> None:
        async with Monitor(space.path, addresses=True, routes=True) as monitor, Netlink(space.path) as netlink:
            device, _ = await netlink.run(veth)
            await netlink.run(Rtnl.replace_address, Address(device, "10.9.0.1/32"))
            await netlink.run(Rtnl.replace_route, Route("10.1.0.1/32", device, scope=253))
            await netlink.run(Rtnl.delete_link, "va")
            seen: list[str] = []
            async with asyncio.timeout(30):
                async for event in monitor:
                    match event:
                        case LinkEvent(link, deleted) if link.name == "va":
                            seen.append(f"va {'gone' if deleted else 'up' if link.up else 'new'}")
                        case AddressEvent(address, False) if "." in address.cidr:
                            seen.append(address.cidr)
                        case RouteEvent(route, False) if route.table == 254 and "." in route.destination:
                            seen.append(route.destination)
                    if seen[-1:] == ["va gone"]:
                        break
        assert list(dict.fromkeys(seen)) == ["va new", "va up", "10.9.0.1/32", "10.1.0.1/32", "va gone"]


class TestNft:
    def test_one_call_is_one_transaction(self, space: Space) -> None:
        with Nft(space.path) as nft:
            nft.run("add table inet t\nadd chain inet t c")
            with pytest.raises(NftError) as caught:
                nft.run("add chain inet t d\nadd rule inet t nowhere accept")
            assert caught.value.line == 2
            assert caught.value.command == "add rule inet t nowhere accept"
            assert "No such file" in caught.value.text
            names = [item["chain"]["name"] for item in nft.list_json("table inet t") if "chain" in item]
            assert names == ["c"]
            assert nft.list_json("table inet nothing") == []
        assert "chain c" in space.run("nft", "list", "ruleset")
        assert "table inet t" not in sh("nft", "list", "ruleset")

    def test_a_syntax_error_names_line_and_command(self, space: Space) -> None:
        with Nft(space.path) as nft, pytest.raises(NftError) as caught:
            nft.run("add table inet t\nadd nonsense")
        assert caught.value.line == 2
        assert "syntax error" in caught.value.text

    def test_check_only_changes_nothing(self, space: Space) -> None:
        with Nft(space.path) as nft:
            nft.run("add table inet t", check_only=True)
            assert nft.list_json("table inet t") == []
            nft.run("add table inet t")
            assert [item["table"]["name"] for item in nft.list_json("tables")] == ["t"]

    def test_in_a_worker_thread(self, space: Space) -> None:
        with Nft(space.path) as nft:
            worker = threading.Thread(target=nft.run, args=("add table inet t",))
            worker.start()
            worker.join()
            assert nft.list_json("tables")


class TestNftMonitor:
    @staticmethod
    async def changes(monitor: NftMonitor) -> list[str]:
        async with asyncio.timeout(30):
            return await monitor.changes()

    @staticmethod
    async def assert_silent(monitor: NftMonitor) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await monitor.changes()

    async def test_a_transaction_of_others_is_one_change_with_its_author(self, space: Space) -> None:
        space.run("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; policy accept; }")
        space.run("nft", "add set inet t s { type ipv4_addr; }")
        monitor = NftMonitor("t", space.path)
        for command, event in (
            ("add table inet t { flags dormant; }", "NEWTABLE"),
            ("add chain inet t c { policy drop; }", "NEWCHAIN c"),
            ("add rule inet t c accept", "NEWRULE c"),
            ("add element inet t s { 10.0.0.1 }", "NEWSETELEM s"),
            ("add element inet t s { 10.0.0.2 }; delete element inet t s { 10.0.0.1 }", "NEWSETELEM s and 1 more"),
            ("flush ruleset", "DELRULE c and 3 more"),
        ):
            space.run("nft", command)
            (change,) = await self.changes(monitor)
            assert change.startswith(f"{event} by nft (process "), command
        await self.assert_silent(monitor)
        monitor.close()

    async def test_other_tables_are_passed_over(self, space: Space) -> None:
        monitor = NftMonitor("t", space.path)
        space.run("nft", "add table ip t; add chain ip t c; add table inet tt; add chain inet tt t")
        await self.assert_silent(monitor)
        space.run("nft", "add table inet tt; add table inet t; add chain inet tt d")
        assert (await self.changes(monitor))[0].startswith("NEWTABLE by nft")
        monitor.close()

    async def test_our_own_transactions_are_none_whichever_socket_they_come_through(self, space: Space) -> None:
        with Nft(space.path) as early, Nft(space.path) as late:
            early.run("list tables")
            monitor = NftMonitor("t", space.path)
            for nft in (early, late):
                nft.run("add table inet t\nadd set inet t s { type ipv4_addr; }")
                for number in range(100):
                    nft.run(f"add element inet t s {{ 10.0.0.{number} }}")
                await self.assert_silent(monitor)
            late.run("\n".join(f"add element inet t s {{ 10.{i >> 8}.1.{i & 255} }}" for i in range(20_000)))
            await self.assert_silent(monitor)
        space.run("nft", "delete table inet t")
        assert len(await self.changes(monitor)) == 1
        monitor.close()

    async def test_more_than_the_queue_holds_is_a_change(self, space: Space) -> None:
        monitor = NftMonitor("t", space.path)
        monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(20):
            space.run("nft", f"add table ip t{number}")
        assert "events were lost" in await self.changes(monitor)
        monitor.close()


class TestSettings:
    def test_written_in_the_namespace_that_the_thread_is_in(self, space: Space) -> None:
        key = "net/ipv4/conf/lo/proxy_arp"
        outside = sysctl.read(key)
        with netns.entered(space.path):
            assert sysctl.ensure(key, 1) is True
            assert sysctl.ensure(key, 1) is False
            assert sysctl.read(key) == "1"
        assert sysctl.read(key) == outside

    def test_errors_name_key_and_value(self) -> None:
        with pytest.raises(KernelError, match="set net/ipv4/conf/nowhere/proxy_arp=1: ") as caught:
            sysctl.write("net/ipv4/conf/nowhere/proxy_arp", 1)
        assert caught.value.gone

    def test_an_interface_that_goes_between_open_and_read(self, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
        space.run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
        read = os.read

        def late(descriptor: int, size: int) -> bytes:
            monkeypatch.undo()
            space.run("ip", "link", "del", "va")
            return read(descriptor, size)

        with netns.entered(space.path):
            monkeypatch.setattr(os, "read", late)
            with pytest.raises(KernelError) as caught:
                sysctl.ensure("net/ipv4/conf/va/proxy_arp", 1)
        assert caught.value.gone

    def test_a_file_that_is_no_namespace(self, tmp_path: Any) -> None:
        (tmp_path / "ns").write_text("")
        with pytest.raises(KernelError, match="not a network namespace"), netns.entered(str(tmp_path / "ns")):
            pass


class TestConntrack:
    @staticmethod
    def add(space: Space, source: str, port: int, answers: str = "10.0.0.9") -> None:
        space.run(
            *("conntrack", "-I", "-p", "udp", "-s", source, "-d", "10.0.0.9", "--sport", str(port), "--dport", "53"),
            *("--reply-src", answers, "--reply-dst", source, "--reply-port-src", "53", "--reply-port-dst", str(port)),
            *("--timeout", "100"),
        )

    @pytest.mark.parametrize("more", [0, 20])
    def test_flows_from_and_answered_by_an_address_go(self, space: Space, more: int) -> None:
        self.add(space, "10.0.0.1", 1000)
        self.add(space, "10.0.0.1", 1001)
        self.add(space, "10.0.0.2", 1002, answers="10.0.0.1")
        self.add(space, "10.0.0.3", 1003)
        with Conntrack(space.path) as conntrack:
            assert conntrack.count() == 4
            assert conntrack.addresses() == {"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"}
            addresses = ["10.0.0.1", "fd00::1", *(f"10.7.0.{i}" for i in range(more))]
            assert conntrack.delete_flows(addresses) == 3
            assert conntrack.delete_flows(addresses) == 0
        left = space.run("conntrack", "-L")
        assert left.count("udp") == 1
        assert "src=10.0.0.3" in left


def test_codec_survives_cut_messages() -> None:
    whole = nlmsg.encode_message(16, 0, 7, objects.encode_link() + nlmsg.encode_text(objects.IFLA_IFNAME, "x"))
    for size in range(len(whole)):
        assert list(nlmsg.decode_messages(memoryview(whole[:size]))) == []
    (found,) = nlmsg.decode_messages(memoryview(whole))
    assert objects.decode_link(found[3]).name == "x"

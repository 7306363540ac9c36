"""Attach and detach in real namespaces: all or nothing, again and again."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

import pytest

from libcalico.kernel import netns
from libcalico.kernel.errors import KernelError
from libcalico.workload.attach import (
    Attacher,
    InterfaceExists,
    LeadsElsewhere,
    NameTaken,
    RouteTaken,
    attach,
    complete,
    detach,
    inspect,
)
from libcalico.workload.plan import Wiring, plan_wiring
from tests.netns.spaces import Space

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]


def wiring(addresses: list[str] | None = None, name: str = "cali5f0c9e11-2b", **more: Any) -> Wiring:
    return plan_wiring(name, "eth0", addresses or ["172.29.0.1"], **more)


def test_an_ipv4_interface_as_the_specification_has_it(host: Space, box: Space) -> None:
    mac = attach(wiring(mtu=1440, queues=2), box.path, host.path)
    near = host.ip("-d", "link", "show", "cali5f0c9e11-2b")[0]
    assert (near["address"], near["mtu"], near["operstate"]) == ("ee:ee:ee:ee:ee:ee", 1440, "UP")
    assert (near["num_tx_queues"], near["num_rx_queues"]) == (2, 2)
    assert [(r["dst"], r["dev"], r.get("scope")) for r in host.ip("route")] == [
        ("172.29.0.1", "cali5f0c9e11-2b", "link")
    ]
    conf = "net/ipv4/conf/cali5f0c9e11-2b/"
    assert [host.setting(conf + key) for key in ("proxy_arp", "forwarding", "route_localnet")] == ["1", "1", "1"]
    assert host.setting("net/ipv4/neigh/cali5f0c9e11-2b/proxy_delay") == "0"
    assert host.setting("net/ipv6/conf/cali5f0c9e11-2b/accept_ra") == "0"
    far = box.ip("link", "show", "eth0")[0]
    assert (far["address"], far["mtu"], far["operstate"]) == (mac, 1440, "UP")
    assert {(r["dst"], r.get("gateway"), r.get("scope")) for r in box.ip("route")} == {
        ("169.254.1.1", None, "link"),
        ("default", "169.254.1.1", None),
    }
    addresses = box.ip("-4", "addr", "show", "eth0")[0]["addr_info"]
    assert [(a["local"], a["prefixlen"]) for a in addresses] == [("172.29.0.1", 32)]
    assert box.setting("net/ipv4/ip_forward") == "0"


def test_dual_stack_with_forwarding_and_a_given_mac(host: Space, box: Space) -> None:
    plan = wiring(["172.29.0.1/32", "fd29::1"], mac="0a:58:0a:00:00:05", allow_ip_forwarding=True)
    assert attach(plan, box.path, host.path) == "0a:58:0a:00:00:05"
    routes = {(r["dst"], r.get("gateway"), r.get("metric")) for r in box.ip("-6", "route")}
    assert ("default", "fe80::ecee:eeff:feee:eeee", 1024) in routes
    assert "fd29::1" in {r["dst"] for r in host.ip("-6", "route")}
    assert box.setting("net/ipv6/conf/all/forwarding") == "1"
    assert host.setting("net/ipv6/conf/cali5f0c9e11-2b/proxy_ndp") == "1"


def test_traffic_passes_between_two_containers_without_a_default_route(host: Space, box: Space, other: Space) -> None:
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    attach(wiring(["172.29.0.1"], "cali1"), box.path, host.path)
    attach(wiring(["172.29.0.2"], "cali2"), other.path, host.path)
    server = subprocess.Popen(
        ["ip", "netns", "exec", other.name, "python3", "-c", ECHO], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    code = "import socket; s = socket.create_connection(('172.29.0.2', 80), 3); print(s.recv(99).decode())"
    assert box.run("python3", "-c", code).strip() == "172.29.0.1"
    server.wait(5)


ECHO = """
import socket
s = socket.create_server(("172.29.0.2", 80))
print("ready", flush=True)
c, peer = s.accept()
c.sendall(peer[0].encode())
"""


def test_attach_twice_renews_and_detach_twice_is_fine(host: Space, box: Space) -> None:
    attach(wiring(), box.path, host.path)
    attach(wiring(), box.path, host.path)
    assert sorted(host.links()) == ["cali5f0c9e11-2b", "lo"]
    for _ in range(2):
        detach(box.path, "eth0", ["cali5f0c9e11-2b"], host.path)
        assert (host.links(), box.links()) == (["lo"], ["lo"])


def test_a_pair_that_was_left_half_way_is_completed(host: Space, box: Space) -> None:
    """What a killed agent may not have come to: anything after the pair itself."""
    plan = wiring(["172.29.0.1", "fd29::1"], mac="0a:58:0a:00:00:05")
    attach(plan, box.path, host.path)

    def shown() -> list[Any]:
        found: list[Any] = [host.setting("net/ipv4/conf/cali5f0c9e11-2b/proxy_arp")]
        for space in (host, box):
            for family in ("-4", "-6"):
                routes = space.ip(family, "route")
                found.append(sorted((r["dst"], r.get("gateway", "")) for r in routes if r["dst"] != "fe80::/64"))
            found.append(sorted(a["local"] for link in space.ip("addr") for a in link["addr_info"]))
            found.append({link["ifname"]: link["operstate"] for link in space.ip("link")})
        return found

    whole = shown()
    for space, name in ((host, "cali5f0c9e11-2b"), (box, "eth0")):
        space.ip("addr", "flush", "dev", name, "scope", "global")
        space.ip("link", "set", name, "down")
    host.run("sysctl", "-qw", "net.ipv4.conf.cali5f0c9e11-2b.proxy_arp=0")
    assert shown() != whole
    for _ in range(2):
        complete(plan, box.path, host.path)
        assert shown() == whole


def test_an_interface_that_exists_is_not_touched(host: Space, box: Space) -> None:
    box.ip("link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    with pytest.raises(InterfaceExists, match="eth0"):
        attach(wiring(), box.path, host.path)
    assert host.links() == ["lo"]
    assert "eth0" in box.links()


def test_a_route_through_another_interface_is_a_refusal_and_leaves_nothing(host: Space, box: Space) -> None:
    host.ip("link", "add", "z0", "type", "veth", "peer", "name", "z1")
    for name in ("z0", "z1"):
        host.ip("link", "set", name, "up")
    host.ip("route", "add", "172.29.0.1/32", "dev", "z0")
    with pytest.raises(RouteTaken, match=r"already exists for an interface other than 'cali5f0c9e11-2b'.*Iface: z0"):
        attach(wiring(), box.path, host.path)
    assert sorted(host.links()) == ["lo", "z0", "z1"]
    assert box.links() == ["lo"]
    assert [r["dev"] for r in host.ip("route")] == ["z0"]


def test_detach_without_a_namespace_and_with_one_that_is_gone(host: Space, box: Space) -> None:
    attach(wiring(), box.path, host.path)
    detach("", "eth0", ["cali5f0c9e11-2b"], host.path)
    assert (host.links(), box.links()) == (["lo"], ["lo"])
    detach("/run/netns/t-wl-nowhere", "eth0", ["cali5f0c9e11-2b"], host.path)


def test_detach_never_takes_the_hosts_own_interface(host: Space) -> None:
    host.ip("link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    detach(host.path, "eth0", [], host.path)
    assert "eth0" in host.links()


def test_a_bad_namespace_is_a_refusal(host: Space, tmp_path: Any) -> None:
    for path in ("/run/netns/t-wl-nowhere", str(tmp_path)):
        with pytest.raises((KernelError, OSError)):
            attach(wiring(), path, host.path)
    assert host.links() == ["lo"]


def test_inspection_sees_both_ends(host: Space, box: Space) -> None:
    attach(wiring(["172.29.0.1", "fd29::1"]), box.path, host.path)
    seen = inspect(box.path, "eth0", "cali5f0c9e11-2b", host.path)
    assert seen.host is not None
    assert seen.container is not None
    assert seen.host.link.running
    assert set(seen.container.addresses) == {"172.29.0.1", "fd29::1"}
    assert {"172.29.0.1", "fd29::1"} <= set(seen.routed)
    gone = inspect("", "eth0", "calinothing", host.path)
    assert (gone.host, gone.container, gone.routed) == (None, None, ())


async def test_thirty_at_once_and_the_process_stays_at_home(host: Space) -> None:
    before = netns.identity()
    boxes = [Space("many") for _ in range(30)]
    attacher = Attacher(host.path)
    try:
        plans = [wiring([f"172.29.1.{i}"], f"cali{i}") for i in range(30)]
        await asyncio.gather(*(attacher.attach(p, b.path) for p, b in zip(plans, boxes, strict=True)))
        assert len(host.ip("route")) == 30
        assert netns.identity() == before
        await asyncio.gather(
            *(attacher.detach(b.path, "eth0", [p.host_interface]) for p, b in zip(plans, boxes, strict=True))
        )
        assert host.links() == ["lo"]
    finally:
        attacher.close()
        for made in boxes:
            made.close()


async def test_what_is_attached_next_outlives_a_removal_that_is_still_at_work(host: Space, box: Space) -> None:
    """A removal answers before the kernel is done, and goes on: it must not take what has its name by then."""
    attacher = Attacher(host.path)
    for _ in range(5):
        await attacher.attach(wiring(), box.path)
        await attacher.detach(box.path, "eth0", ["cali5f0c9e11-2b"])
        await attacher.attach(wiring(), box.path)
        await asyncio.sleep(0.1)
        assert ("cali5f0c9e11-2b" in host.links(), "eth0" in box.links()) == (True, True)
        await attacher.detach(box.path, "eth0", ["cali5f0c9e11-2b"])
    attacher.close()


def test_an_interface_that_leads_elsewhere_is_not_touched(host: Space, box: Space, other: Space) -> None:
    """Of another container that has the name, or of an earlier life whose namespace lives on."""
    attach(wiring(), box.path, host.path)
    with pytest.raises(NameTaken, match="cali5f0c9e11-2b stands, and leads to another network namespace"):
        attach(wiring(["172.29.0.2"]), other.path, host.path)
    assert (box.links(), other.links()) == (["lo", "eth0"], ["lo"])
    assert [route["dst"] for route in host.ip("route")] == ["172.29.0.1"]


async def test_a_removal_that_may_not_touch_another_container(host: Space, box: Space, other: Space) -> None:
    """One visit to the kernel says whose the interface is, and takes it away if it is the caller's, however renamed."""
    attacher = Attacher(host.path)
    await attacher.attach(wiring(), box.path)
    with pytest.raises(LeadsElsewhere, match="cali5f0c9e11-2b leads into another network namespace"):
        await attacher.detach(other.path, "eth0", ["cali5f0c9e11-2b"], unless_elsewhere=True)
    assert ("cali5f0c9e11-2b" in host.links(), "eth0" in box.links()) == (True, True)
    box.ip("link", "set", "eth0", "down")
    box.ip("link", "set", "eth0", "name", "mine")
    for _ in range(2):
        await attacher.detach(box.path, "eth0", ["cali5f0c9e11-2b"], unless_elsewhere=True)
    assert (host.links(), box.links()) == (["lo"], ["lo"])
    attacher.close()


async def test_a_pair_for_an_engine_leaves_the_host_as_it_is(host: Space, box: Space) -> None:
    attacher = Attacher(host.path)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    before = host.ip("route"), host.ip("addr", "show", "lo")
    plan = plan_wiring(
        "cali5f0c9e11-2b", "temp5f0c9e11-2b", ["172.29.0.1", "fd29::1"], mac="0a:58:0a:00:00:05", mtu=1400
    )
    for _ in range(2):
        assert (await attacher.make_pair(plan)).startswith("fe80::")
    ends = {link["ifname"]: link for link in host.ip("link")}
    assert (ends["temp5f0c9e11-2b"]["address"], ends["temp5f0c9e11-2b"]["mtu"]) == ("0a:58:0a:00:00:05", 1400)
    assert host.setting("net/ipv4/ip_forward") == "1"
    assert not [a for a in host.ip("-4", "addr", "show", "temp5f0c9e11-2b") if a.get("addr_info")]
    host.ip("link", "set", "temp5f0c9e11-2b", "netns", box.name)
    with pytest.raises(NameTaken):
        await attacher.make_pair(plan)
    await attacher.detach("", "", ["cali5f0c9e11-2b"])
    assert (host.ip("route"), host.ip("addr", "show", "lo"), box.links()) == (*before, ["lo"])
    attacher.close()

"""What wiring means, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from libcalico.errors import BadData
from libcalico.workload.plan import Wiring, hashed_interface_name, host_interface_name, plan_wiring


def wiring(addresses: list[str] | None = None, name: str = "cali1", **more: Any) -> Wiring:
    return plan_wiring(name, "eth0", addresses or ["172.29.0.1"], **more)


def keys(settings: tuple[Any, ...]) -> list[str]:
    return [f"{item.key}={item.value}" + ("" if item.required else "?") for item in settings]


def test_ipv4_settings() -> None:
    plan = wiring()
    assert plan.host_ipv4 == {"route_localnet": 1, "proxy_arp": 1, "forwarding": 1}
    assert keys(plan.host_settings) == [
        "net/ipv4/neigh/cali1/proxy_delay=0?",
        "net/ipv6/conf/cali1/accept_ra=0?",
    ]
    assert plan.container_settings == ()
    assert keys(plan.forwarding_settings) == ["net/ipv4/ip_forward=0"]


def test_ipv6_settings() -> None:
    plan = wiring(["fd29::1/128"], allow_ip_forwarding=True)
    assert plan.host_ipv4 == {}
    assert keys(plan.host_settings) == [
        "net/ipv6/conf/cali1/accept_dad=0",
        "net/ipv6/conf/cali1/disable_ipv6=0",
        "net/ipv6/conf/cali1/proxy_ndp=1",
        "net/ipv6/conf/cali1/forwarding=1",
        "net/ipv6/conf/cali1/accept_ra=0?",
    ]
    assert keys(plan.container_settings)[0] == "net/ipv6/conf/eth0/accept_dad=0"
    assert keys(plan.forwarding_settings) == ["net/ipv6/conf/all/forwarding=1"]
    assert (plan.has_v4, plan.has_v6, plan.addresses) == (False, True, ("fd29::1",))


def test_names() -> None:
    assert host_interface_name("5f0c9e11-2b7a") == "cali5f0c9e11-2b"
    assert host_interface_name("abc") == "caliabc"
    assert hashed_interface_name("abcdefghijk-2", "eth0") == "calif0074c91512"
    assert hashed_interface_name("a.b", "eth0") != hashed_interface_name("a.b", "eth1")


@pytest.mark.parametrize("queues", [-1, 0, 1])
def test_fewer_than_one_queue_is_one(queues: int) -> None:
    assert wiring(queues=queues).queues == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mtu": -5}, "mtu -5 is out of range: 68 to 65535"),
        ({"mtu": 70000}, "mtu 70000 is out of range"),
        ({"mtu": 1279, "addresses": ["fd29::1"]}, "1280 to 65535 with IPv6"),
        ({"addresses": ["172.29.0.300"]}, "'172.29.0.300' is not an address"),
        ({"name": "interface-name-x"}, "interface name is too long"),
        ({"name": ".."}, "interface name is . or .."),
        ({"name": ""}, "interface name is empty"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_before(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BadData, match=text):
        wiring(**change)

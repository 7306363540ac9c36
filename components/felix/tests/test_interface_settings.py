"""Which settings of a workload's interface are written: those that the kernel told to be otherwise."""

from __future__ import annotations

import struct

import pytest

from calico_felix.dataplane.interface_settings import interface_settings, unset_settings
from libcalico.kernel.objects import IPV4_SETTINGS, IPV6_SETTINGS, Link

WANTED = interface_settings(ipv6=True, rp_filter=2)
RIGHT_V4 = {"forwarding": 1, "proxy_arp": 1, "rp_filter": 2, "route_localnet": 1}
RIGHT_V6 = {"accept_ra": 0, "forwarding": 1, "proxy_ndp": 1}


def link(ipv4: dict[str, int], ipv6: dict[str, int]) -> Link:
    v4, v6 = [0] * 33, [0] * 60
    for name, value in ipv4.items():
        v4[IPV4_SETTINGS[name] - 1] = value
    for name, value in ipv6.items():
        v6[IPV6_SETTINGS[name]] = value
    return Link(5, "cali1", True, True, 1500, "", ipv4=struct.pack("=33i", *v4), ipv6=struct.pack("=60i", *v6))


def unset(ipv4: dict[str, int], ipv6: dict[str, int]) -> set[str]:
    return {setting.key("cali1") for setting in unset_settings(WANTED, link(ipv4, ipv6))}


def test_an_interface_that_is_right_is_left_alone() -> None:
    assert unset(RIGHT_V4, RIGHT_V6) == set()


@pytest.mark.parametrize(
    ("name", "value"), [("forwarding", 0), ("proxy_arp", 0), ("rp_filter", 1), ("route_localnet", 0)]
)
def test_what_is_wrong_with_ipv4_is_written_and_what_cannot_be_seen(name: str, value: int) -> None:
    wanted = {f"net/ipv4/conf/cali1/{name}", "net/ipv4/neigh/cali1/proxy_delay"}
    assert unset({**RIGHT_V4, name: value}, RIGHT_V6) == wanted


@pytest.mark.parametrize(("name", "value"), [("accept_ra", 1), ("forwarding", 0), ("proxy_ndp", 0)])
def test_what_is_wrong_with_ipv6_is_written_alone(name: str, value: int) -> None:
    assert unset(RIGHT_V4, {**RIGHT_V6, name: value}) == {f"net/ipv6/conf/cali1/{name}"}


def test_an_interface_without_ipv6_lacks_none_of_its_settings() -> None:
    """With an MTU below 1280 the kernel takes IPv6 from it, and the files of its settings away."""
    small = link(RIGHT_V4, {})._replace(ipv6=b"")
    assert unset_settings(WANTED, small) == ()
    assert {s.area for s in unset_settings(WANTED, link({}, {})._replace(ipv6=b""))} == {"ipv4"}


def test_what_the_kernel_did_not_tell_is_written() -> None:
    silent = Link(5, "cali1", True, True, 1500, "")
    assert set(unset_settings(WANTED, silent)) == set(WANTED)


def test_a_kernel_without_ipv6_needs_no_setting_of_it() -> None:
    without = interface_settings(ipv6=True, rp_filter=2, known_ipv6=False)
    assert {setting.area for setting in without} == {"ipv4"}
    assert unset_settings(without, link(RIGHT_V4, {"accept_ra": 1})) == ()

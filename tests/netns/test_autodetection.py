"""A node's address, found in real network namespaces by every method, and what the host's routes do to the pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calico_felix.startup.addresses import NOWHERE, choose
from calico_felix.startup.detection import NotFound, detect, parse_method
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.pools import default_network
from calico_felix.startup.variables import NODE_VARIABLES, Variables
from libcalico.kernel import netns
from tests.netns.spaces import Space, sh

pytestmark = pytest.mark.usefixtures("root")

LINKS = (
    ("eth0", "10.0.0.5/24", "fd00:a::5/64"),
    ("eth1", "10.1.0.5/16", "fd00:b::5/64"),
    ("docker0", "172.17.0.1/16", "fd00:d::1/64"),
    ("cali123", "192.0.2.9/32", "2001:db8::9/128"),
)


def make(space: Space, name: str) -> None:
    """An interface; its other end has no address."""
    sh("ip", "-n", space.name, "link", "add", name, "type", "veth", "peer", "name", f"x{name}")
    for end in (name, f"x{name}"):
        sh("ip", "-n", space.name, "link", "set", end, "up")


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    """A host with two ways out and devices that lead nowhere, newest last."""
    made = Space("detect")
    for name, *cidrs in LINKS:
        make(made, name)
        for cidr in cidrs:
            sh("ip", "-n", made.name, "addr", "add", cidr, "dev", name, *(("nodad",) if ":" in cidr else ()))
    sh("ip", "-n", made.name, "addr", "add", "169.254.7.7/16", "dev", "eth1")
    sh("ip", "-n", made.name, "route", "add", "default", "via", "10.0.0.1")
    sh("ip", "-n", made.name, "-6", "route", "add", "2001:db8:1::/48", "via", "fd00:b::1")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("method", "v4", "v6"),
    [
        ("first-found", "10.1.0.5/16 eth1", "fd00:b::5/64 eth1"),
        ("interface=^eth0$", "10.0.0.5/24 eth0", "fd00:a::5/64 eth0"),
        ("interface=nothing,docker", "172.17.0.1/16 docker0", "fd00:d::1/64 docker0"),
        ("skip-interface=eth1", "10.0.0.5/24 eth0", "fd00:a::5/64 eth0"),
        ("cidr=10.0.0.0/16,fd00:a::/32", "10.0.0.5/24 eth0", "fd00:a::5/64 eth0"),
        ("can-reach=198.51.100.1", "10.0.0.5/24 eth0", ""),
        ("can-reach=10.1.9.9", "10.1.0.5/16 eth1", ""),
        ("can-reach=2001:db8:1::7", "", "fd00:b::5/64 eth1"),
        ("can-reach=2001:db8:2::7", "", ""),
        ("interface=eth9", "", ""),
        ("cidr=198.18.0.0/15", "", ""),
    ],
)
def test_every_method(space: Space, method: str, v4: str, v6: str) -> None:
    network = HostNetwork()
    for version, wanted in ((4, v4), (6, v6)):
        with netns.entered(space.path):
            try:
                found = " ".join(detect(parse_method(method), version, network.interfaces(), network.source_to))
            except NotFound as error:
                assert method in str(error)
                found = ""
        assert found == wanted


def test_an_address_that_is_given_gets_the_length_of_its_interface(space: Space) -> None:
    variables = Variables({"IP": "10.1.0.5", "IP6": "autodetect"}, NODE_VARIABLES)
    with netns.entered(space.path):
        assert choose(variables, NOWHERE, HostNetwork()) == ("10.1.0.5/16", "fd00:b::5/64")


def test_the_newest_interface_comes_first_and_its_addresses_in_order(space: Space) -> None:
    make(space, "zz9")
    try:
        for cidr in ("10.3.0.7/24", "10.3.0.6/24", "10.4.0.1/24"):
            sh("ip", "-n", space.name, "addr", "add", cidr, "dev", "zz9")
        with netns.entered(space.path):
            network = HostNetwork()
            found = detect(parse_method("first-found"), 4, network.interfaces(), network.source_to)
        assert found == ("10.3.0.7/24", "zz9")
    finally:
        sh("ip", "-n", space.name, "link", "del", "zz9")


def test_the_default_pool_avoids_the_hosts_routes(space: Space) -> None:
    def pool() -> str:
        with netns.entered(space.path):
            return default_network(HostNetwork().networks())

    assert pool() == "192.168.0.0/16", "the default route overlaps nothing"
    sh("ip", "-n", space.name, "route", "add", "192.168.7.0/24", "via", "10.0.0.1")
    try:
        assert pool() == "172.16.0.0/16"
        sh("ip", "-n", space.name, "route", "add", "172.16.0.0/16", "via", "10.0.0.1")
        assert pool() == "172.18.0.0/16", "docker0 has 172.17.0.0/16"
        sh("ip", "-n", space.name, "route", "add", "blackhole", "172.18.9.0/26", "proto", "80")
        assert pool() == "172.18.0.0/16", "our own routes do not count"
    finally:
        sh("ip", "-n", space.name, "route", "flush", "proto", "80")
        sh("ip", "-n", space.name, "route", "flush", "proto", "boot")

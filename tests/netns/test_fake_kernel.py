"""The fake kernel tells the truth: the same requests have the same answers, and the same is there then, in both."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import (
    AF_BRIDGE,
    RT_SCOPE_LINK,
    RTN_BLACKHOLE,
    RTPROT_KERNEL,
    Address,
    Neighbour,
    Route,
    VxlanAttributes,
)
from libcalico.kernel.rtnl import Rtnl
from libcalico.testing.kernel import FakeKernel
from libcalico.testing.machine import namespace_name

Step = Callable[[Rtnl], object]
MAC, FAR_MAC = "66:00:00:00:00:01", "66:00:00:00:00:02"
NOWHERE = 99
INET, INET6 = 2, 10


@pytest.fixture
def real(root: None) -> Iterator[Rtnl]:
    name = namespace_name("fake")
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    with Rtnl(f"/run/netns/{name}") as rtnl:
        yield rtnl
    subprocess.run(["ip", "netns", "del", name], check=False)


def veth(name: str) -> Step:
    def make(rtnl: Rtnl) -> None:
        rtnl.create_veth(name, f"{name}-far")
        rtnl.set_link(rtnl.index(name), up=True)

    return make


def at(name: str, act: Callable[[Rtnl, int], object]) -> Step:
    """A step with the index of an interface, which differs between the two."""
    return lambda rtnl: act(rtnl, rtnl.index(name))


def route(destination: str, **fields: object) -> Callable[[int], Route]:
    return lambda device: Route(destination, device, **fields)  # type: ignore[arg-type]


def put(name: str, made: Callable[[int], Route]) -> Step:
    return at(name, lambda rtnl, device: rtnl.replace_route(made(device)))


def vxlan(rtnl: Rtnl, device: int) -> object:
    link = rtnl.ensure_vxlan("v0", VxlanAttributes(4096, 4789, "192.0.2.1", device), MAC, 1400)
    return link.name, link.up, link.mtu, link.mac, link.kind


def keep(rtnl: Rtnl, device: int) -> object:
    kept = [Neighbour(device, address, "", learned=True) for address in ("192.0.2.7", "192.0.2.8")]
    return {one.address: error.errno for one, error in rtnl.keep_neighbours([], kept).items()}


def entries(rtnl: Rtnl, device: int) -> object:
    """Neighbour and forwarding entries of an interface that are somebody's, without their states."""
    found = [*rtnl.neighbours(device, INET), *(one for one in rtnl.neighbours(device, AF_BRIDGE) if one.address)]
    return sorted((one.address, one.mac, one.fdb, one.learned) for one in found)


STEPS: list[Step] = [
    veth("d0"), veth("d0"), veth("d1"),
    lambda rtnl: (rtnl.index("d9"), rtnl.link("d9"), rtnl.has_index(NOWHERE), rtnl.delete_link("d9")),
    at("d0", lambda rtnl, device: rtnl.replace_address(Address(device, "192.0.2.1/24"))),
    at("d0", lambda rtnl, device: rtnl.ensure_only_address(device, ["192.0.2.1/24"])),
    lambda rtnl: rtnl.replace_address(Address(NOWHERE, "192.0.2.1/24")),
    at("d0", lambda rtnl, device: rtnl.delete_address(Address(device, "192.0.2.9/24"))),
    put("d0", route("10.0.0.1/32", scope=RT_SCOPE_LINK, metric=1024)),
    at("d0", lambda rtnl, device: rtnl.create_route(Route("10.0.0.1/32", device, scope=RT_SCOPE_LINK, metric=1024))),
    put("d1", route("10.0.0.1/32", scope=RT_SCOPE_LINK, metric=1024)),
    put("d0", route("10.0.0.2/32", gateway="192.0.2.2")),
    put("d0", route("10.0.0.3/32", gateway="198.51.100.2")),
    put("d0", route("10.0.0.4/32", gateway="198.51.100.2", onlink=True, mtu=1400)),
    put("d0", route("fd00::1/128", metric=0)),
    put("d0", route("fd00::2/128", metric=1024)),
    lambda rtnl: rtnl.replace_route(Route("10.1.0.0/26", type=RTN_BLACKHOLE, protocol=80)),
    lambda rtnl: rtnl.replace_route(Route("10.0.0.5/32", NOWHERE)),
    lambda rtnl: rtnl.delete_route(Route("10.0.0.9/32")),
    at("d0", lambda rtnl, device: rtnl.device_to("192.0.2.77") == device),
    lambda rtnl: rtnl.device_to("203.0.113.1"),
    at("d0", lambda rtnl, device: rtnl.replace_neighbour(Neighbour(device, "192.0.2.7", FAR_MAC))),
    at("d0", keep), at("d0", keep), at("d0", entries),
    lambda rtnl: keep(rtnl, NOWHERE),
    at("d0", vxlan), at("d0", vxlan),
    lambda rtnl: rtnl.ensure_vxlan("v1", VxlanAttributes(4096, 4789, "192.0.2.9", 0), MAC, 1400),
    lambda rtnl: rtnl.ensure_vxlan("v6", VxlanAttributes(4096, 4789, "2001:db8::1", 0), MAC, 1400).name,
    lambda rtnl: rtnl.ensure_vxlan("v2", VxlanAttributes(1024, 4789, "192.0.2.9", 0), MAC, 1400).name,
    at("v0", lambda rtnl, device: rtnl.apply_neighbours([], [Neighbour(device, "192.0.2.2", FAR_MAC, fdb=True)])),
    at("v0", entries),
    at("d1", lambda rtnl, device: rtnl.set_link(device, up=False)),
    put("d1", route("10.0.0.6/32", scope=RT_SCOPE_LINK)),
    at("d1", lambda rtnl, device: rtnl.set_link(device, up=True, mtu=1300)),
    lambda rtnl: (one.up, one.mtu) if (one := rtnl.link("d1")) is not None else None,
    at("d0", lambda rtnl, device: rtnl.delete_address(Address(device, "192.0.2.1/24"))),
    lambda rtnl: rtnl.delete_link("v0"), lambda rtnl: rtnl.delete_link("v0"),
]  # fmt: skip


def outcome(rtnl: Rtnl, step: Step) -> object:
    try:
        return step(rtnl)
    except KernelError as error:
        return f"errno {error.errno}"


def routes(rtnl: Rtnl) -> list[tuple[object, ...]]:
    """Those of others than the kernel, with names for indices."""
    names = {link.ifindex: link.name for link in rtnl.links()}
    found = [one for family in (INET, INET6) for one in rtnl.routes(family) if one.protocol != RTPROT_KERNEL]
    return sorted((*one._replace(device=0), names.get(one.device, "")) for one in found)


def test_requests_have_the_answers_and_the_effects_that_the_kernel_gives_them(real: Rtnl) -> None:
    fake = FakeKernel().rtnl()
    for number, step in enumerate(STEPS):
        assert outcome(fake, step) == outcome(real, step), number
        assert routes(fake) == routes(real), number

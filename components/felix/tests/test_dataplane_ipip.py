"""The IPIP device, which pyroute2 asks for: the request, what a kernel holds then, and a kernel that has none."""

from __future__ import annotations

import errno
import logging
import socket

import pytest

from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.ipip import RETRY
from calico_felix.dataplane.manager import Context
from calico_felix.testing_tunnels import Tunnels
from libcalico.calc.messages import Pools
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel import nlmsg, objects
from libcalico.kernel.devices import create_device, ipip_request
from libcalico.kernel.errors import KernelError
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import flush, node
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

ON = flush(pools=Pools(ipip=("a-pool",)), hosts={"here": node("172.16.0.1", ipip="10.0.1.1"), "a": node("172.16.0.2")})
WAY = WantedRoute("10.0.2.0/26", "ipip", "a", "172.16.0.2")
DEVICE = "tunl0 up mtu 1480"


class Host(Tunnels):
    """Tunnels over a kernel; no pool wants VXLAN."""

    def __init__(self, context: Context, kernel: FakeKernel) -> None:
        super().__init__(context)
        self.kernel = kernel
        self.on_flush(flush(pools=Pools()))

    def links(self) -> list[str]:
        """The links beside the host's own."""
        return [line for line in self.kernel.show("links").splitlines() if not line.startswith("eth")]

    def addresses(self) -> list[str]:
        """Of the device."""
        return [line for line in self.kernel.show("addresses").splitlines() if line.startswith("tunl0")]

    def route(self) -> str:
        """The route to the other host's block; empty while there is none."""
        planned = self.ways.plan_route(WAY)
        return self.kernel.route_line(planned) if planned is not None else ""


@pytest.fixture
def host(context: Context, kernel: FakeKernel) -> Host:
    return Host(context, kernel)


def test_the_request_asks_for_a_device_of_that_name_and_kind_and_no_more() -> None:
    request = ipip_request("tunl0")
    assert (request.kind, request.flags & 0xF00) == (objects.RTM_NEWLINK, nlmsg.NLM_F_CREATE | nlmsg.NLM_F_EXCL)
    family, _pad, _type, index, flags, _change = request.body[0], *map(int, request.body[1:4]), *request.body[4:6]
    assert (family, index, flags) == (socket.AF_UNSPEC, 0, 0)
    found = nlmsg.decode_attributes(memoryview(request.body)[16:])
    assert found.keys() == {objects.IFLA_IFNAME, objects.IFLA_LINKINFO}
    link = objects.decode_link(memoryview(request.body))
    assert (link.name, link.kind) == ("tunl0", "ipip")


def test_one_that_is_there_is_no_failure(kernel: FakeKernel) -> None:
    assert create_device(kernel.rtnl(), "tunl0", ipip_request("tunl0"))
    assert not create_device(kernel.rtnl(), "tunl0", ipip_request("tunl0"))
    kernel.refuse("create link tunl0", errno.EOPNOTSUPP)
    with pytest.raises(KernelError, match="create link tunl0: Operation not supported"):
        create_device(kernel.rtnl(), "tunl0", ipip_request("tunl0"))


async def test_the_device_is_made_once_and_leads_to_the_other_host_s_own_address(host: Host) -> None:
    host.on_flush(ON)
    await host.apply_all()
    assert (host.links(), host.addresses()) == ([DEVICE], ["tunl0 10.0.1.1/32"])
    assert host.route() == "10.0.2.0/26 via 172.16.0.2 dev tunl0 proto 80 mtu 1480 onlink"
    assert host.ways.mtus() == {"tunl0": 1480}
    host.kernel.take_commands()
    host.on_flush(ON)
    await host.apply_all()
    assert (host.kernel.commands, host.pending()) == ([], [])


async def test_without_a_pool_or_an_address_there_is_no_device(host: Host) -> None:
    host.on_flush(ON._replace(pools=None))
    await host.apply_all()
    host.on_flush(ON._replace(hosts={"here": node("172.16.0.1")}))
    await host.apply_all()
    assert (host.links(), host.kernel.commands, host.route()) == ([], [], "")


async def test_when_no_pool_wants_it_any_more_our_address_goes_and_the_rest_stays(host: Host) -> None:
    host.on_flush(ON)
    await host.apply_all()
    host.kernel.add_address("tunl0", "203.0.113.9/32")
    host.on_flush(flush(pools=Pools()))
    await host.apply_all()
    assert (host.links(), host.addresses()) == ([DEVICE], ["tunl0 203.0.113.9/32"])
    assert (host.route(), host.ways.mtus(), host.next_try_s()) == ("", {}, None)


async def test_a_device_that_others_use_is_left_alone_while_no_pool_wants_it(host: Host) -> None:
    host.kernel.add_link("tunl0", kind="ipip")
    host.kernel.add_address("tunl0", "203.0.113.9/32")
    before = host.links(), host.addresses()
    host.on_flush(ON._replace(pools=Pools()))
    await host.apply_all()
    assert (host.links(), host.addresses(), host.kernel.commands) == (*before, [])


async def test_another_address_comes_before_the_former_one_goes(host: Host) -> None:
    host.on_flush(ON)
    await host.apply_all()
    host.kernel.take_commands()
    host.on_flush(flush(hosts={"here": node("172.16.0.1", ipip="10.0.1.9")}))
    await host.apply_all()
    assert host.kernel.commands == ["add address 10.0.1.9/32 dev tunl0", "delete address 10.0.1.1/32 dev tunl0"]


async def test_a_kernel_without_ipip_is_named_once_with_the_pool_and_asked_less_and_less_often(
    host: Host, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    host.kernel.refuse("create link tunl0", errno.EOPNOTSUPP, times=4)
    host.on_flush(ON)
    with caplog.at_level(logging.INFO):
        for tries in range(1, 5):
            await host.apply_all()
            (line,) = host.pending()
            assert "pool a-pool wants IPIP, and this kernel has no ipip device: load the module ipip" in line
            assert "or change ipipMode" in line and host.ipip.next_try_s(clock.at_s) == RETRY.pause_s(tries)
            clock.at_s += RETRY.pause_s(tries)
        assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1
        await host.apply_all()
    assert (host.pending(), host.links()) == ([], [DEVICE])
    assert "device tunl0 is there" in caplog.text


async def test_a_module_that_is_loaded_is_noticed_at_once(host: Host) -> None:
    host.kernel.refuse("create link tunl0", errno.EOPNOTSUPP)
    host.on_flush(ON)
    await host.apply_all()
    host.kernel.take_events()
    host.kernel.add_link("tunl0", up=False, kind="ipip", mtu=1480)
    for event in host.kernel.take_events():
        host.interfaces.on_event(event)  # type: ignore[arg-type]
    await host.apply_all()
    assert (host.pending(), host.addresses()) == ([], ["tunl0 10.0.1.1/32"])


async def test_a_device_of_that_name_and_another_kind_is_named(host: Host) -> None:
    host.kernel.add_link("tunl0", kind="dummy")
    host.on_flush(ON)
    await host.apply_all()
    assert host.pending() == ["device tunl0: take device tunl0: it is of kind dummy, not ipip"]


async def test_the_mtu_is_the_setting_s_or_the_narrowest_interface_s_less_the_header(
    context: Context, kernel: FakeKernel
) -> None:
    kernel.add_link("eth1", mtu=1400)
    host = Host(context, kernel)
    host.on_flush(ON)
    await host.apply_all()
    assert host.ways.mtus() == {"tunl0": 1380}
    set_by_hand = Host(context._replace(config=DataplaneConfig("here", context.config.nft, ipip_mtu=1300)), kernel)
    set_by_hand.on_flush(ON)
    await set_by_hand.apply_all()
    assert set_by_hand.ways.mtus() == {"tunl0": 1300} and "tunl0 up mtu 1300" in kernel.show("links")

"""Interfaces of the host, their settings, their workloads' neighbour entries, and the MTU file."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from calico_felix.dataplane.interface_settings import InterfaceSettings
from calico_felix.dataplane.interfaces import REFRESH_S, Interfaces
from calico_felix.dataplane.manager import RETRY_S, Context, LinkChange
from calico_felix.dataplane.neighbours import WorkloadNeighbours
from calico_felix.dataplane.owners import Owners, admit
from calico_felix.dataplane.workload_mtu import WorkloadMtu
from calico_felix.testing_tunnels import Tunnels
from libcalico.calc.messages import Flush
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import LinkEvent
from libcalico.kernel.objects import Link
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import endpoint, flush
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

A = endpoint("a", "10.0.0.1/32", "fd00::1/128")
SET_UP = [
    "net/ipv4/conf/calia/forwarding = 1", "net/ipv4/conf/calia/proxy_arp = 1", "net/ipv4/conf/calia/route_localnet = 1",
    "net/ipv4/conf/calia/rp_filter = 2", "net/ipv6/conf/calia/forwarding = 1", "net/ipv6/conf/calia/proxy_ndp = 1",
]  # fmt: skip
KEPT = ["10.0.0.1 dev calia learned", "fd00::1 dev calia learned"]


class Host:
    """The managers that follow interfaces, over a kernel."""

    def __init__(self, context: Context, kernel: FakeKernel) -> None:
        self.kernel, self.context = kernel, context
        self.changes: list[LinkChange] = []
        self.owners = Owners()
        self.interfaces = Interfaces(context, self.on_change)
        self.settings = InterfaceSettings(context, self.owners, self.interfaces)
        self.neighbours = WorkloadNeighbours(context, self.owners, self.interfaces)
        self.mtu = WorkloadMtu(context, self.interfaces, Tunnels(context).ways)
        self.settings.open()

    def on_change(self, change: LinkChange) -> None:
        """As the loop hands it on."""
        self.changes.append(change)
        for manager in (self.settings, self.neighbours, self.mtu):
            manager.on_link(change)

    def on_flush(self, changes: Flush) -> None:
        """As the loop hands it on."""
        self.owners.on_flush(changes)
        self.settings.on_flush(changes)
        self.neighbours.on_flush(changes)

    async def apply(self) -> None:
        """One round."""
        for manager in (self.interfaces, self.settings, self.neighbours, self.mtu):
            await manager.apply(self.context.clock.monotonic_s())

    def deliver(self) -> None:
        """What a monitor has read since."""
        for event in self.kernel.take_events():
            if isinstance(event, LinkEvent):
                self.interfaces.on_event(event)

    def set_up(self) -> list[str]:
        """The settings of workloads' interfaces that are not a new interface's."""
        return [
            line for line in self.kernel.show("sysctls").splitlines() if "/cali" in line and "accept_ra" not in line
        ]

    def kept(self) -> list[str]:
        """Neighbour entries."""
        return self.kernel.show("neighbours").splitlines()


@pytest.fixture
async def host(context: Context, kernel: FakeKernel) -> Host:
    made = Host(context, kernel)
    await made.apply()
    return made


async def test_an_endpoint_s_interface_is_set_up_once_it_is_there(host: Host, clock: ManualClock) -> None:
    host.on_flush(flush(A))
    await host.apply()
    assert (host.set_up(), host.kept(), host.settings.next_try_s(0.0)) == ([], [], None)
    host.kernel.add_link("calia")
    host.deliver()
    assert host.settings.next_try_s(0.0) == RETRY_S
    await host.apply()
    assert (host.set_up(), host.kept()) == (SET_UP, KEPT)
    assert host.kernel.sysctls["net/ipv6/conf/calia/accept_ra"] == "0"
    assert host.kernel.sysctls["net/ipv4/neigh/calia/proxy_delay"] == "0"
    host.kernel.take_commands()
    host.on_flush(flush(A))
    clock.at_s += REFRESH_S
    await host.apply()
    assert host.kernel.commands == []
    assert host.settings.next_try_s(0.0) is None and host.settings.pending() == []


async def test_a_setting_that_another_process_changes_is_back_after_the_next_listing(
    host: Host, clock: ManualClock
) -> None:
    host.kernel.add_link("calia")
    host.deliver()
    host.on_flush(flush(A))
    await host.apply()
    host.kernel.sysctls["net/ipv4/conf/calia/proxy_arp"] = "0"
    assert (host.interfaces.next_try_s(clock.at_s) or 0) > 0
    clock.at_s += REFRESH_S
    host.kernel.take_commands()
    await host.apply()
    assert host.kernel.commands == ["set net/ipv4/conf/calia/proxy_arp=1"]


async def test_an_interface_without_an_endpoint_is_left_alone(host: Host) -> None:
    host.kernel.add_link("calix")
    host.deliver()
    await host.apply()
    assert (host.set_up(), host.kept()) == ([], [])


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
async def test_a_setting_that_cannot_be_written_is_named_until_it_can(host: Host, number: int) -> None:
    host.kernel.add_link("calia")
    host.deliver()
    host.kernel.refuse("set net/ipv4/conf/calia/proxy_arp", number)
    host.kernel.refuse("set net/ipv6/conf/calia/accept_ra", number, times=2)
    host.on_flush(flush(A))
    await host.apply()
    assert len(host.settings.pending()) == 1 and "set net/ipv4/conf/calia/proxy_arp=1" in host.settings.pending()[0]
    assert host.settings.problem("calia") in host.settings.pending()[0]
    await host.apply()
    assert (host.settings.pending(), host.set_up()) == ([], SET_UP), "what is not needed is only logged"


async def test_an_interface_that_goes_while_its_settings_are_written_is_forgotten(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.kernel.add_link("calia")
    host.deliver()
    host.on_flush(flush(A))

    async def in_thread(act: Callable[..., object], *arguments: object) -> object:
        host.kernel.remove_link("calia")
        host.kernel.add_link("calia") if again else None
        host.deliver()
        return act(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", in_thread)
    again = True
    await host.settings.apply(0.0)
    assert host.settings.next_try_s(0.0) == RETRY_S, "the one that came must be set up, too"
    again = False
    await host.settings.apply(0.0)
    assert host.settings.next_try_s(0.0) is None


async def test_a_kernel_without_ipv6_has_none_of_its_settings_and_neighbours(
    context: Context, kernel: FakeKernel
) -> None:
    kernel.has_ipv6 = False
    host = Host(context, kernel)
    kernel.add_link("calia")
    await host.interfaces.refresh()
    host.on_flush(flush(A))
    await host.apply()
    assert (host.set_up(), host.kept()) == (SET_UP[:4], KEPT[:1])


async def test_a_host_without_a_default_filter_has_the_strict_one(context: Context, kernel: FakeKernel) -> None:
    del kernel.sysctls["net/ipv4/conf/default/rp_filter"]
    host = Host(context, kernel)
    kernel.add_link("calia")
    host.on_flush(flush(A))
    await host.apply()
    assert "net/ipv4/conf/calia/rp_filter = 1" in host.set_up()


async def test_neighbours_go_with_the_endpoint_and_come_again_with_the_interface(host: Host) -> None:
    host.kernel.add_link("calia")
    host.deliver()
    host.on_flush(flush(A))
    await host.apply()
    host.kernel.set_up("calia", False)
    host.kernel.set_up("calia", True)
    host.deliver()
    assert host.kept() == []
    await host.apply()
    assert host.kept() == KEPT
    host.on_flush(flush(endpoint("a", "10.0.0.1/32")))
    await host.apply()
    assert host.kept() == KEPT[:1]
    host.kernel.neighbours.clear()
    host.neighbours.on_forgotten(0)
    await host.apply()
    assert host.kept() == KEPT[:1]
    host.on_flush(flush(gone=[A]))
    await host.apply()
    assert host.kept() == []


async def test_a_neighbour_that_is_refused_is_named_and_tried_again(host: Host, clock: ManualClock) -> None:
    host.kernel.add_link("calia")
    host.deliver()
    host.kernel.refuse("add neighbour 10.0.0.1", errno.ENOBUFS)
    host.on_flush(flush(A))
    await host.apply()
    assert host.kept() == KEPT[1:] and "10.0.0.1" in host.neighbours.pending()[0]
    clock.at_s += host.neighbours.next_try_s(clock.at_s) or 0.0
    await host.apply()
    assert (host.kept(), host.neighbours.pending()) == (KEPT, [])


async def test_changes_are_reported_with_what_was_before(host: Host) -> None:
    def words() -> list[tuple[str, bool, bool]]:
        found = [(change.link.name, change.was_up, change.is_up) for change in host.changes]
        host.changes.clear()
        return found

    words()
    index = host.kernel.add_link("calia", up=False)
    host.kernel.set_up("calia", True)
    host.deliver()
    assert words() == [("calia", False, False), ("calia", False, True)]
    host.kernel.put_link(host.kernel.links[index]._replace(name="calib"))
    host.deliver()
    assert words() == [("calia", True, True), ("calib", False, True)]
    assert set(host.interfaces.links) == {"lo", "eth0", "calib"} and host.interfaces.is_ours(index)
    host.kernel.remove_link("calib")
    host.deliver()
    assert words() == [("calib", True, False)] and not host.interfaces.is_ours(index)


async def test_a_listing_reports_what_no_event_did(host: Host) -> None:
    host.kernel.add_link("calia")
    host.kernel.remove_link("eth0")
    host.kernel.take_events()
    host.changes.clear()
    await host.interfaces.refresh()
    assert [(one.link.name, one.was_up, one.is_up) for one in host.changes] == [
        ("eth0", True, False), ("calia", False, True),
    ]  # fmt: skip
    host.changes.clear()
    host.interfaces.forget()
    await host.interfaces.apply(0.0)
    assert host.changes == [] and "calia" in host.interfaces.links


async def test_events_that_come_during_a_listing_are_newer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    index = host.kernel.add_link("calia")
    gone = Link(9, "calig", True, True, 1500, "")
    host.deliver()
    run = host.context.handles.netlink.run

    async def slow(call: Callable[..., object], *arguments: object) -> object:
        found = await run(call, *arguments)
        assert isinstance(found, list)
        host.kernel.put_link(host.kernel.links[index]._replace(name="calib"))
        host.deliver()
        host.interfaces.on_event(LinkEvent(gone, deleted=True))
        return [*found, gone]

    monkeypatch.setattr(host.context.handles.netlink, "run", slow)
    await host.interfaces.refresh()
    assert set(host.interfaces.links) == {"lo", "eth0", "calib"}


async def test_a_listing_that_fails_leaves_what_is_known(host: Host) -> None:
    host.kernel.refuse("list links", errno.EIO)
    with pytest.raises(KernelError, match="list links"):
        await host.interfaces.refresh()
    assert set(host.interfaces.links) == {"lo", "eth0"}
    host.kernel.add_link("calia")
    host.deliver()
    assert host.interfaces.workloads() == {host.kernel.index("calia")}


async def test_the_mtu_file_follows_the_way_out(host: Host, clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "mtu"
    assert path.read_text() == "1430\n", "eth0's without the overhead of the wider of two tunnels"
    host.kernel.put_link(host.kernel.links[host.kernel.index("eth0")]._replace(mtu=9000))
    host.deliver()
    assert host.mtu.next_try_s(clock.at_s) == 0.0
    await host.apply()
    assert path.read_text() == "8930\n"
    path.unlink()
    host.kernel.add_link("calia")
    host.deliver()
    await host.apply()
    assert not path.exists(), "a workload's interface is no way out"
    clock.at_s += REFRESH_S
    await host.apply()
    assert path.read_text() == "8930\n"


async def test_an_mtu_file_that_cannot_be_written_is_named(host: Host, clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "mtu").unlink()
    (tmp_path / "mtu").mkdir()
    clock.at_s += REFRESH_S
    await host.apply()
    assert len(host.mtu.pending()) == 1 and str(tmp_path / "mtu") in host.mtu.pending()[0]


def test_an_endpoint_on_a_foreign_interface_is_not_admitted(caplog: pytest.LogCaptureFixture) -> None:
    foreign = endpoint("b", "10.0.0.2/32", interface="eth0")
    admitted = admit(flush(A, foreign), ("cali", "tap"))
    assert admitted.endpoints == {A.key: A, foreign.key: None}
    assert "interfaceName 'eth0' begins with none of cali, tap" in caplog.text
    assert admit(flush(A), ("cali",)).endpoints == {A.key: A}

"""A kernel in memory that prints its whole state: links, addresses, routes, neighbours, sysctls, flows, nftables.

    kernel = FakeKernel()
    kernel.add_link("cali1")
    rtnl = kernel.rtnl()                      # a `Rtnl` of the real code over netlink messages that the fake answers
    rtnl.replace_route(Route("10.0.0.1/32", kernel.index("cali1")))
    assert kernel.show("routes") == "10.0.0.1/32 dev cali1 proto 3\\n"

What it answers is what Linux does, as far as the code of this repository depends on it: numbers of errors, what goes
with a link that goes, goes down or loses its last IPv4 address (without an event), what is refused while a link is
down. `commands` lists what was asked to change, in words; `refuse` makes it refuse what a test names. `events` are
those that a monitor would have read.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Concatenate

from libcalico.kernel.conntrack import Conntrack
from libcalico.kernel.errors import KernelError
from libcalico.kernel.netlink import Event, Netlink, P, T
from libcalico.kernel.objects import Address, Link, Route
from libcalico.kernel.rtnl import Rtnl
from libcalico.testing.kernel_rtnl import FakeRtnl
from libcalico.testing.kernel_state import KernelState

SECTIONS = ("links", "addresses", "routes", "neighbours", "sysctls", "flows", "nft")


class FakeKernel(KernelState):
    """One network namespace, with what tests do to it and read of it."""

    # --- what a test does

    def take_commands(self) -> list[str]:
        """What was asked to change since the last call."""
        taken, self.commands = self.commands, []
        return taken

    def take_events(self) -> list[Event]:
        """What a monitor would have read since the last call."""
        taken, self.events = self.events, []
        return taken

    def set_up(self, name: str, up: bool) -> None:
        """Another process sets an interface up or down."""
        self.put_link(self.links[self.index(name)]._replace(up=up, running=up))

    def add_address(self, name: str, cidr: str) -> None:
        """Another process gives an interface an address."""
        self.put_address(Address(self.index(name), cidr))

    def add_route(self, destination: str, name: str, gateway: str = "", metric: int = 0) -> None:
        """Another process adds a route, or puts it in the place of one."""
        self.put_route(Route(destination, self.index(name), gateway, metric=metric))

    def remove_route(self, destination: str, metric: int = 0) -> None:
        """Another process deletes a route."""
        self.drop_route(Route(destination, metric=metric))

    def remove_address(self, name: str, cidr: str) -> None:
        """Another process takes an address from an interface."""
        self.drop_address(self.index(name), cidr)

    def remove_link(self, name: str) -> None:
        """Another process deletes an interface."""
        self.drop_link(self.index(name))

    def add_flow(self, source: str, destination: str) -> None:
        """A connection that the kernel tracks."""
        self.flows.append((source, destination))

    # --- what the code under test holds

    def rtnl(self) -> Rtnl:
        """Route netlink of this kernel."""
        return FakeRtnl(self)

    def netlink(self) -> Netlink:
        """The same for coroutines; calls run at once."""
        return FakeNetlink(self)

    def conntrack(self) -> Conntrack:
        """Its connections."""
        return FakeConntrack(self)

    def sysctl(self) -> FakeSysctl:
        """Its settings: what the module `kernel.sysctl` offers."""
        return FakeSysctl(self)

    # --- what it prints

    def show(self, *sections: str) -> str:
        """The state as text, all of it or some sections; a section alone has no head. Empty ones are left out."""
        wanted = sections or SECTIONS
        parts = {name: list(self._lines(name)) for name in wanted}
        if len(sections) == 1:
            return "".join(f"{line}\n" for line in parts[sections[0]])
        return "".join(f"{name}\n" + "".join(f"  {line}\n" for line in found) for name, found in parts.items() if found)

    def _lines(self, section: str) -> Iterable[str]:
        match section:
            case "links":
                return [self._link_line(link) for link in self.links.values() if link.name != "lo"]
            case "addresses":
                return sorted(f"{self.name(one.device)} {one.cidr}" for one in self.addresses)
            case "routes":
                return sorted(map(self.route_line, self.routes.values()))
            case "neighbours":
                return sorted(map(self.neighbour_line, self.neighbours.values()))
            case "sysctls":
                return sorted(f"{key} = {value}" for key, value in self.sysctls.items() if value not in {"0", "80"})
            case "flows":
                return [f"{source} > {destination}" for source, destination in self.flows]
            case _:
                return self.nft.show().splitlines()

    def _link_line(self, link: Link) -> str:
        words = [link.name, "up" if link.up else "down", f"mtu {link.mtu}", f"mac {link.mac}" if link.mac else ""]
        if link.vxlan is not None:
            one = link.vxlan
            lower = f" dev {self.name(one.lower)}" if one.lower else ""
            words.append(f"vxlan {one.vni} port {one.port} local {one.local}{lower}")
        return " ".join(filter(None, words))


class FakeNetlink(Netlink):
    """Runs its calls at once, on the caller's thread; calls are those of `Netlink`."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._rtnl = kernel.rtnl()

    def close(self) -> None:
        """Nothing is open."""

    async def run(self, call: Callable[Concatenate[Rtnl, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call(rtnl, ...)`."""
        return call(self._rtnl, *args, **kwargs)


class FakeConntrack(Conntrack):
    """The kernel's connections."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel

    def close(self) -> None:
        """Nothing is open."""

    def delete_flows(self, addresses: Iterable[str]) -> int:
        """Delete flows that come from, or go to, one of the addresses."""
        wanted = set(addresses)
        number = self._kernel.ask(f"end flows of {','.join(sorted(wanted))}")
        if number:
            raise KernelError("delete connection", number)
        left = [flow for flow in self._kernel.flows if wanted.isdisjoint(flow)]
        ended = len(self._kernel.flows) - len(left)
        self._kernel.flows = left
        return ended

    def addresses(self) -> set[str]:
        """Every address that some flow comes from, or answers as."""
        if number := self._kernel.refused("list connections"):
            raise KernelError("list connections", number)
        return {address for flow in self._kernel.flows for address in flow}


class FakeSysctl:
    """The kernel's settings: the functions of `kernel.sysctl`."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel

    def read(self, key: str) -> str:
        """The value of `key`; `KernelError` ENOENT when there is no such setting."""
        if key not in self._kernel.sysctls:
            raise KernelError(f"read {key}", errno.ENOENT)
        return self._kernel.sysctls[key]

    def write(self, key: str, value: str | int) -> None:
        """Set it."""
        number = self._kernel.ask(f"set {key}={value}")
        if number or key not in self._kernel.sysctls:
            raise KernelError(f"set {key}={value}", number or errno.ENOENT)
        self._kernel.sysctls[key] = str(value)

    def ensure(self, key: str, value: str | int) -> bool:
        """Set it unless it has the value; True when it was written."""
        if self.read(key) == str(value):
            return False
        self.write(key, value)
        return True

    def has_ipv6(self) -> bool:
        """The kernel knows IPv6."""
        return self._kernel.has_ipv6

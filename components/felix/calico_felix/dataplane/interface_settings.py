"""What the kernel must do on a workload's interface: settings below /proc/sys/net (spec/felix.md 4.6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from calico_felix.dataplane.handles import Sysctl
from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import RETRY_S, Context, LinkChange, Manager
from calico_felix.dataplane.owners import Owners
from libcalico.calc.messages import Flush
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Link

log = logging.getLogger(__name__)

STRICT = 1  # rp_filter (Documentation/networking/ip-sysctl)
PROXY_DELAY = "proxy_delay"


class InterfaceSetting(NamedTuple):
    """One file of an interface below /proc/sys/net; `needed` False: a failure is only logged."""

    area: str
    name: str
    value: int
    needed: bool = True

    def key(self, interface: str) -> str:
        """The file."""
        return f"net/{self.area}/{'neigh' if self.name == PROXY_DELAY else 'conf'}/{interface}/{self.name}"


Settings = tuple[InterfaceSetting, ...]


class InterfaceSettings(Manager):
    """Keeps the settings of the interfaces that endpoints have, as far as those are there and up."""

    def __init__(self, context: Context, owners: Owners, interfaces: Interfaces) -> None:
        self._context = context
        self._owners = owners
        self._interfaces = interfaces
        self._unset: dict[str, str] = {}
        """Interfaces whose settings are to be written, and why the last try failed ("": there was none)."""
        self._wanted = self._choose(STRICT)

    def _choose(self, rp_filter: int) -> Settings:
        return interface_settings(self._context.config.ipv6, rp_filter, self._context.handles.sysctl.has_ipv6())

    def open(self) -> None:
        """Interfaces get the reverse-path filter that is this host's default."""
        try:
            rp_filter = int(self._context.handles.sysctl.read("net/ipv4/conf/default/rp_filter"))
            self._wanted = self._choose(rp_filter)
        except KernelError as error:
            log.info("%s: taking %d", error, STRICT)

    def on_flush(self, flush: Flush) -> None:
        """Endpoints have come, changed or gone."""
        for interface in self._owners.touched:
            self._plan(interface)

    def on_link(self, change: LinkChange) -> None:
        """An interface has come, is up, or has other settings."""
        self._plan(change.link.name)

    def _plan(self, interface: str) -> None:
        link = self._interfaces.links.get(interface)
        endpoint = self._owners.active(interface)
        if endpoint is not None and link is not None and link.up and unset_settings(self._wanted, link):
            self._unset.setdefault(interface, "")
        else:
            self._unset.pop(interface, None)

    def next_try_s(self, now_s: float) -> float | None:
        """Soon, while there is one to write."""
        return RETRY_S if self._unset else None

    async def apply(self, now_s: float) -> None:
        """Write what is not what it should be, in a thread."""
        links = {name: self._interfaces.links[name] for name in self._unset if name in self._interfaces.links}
        wanted = {name: unset_settings(self._wanted, link) for name, link in links.items()}
        if wanted:
            problems = await asyncio.to_thread(write_all, self._context.handles.sysctl, wanted)
            for interface, problem in problems.items():
                self._account(links[interface], wanted[interface], problem)

    def _account(self, before: Link, written: Settings, problem: str) -> None:
        name = before.name
        link = self._interfaces.links.get(name)
        if link is not None and link.ifindex != before.ifindex:
            return  # another one of that name has come meanwhile
        if link is None or not problem:
            self._unset.pop(name, None)
            if link is not None:
                self._interfaces.put(with_settings(link, written))
        elif name in self._unset:
            self._unset[name] = problem

    def problem(self, interface: str) -> str:
        """Why the settings of an interface could not be written; empty when nothing is known to be wrong."""
        return self._unset.get(interface, "")

    def pending(self) -> list[str]:
        """Interfaces whose settings could not be written."""
        return [f"settings of {name}: {why}" for name, why in self._unset.items() if why]


def interface_settings(ipv6: bool, rp_filter: int, known_ipv6: bool = True) -> Settings:
    """What a workload's interface needs; `known_ipv6`: the kernel has settings of IPv6."""
    settings = [InterfaceSetting("ipv6", "accept_ra", 0, False)] if known_ipv6 else []
    settings += [
        InterfaceSetting("ipv4", "route_localnet", 1),
        InterfaceSetting("ipv4", PROXY_DELAY, 0, False),
        InterfaceSetting("ipv4", "proxy_arp", 1),
        InterfaceSetting("ipv4", "forwarding", 1),
        InterfaceSetting("ipv4", "rp_filter", rp_filter),
    ]
    if ipv6 and known_ipv6:
        settings += [InterfaceSetting("ipv6", "proxy_ndp", 1), InterfaceSetting("ipv6", "forwarding", 1)]
    return tuple(settings)


def unset_settings(settings: Settings, link: Link) -> Settings:
    """Those that are not what they should be, as the kernel reported them with the link.

    It does not report `proxy_delay`: that is taken for set when every other one of IPv4 is, for who wires sets all.
    An interface of which it reports IPv4's settings and none of IPv6 has no IPv6 (its MTU is below 1280): nothing is
    missing there, and what it has later is reported with it."""
    if link.ipv4 and not link.ipv6:
        settings = tuple(s for s in settings if s.area != "ipv6")
    unset = tuple(s for s in settings if s.name != PROXY_DELAY and link.setting(s.area, s.name) != s.value)
    if any(s.area == "ipv4" for s in unset):
        unset += tuple(s for s in settings if s.name == PROXY_DELAY)
    return unset


def with_settings(link: Link, written: Settings) -> Link:
    """The link as it is after that."""
    for setting in written:
        if setting.name != PROXY_DELAY and link.setting(setting.area, setting.name) is not None:
            link = link.with_setting(setting.area, setting.name, setting.value)
    return link


def write_all(sysctl: Sysctl, wanted: Mapping[str, Settings]) -> dict[str, str]:
    """`write_settings` for several interfaces."""
    return {name: write_settings(sysctl, name, settings) for name, settings in wanted.items()}


def write_settings(sysctl: Sysctl, interface: str, settings: Settings) -> str:
    """Write what differs; the first failure that matters, empty if there was none."""
    problem = ""
    for setting in settings:
        try:
            sysctl.ensure(setting.key(interface), setting.value)
        except KernelError as error:
            if setting.needed:
                problem = problem or str(error)
            else:
                log.info("%s", error)
    return problem

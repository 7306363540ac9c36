"""The interfaces of the host, as the kernel reports them: by events, and by a listing now and then.

A listing takes time, and events come meanwhile: they are newer. They act at once on what was known before, and again
on what the listing has found. What differs then is handed on like any other change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from calico_felix.dataplane.link_events import LinkEvents
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from libcalico.conventions import IPIP_DEVICE, VXLAN_DEVICES
from libcalico.kernel.netlink import LinkEvent
from libcalico.kernel.objects import Link
from libcalico.kernel.rtnl import Rtnl

log = logging.getLogger(__name__)

REFRESH_S = 90.0
"""Of a setting that another process has changed the kernel reports nothing."""


class Interfaces(Manager):
    """`links` by name. Each change of one goes to `notify`, after it has been taken in."""

    def __init__(self, context: Context, notify: Callable[[LinkChange], None]) -> None:
        self.links: dict[str, Link] = {}
        self._context = context
        self._notify = notify
        self._by_index: dict[int, Link] = {}
        self._limit = LinkEvents(context.clock, self._on_event)
        self._listing = asyncio.Lock()
        self._meanwhile: list[LinkEvent] | None = None
        """The events since a listing began; None while there is none at work."""
        self._due_s = 0.0

    def on_event(self, event: LinkEvent) -> None:
        """The kernel reports an interface that came, changed or went."""
        self._limit.on_event(event)

    def _on_event(self, event: LinkEvent) -> None:
        if self._meanwhile is not None:
            self._meanwhile.append(event)
        name, index = event.link.name, event.link.ifindex
        former = self._by_index.get(index)
        if former is not None and former.name != name:
            log.info("interface %s is called %s now", former.name, name)
            self.drop(former.name)
            self._notify(LinkChange(former, former.up, former.up and not event.deleted))  # its routes are still there
        was_up = (known := self.links.get(name)) is not None and known.up
        self._take_in(event)
        self._notify(LinkChange(event.link, was_up, event.link.up and not event.deleted))

    def _take_in(self, event: LinkEvent) -> None:
        if not event.deleted:
            self.put(event.link)
        elif (known := self.links.get(event.link.name)) is not None and known.ifindex == event.link.ifindex:
            self.drop(event.link.name)

    def put(self, link: Link) -> None:
        """An interface is there, or is different; nothing is notified."""
        self.drop(link.name)
        if link.ifindex in self._by_index:
            self.drop(self._by_index[link.ifindex].name)
        self.links[link.name] = self._by_index[link.ifindex] = link

    def drop(self, name: str) -> None:
        """An interface is not there; nothing is notified."""
        former = self.links.pop(name, None)
        if former is not None:
            del self._by_index[former.ifindex]

    async def refresh(self) -> None:
        """Read every interface again."""
        async with self._listing:
            self._due_s = self._context.clock.monotonic_s() + REFRESH_S
            self._meanwhile = meanwhile = list[LinkEvent]()
            try:
                found = await self._context.handles.netlink.run(Rtnl.links)
            finally:
                self._meanwhile = None
            former = self.links
            self.links, self._by_index = {}, {}
            for event in (*(LinkEvent(link, False) for link in found), *meanwhile):
                self._take_in(event)
            self._notify_differences(former)

    def _notify_differences(self, former: Mapping[str, Link]) -> None:
        now = dict(self.links)
        for name, link in former.items():
            if name not in now:
                self._notify(LinkChange(link, link.up, False))
        for name, link in now.items():
            known = former.get(name)
            if known != link:
                self._notify(LinkChange(link, known is not None and known.up, link.up))

    def forget(self) -> None:
        """Read the interfaces, and their settings, again at the next apply."""
        self._due_s = 0.0

    async def apply(self, now_s: float) -> None:
        """Read them when it is time to."""
        if now_s >= self._due_s:
            await self.refresh()

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until the next listing."""
        return max(0.0, self._due_s - now_s)

    def is_workload(self, name: str) -> bool:
        """The interface has the name of a workload's."""
        return name.startswith(self._context.config.nft.interface_prefixes)

    def is_ours(self, ifindex: int) -> bool:
        """A workload's interface, or a VXLAN device of ours."""
        link = self._by_index.get(ifindex)
        return link is not None and (self.is_workload(link.name) or link.name in VXLAN_DEVICES.values())

    def is_ipip(self, ifindex: int) -> bool:
        """The IPIP device, which others may use as well."""
        link = self._by_index.get(ifindex)
        return link is not None and link.name == IPIP_DEVICE

    def workloads(self) -> set[int]:
        """The indices of the workloads' interfaces."""
        return {link.ifindex for name, link in self.links.items() if self.is_workload(name)}

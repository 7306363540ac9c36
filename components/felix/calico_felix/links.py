"""The kernel's events of interfaces, routes and addresses on their way to the dataplane."""

from __future__ import annotations

from collections.abc import Callable

from calico_felix.dataplane.loop import Dataplane
from libcalico.kernel.netlink import LinkEvent, Monitor, Overrun, RouteEvent


async def follow_links(monitor: Monitor, dataplane: Dataplane, on_link: Callable[[], None]) -> None:
    """For ever. `on_link` is called after an interface has come, changed or gone."""
    async for event in monitor:
        if isinstance(event, Overrun):
            await dataplane.on_overrun()
        elif isinstance(event, LinkEvent):
            dataplane.on_link(event)
            on_link()
        elif isinstance(event, RouteEvent):
            dataplane.on_route(event)
        else:
            dataplane.on_address(event)

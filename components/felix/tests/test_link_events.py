"""An interface that flaps is followed, but not at every turn."""

from __future__ import annotations

import asyncio

import pytest

from calico_felix.dataplane import link_events
from calico_felix.dataplane.link_events import BURST, LinkEvents
from libcalico.clock import SystemClock
from libcalico.kernel.netlink import LinkEvent
from libcalico.kernel.objects import Link


def event(name: str, up: bool, deleted: bool = False) -> LinkEvent:
    return LinkEvent(Link(5, name, up, up, 1500, ""), deleted)


async def test_few_events_go_on_at_once_and_of_many_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_events, "PAUSE_S", 0.05)
    seen: list[LinkEvent] = []
    events = LinkEvents(SystemClock(), seen.append)
    flaps = [event("cali1", bool(number % 2)) for number in range(1000)]
    for one in flaps:
        events.on_event(one)
    assert seen == flaps[: len(seen)] and BURST <= len(seen) < 2 * BURST
    events.on_event(event("cali2", True))
    assert seen[-1].link.name == "cali2", "others are not kept waiting"
    count = len(seen)
    async with asyncio.timeout(30):
        while len(seen) == count:
            await asyncio.sleep(0.01)
    assert seen[count:] == [flaps[-1]], "the state that it ended in is not missed"
    events.on_event(event("cali1", True, deleted=True))
    await asyncio.sleep(0.2)
    for _ in range(20):
        events.on_event(event("cali1", True))
    assert seen[-1] == event("cali1", True), "a new interface of that name begins afresh"

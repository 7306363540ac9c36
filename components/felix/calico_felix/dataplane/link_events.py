"""A limit for the link events of one interface: a container may set its own end up and down thousands of times a
second, and each time the kernel reports the host's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from libcalico.clock import Clock
from libcalico.kernel.netlink import LinkEvent

BURST = 30.0
"""Several times what an interface causes that is made, wired and set up."""
RATE_PER_S = 2.0
PAUSE_S = 0.5


class LinkEvents:
    """Hands events on at once while an interface causes few of them; of many, the newest after each pause."""

    def __init__(self, clock: Clock, deliver: Callable[[LinkEvent], None]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._budgets: dict[str, tuple[float, float]] = {}
        self._held: dict[str, LinkEvent] = {}

    def on_event(self, event: LinkEvent) -> None:
        """An event from the kernel; each tells the whole state of its interface, so that older ones may be dropped."""
        name = event.link.name
        if name in self._held:
            self._held[name] = event
            return
        now_s = self._clock.monotonic_s()
        left, since_s = self._budgets.get(name, (BURST, now_s))
        left = min(BURST, left + (now_s - since_s) * RATE_PER_S)
        if left >= 1.0:
            self._hand_on(event, left - 1.0, now_s)
            return
        self._held[name] = event
        asyncio.get_running_loop().call_later(PAUSE_S, self._release, name)

    def _release(self, name: str) -> None:
        self._hand_on(self._held.pop(name), 0.0, self._clock.monotonic_s())

    def _hand_on(self, event: LinkEvent, left: float, now_s: float) -> None:
        if event.deleted:
            self._budgets.pop(event.link.name, None)
        else:
            self._budgets[event.link.name] = (left, now_s)
        self._deliver(event)

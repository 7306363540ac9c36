"""A limit for events that others can cause as often as they like: a container may set its own end up and down
thousands of times a second, and each time the kernel reports the host's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from libcalico.clock import Clock
from libcalico.kernel.netlink import LinkEvent

BURST = 30.0
"""Several times what an interface causes that is made, wired and set up."""
RATE_PER_S = 2.0
PAUSE_S = 0.5

K = TypeVar("K", bound=Hashable)
E = TypeVar("E")


class EventLimit(Generic[K, E]):
    """Hands events on at once while one key causes few of them; of many, the newest after each pause. So of an event
    that is held back only what it says must be known of the state, and not how it came about."""

    def __init__(self, clock: Clock, deliver: Callable[[E], None]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._budgets: dict[K, tuple[float, float]] = {}
        self._held: dict[K, tuple[E, bool]] = {}

    def on_event(self, key: K, event: E, *, last: bool = False) -> None:
        """An event about `key`; after the `last` one a new thing of that name begins afresh."""
        if key in self._held:
            self._held[key] = event, last
            return
        now_s = self._clock.monotonic_s()
        left, since_s = self._budgets.get(key, (BURST, now_s))
        left = min(BURST, left + (now_s - since_s) * RATE_PER_S)
        if left >= 1.0:
            self._hand_on(key, event, last, left - 1.0)
            return
        self._held[key] = event, last
        asyncio.get_running_loop().call_later(PAUSE_S, self._release, key)

    def _release(self, key: K) -> None:
        self._hand_on(key, *self._held.pop(key), 0.0)

    def _hand_on(self, key: K, event: E, last: bool, left: float) -> None:
        if last:
            self._budgets.pop(key, None)
        else:
            self._budgets[key] = (left, self._clock.monotonic_s())
        self._deliver(event)


class LinkEvents:
    """The limit for link events: each says the whole state of its interface, so that older ones may be dropped."""

    def __init__(self, clock: Clock, deliver: Callable[[LinkEvent], None]) -> None:
        self._limit: EventLimit[str, LinkEvent] = EventLimit(clock, deliver)

    def on_event(self, event: LinkEvent) -> None:
        """An event from the kernel."""
        self._limit.on_event(event.link.name, event, last=event.deleted)

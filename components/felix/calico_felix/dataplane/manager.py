"""What every part of the dataplane is to its loop.

A *manager* has one subject: the ruleset, interfaces, the VXLAN devices, routes. Events (`on_flush`, `on_link`,
`on_forgotten`) it only remembers; `apply` does the work, and nothing else does. So the loop needs to know
in which order they work and when to wake, and no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.handles import Handles
from libcalico.calc.messages import Flush
from libcalico.clock import Clock
from libcalico.kernel.objects import Link

log = logging.getLogger(__name__)

RETRY_S = 0.2
"""The least pause before anything is tried again."""


class LinkChange(NamedTuple):
    """An interface of the host came, changed or went.

    `link` is what the kernel last reported of it; was it up before that, and is it there and up now?"""

    link: Link
    was_up: bool
    is_up: bool


class Manager:
    """One subject of the dataplane. All methods run on the event loop; those that it does not need do nothing."""

    def on_flush(self, flush: Flush) -> None:
        """Take in what the graph has changed. No I/O."""

    def on_link(self, change: LinkChange) -> None:
        """An interface of the host has changed. No I/O."""

    def on_forgotten(self, ifindex: int) -> None:
        """The kernel may have forgotten routes and neighbours of a device (0: of any), of which it reports nothing, or
        what it reported was lost. No I/O."""

    async def apply(self, now_s: float) -> None:
        """Make the kernel what it should be, as far as it is not. Never raises for a failure that may pass."""

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do, None = nothing until the next change."""
        return None

    def pending(self) -> list[str]:
        """What could not be programmed and is tried again, a line each."""
        return []

    def figures(self) -> Mapping[str, float]:
        """Figures by the names of `libcalico.obs.figures`."""
        return {}


class Failures:
    """Counts failures to program the kernel, and logs them."""

    def __init__(self) -> None:
        self.count = 0

    def report(self, what: str, error: Exception) -> None:
        """One that may pass."""
        self.count += 1
        log.warning("%s: %s", what, error)


class Context(NamedTuple):
    """What all managers share. `wake` has the loop apply soon."""

    config: DataplaneConfig
    handles: Handles
    clock: Clock
    wake: asyncio.Event
    failures: Failures

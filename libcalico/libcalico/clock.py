"""The one place that reads time. Pure code gets `now` as an argument; wiring code passes a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What services need of time; tests pass a virtual one."""

    def monotonic_s(self) -> float:
        """Seconds that never go backwards, for time-outs and rates."""
        ...

    def now(self) -> datetime:
        """Wall time, always UTC."""
        ...

    async def sleep(self, pause_s: float) -> None:
        """Let others run for `pause_s` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start (CLOCK_MONOTONIC)."""
        return time.monotonic()

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    async def sleep(self, pause_s: float) -> None:
        """Let the event loop's other tasks run for `pause_s` seconds."""
        import asyncio  # 30 ms that a program which never waits does not pay

        await asyncio.sleep(pause_s)


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as upstream stores times (`2026-03-01T10:00:30Z`)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""A clock that a test moves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Time stands still until the test, or a `sleep` of the code under test, moves it.

    `at_s` are the seconds of `monotonic_s`; wall time moves with them from `start`. `sleeps` are the pauses that were
    asked for, in seconds; each lets other tasks run once and takes no real time."""

    def __init__(self, at_s: float = 0.0, start: datetime = datetime(2026, 3, 1, tzinfo=UTC)) -> None:
        self.at_s = at_s
        self._start = start - timedelta(seconds=at_s)
        self.sleeps: list[float] = []

    def monotonic_s(self) -> float:
        """Seconds, as the test set them."""
        return self.at_s

    def now(self) -> datetime:
        """Wall time in UTC."""
        return self._start + timedelta(seconds=self.at_s)

    async def sleep(self, pause_s: float) -> None:
        """Move time by `pause_s` seconds and let others run."""
        self.sleeps.append(pause_s)
        self.at_s += pause_s
        await asyncio.sleep(0)

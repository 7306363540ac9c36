"""Health: parts of a daemon report that they live and are ready; old reports count as failures (spec/felix.md 5.4)."""

from __future__ import annotations

from typing import NamedTuple

from libcalico.clock import Clock
from libcalico.text import table


class _Report(NamedTuple):
    live: bool
    ready: bool
    detail: str
    at_s: float


class Health:
    """The parts' newest reports. A part that is registered but has not reported in time is neither live nor ready."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timeouts: dict[str, float] = {}
        self._reports: dict[str, _Report] = {}

    def register(self, part: str, timeout_s: float) -> None:
        """A part that must report at least every `timeout_s` seconds, 0 = once is enough."""
        self._timeouts[part] = timeout_s
        self._reports[part] = _Report(True, False, "has not reported yet", self._clock.monotonic_s())

    def report(self, part: str, live: bool = True, ready: bool = True, detail: str = "") -> None:
        """What a part says of itself now."""
        self._reports[part] = _Report(live, ready, detail, self._clock.monotonic_s())

    def live(self) -> tuple[bool, str]:
        """Is every part live? With a table of the parts."""
        return self._summary(0)

    def ready(self) -> tuple[bool, str]:
        """Is every part ready? With a table of the parts."""
        return self._summary(1)

    def _summary(self, which: int) -> tuple[bool, str]:
        good, rows, now = True, [], self._clock.monotonic_s()
        for part, report in sorted(self._reports.items()):
            timeout_s = self._timeouts.get(part, 0)
            late = bool(timeout_s) and now - report.at_s > timeout_s
            states = ["late" if late else ("ok" if fine else "not ok") for fine in (report.live, report.ready)]
            good = good and states[which] == "ok"
            rows.append([part, f"{timeout_s:g}s" if timeout_s else "-", *states, report.detail])
        return good, table(["COMPONENT", "TIMEOUT", "LIVENESS", "READINESS", "DETAIL"], rows)

"""How a bench reports: one JSON object a line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable


def report(figure: str, unit: str, values: list[float], **facts: object) -> None:
    """Print the median of some measurements, with p99 when there are enough of them. `facts` say what was measured."""
    line: dict[str, object] = {"figure": figure, "median": _short(statistics.median(values)), "unit": unit}
    if len(values) >= 20:
        line["p99"] = _short(sorted(values)[int(len(values) * 0.99)])
    print(json.dumps({**line, "n": len(values), **facts}), flush=True)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def per_call_us(call: Callable[[], object], calls: int, repeats: int = 7) -> list[float]:
    """Microseconds for one call, measured over `calls` at a time."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        taken.append((time.perf_counter() - started) / calls * 1e6)
    return taken

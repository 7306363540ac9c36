"""Durations as Go reads and prints them (`1h30m`, `.5s`, `0`): those of stored objects and of every setting."""

from __future__ import annotations

import re

NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
LONGEST_DURATION_NS = (1 << 63) - 1
_PART = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration as Go reads it (`1h30m`, `.5s`, `0`). Raises ValueError in Go's words."""
    body = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if body == "0":
        return 0
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    total, place = 0, 0
    while place < len(body):
        match = _PART.match(body, place)
        assert match is not None
        whole, fraction, unit = match[1], (match[2] or "")[1:], match[3]
        if not whole and not fraction:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in NANOSECONDS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        scale = NANOSECONDS[unit]
        total += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
        place = match.end()
    if total > LONGEST_DURATION_NS:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: `1h0m0s`, `1m30s`, `500ms`, `0s`."""
    minus, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest == 0:
        return "0s"
    if rest < NANOSECONDS["s"]:
        unit = next(unit for unit in ("ms", "\u00b5s", "ns") if rest >= NANOSECONDS[unit])
        return minus + _scaled(rest, NANOSECONDS[unit]) + unit
    minutes, rest = divmod(rest, NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = _scaled(rest, NANOSECONDS["s"]) + "s"
    if hours:
        return f"{minus}{hours}h{minutes}m{seconds}"
    return f"{minus}{minutes}m{seconds}" if minutes else minus + seconds


def _scaled(value: int, scale: int) -> str:
    whole, part = divmod(value, scale)
    digits = str(part).rjust(len(str(scale)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)

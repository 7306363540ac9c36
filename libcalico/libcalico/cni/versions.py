"""Versions of the CNI protocol."""

from __future__ import annotations

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
OLDEST = "0.1.0"
NEWEST = "1.1.0"
PLUGIN = "0.1.0"
"""Of the plug-in itself."""


def parse(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing; () when it is not three numbers."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return ()
    return tuple(int(part) for part in parts)


def at_least(version: str, least: str) -> bool:
    """`version` is `least` or newer; one that cannot be read is not."""
    return parse(version) >= parse(least)

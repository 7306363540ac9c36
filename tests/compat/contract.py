"""What a vector format offers to the runner: one module a format in `tests/compat/formats/`.

Each module has two functions:

* `claims(path, head) -> bool`: is this file of my format? `head` is its first 64 KiB.
* `check(path, options) -> Iterator[Result]`: play every case of the file, one `Result` each.
"""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """`backend`: `nftables` or `iptables`; `only`: run just the cases whose name contains this text."""

    backend: str
    only: str


class Result(NamedTuple):
    """One case. `error` is empty for a pass; `skipped` says why a case could not be played here."""

    name: str
    error: str
    skipped: str = ""

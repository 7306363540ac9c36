"""When other programs' rules are looked at."""

from __future__ import annotations

import asyncio

import pytest

from calico_felix.dataplane import foreign_watch
from calico_felix.dataplane.foreign_watch import ForeignRules


class Rules(ForeignRules):
    """Counts the looks."""

    looks = 0
    tables: list[str]

    async def look(self) -> None:
        self.looks += 1
        self._has_legacy = bool(self.tables)


@pytest.mark.parametrize("appear", [True, False])
async def test_legacy_tables_that_appear_later_are_looked_at(monkeypatch: pytest.MonkeyPatch, appear: bool) -> None:
    tables: list[str] = []
    monkeypatch.setattr(foreign_watch, "legacy_tables", lambda _family: tables)
    monkeypatch.setattr(foreign_watch, "PAUSE_S", 0.0)
    monkeypatch.setattr(foreign_watch, "LEGACY_REFRESH_S", 0.01)

    async def commit(_text: str) -> None:
        raise AssertionError("nothing is to be done")

    rules, standing = Rules(("cali",), commit), asyncio.Event()
    rules.tables = tables
    standing.set()
    running = asyncio.ensure_future(rules.run(standing))
    while not rules.looks:
        await asyncio.sleep(0.001)
    if appear:
        tables.append("filter")
        async with asyncio.timeout(5):
            while rules.looks < 3:  # at once, and from then on in the legacy interval
                await asyncio.sleep(0.001)
    else:
        await asyncio.sleep(0.1)
        assert rules.looks == 1
    running.cancel()

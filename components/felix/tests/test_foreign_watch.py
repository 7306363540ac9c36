"""When other programs' rules are looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from calico_felix.dataplane import foreign_watch
from calico_felix.dataplane.foreign_watch import ForeignRules


class Rules(ForeignRules):
    """Counts the looks."""

    looks = 0

    async def look(self) -> None:
        self.looks += 1


Tables = dict[str, bytes]


def broken(_family: str) -> Tables:
    raise PermissionError("not root")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    """The legacy tables of a host whose rules are compared every 10 ms."""
    found: Tables = {}
    monkeypatch.setattr(foreign_watch, "legacy_tables", lambda _family: list(found))
    monkeypatch.setattr(foreign_watch, "legacy_state", lambda _family: dict(found))
    monkeypatch.setattr(foreign_watch, "PAUSE_S", 0.0)
    monkeypatch.setattr(foreign_watch, "LEGACY_REFRESH_S", 0.01)
    return found


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Rules]:
    async def commit(_text: str) -> None:
        raise AssertionError("nothing is to be done")

    rules, standing = Rules(("cali",), commit), asyncio.Event()
    standing.set()
    task = asyncio.ensure_future(rules.run(standing))
    yield rules
    task.cancel()


async def until(rules: Rules, looks: int) -> None:
    async with asyncio.timeout(10):
        while rules.looks < looks:
            await asyncio.sleep(0.001)


async def test_legacy_tables_that_appear_or_change_are_looked_at_once(tables: Tables) -> None:
    async with running() as rules:
        await until(rules, 1)
        for number, content in enumerate((b"one rule", b"another", b""), 2):
            await asyncio.sleep(0.1)
            assert rules.looks == number - 1, "nothing had changed"
            tables["filter"] = content
            await until(rules, number)
        await asyncio.sleep(0.1)
        assert rules.looks == 4


async def test_tables_that_cannot_be_compared_are_looked_at_again_and_again(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables["filter"] = b"one rule"
    monkeypatch.setattr(foreign_watch, "legacy_state", broken)
    async with running() as rules:
        await until(rules, 5)

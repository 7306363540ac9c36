"""The datastore in memory does what every datastore does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from libcalico.datastore.contract import Datastore
from libcalico.datastore.memory import MemoryDatastore
from libcalico.testing.datastore_contract import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_in_memory(check: Callable[[Datastore, bytes], Awaitable[None]]) -> None:
    await check(MemoryDatastore(), b"/area/")

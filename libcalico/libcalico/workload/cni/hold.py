"""Processes that are at work in the same container exclude each other: the agent and fallbacks, or two fallbacks."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libcalico.kernel import netns
from libcalico.kernel.errors import KernelError
from libcalico.workload.cni import errors
from libcalico.workload.cni.errors import CniError

HOLD_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.005


@asynccontextmanager
async def hold_netns(path: str) -> AsyncIterator[None]:
    """A lock on the container's network namespace itself, whatever path leads there, for the length of a block.

    It ends with the process. Where there is no namespace (a late DEL) there is nothing to lock."""
    try:
        number = netns.open_path(path)
    except KernelError:
        yield
        return
    try:
        await _lock(number, path)
        yield
    finally:
        os.close(number)


async def _lock(number: int, path: str) -> None:
    try:
        async with asyncio.timeout(HOLD_TIMEOUT_S):
            while not _try_lock(number):
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        text = f"another call has been at work in {path} for {HOLD_TIMEOUT_S:.0f} s: try again later"
        raise CniError(errors.TRY_AGAIN, text) from None


def _try_lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

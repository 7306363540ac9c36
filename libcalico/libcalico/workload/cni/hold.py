"""Processes that are at work in the same container exclude each other: the agent and fallbacks, or two fallbacks.

The lock is one byte of a file that only root reaches, at the place that the namespace's inode number tells. A lock on
the namespace's own file could be taken, and kept, by the task that lives there.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libcalico.kernel import netns
from libcalico.workload.cni import errors
from libcalico.workload.cni.errors import CniError

LOCK_FILE = "/run/calico/cni/netns.lock"
HOLD_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.005
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl.h
_log = logging.getLogger(__name__)


@asynccontextmanager
async def hold_netns(path: str) -> AsyncIterator[None]:
    """A lock on the container's network namespace, whatever path leads there, for the length of a block.

    It ends with the process. Where there is no namespace (a late DEL) there is nothing to lock, and where the file
    cannot be made a call goes on without."""
    identity = netns.identity(path) if path else None
    number = _open() if identity is not None else -1
    if identity is None or number < 0:
        yield
        return
    try:
        await _lock(number, identity[1], path)
        yield
    finally:
        os.close(number)


def _open() -> int:
    try:
        os.makedirs(os.path.dirname(LOCK_FILE), mode=0o700, exist_ok=True)
        return os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _log.warning("lock file %s: %s: going on without it", LOCK_FILE, error.strerror)
        return -1


async def _lock(number: int, place: int, path: str) -> None:
    try:
        async with asyncio.timeout(HOLD_TIMEOUT_S):
            while not _try_lock(number, place):
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        text = f"another call has been at work in {path} for {HOLD_TIMEOUT_S:.0f} s: try again later"
        raise CniError(errors.TRY_AGAIN, text) from None


def _try_lock(number: int, place: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True

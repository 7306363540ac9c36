"""Processes that are at work in the same container exclude each other: the agent and fallbacks, or two fallbacks.

The locks are two bytes of a file that only root reaches, at the places that the namespace's inode number and a digest
of the container's id tell. A lock on the namespace's own file could be taken, and kept, by the task that lives there;
the container's is for calls that know no namespace (any more).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libcalico.cni import errors
from libcalico.cni.errors import CniError
from libcalico.kernel import netns

LOCK_FILE = "/run/calico/cni/netns.lock"
HOLD_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.005
_CONTAINERS = 1 << 40  # beyond every inode number of a namespace; as many places
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl.h
_log = logging.getLogger(__name__)


@asynccontextmanager
async def hold_netns(path: str, container: str = "") -> AsyncIterator[None]:
    """A lock on the container ("" = none) and on its network namespace, whatever path leads there, for the length of a
    block.

    It ends with the process. Where there is no namespace (a late DEL) only the container is locked, and where the file
    cannot be made a call goes on without."""
    identity = netns.identity(path) if path else None
    places = [(_place(container), f"at container {container}")] if container else []
    places += [(identity[1], f"in {path}")] if identity is not None else []
    number = _open() if places else -1
    if number < 0:
        yield
        return
    try:
        for place, where in places:
            await _lock(number, place, where)
        yield
    finally:
        os.close(number)


def _place(container: str) -> int:
    return _CONTAINERS + int.from_bytes(hashlib.sha256(container.encode()).digest()[:5])


def _open() -> int:
    try:
        os.makedirs(os.path.dirname(LOCK_FILE), mode=0o700, exist_ok=True)
        return os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _log.warning("lock file %s: %s: going on without it", LOCK_FILE, error.strerror)
        return -1


async def _lock(number: int, place: int, where: str) -> None:
    try:
        async with asyncio.timeout(HOLD_TIMEOUT_S):
            while not _try_lock(number, place):
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        text = f"another call has been at work {where} for {HOLD_TIMEOUT_S:.0f} s: try again later"
        raise CniError(errors.TRY_AGAIN, text) from None


def _try_lock(number: int, place: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True

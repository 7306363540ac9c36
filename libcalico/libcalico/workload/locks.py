"""Who works on which container: calls of one process wait for each other, and so do processes.

`Locks` is for the calls of one process: one after the other at a container, and no host interface's name for two.

`hold_netns` is for processes that are at work in the same container: the agent and plug-ins that found no agent, or
two of these. Its locks are two bytes of a file that only root reaches, at the places that the namespace's inode number
and a digest of the container's id tell. A lock on the namespace's own file could be taken, and kept, by the task that
lives there; the container's is for calls that know no namespace (any more).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar

from libcalico.kernel import netns
from libcalico.workload.errors import TryAgain

LINGER_S = 20.0
"""A call whose time is over, or whose caller has gone, has so long to end the step that it is at, and its undo."""
LOCK_FILE = "/run/calico/cni/netns.lock"
HOLD_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.005
_CONTAINERS = 1 << 40  # beyond every inode number of a namespace; as many places
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl.h

T = TypeVar("T")
HoldNetns = Callable[[str, str], AbstractAsyncContextManager[object]]

_log = logging.getLogger(__name__)


class Locks:
    """`hold(netns path, container)` keeps other processes off a container for the length of a block, where there may be
    some."""

    def __init__(self, hold: HoldNetns = lambda _path, _container: nullcontext()) -> None:
        self._hold = hold
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._reserved: dict[str, str] = {}
        self._running: set[asyncio.Future[Any]] = set()

    async def one_at_a_time(
        self,
        container: str,
        netns_path: str,
        work: Callable[[], Coroutine[Any, Any, T]],
        on_gone: Callable[[], object] = lambda: None,
    ) -> T:
        """Do some work alone at its container, and in its network namespace ("" = none).

        A caller that goes away meanwhile (is cancelled, however often) does not break it off half-way: `on_gone` says
        so to the work, which ends in its own way before the next may come to the container. The caller waits for that
        end, but no longer than `LINGER_S`: a step that hangs must not hang its caller."""
        begun = asyncio.Event()
        task = asyncio.ensure_future(self._alone(container, netns_path, work, begun))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if begun.is_set():
                on_gone()
                task.add_done_callback(_log_outcome)
            else:
                task.cancel()
            await _wait_patiently(task, LINGER_S)
            raise

    @property
    def is_busy(self) -> bool:
        """Work goes on, perhaps some of which the caller has gone."""
        return bool(self._running)

    async def _alone(
        self,
        container: str,
        netns_path: str,
        work: Callable[[], Coroutine[Any, Any, T]],
        begun: asyncio.Event,
    ) -> T:
        lock, users = self._locks.get(container, (asyncio.Lock(), 0))
        self._locks[container] = (lock, users + 1)
        try:
            async with lock, self._hold(netns_path, container):
                begun.set()
                return await work()
        finally:
            _, users = self._locks[container]
            if users == 1:
                del self._locks[container]
            else:
                self._locks[container] = (lock, users - 1)

    def reserve(self, host_interface: str, owner: str) -> bool:
        """Take a host interface's name until `unreserve`; False when another owner has it."""
        return self._reserved.setdefault(host_interface, owner) == owner

    def unreserve(self, host_interface: str, owner: str) -> None:
        """Give the name back."""
        if self._reserved.get(host_interface) == owner:
            del self._reserved[host_interface]


def _log_outcome(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("a call whose caller has gone: %s", error)


async def _wait_patiently(task: asyncio.Future[Any], limit_s: float) -> None:
    """Until the task has ended or the time is over, whoever cancels meanwhile."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limit_s
    while not task.done() and loop.time() < until_s:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=until_s - loop.time())
    if not task.done():
        _log.error("a call goes on %g s after its caller has gone", limit_s)


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
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(LOCK_FILE, flags, 0o600)
        os.makedirs(os.path.dirname(LOCK_FILE), mode=0o700, exist_ok=True)
        return os.open(LOCK_FILE, flags, 0o600)
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
        raise TryAgain(text) from None


def _try_lock(number: int, place: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True

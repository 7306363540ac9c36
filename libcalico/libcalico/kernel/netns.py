"""Other network namespaces: sockets there come from `calico_native.netns`; this is for what has no socket.

Files below /proc/sys/net, and handles that libraries open, belong to the namespace of the *thread* that opens them.
`entered` takes the calling thread there and back (8 us); no `await` may stand inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from libcalico.kernel.errors import KernelError

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_LOST = 70

_libc = ctypes.CDLL(None, use_errno=True)


def open_here() -> int:
    """A descriptor of the calling thread's network namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_path(path: str) -> int:
    """A descriptor of the namespace whose handle is at `path`; `KernelError` when there is none, or it is no netns."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe there must not keep us waiting
    except OSError as error:
        raise KernelError(f"open network namespace {path}", error.errno or 0) from error
    if _libc.ioctl(number, _NS_GET_NSTYPE) != _CLONE_NEWNET:
        os.close(number)
        raise KernelError(f"open network namespace {path}", errno.EINVAL, "it is not a network namespace")
    return number


def identity(path: str = "/proc/thread-self/ns/net") -> tuple[int, int] | None:
    """Device and inode of a namespace: equal for the same one whatever its path. None when the path does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def entered(path: str) -> Iterator[None]:
    """The calling thread is in the namespace at `path` inside the block; "" = stay. Never `await` inside.

    Should the way back be barred the process ends at once: it must not go on in a foreign namespace."""
    if not path:
        yield
        return
    target = open_path(path)
    try:
        home = open_here()
        try:
            _setns(target, path)
            try:
                yield
            finally:
                if _libc.setns(home, _CLONE_NEWNET) != 0:
                    os._exit(_LOST)
        finally:
            os.close(home)
    finally:
        os.close(target)


def _setns(descriptor: int, path: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise KernelError(f"enter network namespace {path}", ctypes.get_errno())

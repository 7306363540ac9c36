"""Open a socket that lives in another network namespace, without leaving ours.

The calling thread enters the namespace (`setns(2)` with CLONE_NEWNET), opens the socket and comes back; other
threads notice nothing. There and back costs about 8 us. A socket keeps its namespace for life.
"""

from __future__ import annotations

import ctypes
import os
import socket

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def open_socket(path: str, family: int, kind: int, protocol: int = 0) -> int:
    """A new close-on-exec socket in the network namespace whose handle is at `path`; the caller owns the descriptor.

    Raises OSError: the handle cannot be opened, it is not a namespace, or the socket is refused. Should the way
    back be barred, the process must not go on in a foreign namespace: it ends at once (exit status 70)."""
    target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(target)
            try:
                return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol).detach()
            finally:
                try:
                    _setns(home)
                except OSError:
                    os._exit(70)
        finally:
            os.close(home)
    finally:
        os.close(target)

"""Where a daemon's UNIX socket is to be: only root may connect, and a living daemon's is not taken away."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from libcalico.errors import Unavailable

PROBE_S = 1.0


@contextlib.contextmanager
def socket_place(path: str) -> Iterator[None]:
    """For the time in which a socket is made at `path` (mode 0600).

    A socket that nobody listens on any more is removed; one with a listener is an error (`Unavailable`)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if is_served(path):
        raise Unavailable(f"listen on {path}: another process serves this socket: stop it first")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    former = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(former)


def is_served(path: str) -> bool:
    """A process listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True

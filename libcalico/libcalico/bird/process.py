"""BIRD as a process: the one that serves a control socket, found by its own arguments and never by its name alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator

PROGRAM, SOCKET_OPTION = "bird", "-s"


def hang_up(socket: str) -> int:
    """SIGHUP, after which BIRD reads its file again, to the BIRD that was started with this socket.

    Its process id; 0 when there is none that may be signalled. A process that takes the id over meanwhile gets none."""
    place = os.path.realpath(socket)
    for pid in _processes():
        with contextlib.suppress(OSError), _opened(pid) as handle:
            if _serves(pid, place):
                signal.pidfd_send_signal(handle, signal.SIGHUP)
                return pid
    return 0


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _serves(pid: int, place: str) -> bool:
    """Is it a BIRD with `-s place`? What precedes BIRD on a command line (`ip netns exec`) has another first word."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")]
    if os.path.basename(words[0]) != PROGRAM:
        return False
    pairs = itertools.pairwise(words)
    return any(option == SOCKET_OPTION and os.path.realpath(value) == place for option, value in pairs)

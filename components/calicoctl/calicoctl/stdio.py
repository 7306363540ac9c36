"""Standard input, output and error as the caller left them: closed, on a full disk, or a pipe that nobody reads.

What cannot be written ends the command with one line and status 1, as coreutils do; a reader that has gone (`| head`)
ends it silently with the status that the shell shows for a program that died of SIGPIPE. Output is UTF-8 whatever the
locale says, because that is what is stored.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import sys
from typing import Any

from libcalico.errors import CalicoError

BROKEN_PIPE_STATUS = 141
STDIN, STDOUT, STDERR = 0, 1, 2
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
"""Characters that make a terminal do something: whatever is stored must not."""


class OutputFailed(CalicoError):
    """Standard output takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"write: {reason(error)} (standard output is incomplete)")


class _Output(io.FileIO):
    """A descriptor to write to. A pipe that its owner made non-blocking is waited for; on a terminal, control
    characters are shown and not obeyed."""

    def write(self, data: Any) -> int:
        """Everything; a failure on standard error concerns nobody who could be reached."""
        rest = bytes(data)
        if self.isatty():
            rest = CONTROL.sub(_escaped, rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:
                    poll = select.poll()
                    poll.register(self.fileno(), select.POLLOUT)
                    poll.poll()
                rest = rest[written or 0 :]
        except OSError as error:
            if self.fileno() == STDERR:
                return len(data)
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputFailed(error) from None
        return len(data)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % found[0][-1]


def reason(error: OSError) -> str:
    """What the system says, as Go prints it: `no space left on device`."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def take_over() -> None:
    """Make the process's standard files usable. A closed one is opened on /dev/null the wrong way round: using it
    fails, and no socket gets its number."""
    for descriptor, mode in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdout = _writer(STDOUT)
    sys.stderr = _writer(STDERR)


def _writer(descriptor: int) -> io.TextIOWrapper:
    raw = _Output(descriptor, "wb", closefd=False)
    to_terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8",
        errors="backslashreplace",
        newline="",
        line_buffering=to_terminal or descriptor == STDERR,
    )


def give_up_output() -> None:
    """Nothing more reaches standard output; what is still buffered is dropped without a word."""
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, STDOUT)
    os.close(void)


def read_input(most: int) -> bytes:
    """Standard input to its end, but not more than so many bytes; raises `OSError` when there is none."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return sys.stdin.buffer.read(most) if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin.read().encode()[:most]

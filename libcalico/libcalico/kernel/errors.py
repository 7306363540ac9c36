"""What goes wrong between us and the kernel."""

from __future__ import annotations

import errno as _errno
import os

from libcalico.errors import Unavailable

GONE = frozenset({_errno.ENOENT, _errno.ESRCH, _errno.ENODEV, _errno.ENXIO, _errno.EADDRNOTAVAIL})
"""Error numbers that mean "it is not there (any more)": what a deletion takes for success."""


class KernelError(Unavailable):
    """The kernel refused an operation; `errno` is 0 when there is no number (nft texts)."""

    def __init__(self, operation: str, errno: int = 0, detail: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.detail = detail
        cause = detail or (os.strerror(errno) if errno else "failed")
        super().__init__(f"{operation}: {cause}")

    @property
    def gone(self) -> bool:
        """The object, or the device that it needs, does not exist."""
        return self.errno in GONE

"""Files that settings name: configurations, certificates, the node's name. Read whole, and never without end."""

from __future__ import annotations

import errno
import os

LARGEST = 4 * 1024 * 1024
"""Bytes; a bundle of all authorities that a distribution trusts has a quarter of a million."""


def read_small(path: str | os.PathLike[str], largest: int = LARGEST) -> bytes:
    """The content of a file. Raises `OSError`, also for one that is larger: it is a mistake, or a device."""
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def is_there(path: str | os.PathLike[str]) -> bool:
    """Is there something at this path? A link to a file that is missing is: it cannot be read, that is an error."""
    return os.path.lexists(path)

"""Files that settings name: configurations, certificates, the node's name. Read whole, and never without end."""

from __future__ import annotations

import errno
import os
import stat

LARGEST = 4 * 1024 * 1024
"""Bytes; a bundle of all authorities that a distribution trusts has a quarter of a million."""


def read_small(path: str | os.PathLike[str], largest: int = LARGEST) -> bytes:
    """The content of a file, or of a pipe as a shell makes one of `<(...)`. Raises `OSError`, also for one that is
    larger (it is a mistake, or a device), and for a pipe with a name in the file system: its writer may never come."""
    if is_named_pipe(path):
        raise OSError(errno.EINVAL, "this is a pipe, not a file", str(path))
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_regular(path: str | os.PathLike[str], largest: int = LARGEST) -> bytes:
    """As `read_small`, where nobody may be kept waiting: raises OSError for a pipe and a directory as well."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):  # /dev/null is an empty file to many
            raise OSError(errno.EINVAL, "this is no file", str(path))
        found = b""
        while part := os.read(number, largest + 1 - len(found)):
            found += part
        if len(found) > largest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return found
    finally:
        os.close(number)


def is_named_pipe(path: str | os.PathLike[str]) -> bool:
    """Is this a fifo of the file system? What `/dev/fd/63` leads to has no path of its own, but `pipe:[4711]`."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode) and os.path.exists(os.path.realpath(path))
    except OSError:
        return False


def is_there(path: str | os.PathLike[str]) -> bool:
    """Is there something at this path? A link to a file that is missing is: it cannot be read, that is an error."""
    return os.path.lexists(path)


def write_atomically(path: str | os.PathLike[str], content: bytes, mode: int = 0o644) -> None:
    """A file that readers see as it was, or whole as it is to be; on stable storage on return. Raises OSError."""
    beside = f"{os.fspath(path)}~"
    number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)

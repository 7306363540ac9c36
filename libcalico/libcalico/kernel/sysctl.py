"""Kernel settings below /proc/sys, read and written as text. Keys are paths: interface names may hold dots."""

from __future__ import annotations

import os

from libcalico.kernel.errors import KernelError

_ROOT = "/proc/sys/"


def write(key: str, value: str | int) -> None:
    """Set `key` (like `net/ipv4/conf/eth0/forwarding`) in the calling thread's namespace."""
    try:
        descriptor = os.open(_ROOT + key, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"set {key}={value}", error.errno or 0) from error
    try:
        os.write(descriptor, str(value).encode())
    except OSError as error:
        raise KernelError(f"set {key}={value}", error.errno or 0) from error
    finally:
        os.close(descriptor)


def read(key: str) -> str:
    """The value of `key`, without white space around it."""
    try:
        descriptor = os.open(_ROOT + key, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"read {key}", error.errno or 0) from error
    try:
        return os.read(descriptor, 4096).decode().strip()
    except OSError as error:  # ENOENT: the interface went after its file was opened
        raise KernelError(f"read {key}", error.errno or 0) from error
    finally:
        os.close(descriptor)


def ensure(key: str, value: str | int) -> bool:
    """Set `key` unless it has the value already; True when it was written."""
    if read(key) == str(value):
        return False
    write(key, value)
    return True


def has_ipv6() -> bool:
    """The kernel knows IPv6; without it (ipv6.disable=1) none of its settings is there."""
    return os.path.isdir(_ROOT + "net/ipv6/conf")

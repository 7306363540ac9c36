"""What the agent leaves in files for those who attach workloads without asking it: this node's name and MTU."""

from __future__ import annotations

import os

from libcalico.conventions import MTU_FILE
from libcalico.workload.errors import Refused

MOST_READ = 4096
"""Bytes of a file that holds a name or a number."""
MOST_DIGITS = 9


def read_nodename(path: str) -> str:
    """The node's name, "" when the file says none."""
    try:
        return _read_start(path, "replace").strip()
    except (OSError, ValueError):  # the latter for a path that no file can have
        return ""


def read_mtu(is_required: bool = False, path: str = "") -> int:
    """The MTU in octets; 0 when there is no file and none is required, else `Refused`. `path` "" = the usual file."""
    path = path or MTU_FILE
    try:
        text = _read_start(path).strip()
    except FileNotFoundError:
        if is_required:
            raise Refused(f"failed to read MTU file: open {path}: no such file or directory") from None
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"failed to read MTU file: {error}") from error
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise Refused(f"failed to read MTU file: {path} holds {text[:20]!r}, wanted a number")
    return int(text)


def _read_start(path: str, undecodable: str = "strict") -> str:
    """The first bytes of a file. A pipe or a device in its place ends at once: we are on the agent's event loop."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(number, MOST_READ).decode("utf-8", undecodable)
    finally:
        os.close(number)

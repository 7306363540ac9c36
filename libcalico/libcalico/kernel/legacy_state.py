"""Has a legacy table of iptables changed? The kernel reports no change, and iptables-save takes milliseconds a table.

The kernel hands a table out as the array of its entries (uapi `linux/netfilter_ipv4/ip_tables.h`, and `ip6_tables.h`):
every entry names its length, and has its packet counters at a fixed place. Without these, the bytes of a table are the
same for as long as nobody changes it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import struct
from typing import NamedTuple

from libcalico.kernel.iptables import legacy_tables

GET_INFO, GET_ENTRIES = 64, 65
NAME = 32
INFO = struct.Struct(f"={NAME}s 11I I I")
"""`ipt_getinfo`: name, valid hooks, hook entries, underflows, number of entries, their size in bytes."""
ENTRIES = 40
"""Where the entries begin in `ipt_get_entries`: after the name, the size, and four bytes that align them."""
NEXT = struct.Struct("=H")
COUNTERS = bytes(16)
TRIES = 3
"""A table that changes between the two questions is asked for again."""


class _Layout(NamedTuple):
    """Of an entry: the socket's family and level, and where `next_offset` and `counters` are."""

    family: int
    level: int
    next_at: int
    counters_at: int


LAYOUTS = {
    "ip": _Layout(socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    "ip6": _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}

_libc = ctypes.CDLL(None, use_errno=True)


def legacy_state(family: str) -> dict[str, bytes]:
    """The tables of a family ("ip" or "ip6") of our network namespace that exist, each with a digest of what it holds.

    Raises `OSError`: not root, or a table that changes all the time."""
    names = legacy_tables(family)
    if not names:
        return {}
    layout = LAYOUTS[family]
    with socket.socket(layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asker:
        return {name: _entries(asker, layout, name.encode()) for name in names}


def _entries(asker: socket.socket, layout: _Layout, name: bytes) -> bytes:
    for _ in range(TRIES):
        info = _ask(asker, layout.level, GET_INFO, INFO.pack(name, *[0] * 13))
        size = INFO.unpack(info)[-1]
        try:
            found = _ask(asker, layout.level, GET_ENTRIES, struct.pack(f"={NAME}sI4x", name, size) + bytes(size))
        except BlockingIOError:  # EAGAIN: it has another size by now
            continue
        return hashlib.blake2b(info + _without_counters(found[ENTRIES:], layout)).digest()
    raise OSError(f"the legacy table {name.decode()} changes all the time")


def _ask(asker: socket.socket, level: int, option: int, question: bytes) -> bytes:
    """getsockopt(2) with a question in the buffer, which Python's own has no way to pass."""
    buffer = ctypes.create_string_buffer(question, len(question))
    length = ctypes.c_uint32(len(question))
    if _libc.getsockopt(asker.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def _without_counters(entries: bytes, layout: _Layout) -> bytes:
    found, start = bytearray(entries), 0
    while start + layout.counters_at + len(COUNTERS) <= len(found):
        at = start + layout.counters_at
        found[at : at + len(COUNTERS)] = COUNTERS
        (length,) = NEXT.unpack_from(found, start + layout.next_at)
        if length == 0:
            break
        start += length
    return bytes(found)

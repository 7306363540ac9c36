"""What others do to one nftables table, as the kernel reports it: a multicast group of netlink, read on the event loop.

The kernel sends the events of a transaction when it is committed, each with the port of the netlink socket that asked
for it, and closes them with the new generation and the program's name. What our own sockets asked for never reaches
us: a socket filter drops it before it is queued, so not even a table of 100,000 elements overruns the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct

from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NFNLGRP_NFTABLES = 7
_SO_ATTACH_FILTER = 26

_NFPROTO_INET = 1
_NFGENMSG_BYTES = 4
_NFTA_TABLE = 1  # of every message but NEWGEN
_NFTA_GEN_PROC_PID, _NFTA_GEN_PROC_NAME = 2, 3
_NEWGEN = 15
# message -> its name, and which attribute names the object (0 = none)
_EVENTS = {
    0: ("NEWTABLE", 0), 2: ("DELTABLE", 0), 3: ("NEWCHAIN", 3), 5: ("DELCHAIN", 3), 6: ("NEWRULE", 2),
    8: ("DELRULE", 2), 9: ("NEWSET", 2), 11: ("DELSET", 2), 12: ("NEWSETELEM", 2), 14: ("DELSETELEM", 2),
    18: ("NEWOBJ", 2), 20: ("DELOBJ", 2), 22: ("NEWFLOWTABLE", 2), 24: ("DELFLOWTABLE", 2),
}  # fmt: skip

_BPF_LD_W_ABS, _BPF_JEQ, _BPF_RET = 0x20, 0x15, 0x06
_BPF_INSTRUCTION = struct.Struct("=HBBI")
_SOCK_FPROG = struct.Struct("@HP")
_NLMSG_PID_OFFSET = 12


class NftMonitor(NetlinkSocket):
    """Follows the `inet` table of a name, in our network namespace or in the one at `netns_path`.

    `others` is set whenever another process has changed any table, while `changes` is awaited."""

    def __init__(self, table: str, netns_path: str = "") -> None:
        super().__init__(_NETLINK_NETFILTER, netns_path)
        self._expect_much()
        self._socket.bind((0, 0))
        self._table = table.encode() + b"\0"
        self._mark = nlmsg.encode_text(_NFTA_TABLE, table)
        self._seen: list[str] = []  # of a transaction whose end has not come yet
        self.others = asyncio.Event()
        self._socket.setblocking(False)
        try:
            self._drop_events_of(own_ports())
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except OSError as error:
            raise KernelError("follow nftables", error.errno or 0) from error

    async def changes(self) -> list[str]:
        """What others did to the table since the last call, a clause for each transaction; waits for the first."""
        found = self._drain()
        while not found:
            await self._wait_readable()
            found = self._drain()
        return found

    async def _wait_readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._socket)

    def _drain(self) -> list[str]:
        found: list[str] = []
        while True:
            try:
                datagram = self._receive()
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("read nftables events", error.errno or 0) from error
                found.append("events were lost")
                self.others.set()
                continue
            found += self._take_in(datagram)

    def _take_in(self, datagram: memoryview) -> list[str]:
        """A datagram holds events of one transaction; when it is the last of them, what the transaction did to us."""
        kind = nlmsg.HEADER.unpack_from(datagram)[1] & 0xFF
        if kind == _NEWGEN:
            return self._end_transaction(datagram)
        if self._mark in bytes(datagram):  # else all of it is about tables of others
            self._seen += decode_changes(datagram, self._table)
        return []

    def _end_transaction(self, datagram: memoryview) -> list[str]:
        seen, self._seen = self._seen, []
        self.others.set()
        if not seen:
            return []
        ours = own_ports()
        if nlmsg.HEADER.unpack_from(datagram)[4] in ours:  # libnftables has opened a new socket
            self._drop_events_of(ours)
            return []
        more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
        return [f"{seen[0]}{more} by {decode_author(datagram)}"]

    def _drop_events_of(self, ports: set[int]) -> None:
        program = ctypes.create_string_buffer(encode_filter(sorted(ports)))
        count = len(ports) + 3
        fprog = _SOCK_FPROG.pack(count, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def own_ports() -> set[int]:
    """The ports of this process's netfilter sockets, whoever opened them; none before its first use."""
    ports: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # no socket, or closed meanwhile
            ports.add(_netfilter_port(int(name)))
    return ports - {0}


def _netfilter_port(number: int) -> int:
    borrowed = socket.socket(fileno=number)
    try:
        if (borrowed.family, borrowed.proto) != (socket.AF_NETLINK, _NETLINK_NETFILTER):
            return 0
        return int(borrowed.getsockname()[0])
    finally:
        borrowed.detach()


def encode_filter(ports: list[int]) -> bytes:
    """A classic BPF program that drops datagrams whose first message carries one of these ports."""
    rows = [(_BPF_LD_W_ABS, 0, 0, _NLMSG_PID_OFFSET)]
    for place, port in enumerate(ports):
        loaded = int.from_bytes(nlmsg.U32.pack(port), "big")  # the header is in host order, BPF loads big endian
        rows.append((_BPF_JEQ, len(ports) - place, 0, loaded))
    rows += [(_BPF_RET, 0, 0, 0xFFFFFFFF), (_BPF_RET, 0, 0, 0)]
    return b"".join(_BPF_INSTRUCTION.pack(*row) for row in rows)


def decode_changes(datagram: memoryview, table: bytes) -> list[str]:
    """The events of a datagram that are about an `inet` table (name with closing zero), in the kernel's words."""
    found = []
    for kind, _flags, _sequence, body in nlmsg.decode_messages(datagram):
        attributes = nlmsg.decode_attributes(body[_NFGENMSG_BYTES:])
        if body[0] != _NFPROTO_INET or bytes(attributes.get(_NFTA_TABLE, b"")) != table:
            continue
        event, place = _EVENTS.get(kind & 0xFF, (f"message {kind & 0xFF}", 0))
        name = attributes.get(place)
        found.append(event if name is None else f"{event} {nlmsg.decode_text(name)}")
    return found


def decode_author(newgen: memoryview) -> str:
    """Whose transaction it was."""
    attributes = nlmsg.decode_attributes(newgen[16 + _NFGENMSG_BYTES :])
    pid, name = attributes.get(_NFTA_GEN_PROC_PID), attributes.get(_NFTA_GEN_PROC_NAME)
    if pid is None or name is None:
        return "an unknown process"
    return f"{nlmsg.decode_text(name)} (process {int.from_bytes(pid, 'big')})"

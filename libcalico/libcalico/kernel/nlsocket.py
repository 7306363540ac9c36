"""A blocking netlink socket: one request and its answer, a dump, or a batch of requests.

The kernel works on a request inside `send`, so an answer is ready when it returns: waiting costs nothing, and a
caller that must not stall (the agent's loop) runs bulk work in a worker thread (`netlink.Netlink`).
One thread at a time per socket.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

from calico_native import netns
from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 15
"""As much as the kernel puts into one datagram of a dump (af_netlink.c, netlink_recvmsg)."""
_BATCH_BYTES = 1 << 15
_DUMP_TRIES = 3
_FEW = 64

T = TypeVar("T")


class Request(NamedTuple):
    """One request of a batch: message type, flags and body."""

    kind: int
    flags: int
    body: bytes


class NetlinkSocket:
    """A netlink socket of one protocol in our network namespace, or in that whose handle is at `netns_path`."""

    def __init__(self, protocol: int, netns_path: str = "") -> None:
        try:
            if netns_path:
                number = netns.open_socket(netns_path, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol, fileno=number)
            else:
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            where = f" in {netns_path}" if netns_path else ""
            raise KernelError(f"open netlink socket{where}", error.errno or 0, error.strerror or "") from error
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._set(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self._expects_much = False
        self._together: list[tuple[str, Request]] | None = None
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))

    def _set(self, level: int, option: int, value: int) -> None:
        with contextlib.suppress(OSError):  # an older kernel, or no right to it: less text in errors, a smaller buffer
            self._socket.setsockopt(level, option, value)

    def _expect_much(self) -> None:
        """Make room for dumps and events; most sockets live for a few requests and need none."""
        if not self._expects_much:
            self._set(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            self._set(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
            self._expects_much = True

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        return self._sequence

    def _receive(self) -> memoryview:
        size = self._socket.recv_into(self._buffer)
        return self._buffer[:size]

    def request(self, operation: str, kind: int, flags: int, body: bytes) -> None:
        """Do one thing and wait for the acknowledgement; `operation` is what an error calls it."""
        if self._together is not None:
            self._together.append((operation, Request(kind, flags, body)))
            return
        sequence = self._next()
        self._socket.send(nlmsg.encode_message(kind, flags | nlmsg.NLM_F_ACK, sequence, body))
        while True:
            for answer, answer_flags, of, payload in nlmsg.decode_messages(self._receive()):
                if of == sequence and answer == nlmsg.NLMSG_ERROR:
                    number, words = nlmsg.decode_error(answer_flags, payload)
                    if number:
                        raise KernelError(operation, number, _phrase(number, words))
                    return

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The requests of the block go to the kernel in one system call, at its end, and in their order.

        One that fails does not stop those that follow; the first error is raised."""
        self._together = wanted = list[tuple[str, Request]]()
        try:
            yield
        finally:
            self._together = None
        failures = self.batch("", [request for _operation, request in wanted])
        if failures:
            first = min(failures)
            raise KernelError(wanted[first][0], failures[first].errno, failures[first].detail)

    def query(self, operation: str, kind: int, body: bytes) -> bytes:
        """Ask for one object; the answer's body."""
        sequence = self._next()
        self._socket.send(nlmsg.encode_message(kind, 0, sequence, body))
        while True:
            for answer, answer_flags, of, payload in nlmsg.decode_messages(self._receive()):
                if of != sequence:
                    continue
                if answer == nlmsg.NLMSG_ERROR:
                    number, words = nlmsg.decode_error(answer_flags, payload)
                    raise KernelError(operation, number, _phrase(number, words))
                return bytes(payload)

    def dump(self, operation: str, kind: int, body: bytes, decode: Callable[[memoryview], T | None]) -> list[T]:
        """Every object of a table as `decode` reads it (None = skip); read again when it changed meanwhile."""
        for _try in range(_DUMP_TRIES):
            found, interrupted = self._dump_once(operation, kind, body, decode)
            if not interrupted:
                return found
        return found

    def _dump_once(
        self, operation: str, kind: int, body: bytes, decode: Callable[[memoryview], T | None]
    ) -> tuple[list[T], bool]:
        self._expect_much()
        sequence = self._next()
        self._socket.send(nlmsg.encode_message(kind, nlmsg.NLM_F_DUMP, sequence, body))
        found: list[T] = []
        interrupted = False
        while True:
            for answer, flags, of, payload in nlmsg.decode_messages(self._receive()):
                if of != sequence:
                    continue
                interrupted = interrupted or bool(flags & nlmsg.NLM_F_DUMP_INTR)
                if answer == nlmsg.NLMSG_DONE:
                    number = -nlmsg.ERROR.unpack_from(payload)[0] if len(payload) >= 4 else 0
                    if number:
                        raise KernelError(operation, number)
                    return found, interrupted
                if answer == nlmsg.NLMSG_ERROR:
                    number, words = nlmsg.decode_error(flags, payload)
                    raise KernelError(operation, number, _phrase(number, words))
                item = decode(payload)
                if item is not None:
                    found.append(item)

    def batch(self, operation: str, requests: Sequence[Request]) -> dict[int, KernelError]:
        """Do many things in order, one failure not stopping the next: the errors by index into `requests`."""
        if len(requests) > _FEW:
            self._expect_much()
        failures: dict[int, KernelError] = {}
        start = 0
        while start < len(requests):
            stop, size = start, 0
            while stop < len(requests) and size < _BATCH_BYTES:
                size += 20 + len(requests[stop].body)
                stop += 1
            self._send_slice(operation, requests, start, stop, failures)
            start = stop
        return failures

    def _send_slice(
        self,
        operation: str,
        requests: Sequence[Request],
        start: int,
        stop: int,
        failures: dict[int, KernelError],
    ) -> None:
        first = self._sequence + 1
        parts = []
        for index in range(start, stop):
            kind, flags, body = requests[index]
            acknowledge = nlmsg.NLM_F_ACK if index == stop - 1 else 0
            parts.append(nlmsg.encode_message(kind, flags | acknowledge, first + index - start, body))
        self._sequence = first + stop - start - 1
        self._socket.send(b"".join(parts))
        while True:
            for answer, flags, sequence, payload in nlmsg.decode_messages(self._receive()):
                if answer != nlmsg.NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                number, words = nlmsg.decode_error(flags, payload)
                if number:
                    failures[start + sequence - first] = KernelError(operation, number, _phrase(number, words))
                if sequence == self._sequence:
                    return


def _phrase(number: int, words: str) -> str:
    if not words:
        return ""
    name = errno.errorcode.get(number, str(number))
    return f"{words.rstrip('.')} ({name})"

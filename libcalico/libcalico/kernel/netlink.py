"""The agent's side of route netlink: `Netlink` runs `Rtnl` calls in a thread of its own, `Monitor` follows changes.

    async with Netlink() as netlink:
        links = await netlink.run(Rtnl.links)
        failures = await netlink.run(Rtnl.apply_routes, deletes, replaces)

    async with Monitor() as monitor:
        async for event in monitor: ...

A monitor that was overrun says so (`Overrun`): whoever listens reads everything again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from calico_native import netns
from libcalico.kernel import nlmsg, objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Address, Link, Route
from libcalico.kernel.rtnl import Rtnl

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 17
_DATAGRAMS_IN_A_ROW = 64

P = ParamSpec("P")
T = TypeVar("T")


class LinkEvent(NamedTuple):
    """A link appeared or changed, or is gone (`deleted`)."""

    link: Link
    deleted: bool


class AddressEvent(NamedTuple):
    """An address appeared, or is gone (`deleted`)."""

    address: Address
    deleted: bool


class RouteEvent(NamedTuple):
    """A route appeared or was replaced, or is gone (`deleted`)."""

    route: Route
    deleted: bool


class Overrun(NamedTuple):
    """Events were lost: read everything again."""


Event = LinkEvent | AddressEvent | RouteEvent | Overrun


class Netlink:
    """Route netlink for coroutines: calls run one after the other in one thread, the loop never waits."""

    def __init__(self, netns_path: str = "") -> None:
        self._rtnl = Rtnl(netns_path)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netlink")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the call at work, then give the socket back."""
        self._executor.shutdown()
        self._rtnl.close()

    async def run(self, call: Callable[Concatenate[Rtnl, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call(rtnl, ...)` in the netlink thread; calls keep their order."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(self._rtnl, *args, **kwargs))


class Monitor:
    """What changes in a network namespace, as an async iterator, from its creation on: create it, then list."""

    def __init__(
        self, netns_path: str = "", *, links: bool = True, addresses: bool = False, routes: bool = False
    ) -> None:
        groups = _RTMGRP_LINK if links else 0
        groups |= (_RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR) if addresses else 0
        groups |= (_RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE) if routes else 0
        with _rethrow("open netlink monitor"):
            self._socket = _open(netns_path)
            with contextlib.suppress(OSError):  # without the right to it the default must do
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
            self._socket.bind((0, groups))
        self._socket.setblocking(False)
        self._pending: deque[Event] = deque()
        self._readable = asyncio.Event()
        self._in_a_row = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back; twice is fine."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop = None
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._readable.set)
        while not self._pending:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                self._readable.clear()
                await self._readable.wait()
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("read netlink events", error.errno or 0) from error
                return Overrun()
            self._pending.extend(decode_events(memoryview(data)))
            self._in_a_row = (self._in_a_row + 1) % _DATAGRAMS_IN_A_ROW
            if not self._in_a_row:
                await asyncio.sleep(0)  # in a storm others have their turn, too
        return self._pending.popleft()


def decode_events(datagram: memoryview) -> list[Event]:
    """The events of one datagram; message types that nobody asked for are skipped."""
    events: list[Event] = []
    for kind, _flags, _sequence, body in nlmsg.decode_messages(datagram):
        match kind:
            case objects.RTM_NEWLINK | objects.RTM_DELLINK:
                events.append(LinkEvent(objects.decode_link(body), kind == objects.RTM_DELLINK))
            case objects.RTM_NEWADDR | objects.RTM_DELADDR:
                events.append(AddressEvent(objects.decode_address(body), kind == objects.RTM_DELADDR))
            case objects.RTM_NEWROUTE | objects.RTM_DELROUTE:
                route = objects.decode_route(body)
                if route is not None:
                    events.append(RouteEvent(route, kind == objects.RTM_DELROUTE))
    return events


def _open(netns_path: str) -> socket.socket:
    if netns_path:
        return socket.socket(fileno=netns.open_socket(netns_path, socket.AF_NETLINK, socket.SOCK_RAW, 0))
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


@contextlib.contextmanager
def _rethrow(operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelError(operation, error.errno or 0) from error

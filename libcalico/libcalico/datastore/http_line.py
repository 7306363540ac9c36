"""One connection to etcd's HTTP gateway: opened at the first endpoint that takes it, one request after the other.

Sockets block, with a deadline for each answer, since who uses this waits for the answer anyway. TLS is the standard
library's, with the certificates and the ciphers that `certificates` settles for every connection to etcd; answers are
parsed by httptools (llhttp, docs/adr/0040). Proxies of the environment are not used: they are for the web.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from libcalico.clock import SystemClock
from libcalico.errors import DatastoreError

if TYPE_CHECKING:
    import ssl

now_s = SystemClock().monotonic_s
STAGGER_S = 0.05
"""Without a connection for so long, the next address is tried beside those before it."""
NAMES_S = 1.0
"""How long a name service may take; gRPC, which asks without blocking, is left to wait for a slower one."""
CHUNK = 1 << 18
LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes, as for gRPC (`members.LARGEST_MESSAGE`)."""


class Endpoint(NamedTuple):
    """A URL of etcd in its parts."""

    url: str
    is_tls: bool
    host: str
    port: int


class Address(NamedTuple):
    """One address of an endpoint."""

    endpoint: Endpoint
    family: int
    place: tuple[Any, ...]


class Answer(NamedTuple):
    """What an HTTP server said."""

    status: int
    body: bytes


class NothingListens(Exception):
    """Every address refused the connection, or cannot be routed to."""


class NotConnected(Exception):
    """No connection in the time that there was, or TLS with etcd failed."""


class Lost(Exception):
    """The connection ended, or what came is not HTTP; the request may have been carried out."""


class Silent(Exception):
    """No answer by the deadline; the request may be carried out yet, and its answer read by `Line.answer`."""


def endpoint_of(url: str) -> Endpoint:
    """The parts of a URL that `settings` has accepted; without a port it is 443, as for gRPC."""
    scheme, _, rest = url.partition("://")
    name, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or "]" in port:
        name, port = rest.rstrip("/"), "443"
    return Endpoint(url, scheme == "https", name.strip("[]"), int(port))


class Line:
    """A connection that is open. Requests are POSTs of JSON; one at a time."""

    def __init__(self, connection: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connection = connection
        self._host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._answer = _Reader()
        self.is_open = True

    def ask(self, path: str, body: bytes, deadline_s: float, authorization: str = "") -> Answer:
        """The answer to one request, by `now_s`; raises `Lost` or `Silent`."""
        login = f"Authorization: {authorization}\r\n" if authorization else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self.endpoint.port}\r\nContent-Type: application/json\r\n"
            f"{login}Content-Length: {len(body)}\r\n\r\n"
        )
        self._answer = _Reader()
        try:
            self._connection.settimeout(max(0.001, deadline_s - now_s()))
            self._connection.sendall(head.encode() + body)
        except OSError as error:
            raise self._lost(error) from None
        return self.answer(deadline_s)

    def answer(self, deadline_s: float) -> Answer:
        """The rest of the answer to the last request."""
        try:
            while not self._answer.is_whole:
                left_s = deadline_s - now_s()
                if left_s <= 0:
                    raise Silent
                self._connection.settimeout(left_s)
                self._answer.feed(self._connection.recv(CHUNK))
        except TimeoutError:
            raise Silent from None
        except (OSError, _NotHttp) as error:
            raise self._lost(error) from None
        if not self._answer.keeps_open:
            self.close()
        return self._answer.answer()

    def _lost(self, error: Exception) -> Lost:
        self.close()
        return Lost(str(getattr(error, "strerror", None) or error).lower())

    def has_ended(self) -> bool:
        """Has the server closed the connection while nothing was asked? What it sent unasked counts as such."""
        return not self.is_open or bool(select.select([self._connection], [], [], 0)[0])

    def close(self) -> None:
        """End the connection."""
        self.is_open = False
        self._connection.close()


class _NotHttp(Exception):
    """What came is no answer of HTTP/1.1, or breaks off."""


class _Reader:
    """The callbacks of httptools' parser for one answer."""

    def __init__(self) -> None:
        from httptools import HttpResponseParser

        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self.is_whole = False
        self.keeps_open = False

    def on_body(self, part: bytes) -> None:
        """A piece of the body; one that is refused ends the parsing."""
        self._size += len(part)
        if self._size > LARGEST_ANSWER:
            raise _NotHttp("the answer is too large")
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The answer is there; 100 Continue and its like are none."""
        if self._parser.get_status_code() >= 200:
            self.is_whole, self.keeps_open = True, self._parser.should_keep_alive()

    def feed(self, data: bytes) -> None:
        """What the socket gave, b"" at its end; raises `_NotHttp`."""
        from httptools import HttpParserError, HttpParserUpgrade

        if not data:
            if not self._parts or self._parser.get_status_code() == 200:
                raise _NotHttp("connection closed")
            self.is_whole = True  # an error page of an old server, which has no length
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise _NotHttp(f"the answer is not HTTP: {error}") from None

    def answer(self) -> Answer:
        """The whole of it."""
        return Answer(self._parser.get_status_code(), b"".join(self._parts))


def open_line(endpoints: Sequence[Endpoint], context: ssl.SSLContext | None, patience_s: float) -> Line:
    """A connection to the first endpoint that takes it, the handshake of TLS included.

    Raises `NothingListens` or `NotConnected`, both with a reason."""
    deadline_s = now_s() + patience_s
    connection, endpoint = _first_connected(_addresses(endpoints), deadline_s)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(max(0.001, deadline_s - now_s()))
        if endpoint.is_tls:
            if context is None:
                raise DatastoreError(f"{endpoint.url}: no certificates for TLS")
            connection = context.wrap_socket(connection, server_hostname=endpoint.host)
    except OSError as error:
        connection.close()
        raise NotConnected(f"{endpoint.url}: {error}") from None
    return Line(connection, endpoint)


def _addresses(endpoints: Sequence[Endpoint]) -> list[Address]:
    """Every address of every endpoint; a name that is not known, or not in time, has none."""
    found: list[Address] = []
    for endpoint in endpoints:
        family = _literal_family(endpoint.host)
        if family:
            found.append(Address(endpoint, family, (endpoint.host, endpoint.port)))
        else:
            found += _looked_up(endpoint)
    return found


def _literal_family(host: str) -> int:
    """The family of an address, 0 for a name; an address with a zone counts as a name, which it takes to find it."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return family
    return 0


def _looked_up(endpoint: Endpoint) -> list[Address]:
    """The addresses of a name, by a thread of its own: the system's resolver cannot be interrupted."""
    import threading

    found: list[Address] = []

    def look_up() -> None:
        with contextlib.suppress(OSError):
            for family, _, _, _, place in socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM):
                found.append(Address(endpoint, family, place))

    thread = threading.Thread(target=look_up, name="calico-etcd-name", daemon=True)
    thread.start()
    thread.join(NAMES_S)
    if thread.is_alive():
        raise NotConnected(f"{endpoint.url}: the name service does not answer")
    return found


def _first_connected(addresses: Sequence[Address], deadline_s: float) -> tuple[socket.socket, Endpoint]:
    """The first of the addresses that takes a connection: tried in turn, and side by side where that takes a moment."""
    waiting = list(addresses)
    trying: dict[int, tuple[socket.socket, Endpoint]] = {}
    poll = select.poll()
    next_s = 0.0
    try:
        while waiting or trying:
            at_s = now_s()
            if at_s >= deadline_s:
                raise NotConnected("no answer")
            if waiting and (not trying or at_s >= next_s):
                begun = _begun(waiting.pop(0))
                next_s = at_s + STAGGER_S
                if begun is not None:
                    trying[begun[0].fileno()] = begun
                    poll.register(begun[0], select.POLLOUT)
                continue
            until_s = min(deadline_s, next_s) if waiting else deadline_s
            for number, _ in poll.poll(max(1, int(1000 * (until_s - at_s)))):
                poll.unregister(number)
                connection, endpoint = trying.pop(number)
                if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return connection, endpoint
                connection.close()
        raise NothingListens
    finally:
        for connection, _ in trying.values():
            connection.close()


def _begun(address: Address) -> tuple[socket.socket, Endpoint] | None:
    """A connection under way; None when there is no route, or no such family on this host."""
    try:
        connection = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError:
        return None
    connection.setblocking(False)
    try:
        connection.connect(address.place)
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        return None
    return connection, address.endpoint

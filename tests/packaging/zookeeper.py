"""A stand-in for one ZooKeeper server (spec/scenarios.md 2.7): its wire protocol, nodes in memory, one-shot watches.

with ZooKeeper() as server:
    BootLock(server.hosts, "", "")"""

from __future__ import annotations

import itertools
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from typing import Any, Self

CREATE, DELETE, EXISTS, GET, SET, CHILDREN, SYNC, PING, CHILDREN2, CREATE2 = 1, 2, 3, 4, 5, 8, 9, 11, 12, 15
AUTH, CLOSE = 100, -11
NO_NODE, NOT_EMPTY, NODE_EXISTS = -101, -111, -110
CREATED, DELETED, CHANGED, CHILD = 1, 2, 3, 4
CONNECTED = 3


class Refusal(Exception):
    """An error code of the protocol."""


@dataclass
class Node:
    data: bytes
    owner: int
    version: int = 0
    made: itertools.count[int] = field(default_factory=itertools.count)
    """Numbers of its sequential children."""


class Reader:
    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(f">{form}", self.text, self.at)
        self.at += struct.calcsize(form)
        return value

    def buffer(self) -> bytes:
        length = max(self.take("i"), 0)
        self.at += length
        return self.text[self.at - length : self.at]

    def string(self) -> str:
        return self.buffer().decode()


def packed(text: bytes | str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">i", len(raw)) + raw


class Session(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        self.sending, self.open = threading.Lock(), True
        hello = Reader(self.frame())
        _version, _zxid, timeout_ms = hello.take("i"), hello.take("q"), hello.take("i")
        self.id = next(self.server.sessions)
        self.server.live.append(self)
        self.send(struct.pack(">iiq", 0, timeout_ms, self.id) + packed(b"\0" * 16) + b"\0")
        try:
            while self.open:
                self.one(Reader(self.frame()))
        except OSError:
            pass
        finally:
            self.server.live.remove(self)
            with self.server.changing:
                for path in [path for path, node in self.server.nodes.items() if node.owner == self.id]:
                    self.server.delete(path)

    def frame(self) -> bytes:
        (length,) = struct.unpack(">i", self.exactly(4))
        return self.exactly(length)

    def exactly(self, length: int) -> bytes:
        text = b""
        while len(text) < length:
            more = self.request.recv(length - len(text))
            if not more:
                raise ConnectionResetError
            text += more
        return text

    def send(self, text: bytes) -> None:
        with self.sending:
            self.request.sendall(packed(text))

    def event(self, kind: int, path: str) -> None:
        try:
            self.send(struct.pack(">iqiii", -1, -1, 0, kind, CONNECTED) + packed(path))
        except OSError:
            pass

    def one(self, asked: Reader) -> None:
        xid, kind = asked.take("i"), asked.take("i")
        code, body = 0, b""
        with self.server.changing:
            try:
                body = self.answer(kind, asked)
            except Refusal as refusal:
                code = refusal.args[0]
        self.send(struct.pack(">iqi", xid, next(self.server.zxids), code) + body)

    def answer(self, kind: int, asked: Reader) -> bytes:
        store = self.server
        if kind in (PING, SYNC, AUTH, CLOSE):
            self.open = kind != CLOSE
            return packed("/") if kind == SYNC else b""
        path = asked.string()
        if kind in (CREATE, CREATE2):
            path = store.create(path, asked, self.id)
            return packed(path) + (store.stat(path) if kind == CREATE2 else b"")
        if kind == SET:
            node = store.node(path)
            node.data, node.version = asked.buffer(), node.version + 1
            store.tell(CHANGED, path)
            return store.stat(path)
        if kind == DELETE:
            if store.children(path):
                raise Refusal(NOT_EMPTY)
            store.delete(path)
            return b""
        if asked.take("?"):
            watches = store.child_watches if kind in (CHILDREN, CHILDREN2) else store.watches
            if kind == EXISTS or path in store.nodes:
                watches.setdefault(path, []).append(self)
        node = store.node(path)
        if kind == EXISTS:
            return store.stat(path)
        if kind == GET:
            return packed(node.data) + store.stat(path)
        names = store.children(path)
        text = struct.pack(">i", len(names)) + b"".join(map(packed, names))
        return text + (store.stat(path) if kind == CHILDREN2 else b"")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.nodes: dict[str, Node] = {"": Node(b"", 0)}
        self.changing = threading.RLock()
        self.sessions, self.zxids = itertools.count(1000), itertools.count(1)
        self.live: list[Session] = []
        self.watches: dict[str, list[Session]] = {}
        self.child_watches: dict[str, list[Session]] = {}

    def node(self, path: str) -> Node:
        try:
            return self.nodes[path.rstrip("/")]
        except KeyError:
            raise Refusal(NO_NODE) from None

    def children(self, path: str) -> list[str]:
        above = f"{path.rstrip('/')}/"
        return sorted(one[len(above) :] for one in self.nodes if one.startswith(above) and "/" not in one[len(above) :])

    def create(self, path: str, asked: Reader, session: int) -> str:
        data = asked.buffer()
        for _ in range(asked.take("i")):
            asked.take("i"), asked.string(), asked.string()
        flags = asked.take("i")
        above = path.rpartition("/")[0]
        if flags & 2:
            path += f"{next(self.node(above).made):010d}"
        else:
            self.node(above)
        if path in self.nodes:
            raise Refusal(NODE_EXISTS)
        self.nodes[path] = Node(data, session if flags & 1 else 0)
        self.tell(CREATED, path)
        return path

    def delete(self, path: str) -> None:
        self.node(path)
        del self.nodes[path]
        self.tell(DELETED, path)

    def tell(self, kind: int, path: str) -> None:
        for session in self.watches.pop(path, ()):
            session.event(kind, path)
        if kind != CHANGED:
            for session in self.child_watches.pop(path.rpartition("/")[0] or "/", ()):
                session.event(CHILD, path.rpartition("/")[0] or "/")

    def stat(self, path: str) -> bytes:
        node = self.node(path)
        return struct.pack(
            ">qqqqiiiqiiq", 1, 1, 0, 0, node.version, 0, 0, node.owner, len(node.data), len(self.children(path)), 1
        )


class ZooKeeper:
    """The server, serving while the block runs."""

    def __enter__(self) -> Self:
        self.server = Server()
        self.hosts = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        for session in list(self.server.live):
            session.request.shutdown(socket.SHUT_RDWR)
        self.server.server_close()

    def get(self, path: str) -> bytes | None:
        """A node's data; None if it is not there."""
        node = self.server.nodes.get(path)
        return node.data if node else None

"""gRPC over UNIX sockets between the services of one host."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from libcalico.errors import Unavailable
from libcalico.rpc import grpc

NODE_SOCKET = "/run/calico/node.sock"
API_VERSION = 1
LARGEST_MESSAGE = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.default_authority", "localhost"),
)


def open_channel(path: str = NODE_SOCKET) -> grpc.aio.Channel:
    """A client's connection to the service that listens on the socket at `path`."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


def open_server(path: str) -> grpc.aio.Server:
    """A server bound to the socket at `path`, not yet started; only root may connect (mode 0600).

    A socket that nobody listens on any more is replaced; one with a listener is an error (`Unavailable`)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if _is_alive(path):
        raise Unavailable(f"listen on {path}: another process serves this socket: stop it first")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = grpc.aio.server(options=_OPTIONS)
    with _owner_only():
        server.add_insecure_port(f"unix:{path}")
    return server


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _owner_only() -> Iterator[None]:
    former = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(former)

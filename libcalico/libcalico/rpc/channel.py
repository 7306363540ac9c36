"""gRPC over UNIX sockets between the services of one host."""

from __future__ import annotations

from libcalico.conventions import NODE_SOCKET
from libcalico.kernel.unix_socket import socket_place
from libcalico.rpc import grpc

API_VERSION = 1
HEARTBEAT_S = 5.0
"""A stream of the node API that has nothing to say sends an empty message so often."""
LARGEST_MESSAGE = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.default_authority", "localhost"),
)
_CLIENT = (*_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
"""Each channel connects for itself: one that is opened now must not reach a listener that another one still holds."""


def open_channel(path: str = NODE_SOCKET) -> grpc.aio.Channel:
    """A client's connection to the service that listens on the socket at `path`."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_CLIENT)


def open_server(path: str) -> grpc.aio.Server:
    """A server bound to the socket at `path`, not yet started; only root may connect (mode 0600).

    A socket that nobody listens on any more is replaced; one with a listener is an error (`Unavailable`)."""
    server = grpc.aio.server(options=_OPTIONS)
    with socket_place(path):
        server.add_insecure_port(f"unix:{path}")
    return server

"""What the search for a reason says of servers that are none: each answers one way and closes."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from libcalico.datastore.certificates import Certificates, Tls
from libcalico.datastore.diagnosis import NO_TLS, Route, explain

CLOSE_NOTIFY = bytes.fromhex("15030300020100")
SETTINGS = bytes.fromhex("000006040000000000000500004000")


@pytest.mark.parametrize("answer", [b"", CLOSE_NOTIFY, SETTINGS, b"HTTP/1.0 400 Bad Request"])
def test_a_server_that_does_not_speak_tls_is_named_as_one(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        served = threads.submit(serve)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert explain(Route(url, Tls(None, None, None), Certificates()), 5) == NO_TLS
        served.result()

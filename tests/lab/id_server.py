"""A task's program: answers `GET /id` with 12 characters chosen at start, and counts connections (`GET /count`).

Usage: python id_server.py PORT. `GET /slow` sends one line a second until the client goes away.
"""

from __future__ import annotations

import random
import socket
import string
import sys
import threading
import time

IDENTITY = "".join(random.choices(string.ascii_lowercase + string.digits, k=12))


class Counter:
    """Accepted connections."""

    accepted = 0


def answer(connection: socket.socket) -> None:
    """One request."""
    with connection:
        try:
            head = connection.recv(4096).split(b" ")
            path = head[1] if len(head) > 1 else b""
            if path == b"/slow":
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"tick\n")
                    time.sleep(0.2)
            body = {b"/id": IDENTITY, b"/count": str(Counter.accepted)}.get(path, "")
            status = "200 OK" if body else "404 Not Found"
            text = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            connection.sendall(text.encode())
        except OSError:
            pass


def main() -> None:
    """Serve until killed."""
    server = socket.create_server(("", int(sys.argv[1])), backlog=128)
    while True:
        connection, _ = server.accept()
        Counter.accepted += 1
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()

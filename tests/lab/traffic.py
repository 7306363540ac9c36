"""Traffic of lab tests, run inside a task: python traffic.py ROLE ARGUMENTS.

echo PORT FILE
    UDP: answer every datagram with itself; append "SENDER TEXT" to FILE for each one.
ask ADDRESS PORT SIZE
    UDP with don't-fragment off: one question, exit 0 if the same bytes come back.
probe ADDRESS PORT MS FILE
    UDP from port 5000: a numbered datagram every MS milliseconds until killed; "TIME NUMBER" in FILE for each answer.
syn ADDRESS PORT FILE
    TCP: try to connect every 2 ms, from before there is even an address, until killed; "TIME" for each connection.
connect ADDRESS PORT
    TCP: connect, which the other side's kernel answers; exit 0 if its first SYN was, 2 if one had to be sent again.
send PORT COUNT
    TCP: serve COUNT bytes to everyone.
receive ADDRESS PORT COUNT
    TCP: exit 0 if COUNT bytes arrive within 10 s.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

PMTU_DISCOVERY, NEVER = 10, 0
"""IP_MTU_DISCOVER and IP_PMTUDISC_DONT of linux/in.h; Python's socket module has no names for them."""
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 1 << 23
"""Many seconds of datagrams, for whom has to wait for a processor."""
TOTAL_RETRANS = slice(100, 104)
"""Where struct tcp_info (linux/tcp.h) has tcpi_total_retrans: how many segments were sent again."""


def echo(port: str, file: str) -> int:
    """See the module."""
    server = _udp(int(port))
    with Path(file).open("a", buffering=1) as log:
        while True:
            data, sender = server.recvfrom(65535)
            log.write(f"{sender[0]} {data[:20].decode('utf-8', 'replace')}\n")
            server.sendto(data, sender)


def ask(address: str, port: str, size: str) -> int:
    """See the module."""
    client = _udp()
    client.settimeout(5)
    question = b"x" * int(size)
    client.sendto(question, (address, int(port)))
    return 0 if client.recv(65535) == question else 1


def probe(address: str, port: str, pause_ms: str, file: str) -> int:
    """See the module."""
    client = _udp(5000)
    number, pause = 0, int(pause_ms) / 1000
    with Path(file).open("a", buffering=1) as log:
        due = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                client.sendto(str(number).encode(), (address, int(port)))
            number += 1
            due += pause
            while (left := due - time.monotonic()) > 0 and select.select([client], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    log.write(f"{time.monotonic():.4f} {client.recv(100).decode()}\n")


def syn(address: str, port: str, file: str) -> int:
    """See the module."""
    with Path(file).open("a", buffering=1) as log:
        pending: list[socket.socket] = []
        while True:
            attempt = socket.socket()
            attempt.setblocking(False)
            if attempt.connect_ex((address, int(port))) == errno.EINPROGRESS:
                pending = [*pending[-20:], attempt]
            time.sleep(0.002)
            for one in select.select([], pending, [], 0)[1]:
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    log.write(f"{time.monotonic():.4f}\n")
                pending.remove(one)
                one.close()


def connect(address: str, port: str) -> int:
    """See the module."""
    with socket.create_connection((address, int(port)), 20) as connection:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS.stop)
    return 0 if int.from_bytes(info[TOTAL_RETRANS], sys.byteorder) == 0 else 2


def send(port: str, count: str) -> int:
    """See the module."""
    server = socket.create_server(("", int(port)))
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(bytes(int(count)))


def receive(address: str, port: str, count: str) -> int:
    """See the module."""
    left = int(count)
    with socket.create_connection((address, int(port)), 10) as connection:
        while left > 0 and (part := connection.recv(1 << 16)):
            left -= len(part)
    return 0 if left == 0 else 1


def _udp(port: int = 0) -> socket.socket:
    result = socket.socket(type=socket.SOCK_DGRAM)
    result.setsockopt(socket.IPPROTO_IP, PMTU_DISCOVERY, NEVER)
    result.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    result.bind(("", port))
    return result


ROLES: dict[str, Callable[..., str | int | None]]
ROLES = {"echo": echo, "ask": ask, "probe": probe, "syn": syn, "connect": connect, "send": send, "receive": receive}

if __name__ == "__main__":
    sys.exit(ROLES[sys.argv[1]](*sys.argv[2:]))

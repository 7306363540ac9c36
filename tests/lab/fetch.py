"""A task's client: python fetch.py ADDRESS PORT PATH TIMEOUT_S. Prints the body; exit 0, or 28 for a time-out, 7 for a
refusal, 1 for anything else: a firewall that drops must look like a time-out, never like a refusal."""

from __future__ import annotations

import socket
import sys


def main() -> int:
    """One request."""
    address, port, path, timeout = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    try:
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            data = b""
            while part := connection.recv(65536):
                data += part
    except TimeoutError:
        print(f"cannot connect to {address}:{port}: timed out", file=sys.stderr)
        return 28
    except ConnectionRefusedError:
        print(f"cannot connect to {address}:{port}: refused", file=sys.stderr)
        return 7
    except OSError as error:
        print(f"cannot connect to {address}:{port}: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(data.partition(b"\r\n\r\n")[2].decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The debug interface: a UNIX socket that answers one line with text. `python -m libcalico.obs.debug SOCKET COMMAND`.

A daemon registers its commands; `help` lists them. Only root may connect.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping

from libcalico.errors import BadData
from libcalico.kernel.unix_socket import socket_place
from libcalico.text import escaped, shown

Command = Callable[[list[str]], str]
LONGEST_LINE_S = 10.0
ERROR = "error: "
"""How the answers to an unknown command and to a command that failed begin."""


async def serve(path: str, commands: Mapping[str, Command]) -> asyncio.Server:
    """Listen on the socket at `path`; a stale one is replaced, one with a listener is an error (`Unavailable`)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(LONGEST_LINE_S):
                line = await reader.readline()
                writer.write(_answer(line.decode("utf-8", "replace").split(), commands).encode())
                await writer.drain()
        except ConnectionError:
            pass
        except (TimeoutError, ValueError):  # a silent or deaf client, or a line longer than the reader's limit
            writer.transport.abort()
        finally:  # a command at fault ends its connection, not the daemon; the loop logs it
            writer.close()

    with socket_place(path):
        return await asyncio.start_unix_server(handle, path)


def _answer(words: list[str], commands: Mapping[str, Command]) -> str:
    listing = f"commands: {', '.join(sorted(commands))}\n"
    if words in ([], ["help"]):
        return listing
    if words[0] not in commands:
        return f"{ERROR}there is no command '{shown(words[0])}'; {listing}"
    try:
        return commands[words[0]](words[1:])
    except (ValueError, KeyError, IndexError, BadData) as error:
        return f"{ERROR}{error}\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Rows in columns, for people. Cells quote what is stored: a terminal must not obey it."""
    rows = [list(map(escaped, row)) for row in rows]
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines) + "\n"


def ask(path: str, command: str) -> str:
    """Send one command and return the whole answer; raises OSError when nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(LONGEST_LINE_S)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    if len(argv) < 2:
        print("usage: python -m libcalico.obs.debug SOCKET COMMAND [ARGUMENT...]", file=sys.stderr)
        return 1
    try:
        answer = ask(argv[0], " ".join(argv[1:]))
    except OSError as failure:
        print(f"cannot ask {argv[0]}: {failure.strerror or failure}: is the daemon running?", file=sys.stderr)
        return 1
    sys.stdout.write(answer)
    return 1 if answer.startswith(ERROR) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

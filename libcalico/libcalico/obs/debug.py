"""The debug interface: a UNIX socket that answers one line with text. `python -m libcalico.obs.debug SOCKET COMMAND`.

A daemon registers its commands; `help` lists them. Only root may connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from libcalico.errors import BadData

Command = Callable[[list[str]], str]
LONGEST_LINE_S = 10.0


async def serve(path: str, commands: Mapping[str, Command]) -> asyncio.Server:
    """Listen on the socket at `path`; a stale one is replaced."""

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

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    former = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(handle, path)
    finally:
        os.umask(former)


def _answer(words: list[str], commands: Mapping[str, Command]) -> str:
    if not words or words[0] not in commands:
        return "commands: " + ", ".join(sorted(commands)) + "\n"
    try:
        return commands[words[0]](words[1:])
    except (ValueError, KeyError, IndexError, BadData) as error:
        return f"error: {error}\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Rows in columns, for people."""
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


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m libcalico.obs.debug SOCKET COMMAND [ARGUMENT...]")
    try:
        sys.stdout.write(ask(sys.argv[1], " ".join(sys.argv[2:])))
    except OSError as failure:
        sys.exit(f"cannot ask {sys.argv[1]}: {failure.strerror or failure}: is the daemon running?")

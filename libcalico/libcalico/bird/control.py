"""BIRD's control socket: one command a connection (spec/bgp.md 8.1). A BIRD that hangs costs the time given."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence

from libcalico.bird.replies import BirdStatus, Line, Protocol, Route, parse_protocols, parse_routes, parse_status
from libcalico.errors import BadData, Unavailable
from libcalico.text import shown

LINE = re.compile(r"([0-9]{4})([ -])(.*)", re.DOTALL)
LARGEST_REPLY = 64 << 20
LARGEST_LINE = 1 << 16
RECONFIGURED = {3: "reconfigured", 4: "reconfiguration in progress", 5: "reconfiguration queued"}
GREETING, FIRST_ERROR = 1, 8000
SOCKETS = ("/var/run/calico/bird2.ctl", "/var/run/calico/bird.ctl", "/var/run/bird/bird.ctl")
"""Where BIRD listens, the first that is there: beside a translating proxy, as upstream has it, as Debian does."""
SOCKETS_V6 = ("/var/run/calico/bird6.ctl", "/var/run/bird/bird6.ctl")
"""Where the second daemon of BIRD 1.6 listens; BIRD 2 serves both families in one."""


class NoBird(Unavailable):
    """No process listens on the socket."""


class Refused(BadData):
    """BIRD answered with an error: a file that it does not take (the text says where), or a command that it lacks."""


def find_socket(places: Sequence[str] = SOCKETS) -> str:
    """The first of the places where there is something, else the last one."""
    return next((place for place in places if os.path.exists(place)), places[-1])


async def ask(path: str, command: str, timeout_s: float, largest: int = LARGEST_REPLY) -> list[Line]:
    """The lines of BIRD's reply, within `timeout_s` for all of it, and `largest` octets.

    Raises `NoBird`; other `Unavailable` when BIRD hangs or does not speak as it should; `Refused` for an error."""
    assert command.isprintable(), "a command is one line"
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(path, command, largest)
    except TimeoutError:
        raise Unavailable(f"BIRD at {path} did not answer {command!r} within {timeout_s:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoBird(f"ask BIRD at {path}: {shown(error)}") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise Unavailable(f"ask BIRD at {path}: {shown(error)}") from None


async def _exchange(path: str, command: str, largest: int) -> list[Line]:
    reader, writer = await asyncio.open_unix_connection(path, limit=LARGEST_LINE)
    try:
        greeting = (await _reply(reader, LARGEST_LINE))[-1]
        if greeting.code != GREETING:
            raise ValueError(f"it greets with {greeting.code:04d} {shown(greeting.text)}")
        writer.write(f"{command}\n".encode())
        await writer.drain()
        lines = await _reply(reader, largest)
    finally:
        writer.close()
    if lines[-1].code >= FIRST_ERROR:
        raise Refused(shown(lines[-1].text))
    return lines


async def _reply(reader: asyncio.StreamReader, largest: int) -> list[Line]:
    """Lines up to the one whose code a blank follows."""
    lines: list[Line] = []
    size = 0
    while True:
        raw = await reader.readuntil(b"\n")
        size += len(raw)
        if size > largest:
            raise ValueError(f"a reply of more than {largest} octets")
        text = raw[:-1].decode("utf-8", "replace")
        if text.startswith((" ", "+")) and lines:
            lines.append(Line(lines[-1].code, text[1:]))
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"no line of a reply: {shown(text)}")
        lines.append(Line(int(match[1]), match[3]))
        if match[2] == " ":
            return lines


async def configure(path: str, timeout_s: float) -> str:
    """Make BIRD read its file again; sessions whose part did not change stay up. Answers with what BIRD did.

    Raises as `ask`; after `Refused` BIRD goes on with what it has."""
    last = (await ask(path, "configure", timeout_s))[-1]
    if last.code not in RECONFIGURED:
        raise Unavailable(f"BIRD at {path} answers configure with {last.code:04d} {shown(last.text)}")
    return RECONFIGURED[last.code]


async def show_status(path: str, timeout_s: float) -> BirdStatus:
    """How BIRD is. Raises as `ask`."""
    return parse_status(await ask(path, "show status", timeout_s))


async def show_protocols(path: str, timeout_s: float, details: bool = False) -> list[Protocol]:
    """Every protocol of BIRD's. Raises as `ask`."""
    return parse_protocols(await ask(path, "show protocols all" if details else "show protocols", timeout_s))


async def show_routes(path: str, timeout_s: float, largest: int = LARGEST_REPLY) -> list[Route]:
    """The routes of all of BIRD's tables, some hundred octets each. Raises as `ask`."""
    lines = await ask(path, "show route", timeout_s, largest)
    return await asyncio.to_thread(parse_routes, lines)

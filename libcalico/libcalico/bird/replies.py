"""What BIRD answers to `show status`, `show protocols [all]` and `show route`: texts of BIRD 1.6 and BIRD 2 to values
(spec/bgp.md 8.1). Pure.

BIRD 2 writes the next hops of a route on lines of their own and the tables' names above them; BIRD 1.6 does so for
several next hops only, and has no table names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from libcalico.errors import BadData
from libcalico.text import shown

VERSION, PROTOCOL_ROW, PROTOCOL_DETAIL, ROUTE, STATUS = 1000, 1002, 1006, 1007, 1011
DAEMON, GRACEFUL_RESTART = 13, 24
COLUMNS = 5
DATE, TIME = re.compile(r"[0-9]{2,4}-[0-9]{2}-[0-9]{2,4}"), re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9.]{2,9})?")


class Line(NamedTuple):
    """A line of a reply, with the code that it has or continues."""

    code: int
    text: str


class BirdStatus(NamedTuple):
    """`show status`; times as BIRD writes them, in its host's zone."""

    version: str = ""
    router_id: str = ""
    server_time: str = ""
    last_reboot: str = ""
    last_reconfiguration: str = ""
    daemon: str = ""
    """BIRD's own words: `Daemon is up and running`, `Reconfiguration in progress`, `Shutdown in progress`."""
    graceful_restart: bool = False
    """It still waits for its peers' routes after a restart."""

    @property
    def serves_both_families(self) -> bool:
        """BIRD 2 does, in one daemon; BIRD 1.6 has a second one for IPv6."""
        return not self.version.startswith("1.")


class Protocol(NamedTuple):
    """A row of `show protocols`; `info` of a BGP session is its state, `Established` when it is up, and the last
    error. `bgp_state` and `neighbor` are empty without details, and for what is no BGP session."""

    name: str
    kind: str
    table: str
    state: str
    since: str
    info: str
    bgp_state: str = ""
    neighbor: str = ""


class NextHop(NamedTuple):
    """Where packets go; `gateway` is empty when the destination is on the link."""

    gateway: str
    interface: str


class Route(NamedTuple):
    """A route of BIRD's tables. `kind` is `unicast`, `blackhole`, `unreachable` or `prohibited`; only the first has
    `hops`. `is_best`: it is the one of its destination that the kernel protocol is offered."""

    destination: str
    kind: str
    protocol: str
    is_best: bool
    hops: tuple[NextHop, ...]


def parse_status(lines: Iterable[Line]) -> BirdStatus:
    """The reply to `show status`. Raises `BadData` when it has no version."""
    found: dict[str, str] = {}
    graceful_restart = False
    for line in lines:
        if line.code == VERSION:
            found["version"] = line.text.removeprefix("BIRD ").strip().removeprefix("v")
        elif line.code == STATUS:
            found |= {
                name: line.text[len(start) :] for start, name in STATUS_LINES.items() if line.text.startswith(start)
            }
        elif line.code == DAEMON:
            found["daemon"] = line.text
        graceful_restart |= line.code == GRACEFUL_RESTART
    if "version" not in found:
        raise BadData("BIRD's status has no version")
    return BirdStatus(**found, graceful_restart=graceful_restart)


STATUS_LINES = {
    "Router ID is ": "router_id",
    "Current server time is ": "server_time",
    "Last reboot on ": "last_reboot",
    "Last reconfiguration on ": "last_reconfiguration",
}
DETAILS = {"BGP state:": "bgp_state", "Neighbor address:": "neighbor"}


def parse_protocols(lines: Iterable[Line]) -> list[Protocol]:
    """The reply to `show protocols`, or with details to `show protocols all`. Raises `BadData` for a row without
    columns."""
    rows: list[Protocol] = []
    for line in lines:
        if line.code == PROTOCOL_ROW and line.text.strip():
            rows.append(_row(line.text))
        elif line.code == PROTOCOL_DETAIL and rows:
            text = line.text.strip()
            for start, name in DETAILS.items():
                if text.startswith(start):
                    rows[-1] = rows[-1]._replace(**{name: text[len(start) :].strip()})
    return rows


def _row(text: str) -> Protocol:
    words = text.split(None, COLUMNS)
    if len(words) < COLUMNS:
        raise BadData(f"no row of BIRD's protocols: {shown(text)}")
    info = words[COLUMNS] if len(words) > COLUMNS else ""
    since, rest = words[COLUMNS - 1], info.split(None, 1)
    if rest and DATE.fullmatch(since) and TIME.fullmatch(rest[0]):
        since, info = f"{since} {rest[0]}", "".join(rest[1:])
    return Protocol(words[0], words[1], words[2], words[3], since, info.rstrip())


def parse_routes(lines: Iterable[Line]) -> list[Route]:
    """The reply to `show route`, all tables. Raises `BadData` for a line that is not understood."""
    routes: list[Route] = []
    for line in lines:
        text = line.text
        if line.code != ROUTE or not text.strip() or text.startswith("Table "):
            continue
        if text.startswith("\t") and routes:
            routes[-1] = routes[-1]._replace(hops=(*routes[-1].hops, _hop(text.split(), text)))
        else:
            routes.append(_route(text, routes[-1].destination if routes else ""))
    return routes


def _route(text: str, previous: str) -> Route:
    """One route; the second one of a destination has blanks in its place."""
    head, _, rest = text.partition("[")
    origin, closing, tail = rest.partition("]")
    words, source = head.split(), origin.split()
    destination = previous if text.startswith(" ") or not words else words.pop(0)
    if not (destination and words and source and closing):
        raise BadData(f"no route of BIRD's: {shown(text)}")
    is_best = tail.lstrip().startswith("*")
    if words[0] in {"via", "dev"}:
        return Route(destination, "unicast", source[0], is_best, (_hop(words, text),))
    kind = "unicast" if words[0] == "multipath" else words[0]
    return Route(destination, kind, source[0], is_best, ())


def _hop(words: list[str], text: str) -> NextHop:
    """`via A on I …` or `dev I`."""
    match words:
        case ["via", gateway, "on", interface, *_]:
            return NextHop(gateway, interface)
        case ["dev", interface, *_]:
            return NextHop("", interface)
    raise BadData(f"no next hop of BIRD's: {shown(text)}")

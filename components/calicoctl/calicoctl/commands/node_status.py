"""node status: does the agent run, and how are this host's BGP sessions (spec/calicoctl.md 7.1, spec/bgp.md 8.2).

The datastore is not asked. BIRD 2 serves both families in one daemon; BIRD 1.6 has a second one for IPv6.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from calicoctl import processes
from calicoctl.failures import CommandFailed
from libcalico import boxes
from libcalico.bird.control import SOCKETS, SOCKETS_V6, NoBird, find_socket, show_protocols, show_status
from libcalico.bird.names import GLOBAL, LOCAL_WORKLOAD, MESH, NODE, parse_session_name
from libcalico.bird.replies import Protocol
from libcalico.errors import CalicoError

ANSWER_S = 2.0
BIRD, BIRD6 = "bird", "bird6"
HEADER = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
PEER_TYPES = {MESH: "node-to-node mesh", GLOBAL: "global", NODE: "node specific", LOCAL_WORKLOAD: "local workload"}


class Sessions(NamedTuple):
    """What one BIRD said of its protocols, or what failed and why."""

    protocols: Sequence[Protocol] = ()
    serves_both: bool = True
    failed_to: str = ""
    reason: str = ""


def run(_arguments: dict[str, Any]) -> int:
    """Print both. Status 1 when the agent does not run."""
    need_root()
    lines = list(processes.command_lines())
    if not processes.has_agent(lines):
        raise CommandFailed("Calico process is not running.")
    print("Calico process is running.")
    print(_bgp(processes.has_program(lines, BIRD), processes.has_program(lines, BIRD6)))
    return 0


def need_root() -> None:
    """Raise `CommandFailed` for a user who may not see what the command shows."""
    if os.geteuid() != 0:
        raise CommandFailed("Need super user privileges: Operation not permitted", to_stdout=True)


def _bgp(has_bird: bool, has_bird6: bool) -> str:
    if not has_bird and not has_bird6:
        return "\nThe BGP backend process (BIRD) is not running.\n"
    first = asyncio.run(_ask(SOCKETS)) if has_bird else Sessions(serves_both=False)
    text = _family(4, first) if has_bird else _missing(4, BIRD)
    if has_bird6:
        return text + _family(6, asyncio.run(_ask(SOCKETS_V6)))
    return text + (_family(6, first) if first.serves_both else _missing(6, BIRD6))


async def _ask(places: Sequence[str]) -> Sessions:
    path = find_socket(places)
    try:
        status = await show_status(path, ANSWER_S)
        return Sessions(await show_protocols(path, ANSWER_S), status.serves_both_families)
    except NoBird as error:
        return Sessions(failed_to="connect to", reason=str(error))
    except CalicoError as error:
        return Sessions(failed_to="read from", reason=str(error))


def _missing(family: int, program: str) -> str:
    return f"\nINFO: BIRDv{family} process: '{program}' is not running.\n"


def _family(family: int, sessions: Sessions) -> str:
    head = f"\nIPv{family} BGP status\n"
    if sessions.failed_to:
        return f"{head}Error querying BIRD: unable to {sessions.failed_to} BIRDv{family} socket: {sessions.reason}\n"
    rows = list(peer_rows(sessions.protocols, family))
    return head + (boxes.render(HEADER, rows) if rows else f"No IPv{family} peers found.\n")


def peer_rows(protocols: Iterable[Protocol], family: int) -> Iterable[tuple[str, ...]]:
    """A row of the table for each session of ours with a neighbour of this family."""
    for one in protocols:
        name = parse_session_name(one.name) if one.kind == "BGP" else None
        if name is not None and name.family == family:
            yield (name.peer, PEER_TYPES[name.scope], one.state, one.since, " ".join(one.info.split()))

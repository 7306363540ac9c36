"""An agent asked over its socket, from the event loop of a test, in the words of `calicoctl node debug`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calicoctl.commands.node_debug import ask as ask_agent
from calicoctl.failures import CommandFailed


async def ask(socket: Path | str, command: str, argument: str = "") -> str:
    """The whole answer; raises `CommandFailed`."""
    return "".join([text async for text in ask_agent(str(socket), command, argument)])


async def status(socket: Path | str) -> dict[str, Any]:
    """What the agent says of itself; empty when it does not answer."""
    try:
        return dict(json.loads(await ask(socket, "status")))
    except CommandFailed:
        return {}

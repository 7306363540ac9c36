"""BIRD reads its file again: asked on the control socket, by SIGHUP where that does not answer (spec/bgp.md 1)."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from libcalico.bird import control
from libcalico.bird.process import hang_up
from libcalico.errors import Unavailable

log = logging.getLogger(__name__)


class Reloaded(NamedTuple):
    """`done`: BIRD has read the file, or will. `refused` is why it does not take it, though `bird -p` did."""

    done: bool
    answer: str
    refused: str = ""


async def reload(socket: str, timeout_s: float) -> Reloaded:
    """Not done: no BIRD runs, which reads the file when it starts. Raises `Unavailable` for one that does not answer
    and cannot be sent a signal."""
    try:
        answer = await control.configure(socket, timeout_s)
    except control.Refused as error:
        return Reloaded(True, "refused", str(error))
    except control.NoBird as error:
        pid = await asyncio.to_thread(hang_up, socket)
        if pid:
            return _by_signal(pid, error)
        return Reloaded(False, "no BIRD runs")
    except Unavailable as error:
        pid = await asyncio.to_thread(hang_up, socket)
        if pid:
            return _by_signal(pid, error)
        raise
    log.info("BIRD: %s", answer)
    return Reloaded(True, answer)


def _by_signal(pid: int, error: Unavailable) -> Reloaded:
    log.warning("%s: SIGHUP was sent to its process %d instead", error, pid)
    return Reloaded(True, f"SIGHUP was sent to process {pid}: {error}")

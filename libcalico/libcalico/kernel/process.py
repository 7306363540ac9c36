"""Run another program (an IPAM plug-in that is not ours, iptables-legacy): the library's only place that starts one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from libcalico.kernel.errors import KernelError

_BUSY_TRIES = 5
_BUSY_PAUSE_S = 1.0


class Outcome(NamedTuple):
    """How a program ended and what it printed."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run(
    path: str, environment: Mapping[str, str], stdin: bytes, timeout_s: float, arguments: Sequence[str] = ()
) -> Outcome:
    """The program at `path` with exactly this environment and input.

    After `timeout_s` (`TimeoutError`) it is killed with all that it has started: a child would keep its pipes open."""
    starting = asyncio.ensure_future(_start([path, *arguments], environment))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio would kill the program alone, and wait for the end of its children
        await _kill(await starting)
        raise
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin)
    except (TimeoutError, asyncio.CancelledError):
        await _kill(process)
        raise
    return Outcome(process.returncode or 0, stdout, stderr)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _start(argv: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    for attempt in range(_BUSY_TRIES):
        try:
            return await asyncio.create_subprocess_exec(
                *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), start_new_session=True
            )
        except OSError as error:
            if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES - 1:
                raise KernelError(f"run {argv[0]}", error.errno or 0) from error
            await asyncio.sleep(_BUSY_PAUSE_S)
    raise AssertionError("unreachable")

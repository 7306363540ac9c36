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
_END_S = 1.0


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


class Printed(NamedTuple):
    """What a program printed within its bounds. `exit_code` is None when it was killed at its time's end; `is_cut`:
    it was killed because it printed more than it may."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    is_cut: bool


async def run_bounded(
    path: str, environment: Mapping[str, str], timeout_s: float, arguments: Sequence[str], largest: int
) -> Printed:
    """The program at `path` without input; what it printed is kept, up to `largest` octets of each stream, however it
    ends. Raises `KernelError` when it cannot be started."""
    process = await _start([path, *arguments], environment)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.close()
    out, err = bytearray(), bytearray()
    exit_code: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(_read(process.stdout, out, largest), _read(process.stderr, err, largest))
            if len(out) <= largest and len(err) <= largest:
                exit_code = await process.wait()
    except TimeoutError:
        pass
    finally:
        await _end(process)
    is_cut = len(out) > largest or len(err) > largest
    return Printed(exit_code, bytes(out[:largest]), bytes(err[:largest]), is_cut)


async def _read(stream: asyncio.StreamReader, into: bytearray, largest: int) -> None:
    """To the end, or until there is more than `largest`."""
    while len(into) <= largest:
        part = await stream.read(1 << 16)
        if not part:
            return
        into += part


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it with its children. Its pipes are read to their ends, or asyncio would not see it die; one that a program
    outside its group holds open is left after `_END_S`."""
    assert process.stdout is not None and process.stderr is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()


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

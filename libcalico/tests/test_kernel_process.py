"""Programs that are run: their output, their time, and what ends with them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from libcalico.kernel import process
from libcalico.kernel.errors import KernelError

SHELL = "/bin/sh"
LONG_S = 20.0


async def test_output_and_exit_code() -> None:
    done = await process.run(SHELL, {"A": "x"}, b"in", LONG_S, ["-c", "cat; echo $A >&2; exit 3"])
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"in", b"x\n")


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(KernelError, match="run /nowhere"):
        await process.run("/nowhere", {}, b"", LONG_S)


async def test_a_program_whose_time_is_over_ends_with_its_children() -> None:
    async with asyncio.timeout(LONG_S):
        with pytest.raises(TimeoutError):
            await process.run(SHELL, {}, b"", 0.05, ["-c", "sleep 60; true"])


@pytest.mark.parametrize("steps", range(6))
async def test_a_caller_that_goes_while_a_program_starts_does_not_wait_for_its_children(steps: int) -> None:
    """Whatever step of its start it is at: a child of the program would keep its pipes open for a minute."""
    run = asyncio.ensure_future(process.run(SHELL, {}, b"", LONG_S, ["-c", "sleep 60; true"]))
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(LONG_S):
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_caller_that_goes_once_it_runs_ends_the_program(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = asyncio.ensure_future(process.run(SHELL, {}, b"", LONG_S, ["-c", f"echo $$ > {mark}; sleep 60; true"]))
    async with asyncio.timeout(LONG_S):
        while not mark.exists() or not mark.read_text():
            await asyncio.sleep(0.01)
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()

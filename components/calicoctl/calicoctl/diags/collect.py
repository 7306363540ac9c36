"""Runs what is to be collected, side by side and within bounds: nothing that hangs, is missing or prints for ever
holds up the rest, and each says so in the archive."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from libcalico.errors import CalicoError
from libcalico.kernel.process import run_bounded

T = TypeVar("T")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/mesosphere/bin"
ITEM_S, ALL_S = 10.0, 40.0
"""DC/OS ends a command of its bundle after 50 s."""
LARGEST = 4 << 20
AT_ONCE = 8


class Item(NamedTuple):
    """One file of the archive: its name there, what it is, its content, and why that is not all, if it is not."""

    file: str
    title: str
    content: bytes
    problem: str = ""


class Wanted(NamedTuple):
    """What is to be collected: a command to run, or a question to ask that answers with text."""

    file: str
    title: str
    command: Sequence[str] = ()
    ask: Callable[[], Awaitable[str | bytes]] | None = None


async def collect(wanted: Sequence[Wanted], all_s: float = ALL_S) -> list[Item]:
    """All of it, in order; what is not there by `all_s` is given up."""
    gate = asyncio.Semaphore(AT_ONCE)
    tasks = [asyncio.ensure_future(_one(one, gate)) for one in wanted]
    await asyncio.wait(tasks, timeout=all_s)
    items = []
    for one, task in zip(wanted, tasks, strict=True):
        if task.done():
            items.append(task.result())
        else:
            task.cancel()
            items.append(Item(one.file, one.title, b"", f"not finished within {all_s:.0f} s for everything"))
    await asyncio.gather(*tasks, return_exceptions=True)
    return items


async def _one(one: Wanted, gate: asyncio.Semaphore) -> Item:
    async with gate:
        if one.ask is None:
            return await _run(one)
        try:
            async with asyncio.timeout(ITEM_S):
                answer = await one.ask()
        except TimeoutError:
            return Item(one.file, one.title, b"", f"no answer within {ITEM_S:.0f} s")
        except (CalicoError, OSError) as error:
            return Item(one.file, one.title, b"", str(error))
        return cut(Item(one.file, one.title, answer if isinstance(answer, bytes) else answer.encode()))


def cut(item: Item) -> Item:
    """Not more than `LARGEST` octets, whole lines of the beginning."""
    if len(item.content) <= LARGEST:
        return item
    kept = item.content[:LARGEST].rpartition(b"\n")[0] + b"\n"
    return item._replace(content=kept, problem=f"cut: only the first {len(kept)} of {len(item.content)} octets")


async def _run(one: Wanted) -> Item:
    program, *arguments = one.command
    path = os.environ.get("PATH") or PATH
    found = shutil.which(program, path=path) or shutil.which(program, path=PATH)
    if found is None:
        return Item(one.file, one.title, b"", f"the program {program} is not installed")
    environment = {"PATH": f"{path}:{PATH}", "LC_ALL": "C", "TERM": "dumb"}
    try:
        printed = await run_bounded(found, environment, ITEM_S, arguments, LARGEST)
    except CalicoError as error:
        return Item(one.file, one.title, b"", str(error))
    content = printed.stdout + (b"\n" + printed.stderr if printed.stderr else b"")
    if printed.is_cut:
        content = content[:LARGEST].rpartition(b"\n")[0] + b"\n"
        return Item(one.file, one.title, content, f"cut: only the first {len(content)} octets")
    if printed.exit_code is None:
        return Item(one.file, one.title, content, f"not finished within {ITEM_S:.0f} s")
    problem = f"exit status {printed.exit_code}" if printed.exit_code else ""
    return Item(one.file, one.title, content, problem)


def read_file(path: Path) -> Callable[[], Awaitable[bytes]]:
    """A question that a regular file answers: its end, if it is large, from a whole line on."""

    return lambda: in_thread(partial(_end_of, path))


def _end_of(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LARGEST:
            return file.read(LARGEST)
        file.seek(size - LARGEST)
        return file.read(LARGEST).partition(b"\n")[2]


async def in_thread(work: Callable[[], T]) -> T:
    """What blocking work answers. Its thread does not hold up the end of the process, as those of a pool do."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        def once() -> None:
            if not answer.done():
                set_it()

        if not loop.is_closed():
            loop.call_soon_threadsafe(once)

    def run() -> None:
        try:
            found = work()
        except (CalicoError, OSError, ValueError) as error:
            reason = error
            settle(lambda: answer.set_exception(reason))
        else:
            settle(lambda: answer.set_result(found))

    threading.Thread(target=run, daemon=True).start()
    return await answer

"""The file that BIRD reads: written only if it changed and BIRD takes it, always whole (spec/bgp.md 1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from libcalico.errors import Unavailable
from libcalico.kernel.errors import KernelError
from libcalico.kernel.process import run
from libcalico.text import shown

MODE = 0o640
"""It may hold passwords of sessions."""


class Change(Enum):
    """What became of a text."""

    UNCHANGED = "unchanged"
    WRITTEN = "written"
    REFUSED = "refused"


class Applied(NamedTuple):
    """`reason` says why BIRD refused the text; the last good file stands then."""

    change: Change
    reason: str = ""


async def apply(text: str, path: Path, bird: str, timeout_s: float, keep_candidate: bool = False) -> Applied:
    """Put `text` in the place of the file at `path`, if `bird -p` takes it, or keep it beside that file if so wanted.

    Raises `Unavailable` when the text cannot be written, or `bird` (a path) not be run within `timeout_s`."""
    wanted = text.encode()
    try:
        if await asyncio.to_thread(_present, path) == wanted:
            return Applied(Change.UNCHANGED)
        candidate = path.with_name(f"{_candidates(path)}{os.getpid()}")
        try:
            await asyncio.to_thread(_write, candidate, wanted)
            reason = await _refusal(bird, candidate, timeout_s)
            if reason:
                return Applied(Change.REFUSED, reason)
            await asyncio.to_thread(_replace, candidate, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                if not keep_candidate:
                    candidate.unlink()
    except OSError as error:
        raise Unavailable(f"write {path}: {shown(error)}") from None
    return Applied(Change.WRITTEN)


def remove_candidates(path: Path) -> None:
    """Remove what killed processes left beside the file at `path`. Raises OSError."""
    for left in path.parent.glob(f"{_candidates(path)}*"):
        left.unlink(missing_ok=True)


def _candidates(path: Path) -> str:
    return f".{path.name}."


def _present(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(candidate: Path, path: Path) -> None:
    candidate.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _refusal(bird: str, candidate: Path, timeout_s: float) -> str:
    """What BIRD says against the file, without the name of the candidate; empty if it takes it."""
    try:
        outcome = await run(bird, {}, b"", timeout_s, ("-p", "-c", str(candidate)))
    except KernelError as error:
        raise Unavailable(f"check BIRD's configuration: {shown(error)}") from None
    except TimeoutError:
        raise Unavailable(f"{bird} -p did not end within {timeout_s:g} s") from None
    if outcome.exit_code == 0:
        return ""
    said = outcome.stderr.decode("utf-8", "replace").strip().replace(str(candidate), "line")
    return shown(said or f"exit {outcome.exit_code}")

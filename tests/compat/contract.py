"""What a vector format offers to the runner: one module a format in `tests/compat/formats/`.

Each module has two functions:

* `claims(path, head) -> bool`: is this file of my format? `head` is its first 64 KiB.
* `check(path, options) -> Iterator[Result]`: play every case of the file, one `Result` each.

A module may have `companions(path) -> set[Path]`: files that its own files need and that hold no cases.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

CASE_TIMEOUT_S = 120


class Options(NamedTuple):
    """`backend`: `nftables` or `iptables`; `only`: run just the cases whose name contains this text; `mode`: where
    packet verdicts are played, `kernel` or `memory`."""

    backend: str = "nftables"
    only: str = ""
    mode: str = "kernel"


class Result(NamedTuple):
    """One case. `differences` is empty for a pass; `skipped` is the reason why it could not be played here."""

    name: str
    differences: tuple[str, ...] = ()
    skipped: str = ""


class CaseTimeout(BaseException):
    """A case did not end by itself. No program under test may catch it, so it is no `Exception`."""


def judged(name: str, play: Callable[[], Sequence[str]], timeout_s: int = CASE_TIMEOUT_S) -> Result:
    """Play one case; one that raises or does not end is a failure, and no other case suffers."""
    try:
        with limited(timeout_s):
            return Result(name, tuple(play()))
    except CaseTimeout:
        return Result(name, (f"did not end within {timeout_s} s",))
    except (Exception, SystemExit):
        return Result(name, (f"crashed: {traceback.format_exc()}",))


@contextmanager
def limited(timeout_s: int) -> Iterator[None]:
    """Raise `CaseTimeout` in the main thread after so many seconds."""

    def expired(_number: int, _frame: FrameType | None) -> None:
        raise CaseTimeout

    former = signal.signal(signal.SIGALRM, expired)
    signal.alarm(timeout_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def text_of(path: Path) -> str:
    """The file's text, without a mark of its byte order. Cases may hold halves of surrogate pairs."""
    return path.read_text(encoding="utf-8", errors="surrogatepass").removeprefix("\ufeff")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name by place, case, problem) for each line that is not blank; the case is empty where there is a problem."""
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            case = json.loads(line)
        except ValueError as error:
            yield name, {}, f"is not JSON: {error}"
            continue
        yield (name, case, "") if isinstance(case, dict) else (name, {}, "is not a JSON object")


class Each(NamedTuple):
    """The shape of every value of an object whose member names are free."""

    shape: Shape


Shape = None | Each | list[Any] | dict[str, Any]
"""What a format knows of a value: its members with their shapes, `[shape]` of list entries, None for anything."""


def unknown_members(value: Any, shape: Shape, where: str = "") -> list[str]:
    """Members that the format does not know: a case that has one is not understood, so it must not pass."""
    if isinstance(shape, Each) and isinstance(value, dict):
        return [text for name, one in value.items() for text in unknown_members(one, shape.shape, f"{where}.{name}")]
    if isinstance(shape, list) and isinstance(value, list):
        return [text for n, one in enumerate(value) for text in unknown_members(one, shape[0], f"{where}[{n}]")]
    if not isinstance(shape, dict) or not isinstance(value, dict):
        return []
    found = [f"unknown member {where}.{name}".replace(" .", " ") for name in value if name not in shape]
    for name, inner in shape.items():
        if name in value:
            found += unknown_members(value[name], inner, f"{where}.{name}")
    return found


def show(value: Any, length: int = 400) -> str:
    """JSON, cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= length else f"{text[:length]}…"


def tree_differences(ours: Any, wanted: Any, where: str = "") -> list[str]:
    """Every place at which two JSON values differ."""
    if isinstance(ours, dict) and isinstance(wanted, dict):
        found = []
        for name in sorted(ours.keys() | wanted.keys()):
            place = f"{where}/{name}"
            if name not in ours:
                found.append(f"{place} is missing, expected {show(wanted[name])}")
            elif name not in wanted:
                found.append(f"{place} is {show(ours[name])}, expected absent")
            else:
                found += tree_differences(ours[name], wanted[name], place)
        return found
    if ours == wanted and isinstance(ours, bool) == isinstance(wanted, bool):
        return []
    return [f"{where or '/'} is {show(ours)}, expected {show(wanted)}"]

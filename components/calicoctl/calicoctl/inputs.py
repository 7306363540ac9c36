"""Objects from files, directories and stdin (spec/calicoctl.md 3.1). Everything is read before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calicoctl import stdio
from calicoctl.failures import CommandFailed
from libcalico.errors import BadData
from libcalico.manifest import documents
from libcalico.manifest.documents import EmptyFile, Loaded, Problem
from libcalico.model.lenient import UnknownField, WrongType

SUFFIXES = (".yaml", ".yml", ".json")
MOST_BYTES = 16 << 20
TOO_MUCH = f"more than {MOST_BYTES >> 20} MiB of input: give it in several parts"


def load(arguments: dict[str, Any]) -> list[Loaded]:
    """The objects that `--filename` names.

    Raises `CommandFailed` with upstream's words about the first that cannot be read, and a note about each."""
    name = arguments["--filename"]
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    try:
        left = MOST_BYTES
        for file, data in _contents(name, bool(arguments.get("--recursive"))):
            left -= len(data)
            if left < 0:
                raise CommandFailed(f"failed to execute command: {name}: {TOO_MUCH}")
            objects, unreadable = documents.read("stdin" if file == "-" else file, data)
            if not (objects or unreadable or arguments.get("--skip-empty")):
                unreadable = [Problem(file, EmptyFile(file))]
            loaded += objects
            problems += unreadable
    except OSError as error:
        what = "cannot read standard input" if error.filename is None else f"open {error.filename}"
        raise CommandFailed(f"failed to execute command: {what}: {stdio.reason(error)}") from None
    if problems:
        raise _failure(problems)
    if not loaded and not arguments.get("--skip-empty"):
        raise CommandFailed(str(EmptyFile(name, "directory")))
    return loaded


def _contents(name: str, recursive: bool) -> Iterator[tuple[str, bytes]]:
    if name == "-":
        yield "-", stdio.read_input(MOST_BYTES + 1)
        return
    path = Path(name)
    if not path.is_dir():
        yield name, _read_file(path)
        return
    found = path.rglob("*") if recursive else path.iterdir()
    for entry in sorted(entry for entry in found if _is_input(entry) and entry.suffix.lower() in SUFFIXES):
        yield str(entry), _read_file(entry)


def _read_file(path: Path) -> bytes:
    """A file, or just too much of it."""
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _is_input(entry: Path) -> bool:
    """A link that leads nowhere is one too: it cannot be read, so nothing is done."""
    return entry.is_file() or entry.is_symlink()


def _failure(problems: list[Problem]) -> CommandFailed:
    failure = CommandFailed(_upstream_text(problems[0].error))
    if problems[0].where not in str(failure):
        failure.add_note(problems[0].where)
    for number, problem in enumerate(problems):
        if number:
            failure.add_note(f"{problem.where}: {problem.error}")
        if problem.hint:
            failure.add_note(f"  {problem.hint}")
    failure.add_note("nothing was done")
    return failure


def _upstream_text(error: BadData) -> str:
    if isinstance(error, (EmptyFile, UnknownField)):
        return str(error)
    if isinstance(error, WrongType):
        return f"failed to execute command: error unmarshaling JSON: while decoding JSON: json: {error}"
    return f"failed to execute command: {error}"

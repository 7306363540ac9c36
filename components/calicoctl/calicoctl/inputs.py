"""Objects from files, directories and stdin (spec/calicoctl.md 3.1). Everything is read before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from calicoctl import streams
from calicoctl.failures import CommandFailed, notes_of
from calicoctl.words import TYPED, kind_advice
from libcalico.errors import BadData
from libcalico.manifest.yaml_input import Placed, decode, load_placed
from libcalico.model import Resource, from_input
from libcalico.model.codec import check_list
from libcalico.model.lenient import UnknownField, WrongType

SUFFIXES = (".yaml", ".yml", ".json")
MOST_BYTES = 16 << 20
TOO_MUCH = f"more than {MOST_BYTES >> 20} MiB of input: give it in several parts"


class Loaded(NamedTuple):
    """An object and where it stands."""

    resource: Resource
    file: str
    placed: Placed

    @property
    def origin(self) -> str:
        """As in `in.yaml, line 7`."""
        return f"{self.file}, line {self.placed.line}"


class EmptyFile(BadData):
    """A file without an object, alone or in a directory."""

    def __init__(self, name: str, kind: str = "file") -> None:
        super().__init__(f"no resources specified in {kind} {name}")


class Problem(NamedTuple):
    """Why an object cannot be read, and where it stands."""

    where: str
    error: BadData
    advice: str = ""


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
            before = len(loaded), len(problems)
            _load_file("stdin" if file == "-" else file, data, loaded, problems)
            if not arguments.get("--skip-empty") and before == (len(loaded), len(problems)):
                problems.append(Problem(file, EmptyFile(file)))
    except OSError as error:
        what = "cannot read standard input" if error.filename is None else f"open {error.filename}"
        raise CommandFailed(f"failed to execute command: {what}: {streams.reason(error)}") from None
    if problems:
        raise _failure(problems)
    if not loaded and not arguments.get("--skip-empty"):
        raise CommandFailed(str(EmptyFile(name, "directory")))
    return loaded


def _contents(name: str, recursive: bool) -> Iterator[tuple[str, bytes]]:
    if name == "-":
        yield "-", streams.read_input(MOST_BYTES + 1)
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


def _load_file(file: str, data: bytes, loaded: list[Loaded], problems: list[Problem]) -> None:
    try:
        text = decode(data)
    except BadData as error:
        problems.append(Problem(file, BadData(f"{file}: {error}")))
        return
    try:
        objects = load_placed(text, partial(check_list, kinds=TYPED))
    except BadData as error:
        problems.append(Problem(", ".join([file, *notes_of(error)]), error))
        return
    for placed in objects:
        try:
            loaded.append(Loaded(_read(placed.value), file, placed))
        except BadData as error:
            where = f"{file}, line {_line(placed, error)}: {_title(placed.value)}"
            problems.append(Problem(where, error, _advice(placed.value, error)))


def _read(document: Any) -> Resource:
    if not isinstance(document, (dict, type(None))):
        shape = "string" if isinstance(document, str) else "value"
        raise BadData(
            f"error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {shape} into Go value of type"
            " []unstructured.Unstructured"
        )
    return from_input(document, TYPED)


def _line(placed: Placed, error: BadData) -> int:
    """The line of the member that is wrong, as far as the error tells."""
    if isinstance(error, UnknownField):
        return placed.line_of([error.name])
    if isinstance(error, WrongType) and error.path:
        return placed.line_of(error.path.split("."))
    return placed.line


def _advice(document: Any, error: BadData) -> str:
    """What would be right; "" when the error itself says it."""
    if isinstance(error, WrongType):
        return "write a number from 0 to 65535" if str(error).endswith("of type uint16") else ""
    return kind_advice(document) if isinstance(document, dict) else ""


def _title(document: Any) -> str:
    """What a document that cannot be read calls itself."""
    if not isinstance(document, dict):
        return "no object"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{document.get('kind') or 'object without a kind'}({name or 'without a name'})"


def _failure(problems: list[Problem]) -> CommandFailed:
    failure = CommandFailed(_upstream_text(problems[0].error))
    if problems[0].where not in str(failure):
        failure.add_note(problems[0].where)
    for number, problem in enumerate(problems):
        if number:
            failure.add_note(f"{problem.where}: {problem.error}")
        if problem.advice:
            failure.add_note(f"  {problem.advice}")
    failure.add_note("nothing was done")
    return failure


def _upstream_text(error: BadData) -> str:
    if isinstance(error, (EmptyFile, UnknownField)):
        return str(error)
    if isinstance(error, WrongType):
        return f"failed to execute command: error unmarshaling JSON: while decoding JSON: json: {error}"
    return f"failed to execute command: {error}"

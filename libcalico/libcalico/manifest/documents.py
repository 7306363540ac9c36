"""The objects of a file as a user writes it: each with its place, or with what is wrong with it (spec/calicoctl.md 3).

Pure: who reads the bytes, from where, and what becomes of an error is the caller's.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from libcalico.errors import BadData
from libcalico.manifest.kinds import TYPED, kind_advice
from libcalico.manifest.yaml_input import Placed, decode, load_placed
from libcalico.model import Resource, from_input
from libcalico.model.codec import check_list
from libcalico.model.lenient import UnknownField, WrongType


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
    hint: str = ""


def read(file: str, data: bytes) -> tuple[list[Loaded], list[Problem]]:
    """The objects of a file, and what cannot be read of it; both empty for a file without any. `file` is its name."""
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    try:
        text = decode(data)
    except BadData as error:
        return [], [Problem(file, BadData(f"{file}: {error}"))]
    try:
        objects = load_placed(text, partial(check_list, kinds=TYPED))
    except BadData as error:
        return [], [Problem(", ".join([file, *getattr(error, "__notes__", ())]), error)]
    for placed in objects:
        try:
            loaded.append(Loaded(_read(placed.value), file, placed))
        except BadData as error:
            where = f"{file}, line {_line(placed, error)}: {_title(placed.value)}"
            problems.append(Problem(where, error, _advice(placed.value, error)))
    return loaded, problems


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

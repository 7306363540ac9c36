"""Objects from files, directories and stdin (spec/calicoctl.md 3.1). Everything is read before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from calicoctl.words import CommandFailed
from libcalico.errors import BadData
from libcalico.model import Resource, from_input
from libcalico.model.fold import UnknownField, WrongType
from libcalico.model.yaml_input import load_objects

SUFFIXES = (".yaml", ".yml", ".json")


def load(arguments: dict[str, Any]) -> list[Resource]:
    """The objects that `--filename` names; raises `CommandFailed` with upstream's words."""
    name = arguments["--filename"]
    resources: list[Resource] = []
    try:
        for text in _texts(name, bool(arguments.get("--recursive"))):
            resources += [_read(document) for document in load_objects(text)]
    except UnknownField as error:
        raise CommandFailed(str(error)) from None
    except WrongType as error:
        raise CommandFailed(
            f"failed to execute command: error unmarshaling JSON: while decoding JSON: json: {error}"
        ) from None
    except BadData as error:
        raise CommandFailed(f"failed to execute command: {error}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandFailed(f"failed to execute command: open {error.filename}: {reason}") from None
    if not resources and not arguments.get("--skip-empty"):
        kind = "directory" if name != "-" and Path(name).is_dir() else "file"
        raise CommandFailed(f"no resources specified in {kind} {name}")
    return resources


def _texts(name: str, recursive: bool) -> list[str]:
    if name == "-":
        return [sys.stdin.read()]
    path = Path(name)
    if not path.is_dir():
        return [path.read_text(encoding="utf-8-sig", errors="surrogateescape")]
    found = path.rglob("*") if recursive else path.iterdir()
    files = sorted(entry for entry in found if entry.is_file() and entry.suffix.lower() in SUFFIXES)
    return [entry.read_text(encoding="utf-8-sig", errors="surrogateescape") for entry in files]


def _read(document: Any) -> Resource:
    if not isinstance(document, (dict, type(None))):
        shape = "string" if isinstance(document, str) else "value"
        raise BadData(
            f"error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {shape} into Go value of type"
            " []unstructured.Unstructured"
        )
    return from_input(document)

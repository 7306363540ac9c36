"""From JSON-shaped input to the struct of a kind, as leniently as Go reads it (spec/resources.md 1.5).

Member names match without regard to case; a number or boolean where text is wanted becomes text; null means absent.
Strict (a user's file): an unknown member is an error. Lenient (stored data): it is left out.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import Any

import msgspec

from libcalico.errors import BadData
from libcalico.model.felix_fields import FIELDS
from libcalico.model.numbers import go_number, plain

DEFAULTS_BY_TYPE: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0}


class UnknownField(BadData):
    """A member that the kind does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"field in document is not recognized or is in the wrong location: {name}")


class WrongType(BadData):
    """A member whose value has the wrong shape; `path` is dotted."""

    def __init__(self, path: str, wanted: str, value: Any) -> None:
        self.path = path
        super().__init__(f"cannot unmarshal {_shape(value)} into field {path} of type {wanted}")


def _shape(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    return names.get(type(value), "null")


class _Member(typing.NamedTuple):
    attribute: str
    name: str
    type: Any


@functools.cache
def _members(struct: Any) -> tuple[dict[str, _Member], dict[str, _Member]]:
    """Members by exact name, and by lower-case name."""
    hints = typing.get_type_hints(struct)
    members = [_Member(f.name, f.encode_name, hints[f.name]) for f in msgspec.structs.fields(struct)]
    return {m.name: m for m in members}, {m.name.lower(): m for m in members}


def fold_struct(struct: type[Any], value: Any, strict: bool, path: str = "") -> Any:
    """An instance of `struct` from a JSON object; raises `UnknownField` or `WrongType`."""
    if not isinstance(value, dict):
        raise WrongType(path or struct.__name__, struct.__name__, value)
    exact, folded = _members(struct)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name in sorted(value):
        member = exact.get(name) or folded.get(name.lower())
        if member is None:
            if strict:
                raise UnknownField(name)
            continue
        if value[name] is None:
            continue
        where = f"{path}.{member.name}" if path else member.name
        if member.attribute == "spec" and struct.__name__ == "FelixConfiguration":
            found["spec"] = _fold_felix_spec(value[name], strict, where)
        else:
            found[member.attribute] = _fold(member.type, value[name], strict, where)
    return struct(**found)


def _fold(wanted: Any, value: Any, strict: bool, path: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        return _fold_union(wanted, value, strict, path)
    if origin is list:
        return _fold_list(typing.get_args(wanted)[0], value, strict, path)
    if origin is dict:
        return _fold_map(typing.get_args(wanted)[1], value, strict, path)
    if wanted is Any:
        return value
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return fold_struct(wanted, value, strict, path)
    return _fold_scalar(wanted, value, path)


def _fold_union(wanted: Any, value: Any, strict: bool, path: str) -> Any:
    options = [option for option in typing.get_args(wanted) if option is not type(None)]
    if len(options) == 1:
        return _fold(options[0], value, strict, path)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise WrongType(path, "number or string", value)
    if str in options:
        return _fold_int_or_string(value, path)
    if isinstance(value, str):
        raise WrongType(path, "float64", value)
    return plain(value)


def _fold_int_or_string(value: int | float | str, path: str) -> int | str:
    if isinstance(value, float):
        raise WrongType(path, "integer or string", value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value


def _fold_list(wanted: Any, value: Any, strict: bool, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise WrongType(path, "array", value)
    return [
        _zero(wanted) if entry is None else _fold(wanted, entry, strict, f"{path}[{place}]")
        for place, entry in enumerate(value)
    ]


def _zero(wanted: Any) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return wanted()
    return DEFAULTS_BY_TYPE.get(wanted, 0)


def _fold_map(wanted: Any, value: Any, strict: bool, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongType(path, "object", value)
    return {
        key: _zero(wanted) if entry is None and wanted is not Any else _fold(wanted, entry, strict, f"{path}.{key}")
        for key, entry in value.items()
    }


def _fold_scalar(wanted: Any, value: Any, path: str) -> Any:
    if wanted is str:
        return _text(value, path)
    if wanted is bool:
        if not isinstance(value, bool):
            raise WrongType(path, "bool", value)
        return value
    if wanted is int:
        return _integer(value, path)
    raise WrongType(path, str(wanted), value)


def _text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return go_number(value)
    raise WrongType(path, "string", value)


def _integer(value: Any, path: str) -> int:
    if path.endswith("asNumber") and isinstance(value, str):
        return _as_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(path, "integer", value)
    whole = plain(value)
    if not isinstance(whole, int):
        raise WrongType(path, "integer", value)
    return whole


def _as_number(text: str) -> int:
    parts = text.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        if len(parts) == 1 and int(text) < 1 << 32:
            return int(text)
        if len(parts) == 2 and int(parts[0]) < 1 << 16 and int(parts[1]) < 1 << 16:
            return int(parts[0]) << 16 | int(parts[1])
    raise BadData(f"invalid AS Number format ({text})")


def _fold_felix_spec(value: Any, strict: bool, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongType(path, "object", value)
    by_lower = {name.lower(): name for name in FIELDS}
    found: dict[str, Any] = {}
    for given in sorted(value):
        name = given if given in FIELDS else by_lower.get(given.lower())
        if name is None:
            if strict:
                raise UnknownField(given)
            continue
        if value[given] is not None:
            found[name] = _fold_felix_value(FIELDS[name].type, value[given], f"{path}.{name}")
    return found


def _fold_felix_value(kind: str, value: Any, path: str) -> Any:
    if kind in ("string", "duration"):
        return _text(value, path)
    if kind == "int":
        return _integer(value, path)
    if kind == "bool":
        return _fold_scalar(bool, value, path)
    if kind == "strings":
        return _fold_list(str, value, True, path)
    if kind == "ports":
        return _fold_list(int | str, value, True, path)
    if kind in ("objects", "protoports", "ranges"):
        return _fold_list(dict[str, Any], value, True, path)
    if kind in ("object", "range", "map"):
        return _fold_map(Any, value, True, path)
    return _fold_int_or_string(value, path) if isinstance(value, (int, str, float)) else value

"""From JSON-shaped input to the struct of a kind, as leniently as Go reads it (spec/resources.md 1.5).

Member names match without regard to case; a number or boolean where text is wanted becomes text; null means absent.
Strict (a user's file): an unknown member is an error. Lenient (stored data): it is left out.
"""

from __future__ import annotations

import datetime
import functools
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from libcalico.errors import BadData
from libcalico.model import scalars
from libcalico.model.felix_fields import FIELDS, KEPT_EMPTY, TYPES
from libcalico.model.numbers import go_duration, go_number, parse_duration, plain
from libcalico.model.wire_types import RANGES, Wire

DEFAULTS_BY_TYPE: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0}
NO_VALUE = (type(None), msgspec.UnsetType)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


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


class WrongText(BadData):
    """A member of the right shape whose text cannot be read: a port, a duration, an AS number."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"error unmarshaling JSON: while decoding JSON: {reason}")


def _shape(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    shape = names.get(type(value), "null")
    return f"number {value}" if shape == "number" else shape


class _Member(typing.NamedTuple):
    attribute: str
    name: str
    type: Any


@functools.cache
def _members(struct: Any) -> tuple[dict[str, _Member], dict[str, _Member]]:
    """Members by exact name, and by lower-case name."""
    hints = typing.get_type_hints(struct, include_extras=True)
    members = [_Member(f.name, f.encode_name, hints[f.name]) for f in msgspec.structs.fields(struct)]
    return {m.name: m for m in members}, {m.name.lower(): m for m in members}


def fold_struct(struct: type[Any], value: Any, strict: bool, path: str = "") -> Any:
    """An instance of `struct` from a JSON object; raises `UnknownField`, `WrongType` or `WrongText`."""
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
            folded_value = _fold(member.type, value[name], strict, where)
            if folded_value or msgspec.UnsetType not in typing.get_args(member.type):
                found[member.attribute] = folded_value
    return struct(**found)


def _fold(wanted: Any, value: Any, strict: bool, path: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin is typing.Annotated:
        return _fold_wire(wanted.__metadata__[0], value, path)
    if origin in (types.UnionType, typing.Union):
        (option,) = [option for option in typing.get_args(wanted) if option not in NO_VALUE]
        return _fold(option, value, strict, path)
    if origin is list:
        return _fold_list(typing.get_args(wanted)[0], value, strict, path)
    if origin is dict:
        return _fold_map(typing.get_args(wanted)[1], value, strict, path)
    if wanted is Any:
        return value
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return fold_struct(wanted, value, strict, path)
    return _fold_scalar(wanted, value, path)


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
        return _integer(value, path, "int64")
    raise WrongType(path, str(wanted), value)


def _fold_wire(wire: Wire, value: Any, path: str) -> Any:
    if wire.form in RANGES:
        return _integer(value, path, wire.form)
    try:
        return _WIRE_FORMS[wire.form](value, path)
    except ValueError as error:
        raise WrongText(error) from None


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


def _integer(value: Any, path: str, form: str) -> int:
    whole = None if isinstance(value, bool) or not isinstance(value, (int, float)) else plain(value)
    low, high = RANGES[form]
    if not isinstance(whole, int) or not low <= whole <= high:
        raise WrongType(path, form, value)
    return whole


def _as_number(value: Any, path: str) -> int:
    if not isinstance(value, str):
        return _integer(value, path, "uint32")
    parts = value.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        if len(parts) == 1 and int(value) < 1 << 32:
            return int(value)
        if len(parts) == 2 and int(parts[0]) < 1 << 16 and int(parts[1]) < 1 << 16:
            return int(parts[0]) << 16 | int(parts[1])
    raise ValueError(f"invalid AS Number format ({value})")


def _port(value: Any, path: str) -> int | str:
    return scalars.canonical_port(value if isinstance(value, str) else _integer(value, path, "uint16"))


def _protocol(value: Any, path: str) -> int | str:
    if not isinstance(value, str):
        return _integer(value, path, "uint8")
    return int(value) if value.isascii() and value.isdigit() and int(value) < 256 else value


def _duration(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise WrongType(path, "string", value)
    return go_duration(parse_duration(value))


def _time(value: Any, path: str) -> str:
    """Whole seconds in UTC, as Kubernetes' time type stores them."""
    if not isinstance(value, str):
        raise WrongType(path, "string", value)
    if not RFC3339.fullmatch(value):
        raise ValueError(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"')
    moment = datetime.datetime.fromisoformat(value)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(value: Any, path: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(path, "float64", value)
    return plain(float(value))


_WIRE_FORMS: dict[str, Callable[[Any, str], Any]] = {
    "asnumber": _as_number,
    "port": _port,
    "protocol": _protocol,
    "dscp": _protocol,
    "duration": _duration,
    "time": _time,
    "float64": _number,
}


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
            folded = msgspec.to_builtins(_fold(TYPES[FIELDS[name].type], value[given], strict, f"{path}.{name}"))
            if folded not in ("", []) or name in KEPT_EMPTY:
                found[name] = folded
    return found

"""From JSON-shaped input to the struct of a kind, as leniently as Go reads it (spec/resources.md 1.5).

Member names match without regard to case; a number or boolean where text is wanted becomes text; null means absent.
Strict (a user's file): an unknown member is an error. Lenient (stored data): it is left out.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from libcalico.durations import go_duration, parse_duration
from libcalico.errors import BadData
from libcalico.model import scalars
from libcalico.model.felix_fields import FIELDS, KEPT_EMPTY, TYPES
from libcalico.model.numbers import go_number, plain
from libcalico.model.wire_types import RANGES, Wire

DEFAULTS_BY_TYPE: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0}
NO_VALUE = (type(None), msgspec.UnsetType)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class UnknownField(BadData):
    """A member that the kind does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"field in document is not recognized or is in the wrong location: {name}")


class Place(typing.NamedTuple):
    """Where in the document a value stands, as Go names it: the struct that has the member, and the dotted path."""

    struct: str
    path: str = ""

    def member(self, struct: str, name: str) -> Place:
        """The place of a member of the object here."""
        return Place(struct, f"{self.path}.{name}" if self.path else name)


class WrongType(BadData):
    """A member whose value has the wrong shape; `path` is dotted."""

    def __init__(self, place: Place, wanted: str, value: Any) -> None:
        self.path = place.path
        into = f"Go struct field {place.struct}.{place.path}" if place.path else "Go value"
        super().__init__(f"cannot unmarshal {_shape(value)} into {into} of type {wanted}")


class WrongText(BadData):
    """A member of the right shape whose text cannot be read: a port, a duration, an AS number."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"error unmarshaling JSON: while decoding JSON: {reason}")


def _shape(value: Any) -> str:
    """What a value is to JSON; a value that only Python has is called by its type."""
    names = {dict: "object", list: "array", tuple: "array", str: "string", bool: "bool", type(None): "null"}
    if type(value) in (int, float):
        return f"number {_digits(value)}"
    return names.get(type(value)) or f"Python's {type(value).__name__}"


def _digits(value: int | float) -> str:
    """A number for people; one that no JSON reader takes is cut."""
    return f"{value:#x}"[:20] + "..." if isinstance(value, int) and value.bit_length() > 1024 else str(value)


def _is_number(value: Any) -> bool:
    """Is it a number that JSON and Go know: finite, and within a float64?"""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _go_type(wanted: Any) -> str:
    origin = typing.get_origin(wanted)
    if origin is typing.Annotated:
        form: str = wanted.__metadata__[0].form
        return {"duration": "string", "time": "string", "flag": "bool"}.get(form, form)
    if origin is list:
        return "[]" + _go_type(typing.get_args(wanted)[0])
    if origin is dict:
        return "map[string]" + _go_type(typing.get_args(wanted)[1])
    names = {str: "string", bool: "bool", int: "int", float: "float64"}
    return names.get(wanted) or f"v3.{getattr(wanted, '__name__', 'Value')}"


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


def fold_struct(struct: type[Any], value: Any, strict: bool, place: Place | None = None) -> Any:
    """An instance of `struct` from a JSON object; raises `UnknownField`, `WrongType` or `WrongText`."""
    place = place or Place(struct.__name__)
    if not isinstance(value, dict):
        raise WrongType(place, _go_type(struct), value)
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
        where = place.member(struct.__name__, member.name)
        if member.attribute == "spec" and struct.__name__ == "FelixConfiguration":
            found["spec"] = _fold_felix_spec(value[name], strict, where)
        else:
            folded_value = _fold(member.type, value[name], strict, where)
            if folded_value or msgspec.UnsetType not in typing.get_args(member.type):
                found[member.attribute] = folded_value
    return struct(**found)


def _fold(wanted: Any, value: Any, strict: bool, place: Place) -> Any:
    origin = typing.get_origin(wanted)
    if origin is typing.Annotated:
        return _fold_wire(wanted.__metadata__[0], value, strict, place)
    if origin in (types.UnionType, typing.Union):
        (option,) = [option for option in typing.get_args(wanted) if option not in NO_VALUE]
        return _fold(option, value, strict, place)
    if origin is list:
        return _fold_list(typing.get_args(wanted)[0], value, strict, place)
    if origin is dict:
        return _fold_map(typing.get_args(wanted)[1], value, strict, place)
    if wanted is Any:
        return value
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return fold_struct(wanted, value, strict, place)
    return _fold_scalar(wanted, value, place)


def _fold_list(wanted: Any, value: Any, strict: bool, place: Place) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise WrongType(place, "[]" + _go_type(wanted), value)
    return [_zero(wanted) if entry is None else _fold(wanted, entry, strict, place) for entry in value]


def _zero(wanted: Any) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return wanted()
    return DEFAULTS_BY_TYPE.get(wanted, 0)


def _fold_map(wanted: Any, value: Any, strict: bool, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongType(place, "map[string]" + _go_type(wanted), value)
    return {
        key: _zero(wanted) if entry is None and wanted is not Any else _fold(wanted, entry, strict, place)
        for key, entry in value.items()
    }


def _fold_scalar(wanted: Any, value: Any, place: Place) -> Any:
    if wanted is str:
        return as_text(value, place)
    if wanted is bool:
        if not isinstance(value, bool):
            raise WrongType(place, "bool", value)
        return value
    if wanted is int:
        return _integer(value, place, "int")
    raise WrongType(place, _go_type(wanted), value)


def _fold_wire(wire: Wire, value: Any, strict: bool, place: Place) -> Any:
    if wire.form == "flag" and isinstance(value, str) and not strict:
        return value  # as it is stored
    if wire.form in RANGES:
        return _integer(value, place, wire.form)
    try:
        return _WIRE_FORMS[wire.form](value, place)
    except ValueError as error:
        raise WrongText(error) from None


def as_text(value: Any, place: Place) -> str:
    """A scalar where text is wanted: `true`, `1.5`; raises `WrongType` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if _is_number(value):
        return str(value) if isinstance(value, int) else go_number(value)
    raise WrongType(place, "string", value)


def _integer(value: Any, place: Place, form: str) -> int:
    whole = plain(value) if _is_number(value) else None
    low, high = RANGES[form]
    if not isinstance(whole, int) or not low <= whole <= high:
        raise WrongType(place, form, value)
    return whole


def _as_number(value: Any, place: Place) -> int:
    if not isinstance(value, str):
        return _integer(value, place, "uint32")
    parts = value.split(".")
    if all(part.isascii() and part.isdigit() for part in parts):
        if len(parts) == 1 and int(value) < 1 << 32:
            return int(value)
        if len(parts) == 2 and int(parts[0]) < 1 << 16 and int(parts[1]) < 1 << 16:
            return int(parts[0]) << 16 | int(parts[1])
    raise ValueError(f"invalid AS Number format ({value})")


def _flag(value: Any, place: Place) -> str:
    if not isinstance(value, bool):
        raise WrongType(place, "bool", value)
    return "true" if value else "false"


def _port(value: Any, place: Place) -> int | str:
    return scalars.canonical_port(value if isinstance(value, str) else _integer(value, place, "uint16"))


def _protocol(value: Any, place: Place) -> int | str:
    if not isinstance(value, str):
        return _integer(value, place, "uint8")
    return int(value) if value.isascii() and value.isdigit() and int(value) < 256 else value


def _duration(value: Any, place: Place) -> str:
    if not isinstance(value, str):
        raise WrongType(place, "string", value)
    return go_duration(parse_duration(value))


def _time(value: Any, place: Place) -> str:
    """Whole seconds in UTC, as Kubernetes' time type stores them."""
    if not isinstance(value, str):
        raise WrongType(place, "string", value)
    if not RFC3339.fullmatch(value):
        raise ValueError(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"')
    try:
        moment = datetime.datetime.fromisoformat(value).astimezone(datetime.UTC)
    except OverflowError:
        raise ValueError(f'{place.path}: parsing time "{value}": the year must be from 1 to 9999 in UTC') from None
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _number(value: Any, place: Place) -> int | float:
    if not _is_number(value):
        raise WrongType(place, "float64", value)
    return plain(float(value))


_WIRE_FORMS: dict[str, Callable[[Any, Place], Any]] = {
    "asnumber": _as_number,
    "flag": _flag,
    "port": _port,
    "protocol": _protocol,
    "dscp": _protocol,
    "duration": _duration,
    "time": _time,
    "float64": _number,
}


def _fold_felix_spec(value: Any, strict: bool, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongType(place, "v3.FelixConfigurationSpec", value)
    by_lower = {name.lower(): name for name in FIELDS}
    found: dict[str, Any] = {}
    for given in sorted(value):
        name = given if given in FIELDS else by_lower.get(given.lower())
        if name is None:
            if strict:
                raise UnknownField(given)
            continue
        if value[given] is not None:
            folded = msgspec.to_builtins(
                _fold(TYPES[FIELDS[name].type], value[given], strict, place.member("FelixConfigurationSpec", name))
            )
            if folded not in ("", []) or name in KEPT_EMPTY:
                found[name] = folded
    return found

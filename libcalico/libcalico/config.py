"""Configuration parameters: one table, ranked sources, every value kept with where it came from.

Sources from strong to weak: environment, file, the node's own datastore object, the cluster's, built-in default. A
value that cannot be read is one warning and counts as the built-in default, set by that source: weaker sources are
not asked. Where the parameter must stop the daemon it is an error, from whichever source. `none` is the type's zero.
A name that stands in no row of the table is a warning too: nothing that is set is without effect and silent.
Source: spec/felix-config.md.
"""

from __future__ import annotations

import configparser
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from libcalico import text as text_of
from libcalico.durations import NANOSECONDS, parse_duration
from libcalico.errors import BadData
from libcalico.files import is_there, read_regular

LARGEST_PORT = 65535
LONGEST_SOCKET_PATH = 106
OCTAL = re.compile(r"[+-]?0[0-7]+")
PORT = re.compile("[0-9]{1,5}")
LARGEST_FILE = 1024 * 1024
LONGEST_NUMBER = 64
LONGEST_GUESSED = 64
ALIKE = 0.75
"""Characters of a text that may be a number, and of one that is compared with names; how alike a name must be."""


class Parameter(NamedTuple):
    """One row of the table. `live`: may change without a restart. `datastore`: may be set there.

    `fatal`: a bad value stops the daemon. `none_refused`: `none` is a bad value."""

    name: str
    read: Callable[[str], Any]
    default: Any
    text: str
    live: bool = False
    datastore: bool = True
    fatal: bool = False
    none_refused: bool = False


class Foreign(NamedTuple):
    """A parameter that others know and that has no effect here. `already`: values, in lower case, that ask for nothing
    but what is done anyway; `*` is every value."""

    name: str
    already: frozenset[str] = frozenset()


class Value(NamedTuple):
    """A parameter's value and its source: `environment`, `file`, `datastore` or `default`."""

    value: Any
    source: str


class _Setting(NamedTuple):
    """What a source says: the name as it is written there, the text, and where that stands."""

    name: str
    text: str
    place: str


def shown(text: str) -> str:
    """Text from outside in quotes, short and escaped."""
    return f"'{text_of.shown(text)}'"


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """The name that is most like the text, compared without case; empty when none is."""
    by_lower = {name.lower(): name for name in names}
    short = text[: LONGEST_GUESSED + 1].lower()
    found = difflib.get_close_matches(short, by_lower, 1, ALIKE) if len(short) <= LONGEST_GUESSED else []
    return by_lower[found[0]] if found else ""


def boolean(text: str) -> bool:
    """`true`, `1`, `yes`, `y`, `t` and their opposites, in any case."""
    lower = text.lower()
    if lower in ("true", "1", "yes", "y", "t"):
        return True
    if lower in ("false", "0", "no", "n", "f"):
        return False
    raise ValueError("is not true or false")


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number within bounds: decimal, 0x, 0o, 0b, or octal after a leading 0."""

    def read(text: str) -> int:
        if len(text) > LONGEST_NUMBER:
            raise ValueError("is too long for a number")
        number = int(text, 8 if OCTAL.fullmatch(text) else 0)
        if not low <= number <= high:
            raise ValueError(f"is not between {low} and {high}")
        return number

    return read


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """Text that a regular expression describes as a whole."""
    expression = re.compile(pattern)

    def read(text: str) -> str:
        if not expression.fullmatch(text):
            raise ValueError(f"is not {what}")
        return text

    return read


def file_path(text: str) -> str:
    """A path that a file can have."""
    if not text.isprintable():
        raise ValueError("is not a path")
    return text


def socket_path(text: str) -> str:
    """A path that a UNIX socket can have, beside one that is being made (unix(7): 108 octets with the final zero)."""
    if len(os.fsencode(file_path(text))) > LONGEST_SOCKET_PATH:
        raise ValueError(f"is longer than {LONGEST_SOCKET_PATH} octets, too long for a socket")
    return text


def port_range(text: str) -> str:
    """A port, or `first:last`."""
    ports = text.split(":")
    if len(ports) > 2 or not all(PORT.fullmatch(port) and int(port) <= LARGEST_PORT for port in ports):
        raise ValueError("is not a port or a range first:last")
    if int(ports[0]) > int(ports[-1]):
        raise ValueError("ends before it begins")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in any case; the value is the word in lower case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            meant = did_you_mean(text, words)
            raise ValueError(f"is not one of {', '.join(words)}{f' (did you mean {meant}?)' if meant else ''}")
        return text.lower()

    return read


def seconds(text: str) -> float:
    """Seconds as a number, or a duration such as `1m30s`."""
    if len(text) > LONGEST_NUMBER:
        raise ValueError("is too long for a duration")
    try:
        number = float(text)
    except ValueError:
        try:
            number = parse_duration(text) / NANOSECONDS["s"]
        except ValueError:
            raise ValueError("is not a duration: a number of seconds, or such as 1m30s") from None
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class Configuration:
    """Values of a table's parameters from all sources. `warnings` says what is set and cannot be used or has no effect:
    values, names that nobody knows, and `foreign` parameters."""

    def __init__(self, parameters: Iterable[Parameter], foreign: Iterable[Foreign] = ()) -> None:
        self._parameters = {parameter.name.lower(): parameter for parameter in parameters}
        self._foreign = {one.name.lower(): one for one in foreign}
        self._sources: dict[str, dict[str, _Setting]] = {"environment": {}, "file": {}, "datastore": {}}
        self._twice: list[str] = []
        self._reported: set[str] = set()
        self.values: dict[str, Value] = {}
        self.warnings: list[str] = []
        self.resolve()

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def load_environment(self, environment: Mapping[str, str], prefix: str) -> None:
        """Variables such as FELIX_LOGSEVERITYSCREEN."""
        self._sources["environment"] = {
            name[len(prefix) :].lower(): _Setting(name, text, "the environment")
            for name, text in environment.items()
            if name.upper().startswith(prefix)
        }

    def load_file(self, path: str) -> bool:
        """An INI file with a `[global]` section; False when it is not there, which need not be an error."""
        self._sources["file"], self._twice = {}, []
        try:
            whole = read_regular(path, LARGEST_FILE).decode("utf-8-sig")
            text = "\n".join(line.strip() for line in whole.splitlines())
        except (OSError, ValueError) as error:  # the latter for text that is none, and a path that no file can have
            if isinstance(error, FileNotFoundError) and not is_there(path):
                return False
            raise BadData(f"cannot read the configuration file {path}: {error}") from None
        lines = _lines_of(text)
        for lower, value in _read_ini(text, path).items():
            name, numbers = lines.get(lower, (lower, [0]))
            place = f"the file {path}, line {numbers[-1]}"
            self._sources["file"][lower] = _Setting(name, _unquoted(value), place)
            if len(numbers) > 1:
                self._twice.append(f"{shown(name)} stands more than once in {path}: line {numbers[-1]} counts")
        return True

    def load_datastore(self, values: Mapping[str, str]) -> None:
        """What the datastore says now; replaces what it said before."""
        self._sources["datastore"] = {
            name.lower(): _Setting(name, text, "the datastore") for name, text in values.items()
        }

    def resolve(self) -> set[str]:
        """Compute every value again; the names of those that have changed."""
        self.warnings = list(self._twice)
        fresh = {parameter.name: self._value(parameter) for parameter in self._parameters.values()}
        changed = {
            name for name, value in fresh.items() if name in self.values and self.values[name].value != value.value
        }
        self.values = fresh
        self.warnings += self._strangers()
        return changed

    def news(self) -> list[str]:
        """The warnings that were not there when this was called last: each is logged once, until it is mended."""
        fresh = [warning for warning in self.warnings if warning not in self._reported]
        self._reported = set(self.warnings)
        return fresh

    def needs_restart(self, changed: set[str]) -> set[str]:
        """Those of the changed parameters that a running daemon cannot take over."""
        return {name for name in changed if not self._parameters[name.lower()].live}

    def _value(self, parameter: Parameter) -> Value:
        found: Value | None = None
        for source, settings in self._sources.items():
            setting = settings.get(parameter.name.lower())
            if setting is None or not setting.text.strip():
                continue
            if source == "datastore" and not parameter.datastore:
                self.warnings.append(f"parameter {parameter.name} from the datastore: it can only be set on the host")
                continue
            value = self._read(parameter, setting)  # also when overridden: a fatal error is one everywhere
            if found is None:
                found = Value(value, source)
        return found or Value(parameter.default, "default")

    def _read(self, parameter: Parameter, setting: _Setting) -> Any:
        text = setting.text.strip()
        try:
            return _zero(parameter) if text.lower() == "none" else parameter.read(text)
        except ValueError as error:
            problem = f"parameter {parameter.name} from {setting.place}: {shown(text)} {error}"
            if parameter.fatal:
                raise BadData(f"{problem}: correct it") from None
            self.warnings.append(f"{problem}: the default {_as_written(parameter.default)} is used")
            return parameter.default

    def _strangers(self) -> Iterator[str]:
        """What is set, and stands in no row of the table."""
        for settings in self._sources.values():
            for lower, setting in settings.items():
                text = setting.text.strip()
                if lower in self._parameters or not text:
                    continue
                foreign = self._foreign.get(lower)
                if foreign is None:
                    yield self._typing_error(setting)
                elif not foreign.already & {"*", text.lower()}:
                    name, value = foreign.name, shown(text)
                    yield f"parameter {name} from {setting.place}: not supported here: {value} has no effect"

    def _typing_error(self, setting: _Setting) -> str:
        problem = f"there is no parameter {shown(setting.name)}, which is set in {setting.place}"
        names = [row.name for row in self._parameters.values()] + [one.name for one in self._foreign.values()]
        meant = did_you_mean(setting.name.removeprefix("FELIX_"), names)
        if not meant:
            return f"{problem}: it is ignored"
        if meant.lower() in self._foreign:
            return f"{problem}: it is ignored (did you mean {meant}? That is not supported here)"
        value, source = self.values[meant]
        origin = "its default" if source == "default" else f"from the {source}"
        return f"{problem}: it is ignored; did you mean {meant}? That is {_as_written(value)}, {origin}"


def _zero(parameter: Parameter) -> Any:
    """What `none` stands for: the zero of the parameter's type, if that is one of its values."""
    if parameter.none_refused:
        raise ValueError("is not a value of this parameter")
    if parameter.default is None:
        return None
    zero = type(parameter.default)()
    return parameter.read("" if isinstance(zero, str | tuple) else str(zero))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _as_written(value: Any) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value in ("", ()):
        return "empty"
    return ",".join(value) if isinstance(value, tuple) else shown(value) if isinstance(value, str) else str(value)


def _read_ini(text: str, path: str) -> dict[str, str]:
    """Values by name in lower case, of all sections; raises `BadData` with the line that is wrong."""
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, inline_comment_prefixes=("#", ";"), default_section=""
    )
    without_header = not text.lstrip().startswith("[")
    try:
        parser.read_string("[global]\n" + text if without_header else text, path)
    except configparser.ParsingError as error:
        missing_header = isinstance(error, configparser.MissingSectionHeaderError)
        number, line = (error.lineno, error.line) if missing_header else error.errors[0]  # type: ignore[attr-defined]
        place = f"line {number - without_header}: {text_of.shown(line.strip())}"
        raise BadData(f"cannot read the configuration file {path}: {place}: this is not NAME = VALUE") from None
    return {name: value for section in parser.sections() for name, value in parser.items(section)}


def _lines_of(text: str) -> dict[str, tuple[str, list[int]]]:
    """By name in lower case: the name as it is written, and the numbers of its lines."""
    found: dict[str, tuple[str, list[int]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        name = line.replace(":", "=", 1).partition("=")[0].strip()
        found.setdefault(name.lower(), (name, []))[1].append(number)
    return found

"""Configuration parameters: one table, ranked sources, every value kept with where it came from.

Sources from strong to weak: environment, file, the node's own datastore object, the cluster's, built-in default. A
value that cannot be read is one warning and counts as the built-in default, set by that source: weaker sources are
not asked. Where the parameter must stop the daemon it is an error, from whichever source. `none` is the type's zero.
Source: spec/felix-config.md.
"""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import durationpy

from libcalico.errors import BadData

LARGEST_PORT = 65535
OCTAL = re.compile(r"[+-]?0[0-7]+")


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


class Value(NamedTuple):
    """A parameter's value and its source: `environment`, `file`, `datastore` or `default`."""

    value: Any
    source: str


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


def port_range(text: str) -> str:
    """A port, or `first:last`."""
    ports = text.split(":")
    if len(ports) > 2 or not all(re.fullmatch("[0-9]{1,5}", port) and int(port) <= LARGEST_PORT for port in ports):
        raise ValueError("is not a port or a range first:last")
    if int(ports[0]) > int(ports[-1]):
        raise ValueError("ends before it begins")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in any case; the value is the word in lower case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text.lower()

    return read


def seconds(text: str) -> float:
    """Seconds as a number, or a duration such as `1m30s`."""
    try:
        number = float(text)
    except ValueError:
        try:
            number = durationpy.from_str(text).total_seconds()
        except durationpy.DurationError as error:
            raise ValueError(f"is not a duration: {error}") from None
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class Configuration:
    """Values of a table's parameters from all sources. `warnings` says what could not be used, `unknown` which names of
    the environment and the file stand in no row of the table."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._parameters = {parameter.name.lower(): parameter for parameter in parameters}
        self._sources: dict[str, dict[str, str]] = {"environment": {}, "file": {}, "datastore": {}}
        self.values: dict[str, Value] = {}
        self.warnings: list[str] = []
        self.resolve()

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def load_environment(self, environment: Mapping[str, str], prefix: str) -> None:
        """Variables such as FELIX_LOGSEVERITYSCREEN."""
        self._sources["environment"] = {
            name[len(prefix) :].lower(): value for name, value in environment.items() if name.upper().startswith(prefix)
        }

    def load_file(self, path: str) -> bool:
        """An INI file with a `[global]` section; False when it is not there, which need not be an error."""
        self._sources["file"] = {}
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except (OSError, UnicodeDecodeError) as error:
            raise BadData(f"cannot read the configuration file {path}: {error}") from None
        parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=("#", ";"))
        try:
            parser.read_string(text if text.lstrip().startswith("[") else "[global]\n" + text, path)
        except configparser.Error as error:
            raise BadData(f"cannot read the configuration file {path}: {error}") from None
        self._sources["file"] = {
            name.lower(): _unquoted(value) for section in parser.sections() for name, value in parser.items(section)
        }
        return True

    @property
    def unknown(self) -> list[str]:
        """Names as they were found, each with its source."""
        on_host = ("environment", "file")
        return [f"{n} from the {s}" for s in on_host for n in self._sources[s] if n not in self._parameters]

    def load_datastore(self, values: Mapping[str, str]) -> None:
        """What the datastore says now; replaces what it said before."""
        self._sources["datastore"] = {name.lower(): value for name, value in values.items()}

    def resolve(self) -> set[str]:
        """Compute every value anew; the names of those that have changed."""
        self.warnings = []
        fresh = {parameter.name: self._value(parameter) for parameter in self._parameters.values()}
        changed = {
            name for name, value in fresh.items() if name in self.values and self.values[name].value != value.value
        }
        self.values = fresh
        return changed

    def needs_restart(self, changed: set[str]) -> set[str]:
        """Those of the changed parameters that a running daemon cannot take over."""
        return {name for name in changed if not self._parameters[name.lower()].live}

    def _value(self, parameter: Parameter) -> Value:
        found: Value | None = None
        for source, texts in self._sources.items():
            text = texts.get(parameter.name.lower(), "").strip()
            if not text:
                continue
            if source == "datastore" and not parameter.datastore:
                self.warnings.append(f"parameter {parameter.name} from the datastore: it can only be set on the host")
                continue
            value = self._read(parameter, text, source)  # also when overridden: a fatal error is one everywhere
            if found is None:
                found = Value(value, source)
        return found or Value(parameter.default, "default")

    def _read(self, parameter: Parameter, text: str, source: str) -> Any:
        try:
            return _zero(parameter) if text.lower() == "none" else parameter.read(text)
        except ValueError as error:
            problem = f"parameter {parameter.name} from the {source}: {text!r} {error}"
            if parameter.fatal:
                raise BadData(f"{problem}: correct it") from None
            self.warnings.append(f"{problem}: the default {parameter.default!r} is used")
            return parameter.default


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

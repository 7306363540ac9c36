"""Configuration parameters: one table, ranked sources, every value kept with where it came from.

Sources from strong to weak: environment, file, the node's own datastore object, the cluster's, built-in default. A
value that cannot be read falls back to the next source with a warning, unless the parameter must stop the daemon.
Source: spec/felix-config.md.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import durationpy

from libcalico.errors import BadData


class Parameter(NamedTuple):
    """One row of the table. `live`: may change without a restart. `datastore`: may be set there."""

    name: str
    read: Callable[[str], Any]
    default: Any
    text: str
    live: bool = False
    datastore: bool = True
    fatal: bool = False


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
    """A whole number, decimal or 0x hexadecimal, within bounds."""

    def read(text: str) -> int:
        number = int(text, 0)
        if not low <= number <= high:
            raise ValueError(f"is not between {low} and {high}")
        return number

    return read


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
        return float(text)
    except ValueError:
        try:
            return float(durationpy.from_str(text).total_seconds())
        except durationpy.DurationError as error:
            raise ValueError(f"is not a duration: {error}") from None


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class Configuration:
    """Values of a table's parameters from all sources. `warnings` says what could not be used."""

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

    def load_file(self, path: str) -> None:
        """An INI file with a `[global]` section; a file that is not there is no error."""
        try:
            text = Path(path).read_text()
        except FileNotFoundError:
            return
        except OSError as error:
            raise BadData(f"cannot read the configuration file {path}: {error.strerror}") from None
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(text if text.lstrip().startswith("[") else "[global]\n" + text, path)
        except configparser.Error as error:
            raise BadData(f"cannot read the configuration file {path}: {error}") from None
        self._sources["file"] = {n.lower(): v for section in parser.sections() for n, v in parser.items(section)}

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
        for source, texts in self._sources.items():
            text = texts.get(parameter.name.lower())
            if text is None or text == "" or (source == "datastore" and not parameter.datastore):
                continue
            if text.lower() == "none" and parameter.default is None:
                return Value(None, source)
            try:
                return Value(parameter.read(text.strip()), source)
            except ValueError as error:
                problem = f"parameter {parameter.name} from the {source}: {text!r} {error}"
                if parameter.fatal:
                    raise BadData(f"{problem}: correct it") from None
                self.warnings.append(f"{problem}: it is ignored")
        return Value(parameter.default, "default")

"""YAML and JSON as upstream's tools print them (spec/calicoctl.md 4.1): valid input again, stable to the byte.

JSON keeps Go's member order with an indent of two. YAML sorts keys, folds at 80 columns, and puts in double
quotes every text that a YAML 1.1 reader would take for something else (`"1"`, `"yes"`, `"2026-03-01"`).
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from libcalico.manifest.yaml_input import is_plain_text
from libcalico.model.numbers import go_number, json_number, plain

NUMBER_LIKE = re.compile(
    r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*|(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|\.(inf|Inf|INF)|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)|\.(nan|NaN|NAN)"
)
OTHER_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Line breaks to YAML, which a reader makes a blank or a newline of unless they are escaped."""
TIME_LIKE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt ]+\d{1,2}:\d{1,2}:\d{1,2}(\.\d*)?\s*(Z|[-+]\d{1,2}(:?\d{2})?)?)?")
SMALL_FLOAT = re.compile(r"(?<=[\s\[:])-?[0-9.]+e-[0-9]+(?=[,\n])")
"""A number outside of quotes as Python prints it below 1e-4; text holds no unescaped line break and is in quotes."""
DOCUMENT_END = re.compile(r"^\.\.\.\n\Z", re.MULTILINE)
FOLD_AT = 80


class _GoDumper(yaml.SafeDumper):
    """PyYAML's emitter with Go's choice of quotes: our own test instead of PyYAML's implicit resolvers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        """Print every object in full: the data has no cycles."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if OTHER_LINE_BREAKS.search(text):
        style: str | None = '"'
    elif "\n" in text:
        style = "|"
    elif not is_plain_text(text) or NUMBER_LIKE.fullmatch(text) or TIME_LIKE.fullmatch(text):
        style = '"'
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_plain(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text)


_GoDumper.add_representer(str, _represent_text)
_GoDumper.add_representer(float, lambda dumper, value: _represent_plain(dumper, go_number(value)))
_GoDumper.add_representer(int, lambda dumper, value: _represent_plain(dumper, str(value)))
_GoDumper.add_representer(bool, lambda dumper, value: _represent_plain(dumper, "true" if value else "false"))
_GoDumper.add_representer(type(None), lambda dumper, _value: _represent_plain(dumper, "null"))


def to_yaml(value: Any) -> str:
    """A JSON-shaped value as YAML, ended by a newline."""
    text = yaml.dump(
        value, Dumper=_GoDumper, sort_keys=True, default_flow_style=False, width=FOLD_AT, allow_unicode=True
    )
    return DOCUMENT_END.sub("", str(text))


def to_json(value: Any) -> str:
    """A JSON-shaped value with an indent of two and no newline at the end; `<`, `>`, `&` escaped as Go does."""
    text = json.dumps(_go_numbers(value), indent=2, ensure_ascii=False)
    text = SMALL_FLOAT.sub(lambda match: json_number(float(match.group())), text)
    for character, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escape)
    return text


def _go_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _go_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_go_numbers(entry) for entry in value]
    return plain(value) if isinstance(value, float) else value

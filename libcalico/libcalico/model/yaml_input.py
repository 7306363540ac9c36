"""How users' files are read: YAML 1.1 as Go reads it, several documents, lists (spec/calicoctl.md 3.1).

Differences from a plain YAML reader, each of which changes what is stored: `20:25` is text, not a base-60 number;
`y`, `n`, `on`, `off` are booleans; `010` is 8; dates stay text; a repeated member is an error; and a tag that
swallows a selector (`selector: !has(app)`) is refused, naming the line.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from libcalico.errors import BadData

BOOLEANS = {
    text: value
    for words, value in ((("y", "yes", "on", "true"), True), (("n", "no", "off", "false"), False))
    for word in words
    for text in (word, word.capitalize(), word.upper())
}
NULLS = frozenset(("", "~", "null", "Null", "NULL"))
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INTEGER = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
SEPARATOR = "\n---"
ALIASED_NODES = 100_000


class _GoLoader(yaml.CSafeLoader):
    """libyaml's parser with Go's reading of plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _plain_scalar(text: str) -> Any:
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    bare = text.replace("_", "")
    whole = INTEGER.fullmatch(bare)
    if whole and text[0] != "_":
        number = _integer(whole.group(1), whole.group(2))
        return number if -(1 << 63) <= number < 1 << 64 else float(number)
    if FLOAT.fullmatch(bare):
        return float(bare)
    if bare.lower() in (".inf", "+.inf", "-.inf", ".nan"):
        raise BadData(f"error converting YAML to JSON: json: unsupported value: {text}")
    return text


def _integer(sign: str, digits: str) -> int:
    lower = digits.lower()
    if lower.startswith(("0x", "0b", "0o")):
        number = int(lower, 0)
    elif lower.startswith("0") and len(lower) > 1:
        number = int(lower, 8)
    else:
        number = int(lower)
    return -number if sign == "-" else number


def _construct_scalar(node: yaml.ScalarNode) -> Any:
    if node.tag.startswith("!") and node.tag != "!":
        raise BadData(
            f"line {node.start_mark.line + 1}: the YAML tag {node.tag} swallows the value:"
            f" put it in quotes, for example '{node.tag}{node.value}'"
        )
    if not node.style and node.tag == "tag:yaml.org,2002:str":
        return _plain_scalar(node.value)
    return node.value


class _Builder:
    """Nodes to values. An alias is built anew each time: a document that blows up so, or holds itself, is refused."""

    def __init__(self, most_nodes: int) -> None:
        self._left = most_nodes
        self._open: set[int] = set()

    def build(self, node: yaml.Node) -> Any:
        """The value of a node."""
        self._left -= 1
        if self._left < 0:
            raise BadData("error converting YAML to JSON: yaml: document contains excessive aliasing")
        if isinstance(node, yaml.ScalarNode):
            return _construct_scalar(node)
        if id(node) in self._open:
            line = node.start_mark.line + 1
            raise BadData(f"error converting YAML to JSON: yaml: line {line}: an anchor's value contains itself")
        self._open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.build(child) for child in node.value]
        else:
            assert isinstance(node, yaml.MappingNode)
            value = self._map(node)
        self._open.discard(id(node))
        return value

    def _map(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == "<<" and not key_node.style:
                merged = {**self._merged(value_node), **merged}
                continue
            key = _key_text(self.build(key_node))
            if key in found:
                raise BadData(
                    "error converting YAML to JSON: yaml: unmarshal errors:\n"
                    f'  line {key_node.start_mark.line + 1}: key "{key}" already set in map'
                )
            found[key] = self.build(value_node)
        return {**merged, **found}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for other in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.build(other)
            if not isinstance(value, dict):
                raise BadData(
                    "error converting YAML to JSON: yaml: map merge requires map or sequence of maps as the value"
                )
            merged = {**value, **merged}
        return merged


def _key_text(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, float) and math.isfinite(key):
        return repr(key)
    if key is None:
        return "null"
    if isinstance(key, (str, int)):
        return str(key)
    raise BadData("error converting YAML to JSON: a map's key must be text")


def load(text: str) -> Any:
    """One YAML or JSON document as JSON-shaped values; what follows a complete document is ignored."""
    loader = _GoLoader(text)
    try:
        if not loader.check_node():
            return None
        node = loader.get_node()
    except yaml.YAMLError as error:
        raise BadData(f"error converting YAML to JSON: yaml: {_problem(error)}") from None
    finally:
        loader.dispose()
    assert node is not None
    return _Builder(len(text) + ALIASED_NODES).build(node)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return str(problem)
    return f"line {mark.line + 1 if isinstance(error, yaml.scanner.ScannerError) else max(1, mark.line)}: {problem}"


def split_documents(text: str) -> list[str]:
    """The documents of a file, split where a line begins with `---`, as upstream's reader does: a separator at the
    very beginning, or directly after another, belongs to the document that follows."""
    rest = text.removeprefix("\ufeff").replace("\r\n", "\n")
    parts = []
    while True:
        place = rest.find(SEPARATOR)
        if place < 0:
            break
        parts.append(rest[:place])
        _, _, rest = rest[place + len(SEPARATOR) :].partition("\n")
    if rest:
        parts.append(rest)
    return parts


def load_objects(text: str) -> list[Any]:
    """Every object of a file in order: documents, the items of `...List` objects and of bare lists."""
    objects: list[Any] = []
    for part in split_documents(text):
        document = load(part)
        if isinstance(document, list):
            objects.extend(document)
        elif isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
            objects.extend(document["items"] or [])
        else:
            objects.append(document)
    return objects

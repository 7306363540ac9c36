"""How users' files are read: YAML 1.1 as Go reads it, several documents, lists (spec/calicoctl.md 3.1).

Differences from a plain YAML reader, each of which changes what is stored: `20:25` is text, not a base-60 number;
`y`, `n`, `on`, `off` are booleans; `010` is 8; dates stay text, and so do numbers beyond 64 bits (`1e400`); a repeated
member is an error; and a tag that swallows a selector (`selector: !has(app)`) is refused, naming the line. Tags of
YAML's own are obeyed: `!!str yes` is text.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from libcalico.errors import BadData
from libcalico.model.numbers import go_number

BOOLEANS = {
    text: value
    for words, value in ((("y", "yes", "on", "true"), True), (("n", "no", "off", "false"), False))
    for word in words
    for text in (word, word.capitalize(), word.upper())
}
NULLS = frozenset(("", "~", "null", "Null", "NULL"))
UNSUPPORTED = frozenset(
    sign + text
    for signs, texts in ((("", "+", "-"), (".inf", ".Inf", ".INF")), (("",), (".nan", ".NaN", ".NAN")))
    for sign in signs
    for text in texts
)
INNER_UNDERSCORE = re.compile("(?<=[0-9])_(?=[0-9])")
LINE_BREAK = re.compile(r"[\r\n]")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INTEGER = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
LONGEST_INTEGER = 70
"""More characters than this are beyond 64 bits in every base, or are leading zeros that nobody writes."""
SEPARATOR = "\n---"
ALIASED_NODES = 100_000
MOST_DOCUMENTS = 50_000
MOST_NODES = 2_000_000
"""Scalars, lists and maps of one document, which take some 700 bytes each: the 16 MiB that a command reads may be
`[1,1,1...`."""
TIMESTAMP = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt ]\s*\d{1,2}:\d{1,2}:\d{1,2}(\.\d*)?\s*(Z|[-+]\d{1,2}(:?\d{2})?)?)?")
CONVERTING = "error converting YAML to JSON"
PLAIN = "plain"
STANDARD = "tag:yaml.org,2002:"
MERGES = (PLAIN, f"{STANDARD}merge")
CONVERTED = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "null": (type(None),),
    "timestamp": (),
}
SHORT_TAGS = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}


class _GoLoader(yaml.CSafeLoader):
    """libyaml's parser with Go's reading of plain scalars."""

    nodes_left = MOST_NODES

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node without one: scalars in quotes are text, others are read by `_plain_scalar`."""
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise BadData(f"more than {MOST_NODES} values in one document: give it in several parts")
        if kind is yaml.ScalarNode:
            return PLAIN if implicit[0] else f"{STANDARD}str"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def _plain_scalar(text: str) -> Any:
    """What Go takes a text without quotes for; a number that is too large for it stays text."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if text in UNSUPPORTED:
        raise BadData(f"{CONVERTING}: json: unsupported value: {text}: put it in quotes if it is text")
    if text[0] not in "+-.0123456789":
        return text
    bare = INNER_UNDERSCORE.sub("", text) if text[0] == "." else text.replace("_", "")
    whole = INTEGER.fullmatch(bare) if len(bare) <= LONGEST_INTEGER else None
    if whole:
        number = _integer(whole.group(1), whole.group(2))
        if -(1 << 63) <= number < (1 << 63 if whole.group(1) else 1 << 64):
            return number
    if FLOAT.fullmatch(bare) and math.isfinite(float(bare)):
        return float(bare)
    return text


def is_plain_text(text: str) -> bool:
    """Is this text still text when it stands without quotes?"""
    try:
        return isinstance(_plain_scalar(text), str)
    except BadData:
        return False


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
    if node.tag == PLAIN:
        return _plain_scalar(node.value)
    if node.tag.startswith("!") and node.tag != "!":
        raise BadData(
            f"line {node.start_mark.line + 1}: the YAML tag {node.tag} swallows the value:"
            f" put it in quotes, for example '{node.tag}{node.value}'"
        )
    tag = node.tag.removeprefix(STANDARD)
    if tag == "binary":
        return _binary(node)
    return _converted(node, tag) if tag in CONVERTED else node.value


def _binary(node: yaml.ScalarNode) -> str:
    try:
        data = base64.b64decode(LINE_BREAK.sub("", node.value), validate=True)
    except ValueError:
        line = node.start_mark.line + 1
        raise BadData(f"{CONVERTING}: yaml: line {line}: !!binary value contains invalid base64 data") from None
    return data.decode("utf-8", "replace")


def _converted(node: yaml.ScalarNode, tag: str) -> Any:
    """A scalar with a tag that asks for a type: `!!int 5`. Times stay text, as in Go's reading to JSON."""
    if tag == "timestamp" and TIMESTAMP.fullmatch(node.value):
        return node.value
    value = _plain_scalar(node.value)
    if type(value) not in CONVERTED[tag]:
        line, found = node.start_mark.line + 1, SHORT_TAGS[type(value)]
        raise BadData(f"{CONVERTING}: yaml: line {line}: cannot decode !!{found} `{node.value}` as a !!{tag}")
    return float(value) if tag == "float" else value


class _Builder:
    """Nodes to values. An alias is built again each time: a document that blows up so, or holds itself, is refused."""

    def __init__(self, most_nodes: int) -> None:
        self._left = most_nodes
        self._open: set[int] = set()

    def build(self, node: yaml.Node) -> Any:
        """The value of a node."""
        self._left -= 1
        if self._left < 0:
            raise BadData(f"{CONVERTING}: yaml: document contains excessive aliasing")
        if isinstance(node, yaml.ScalarNode):
            return _construct_scalar(node)
        if id(node) in self._open:
            line = node.start_mark.line + 1
            raise BadData(f"{CONVERTING}: yaml: line {line}: an anchor's value contains itself")
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
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == "<<" and key_node.tag in MERGES:
                merged = {**self._merged(value_node), **merged}
                continue
            key = _key_text(self.build(key_node), key_node)
            if key in found:
                raise BadData(
                    f"{CONVERTING}: yaml: unmarshal errors:\n"
                    f'  line {key_node.start_mark.line + 1}: key "{key}" already set in map'
                )
            found[key] = self.build(value_node)
        return {**merged, **found}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for other in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.build(other)
            if not isinstance(value, dict):
                raise BadData(f"{CONVERTING}: yaml: map merge requires map or sequence of maps as the value")
            merged = {**value, **merged}
        return merged


def _key_text(key: Any, node: yaml.Node) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, float):
        return go_number(key)
    if isinstance(key, (str, int)):
        return str(key)
    what = "null" if key is None else "a list" if isinstance(key, list) else "a map"
    raise BadData(
        f"{CONVERTING}: line {node.start_mark.line + 1}: a map's key must be text, not {what}:"
        " put it in quotes if it is text"
    )


def decode(data: bytes) -> str:
    """The text of a file; raises `BadData` naming the line when it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadData(
            f"line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8 text: save the file as UTF-8"
        ) from None


def load(text: str) -> Any:
    """One YAML or JSON document as JSON-shaped values; what follows a complete document is ignored."""
    return _build(_compose(text), text)


def _compose(text: str) -> yaml.Node | None:
    loader = _GoLoader(text)
    try:
        return loader.get_node() if loader.check_node() else None
    except yaml.YAMLError as error:
        raise BadData(f"{CONVERTING}: yaml: {_problem(error)}") from None
    finally:
        loader.dispose()


def _build(node: yaml.Node | None, text: str) -> Any:
    return None if node is None else _Builder(len(text) + ALIASED_NODES).build(node)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return str(problem)
    return f"line {mark.line + 1 if isinstance(error, yaml.scanner.ScannerError) else max(1, mark.line)}: {problem}"


def split_documents(text: str) -> list[tuple[int, str]]:
    """The documents of a file and the lines they begin at, split where a line begins with `---`, as upstream's reader
    does: a separator at the very beginning, or directly after another, belongs to the document that follows."""
    whole = text.removeprefix("\ufeff").replace("\r\n", "\n")
    line, start, parts = 1, 0, []
    while (place := whole.find(SEPARATOR, start)) >= 0:
        parts.append((line, whole[start:place]))
        end = whole.find("\n", place + len(SEPARATOR))
        after = len(whole) if end < 0 else end + 1
        line += whole.count("\n", start, after)
        start = after
    if start < len(whole):
        parts.append((line, whole[start:]))
    return parts


class Placed(NamedTuple):
    """An object of a file; `line` is the file's line where it begins, `first_line` the one of its document. Of the
    parsed document only `text` is kept, and read again where a line is asked for: nodes take ten times the room."""

    value: Any
    line: int
    text: str
    entry: int | None
    first_line: int

    @property
    def node(self) -> yaml.Node | None:
        """The object's node; the document's where its own cannot be found."""
        document = _parsed(self.text)
        listed = _listed(document)
        return document if self.entry is None or listed is None else listed[self.entry]

    def line_of(self, path: Sequence[str]) -> int:
        """The line of the member whose path ends so, if there is exactly one; else the object's own."""
        wanted = tuple(name.lower() for name in path)
        keys = [key for names, key, _ in _members(self.node, (), set()) if names[-len(wanted) :] == wanted]
        return self.first_line + keys[0].start_mark.line if len(keys) == 1 else self.line

    def lines_of_value(self, name: str, value: str) -> list[int]:
        """The lines where members `name`, or their negation such as `notPorts`, hold `value`, alone or in a list."""
        wanted = {name.lower(), f"not{name.lower()}"}
        found = [node for names, _, node in _members(self.node, (), set()) if names[-1] in wanted]
        scalars = [scalar for node in found for scalar in _scalars(node) if scalar.value == value]
        return [self.first_line + scalar.start_mark.line for scalar in scalars]


@functools.lru_cache(maxsize=1)
def _parsed(text: str) -> yaml.Node | None:
    return _compose(text)


def _scalars(node: yaml.Node) -> list[yaml.ScalarNode]:
    entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [entry for entry in entries if isinstance(entry, yaml.ScalarNode)]


Member = tuple[tuple[str, ...], yaml.Node, yaml.Node]


def _members(node: yaml.Node | None, path: tuple[str, ...], seen: set[int]) -> Iterator[Member]:
    """Every member below a node: its path in lower case, without places in lists, and the nodes of key and value."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _members(child, path, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here = (*path, key.value.lower())
                yield here, key, value
                yield from _members(value, here, seen)


def _any_list(document: dict[str, Any]) -> None:
    pass


def load_placed(text: str, check_list: Callable[[dict[str, Any]], None] = _any_list) -> list[Placed]:
    """Every object of a file in order: documents, the items of `...List` objects and of bare lists.

    `check_list` may refuse a `...List` by `BadData`. A document that cannot be read is `BadData` with a note of the
    line it begins at."""
    found: list[Placed] = []
    documents = split_documents(text)
    if len(documents) > MOST_DOCUMENTS:
        raise BadData(f"{len(documents)} documents are too many: at most {MOST_DOCUMENTS} are read from one file")
    for first_line, part in documents:
        try:
            node = _compose(part)
            objects, entries = _objects(_build(node, part), node, check_list)
        except BadData as error:
            error.add_note(f"in the document that begins at line {first_line}")
            raise
        for number, value in enumerate(objects):
            place = node if entries is None else entries[number]
            line = first_line if place is None else first_line + place.start_mark.line
            found.append(Placed(value, line, part, None if entries is None else number, first_line))
    return found


def _objects(
    document: Any, node: yaml.Node | None, check_list: Callable[[dict[str, Any]], None]
) -> tuple[list[Any], list[yaml.Node] | None]:
    """The objects of a document, and the node of each; None where those cannot be found."""
    if isinstance(document, list):
        objects = document
    elif isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
        check_list(document)
        objects = document["items"] or []
        if not isinstance(objects, list):
            raise BadData(f"the items of a {document['kind']} must be a list")
    else:
        return [document], None
    entries = _listed(node)
    return objects, entries if entries is not None and len(entries) == len(objects) else None


def _listed(node: yaml.Node | None) -> list[yaml.Node] | None:
    """The nodes of a list, or of the `items` of an object."""
    listed = node if isinstance(node, yaml.SequenceNode) else _member(node, "items")
    return list(listed.value) if isinstance(listed, yaml.SequenceNode) else None


def _member(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def load_objects(text: str) -> list[Any]:
    """The values of `load_placed`."""
    return [placed.value for placed in load_placed(text)]

"""Selectors: boolean expressions over labels (spec/selectors.md).

`parse` gives a `Selector` with its canonical text and id; equal text is parsed once. The language itself is in
`calico_native.expression`, the index in `calico_native.label_index`; `translate` builds what the calculation graph
evaluates from v3 objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from calico_native import expression as _expression
from calico_native import label_index as _label_index
from libcalico.errors import BadData
from libcalico.selector.identity import unique_id
from libcalico.text import TextCache, shown

LabelIndex = _label_index.LabelIndex
Restriction = _expression.Restriction
REMEMBERED_CHARACTERS = 2 << 20


class SelectorError(BadData):
    """The text is not a selector."""


class Selector:
    """A parsed selector. `id` is `s:` + a hash of the canonical text: equal ids mean equal selectors everywhere."""

    __slots__ = ("_id", "node", "text")

    def __init__(self, node: _expression.Node) -> None:
        self.node = node
        self.text = _expression.render(node)
        self._id = ""

    @property
    def id(self) -> str:
        """Made when it is first asked for: what a policy selects has no IP set of its own."""
        if not self._id:
            self._id = unique_id("s", self.text)
        return self._id

    def evaluate(self, labels: Mapping[str, str]) -> bool:
        """Does an item with these labels match?"""
        return _expression.evaluate(self.node, labels if isinstance(labels, dict) else dict(labels))

    def restrictions(self) -> dict[str, Restriction]:
        """What the selector demands of single labels: a necessary condition (spec/selectors.md 10)."""
        return _expression.restrictions(self.node)

    def with_prefix(self, prefix: str) -> Selector:
        """The same expression with `prefix` before every label name."""
        return Selector(_expression.rename(self.node, prefix))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Selector({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def parse(text: str) -> Selector:
    """The selector of a text; empty text selects everything. Raises `SelectorError` with what was expected."""
    return _known.get(text)


def _parse(text: str) -> Selector:
    try:
        return Selector(_expression.parse(text))
    except _expression.ParseError as error:
        raise SelectorError(shown(error)) from None
    except RecursionError:
        raise SelectorError("nested too deeply") from None


_known = TextCache(_parse, REMEMBERED_CHARACTERS)


def is_valid(text: str) -> bool:
    """Does the text parse?"""
    try:
        parse(text)
    except SelectorError:
        return False
    return True


def normalise(text: str) -> str:
    """The canonical text, or the input without outer white space when it does not parse (spec/selectors.md 5)."""
    stripped = text.strip()
    try:
        return parse(stripped).text
    except SelectorError:
        return stripped

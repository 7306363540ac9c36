"""Selectors: parse, print, evaluate; and an index of which items match which selectors.

The language and its canonical text are those of spec/selectors.md 2-5. An expression is a tree of `Node`s; equal
text gives equal trees. The index files each selector under its rarest usable conjunct, so that an item's update
meets only the selectors that one of its labels can satisfy (spec/selectors.md 10-11).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

ALL, GLOBAL, HAS, EQUAL, NOT_EQUAL, CONTAINS, STARTS_WITH, ENDS_WITH, IN, NOT_IN, NOT, AND, OR = range(13)

OPERATOR_TEXT = {
    EQUAL: "==",
    NOT_EQUAL: "!=",
    CONTAINS: "contains",
    STARTS_WITH: "starts with",
    ENDS_WITH: "ends with",
    IN: "in",
    NOT_IN: "not in",
}
LABEL_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-")
LONGEST_LABEL = 512
DEEPEST_NESTING = 512  # a resource's selector has at most 1024 characters, so it never nests deeper


class ParseError(ValueError):
    """The text is not a selector; the message says what was expected."""


class Node:
    """One node of an expression. Which members count depends on `op`; the others are empty."""

    def __init__(
        self, op: int, label: str = "", value: str = "", members: tuple[str, ...] = (), children: tuple[Node, ...] = ()
    ) -> None:
        self.op = op
        self.label = label
        self.value = value
        self.members = members
        self.member_set = frozenset(members)
        self.children = children

    def evaluate(self, labels: dict[str, str]) -> bool:
        """Does an item with these labels match?"""
        return evaluate(self, labels)

    def __str__(self) -> str:
        return render(self)


def evaluate(node: Node, labels: dict[str, str]) -> bool:
    """Does an item with these labels match? `labels` is label name -> value."""
    op = node.op
    if op == AND:
        for child in node.children:
            if not evaluate(child, labels):
                return False
        return True
    if op == OR:
        for child in node.children:
            if evaluate(child, labels):
                return True
        return False
    if op == NOT:
        return not evaluate(node.children[0], labels)
    if op == ALL or op == GLOBAL:
        return True
    value = labels.get(node.label)
    if value is None:
        return op == NOT_EQUAL or op == NOT_IN
    return _compare(node, op, value)


def _compare(node: Node, op: int, value: str) -> bool:
    if op == EQUAL:
        return value == node.value
    if op == NOT_EQUAL:
        return value != node.value
    if op == IN:
        return value in node.member_set
    if op == NOT_IN:
        return value not in node.member_set
    if op == HAS:
        return True
    if op == STARTS_WITH:
        return value.startswith(node.value)
    if op == ENDS_WITH:
        return value.endswith(node.value)
    return node.value in value


def render(node: Node) -> str:
    """The canonical text (spec/selectors.md 5); the selector's id is taken from it."""
    op = node.op
    if op == ALL:
        return "all()"
    if op == GLOBAL:
        return "global()"
    if op == HAS:
        return f"has({node.label})"
    if op == NOT:
        return "!" + render(node.children[0])
    if op == AND or op == OR:
        return "(" + (" && " if op == AND else " || ").join([render(child) for child in node.children]) + ")"
    if op == IN or op == NOT_IN:
        return f"{node.label} {OPERATOR_TEXT[op]} {{{', '.join([_quote(member) for member in node.members])}}}"
    return f"{node.label} {OPERATOR_TEXT[op]} {_quote(node.value)}"


def _quote(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


def rename(node: Node, prefix: str) -> Node:
    """The same expression with `prefix` put before every label name."""
    children = tuple([rename(child, prefix) for child in node.children])
    return Node(node.op, prefix + node.label if node.label else "", node.value, node.members, children)


def parse(text: str) -> Node:
    """The expression of a selector; empty text is `all()`. Raises `ParseError`."""
    parser = Parser(text)
    parser.skip_blanks()
    if parser.at_end():
        return Node(ALL)
    try:
        node = parser.parse_or()
    except RecursionError:  # pure Python, called from deep down: the compiled build has no such limit
        raise ParseError("nested too deeply") from None
    parser.skip_blanks()
    if not parser.at_end():
        raise ParseError(f"unexpected content at end of selector {text[parser.place :]!r}")
    return node


class Parser:
    """Recursive descent over the text, one character of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.end = len(text)
        self.depth = 0

    def at_end(self) -> bool:
        """Nothing is left."""
        return self.place >= self.end

    def skip_blanks(self) -> None:
        """Blanks and tabs only: other white space is an error outside quotes."""
        while self.place < self.end and (self.text[self.place] == " " or self.text[self.place] == "\t"):
            self.place += 1

    def take(self, token: str) -> bool:
        """Step over `token` if it comes next, after blanks."""
        self.skip_blanks()
        if self.text.startswith(token, self.place):
            self.place += len(token)
            return True
        return False

    def parse_or(self) -> Node:
        """`and ( "||" and )*`"""
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            raise ParseError(f"more than {DEEPEST_NESTING} nested parentheses")
        operands = [self.parse_and()]
        while self._take_pair("|"):
            operands.append(self.parse_and())
        self.depth -= 1
        return operands[0] if len(operands) == 1 else Node(OR, children=tuple(operands))

    def parse_and(self) -> Node:
        """`term ( "&&" term )*`"""
        operands = [self.parse_term()]
        while self._take_pair("&"):
            operands.append(self.parse_term())
        return operands[0] if len(operands) == 1 else Node(AND, children=tuple(operands))

    def _take_pair(self, character: str) -> bool:
        self.skip_blanks()
        if self.place >= self.end or self.text[self.place] != character:
            return False
        if not self.text.startswith(character + character, self.place):
            raise ParseError(f"expected {character}{character}")
        self.place += 2
        return True

    def parse_term(self) -> Node:
        """`"!"* primary`: adjacent negations fold, an odd number leaves one."""
        negated = False
        while self.take("!"):
            if self.place < self.end and self.text[self.place] == "=":
                raise ParseError("unexpected token: !=")
            negated = not negated
        node = self.parse_primary()
        return Node(NOT, children=(node,)) if negated else node

    def parse_primary(self) -> Node:
        """A group, a function or a comparison."""
        if self.take("("):
            node = self.parse_or()
            if not self.take(")"):
                raise ParseError("expected )")
            return node
        if self.text.startswith("has(", self.place):
            self.place += 4
            self.skip_blanks()
            label = self.parse_label()
            if not self.take(")"):
                raise ParseError("no closing ')' after has(")
            return Node(HAS, label)
        for op, function in ((ALL, "all("), (GLOBAL, "global(")):
            if self.text.startswith(function, self.place):
                self.place += len(function)
                if not self.take(")"):
                    raise ParseError(f"no closing ')' after {function}")
                return Node(op)
        return self.parse_comparison()

    def parse_label(self) -> str:
        """A label name."""
        start = self.place
        while self.place < self.end and self.text[self.place] in LABEL_CHARACTERS:
            self.place += 1
        if self.place == start:
            raise ParseError("expected identifier")
        if self.place - start > LONGEST_LABEL:
            raise ParseError(f"label too long: {self.text[start : self.place]}")
        return self.text[start : self.place]

    def parse_comparison(self) -> Node:
        """`label operator operand`"""
        label = self.parse_label()
        self.skip_blanks()
        if self.at_end():
            raise ParseError("unexpected end of string looking for op")
        if self.text.startswith("==", self.place):
            self.place += 2
            return Node(EQUAL, label, self.parse_string())
        if self.text.startswith("!=", self.place):
            self.place += 2
            return Node(NOT_EQUAL, label, self.parse_string())
        op = self._word_operator(label)
        if op == IN or op == NOT_IN:
            return Node(op, label, members=self.parse_set())
        return Node(op, label, self.parse_string())

    def _word_operator(self, label: str) -> int:
        for op, first, second in (
            (CONTAINS, "contains", ""),
            (STARTS_WITH, "starts", "with"),
            (ENDS_WITH, "ends", "with"),
            (NOT_IN, "not", "in"),
            (IN, "in", ""),
        ):
            start = self.place
            if self._take_words(first, second):
                if self.place < self.end and self.text[self.place] in LABEL_CHARACTERS:
                    raise ParseError(f'expected operator after label "{label}"')
                return op
            self.place = start
        raise ParseError(f'expected operator after label "{label}"')

    def _take_words(self, first: str, second: str) -> bool:
        if not self.text.startswith(first, self.place):
            return False
        self.place += len(first)
        if not second:
            return True
        self.skip_blanks()
        if not self.text.startswith(second, self.place):
            return False
        self.place += len(second)
        return True

    def parse_string(self) -> str:
        """Everything between two equal quotes."""
        self.skip_blanks()
        if self.at_end() or (self.text[self.place] != "'" and self.text[self.place] != '"'):
            raise ParseError("expected string")
        close = self.text.find(self.text[self.place], self.place + 1)
        if close < 0:
            raise ParseError("unterminated string")
        value = self.text[self.place + 1 : close]
        self.place = close + 1
        return value

    def parse_set(self) -> tuple[str, ...]:
        """`{ "a", 'b' }`, sorted by UTF-8 bytes, without repeats; one comma may trail."""
        if not self.take("{"):
            raise ParseError("expected set literal")
        members = set()
        while not self.take("}"):
            members.add(self.parse_string())
            if not self.take(","):
                if not self.take("}"):
                    raise ParseError("expected }")
                break
        return tuple(sorted(members, key=_utf8))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Restriction:
    """What a selector demands of one label: a necessary condition only. `one_of` None means any value."""

    def __init__(self, present: bool, absent: bool, one_of: frozenset[str] | None) -> None:
        self.present = present
        self.absent = absent
        self.one_of = one_of

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Restriction):
            return False
        return (self.present, self.absent, self.one_of) == (other.present, other.absent, other.one_of)

    def __hash__(self) -> int:
        return hash((self.present, self.absent, self.one_of))

    def __repr__(self) -> str:
        return f"Restriction(present={self.present}, absent={self.absent}, one_of={self.one_of})"

    def impossible(self) -> bool:
        """No item can satisfy this."""
        return (self.present and self.absent) or (self.one_of is not None and not self.one_of)


def restrictions(node: Node) -> dict[str, Restriction]:
    """Label name -> what the selector demands of it (spec/selectors.md 10)."""
    op = node.op
    if op == EQUAL:
        return {node.label: Restriction(True, False, frozenset((node.value,)))}
    if op == IN:
        return {node.label: Restriction(True, False, node.member_set)}
    if op == HAS or op == CONTAINS or op == STARTS_WITH or op == ENDS_WITH:
        return {node.label: Restriction(True, False, None)}
    if op == NOT and node.children[0].op == HAS:
        return {node.children[0].label: Restriction(False, True, None)}
    if op == AND:
        return _restrict_all(node.children)
    if op == OR:
        return _restrict_any(node.children)
    return {}


def _restrict_all(children: tuple[Node, ...]) -> dict[str, Restriction]:
    merged: dict[str, Restriction] = {}
    for child in children:
        for label, one in restrictions(child).items():
            other = merged.get(label)
            merged[label] = one if other is None else _both(one, other)
    return merged


def _both(one: Restriction, other: Restriction) -> Restriction:
    values = one.one_of
    if values is None:
        values = other.one_of
    elif other.one_of is not None:
        values = values & other.one_of
    return Restriction(one.present or other.present, one.absent or other.absent, values)


def _restrict_any(children: tuple[Node, ...]) -> dict[str, Restriction]:
    merged = restrictions(children[0])
    for child in children[1:]:
        branch = restrictions(child)
        merged = {label: _either(one, branch[label]) for label, one in merged.items() if label in branch}
    return {label: one for label, one in merged.items() if one.present or one.absent}


def _either(one: Restriction, other: Restriction) -> Restriction:
    values = None
    if one.one_of is not None and other.one_of is not None:
        values = one.one_of | other.one_of
    return Restriction(one.present and other.present, one.absent and other.absent, values)


class _Item:
    def __init__(self, labels: dict[str, str], parents: tuple[str, ...]) -> None:
        self.labels = labels
        self.parents = parents
        self.effective = labels
        self.matches: set[Hashable] = set()


class _Filed:
    def __init__(self, node: Node, label: str, values: tuple[str, ...] | None, possible: bool) -> None:
        self.node = node
        self.label = label
        self.values = values
        self.possible = possible
        self.items: set[Hashable] = set()


class LabelIndex:
    """Which items match which selectors, kept up to date under every change of either.

    `on_started(selector_id, item_id)` and `on_stopped(...)` are called once for each change of a match; within
    one update all starts come before all stops, so that what stays allowed sees no gap. Item labels are a
    dictionary; an item inherits the labels of its parents (profiles), its own first, then in list order."""

    def __init__(
        self, on_started: Callable[[Hashable, Hashable], None], on_stopped: Callable[[Hashable, Hashable], None]
    ) -> None:
        self.on_started = on_started
        self.on_stopped = on_stopped
        self.items: dict[Hashable, _Item] = {}
        self.selectors: dict[Hashable, _Filed] = {}
        self.parents: dict[str, dict[str, str]] = {}
        self.children: dict[str, dict[Hashable, None]] = {}
        self.by_value: dict[str, dict[str, set[Hashable]]] = {}
        self.named: dict[str, int] = {}
        self.buckets: dict[tuple[str, str | None], dict[Hashable, Node]] = {}
        self.unfiled: dict[Hashable, Node] = {}

    def update_labels(self, item_id: Hashable, labels: Mapping[str, str], parents: Iterable[str] = ()) -> None:
        """Add an item or replace its labels and parents."""
        fresh, order = dict(labels), tuple(parents)
        item = self.items.get(item_id)
        if item is None:
            item = self.items[item_id] = _Item({}, ())
        elif item.labels == fresh and item.parents == order:
            return
        if item.parents != order:
            self._leave_parents(item_id, item)
            for parent in order:
                self.children.setdefault(parent, {})[item_id] = None
            item.parents = order
        item.labels = fresh
        self._refresh(item_id, item)

    def delete_labels(self, item_id: Hashable) -> None:
        """Forget an item; its matches stop."""
        item = self.items.pop(item_id, None)
        if item is None:
            return
        self._leave_parents(item_id, item)
        self._reindex(item_id, item.effective, {})
        for selector_id in item.matches:
            self.selectors[selector_id].items.discard(item_id)
            self.on_stopped(selector_id, item_id)

    def update_parent_labels(self, parent_id: str, labels: Mapping[str, str]) -> None:
        """Set the labels that a parent hands down."""
        fresh = dict(labels)
        if self.parents.get(parent_id, {}) == fresh:
            self.parents[parent_id] = fresh
            return
        self.parents[parent_id] = fresh
        self._refresh_children(parent_id)

    def delete_parent(self, parent_id: str) -> None:
        """The parent hands down nothing any more; items may go on naming it."""
        if self.parents.pop(parent_id, None):
            self._refresh_children(parent_id)

    def update_selector(self, selector_id: Hashable, node: Node) -> None:
        """Add a selector or replace it."""
        filed = self.selectors.get(selector_id)
        if filed is not None and render(filed.node) == render(node):
            return
        former: set[Hashable] = set() if filed is None else filed.items
        if filed is not None:
            self._unfile(selector_id, filed)
        filed = self._file(selector_id, node)
        for item_id in self._candidates(filed):
            item = self.items[item_id]
            if evaluate(node, item.effective):
                filed.items.add(item_id)
                item.matches.add(selector_id)
                if item_id not in former:
                    self.on_started(selector_id, item_id)
        for item_id in former:
            if item_id not in filed.items:
                self.items[item_id].matches.discard(selector_id)
                self.on_stopped(selector_id, item_id)

    def delete_selector(self, selector_id: Hashable) -> None:
        """Forget a selector; its matches stop."""
        filed = self.selectors.get(selector_id)
        if filed is None:
            return
        self._unfile(selector_id, filed)
        for item_id in filed.items:
            self.items[item_id].matches.discard(selector_id)
            self.on_stopped(selector_id, item_id)

    def matches(self, item_id: Hashable) -> frozenset[Hashable]:
        """The selectors that an item matches now."""
        item = self.items.get(item_id)
        return frozenset() if item is None else frozenset(item.matches)

    def effective_labels(self, item_id: Hashable) -> dict[str, str]:
        """An item's own and inherited labels; empty when it is not there."""
        item = self.items.get(item_id)
        return {} if item is None else dict(item.effective)

    def _leave_parents(self, item_id: Hashable, item: _Item) -> None:
        for parent in item.parents:
            siblings = self.children.get(parent)
            if siblings is not None:
                siblings.pop(item_id, None)
                if not siblings:
                    del self.children[parent]

    def _refresh_children(self, parent_id: str) -> None:
        for item_id in list(self.children.get(parent_id, ())):
            self._refresh(item_id, self.items[item_id])

    def _refresh(self, item_id: Hashable, item: _Item) -> None:
        effective = item.labels
        for parent in item.parents:
            inherited = self.parents.get(parent)
            if inherited:
                effective = {**inherited, **effective}
        self._reindex(item_id, item.effective, effective)
        item.effective = effective
        found: set[Hashable] = set()
        for selector_id, node in self.unfiled.items():
            if evaluate(node, effective):
                found.add(selector_id)
        for label, value in effective.items():
            if label not in self.named:
                continue
            for bucket in (self.buckets.get((label, value)), self.buckets.get((label, None))):
                if bucket is not None:
                    for selector_id, node in bucket.items():
                        if evaluate(node, effective):
                            found.add(selector_id)
        self._announce(item_id, item, found)

    def _announce(self, item_id: Hashable, item: _Item, found: set[Hashable]) -> None:
        former = item.matches
        if former == found:
            return
        item.matches = found
        for selector_id in found - former:
            self.selectors[selector_id].items.add(item_id)
            self.on_started(selector_id, item_id)
        for selector_id in former - found:
            self.selectors[selector_id].items.discard(item_id)
            self.on_stopped(selector_id, item_id)

    def _reindex(self, item_id: Hashable, old: dict[str, str], new: dict[str, str]) -> None:
        for label, value in old.items():
            if label in self.named and new.get(label) != value:
                values = self.by_value[label]
                values[value].discard(item_id)
                if not values[value]:
                    del values[value]
        for label, value in new.items():
            if label in self.named:
                self.by_value[label].setdefault(value, set()).add(item_id)

    def _name(self, label: str) -> None:
        count = self.named.get(label, 0)
        self.named[label] = count + 1
        if count == 0:
            values: dict[str, set[Hashable]] = {}
            for item_id, item in self.items.items():
                value = item.effective.get(label)
                if value is not None:
                    values.setdefault(value, set()).add(item_id)
            self.by_value[label] = values

    def _unname(self, label: str) -> None:
        self.named[label] -= 1
        if self.named[label] == 0:
            del self.named[label]
            del self.by_value[label]

    def _file(self, selector_id: Hashable, node: Node) -> _Filed:
        demands = restrictions(node)
        for one in demands.values():
            if one.impossible():
                filed = self.selectors[selector_id] = _Filed(node, "", (), False)
                return filed
        best: tuple[int, int, str] | None = None
        label, values = "", None
        for name, one in demands.items():
            if not one.present:
                continue
            wanted = None if one.one_of is None else tuple(one.one_of)
            crowd = self._crowd(name, wanted)
            score = (crowd, 0 if wanted is not None else 1, name)
            if best is None or score < best:
                best, label, values = score, name, wanted
        filed = self.selectors[selector_id] = _Filed(node, label, values, True)
        if not label:
            self.unfiled[selector_id] = node
            return filed
        self._name(label)
        for key in _bucket_keys(filed):
            self.buckets.setdefault(key, {})[selector_id] = node
        return filed

    def _crowd(self, label: str, values: tuple[str, ...] | None) -> int:
        """How many selectors an item would meet if one more were filed here: the fewest is the rarest conjunct."""
        keys = [(label, None)] if values is None else [(label, value) for value in values]
        return max([len(self.buckets.get(key, ())) for key in keys])

    def _unfile(self, selector_id: Hashable, filed: _Filed) -> None:
        del self.selectors[selector_id]
        if not filed.possible:
            return
        if not filed.label:
            del self.unfiled[selector_id]
            return
        for key in _bucket_keys(filed):
            bucket = self.buckets[key]
            del bucket[selector_id]
            if not bucket:
                del self.buckets[key]
        self._unname(filed.label)

    def _candidates(self, filed: _Filed) -> list[Hashable]:
        if not filed.possible:
            return []
        best: list[set[Hashable]] | None = None
        fewest = len(self.items)
        for label, one in restrictions(filed.node).items():
            if not one.present or label not in self.named:
                continue
            values = self.by_value[label]
            groups = list(values.values()) if one.one_of is None else [values[v] for v in one.one_of if v in values]
            total = sum([len(group) for group in groups])
            if best is None or total < fewest:
                best, fewest = groups, total
        if best is None:
            return list(self.items)
        return [item_id for group in best for item_id in group]


def _bucket_keys(filed: _Filed) -> list[tuple[str, str | None]]:
    if filed.values is None:
        return [(filed.label, None)]
    return [(filed.label, value) for value in filed.values]

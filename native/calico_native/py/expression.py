"""Selectors: parse, print, evaluate, and what they demand of single labels.

The language and its canonical text are those of spec/selectors.md 2-5. An expression is a tree of `Node`s; equal text
gives equal trees.
"""

from __future__ import annotations

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

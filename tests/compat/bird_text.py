"""Reads the text of a BIRD 2 configuration into statements: the part of its grammar that a generated file uses.

A statement is a tuple of words and blocks; a block is a list of statements. Strings keep their double quotes, symbols
lose their single ones. What is none of it raises ValueError: a judge must not pass what it does not understand.
"""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"(?P<blank>\s+|\#[^\n]*)"
    r'|(?P<string>"[^"\n]*")'
    r"|'(?P<symbol>[0-9A-Za-z_.:-]*)'"
    r"|(?P<pattern>[0-9a-fA-F.:]+/[0-9]+\{[0-9]+,[0-9]+\})"
    r"|(?P<word>[0-9A-Za-z_.:/]+)"
    r"|(?P<operator>&&|\|\||!~|!=|[=~!()\[\]{},;*-])"
)
ENDS_WITH_BLOCK = ("function", "filter", "protocol", "template", "if")

Word = str
Statement = tuple["Word | Block", ...]


class Block(list[Statement]):
    """Statements between braces."""


def parse(text: str) -> Block:
    """Every statement of a configuration."""
    return _Reader(_words(text)).block("")


def _words(text: str) -> list[str]:
    words, place = [], 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"no word of BIRD's: {text[place : place + 60]!r}")
        if match.lastgroup != "blank":
            words.append(match[match.lastgroup or 0])
        place = match.end()
    return words


class _Reader:
    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.place = 0

    def block(self, end: str) -> Block:
        """Statements up to `end`, which is passed over."""
        found, statement = Block(), list[Word | Block]()
        while self.place < len(self.words):
            word = self.words[self.place]
            self.place += 1
            if word == end or word == ";":
                if statement:
                    found.append(tuple(statement))
                statement = []
                if word == end:
                    return found
            elif word == "{":
                statement.append(self.block("}"))
                if statement[0] in ENDS_WITH_BLOCK:
                    found.append(tuple(statement))
                    statement = []
            else:
                statement.append(word)
        if end or statement:
            raise ValueError(f"the text ends within a block or a statement: {statement}")
        return found

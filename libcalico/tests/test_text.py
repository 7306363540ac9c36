"""Text from outside: what reaches a log or a terminal, and what is remembered of it."""

from __future__ import annotations

import io
import logging

import pytest

from libcalico import selector
from libcalico.errors import ParsingDatastoreEntry
from libcalico.model import scalars
from libcalico.obs.logs import LineFormatter
from libcalico.text import TextCache, escaped, shown, table

HOSTILE = "a\x1b[31m\nb\u202e\x9b\x00\ud800"
HARMLESS = r"a\x1b[31m\nb\u202e\x9b\x00\ud800"


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert escaped(HOSTILE) == HARMLESS
    assert escaped("naïve – ключ") == "naïve – ключ"
    assert escaped("a\n\tb", kept="\n\t") == "a\n\tb"


def test_long_text_is_cut_and_its_length_named() -> None:
    assert shown("x" * 200) == "x" * 200
    assert shown("x" * 1_000_000) == "x" * 200 + "... (1000000 characters)"
    assert shown(b"\xff\n") == r"\xff\n"
    error = ParsingDatastoreEntry("k" * 1_000_000, b"v" * 1_000_000, "c" * 1_000_000)
    assert len(str(error)) < 1000


def test_a_log_record_is_one_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(message)s"))
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "%s", (HOSTILE + "x" * 10_000_000,), None))
    assert stream.getvalue().startswith(HARMLESS) and len(stream.getvalue()) < 10_000
    assert stream.getvalue().count("\n") == 1
    try:
        raise ValueError("\x1b[2J")
    except ValueError as error:
        record = logging.LogRecord("x", logging.INFO, "", 0, "m", (), (ValueError, error, error.__traceback__))
    assert r"ValueError: \x1b[2J" in LineFormatter("%(message)s").format(record)


def test_a_table_for_people_is_harmless() -> None:
    assert table(["NAME"], [[HOSTILE]]).splitlines()[1] == HARMLESS


def test_a_cache_is_bounded_by_characters() -> None:
    made: list[str] = []

    def make(text: str) -> str:
        made.append(text)
        return text.upper()

    cache = TextCache(make, 1000)
    for number in range(1000):
        assert cache.get(f"{number:010}") == f"{number:010}"
    kept = len(cache._young) + len(cache._old)
    assert kept * 11 <= 1000 + 22
    cache.get("0000000999")
    assert len(made) == 1000
    for _ in range(2):
        cache.get("x" * 500)
    assert made[-2:] == ["x" * 500] * 2 and len(cache._young) + len(cache._old) == kept


def test_what_is_used_goes_on_to_be_kept() -> None:
    made: list[str] = []

    def make(text: str) -> str:
        made.append(text)
        return text

    cache = TextCache(make, 1000)
    for number in range(1000):
        cache.get("often")
        cache.get(f"{number:010}")
    assert made.count("often") == 1


def test_a_text_that_cannot_be_read_is_not_kept() -> None:
    cache = TextCache(int, 1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            cache.get("x")
    assert cache.characters == 0


def test_huge_selectors_and_networks_leave_nothing_behind() -> None:
    huge = "x" * 1_000_000
    selector.parse(f"a == '{huge}'")
    assert not any(len(text) > 100_000 for text in (*selector._known._young, *selector._known._old))
    assert scalars.parse_net(huge) is None and scalars.parse_net("10.0.0.0/" + "0" * 1000 + "8") is None


def test_a_table_lines_up() -> None:
    assert table(["A", "BB"], [["xxx", "y"], ["z", ""]]) == "A    BB\nxxx  y\nz\n"

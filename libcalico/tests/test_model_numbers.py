"""Numbers and durations print as Go prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.durations import go_duration, parse_duration
from libcalico.model.numbers import go_number, json_number, plain


@pytest.mark.parametrize(
    ("value", "printed", "encoded"),
    [
        (0, "0", "0"),
        (100.0, "100", "100"),
        (1e6, "1e+06", "1000000"),
        (123456789, "1.23456789e+08", "123456789"),
        (-0.5, "-0.5", "-0.5"),
        (0.00001, "1e-05", "0.00001"),
        (1e-7, "1e-07", "1e-7"),
        (1e21, "1e+21", "1e+21"),
        (2.0**63, "9.223372036854776e+18", "9223372036854776000"),
    ],
)
def test_floats(value: float, printed: str, encoded: str) -> None:
    assert go_number(value) == printed
    assert json_number(value) == encoded


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_floats_read_back(value: float) -> None:
    assert float(go_number(value)) == value
    assert float(json_number(value)) == value
    assert float(plain(value)) == value


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0", "0s"),
        ("90s", "1m30s"),
        ("1h", "1h0m0s"),
        ("1h1h", "2h0m0s"),
        ("+5s", "5s"),
        ("-5s", "-5s"),
        (".5s", "500ms"),
        ("1.s", "1s"),
        ("1.5s", "1.5s"),
        ("1us", "1\u00b5s"),
        ("1\u00b5s", "1\u00b5s"),
        ("5ns", "5ns"),
        ("1h0m0.000000001s", "1h0m0.000000001s"),
    ],
)
def test_durations(text: str, printed: str) -> None:
    assert go_duration(parse_duration(text)) == printed


@pytest.mark.parametrize("text", ["", "-", "10", " 1s", "1d", "s", ".s", "1s ", "99999999h", "1.2.3s", "x"])
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"in duration|invalid duration"):
        parse_duration(text)


@given(st.integers(-(1 << 63) + 1, (1 << 63) - 1))
def test_printed_durations_read_back(nanoseconds: int) -> None:
    assert parse_duration(go_duration(nanoseconds)) == nanoseconds

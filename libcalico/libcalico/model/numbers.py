"""Numbers as Go prints them: the stored and shown forms are compared byte by byte with upstream's."""

from __future__ import annotations

import decimal

LEAST_GO_EXPONENT = 6
LEAST_JSON_EXPONENT = 21


def go_number(value: float | int) -> str:
    """A number as Go's `%v` prints a float64: `1e+06`, `1.23456789e+08`, `50.5`, `-1`."""
    return _shortest(value, -5, LEAST_GO_EXPONENT)


def json_number(value: float | int) -> str:
    """A number as Go's JSON encoder writes a float64: an exponent only below 1e-6 and from 1e21 on."""
    return _shortest(value, -7, LEAST_JSON_EXPONENT)


def _shortest(value: float | int, below: int, least: int) -> str:
    sign, digits, exponent = decimal.Decimal(repr(float(value))).normalize().as_tuple()
    assert isinstance(exponent, int)
    if digits == (0,):
        return "0"
    minus = "-" if sign else ""
    power = len(digits) + exponent - 1
    text = "".join(map(str, digits))
    if below < power < least:
        return minus + format(decimal.Decimal((0, digits, exponent)), "f")
    exponent_text = f"{abs(power):02d}" if least == LEAST_GO_EXPONENT or power > 0 else str(abs(power))
    return f"{minus}{text[0]}{'.' + text[1:] if text[1:] else ''}e{'-' if power < 0 else '+'}{exponent_text}"


def plain(value: float | int) -> float | int:
    """The same number as an int where that loses nothing, so that encoders print no `.0`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 10.0**LEAST_JSON_EXPONENT:
        return int(decimal.Decimal(repr(value)))
    return value

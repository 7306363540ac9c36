"""Types of members whose JSON form says more than their Python type: what `fold` checks and brings in canonical form.

To msgspec they are plain `int`, `str` or `int | str`, so that stored values decode at full speed.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple


class Wire(NamedTuple):
    """The name of a wire form; `fold` has a function for each."""

    form: str


Uint8 = Annotated[int, Wire("uint8")]
Uint16 = Annotated[int, Wire("uint16")]
Uint32 = Annotated[int, Wire("uint32")]
ASNumber = Annotated[int, Wire("asnumber")]
Port = Annotated[int | str, Wire("port")]
Protocol = Annotated[int | str, Wire("protocol")]
DSCP = Annotated[int | str, Wire("dscp")]
Duration = Annotated[str, Wire("duration")]
Time = Annotated[str, Wire("time")]
Number = Annotated[int | float, Wire("float64")]
RANGES = {"int": (-(1 << 63), (1 << 63) - 1), "uint8": (0, 255), "uint16": (0, 65535), "uint32": (0, (1 << 32) - 1)}

"""Types of members whose JSON form says more than their Python type: what `fold` checks and brings in canonical form.

To msgspec they are `int`, `str` or `int | str` within limits, so that stored values decode at full speed. A value
beyond the limits is refused there, and again by `fold`, in Go's words.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from msgspec import Meta


class Wire(NamedTuple):
    """The name of a wire form; `fold` has a function for each."""

    form: str


_INT32 = Meta(ge=-(1 << 31), le=(1 << 31) - 1)
_UINT8 = Meta(ge=0, le=255)
_UINT16 = Meta(ge=0, le=65535)
_UINT32 = Meta(ge=0, le=(1 << 32) - 1)
_INT64 = Meta(ge=-(1 << 63), le=(1 << 63) - 1)
Int = Annotated[int, Wire("int"), _INT64]
Int32 = Annotated[int, Wire("int32"), _INT32]
Uint8 = Annotated[int, Wire("uint8"), _UINT8]
Uint16 = Annotated[int, Wire("uint16"), _UINT16]
Uint32 = Annotated[int, Wire("uint32"), _UINT32]
ASNumber = Annotated[int, Wire("asnumber"), _UINT32]
Port = Annotated[Annotated[int, _UINT16] | str, Wire("port")]
Protocol = Annotated[Annotated[int, _UINT8] | str, Wire("protocol")]
DSCP = Annotated[Annotated[int, _UINT8] | str, Wire("dscp")]
Flag = Annotated[str, Wire("flag")]
"""A boolean that is stored as text."""
Duration = Annotated[str, Wire("duration")]
Time = Annotated[str, Wire("time")]
Number = Annotated[Annotated[int, _INT64] | float, Wire("float64")]
RANGES = {
    "int": (-(1 << 63), (1 << 63) - 1), "int32": (-(1 << 31), (1 << 31) - 1),
    "uint8": (0, 255), "uint16": (0, 65535), "uint32": (0, (1 << 32) - 1),
}  # fmt: skip

"""Addresses and networks as values: `Address` and `Cidr`, from text and back (`calico_native.net`)."""

from calico_native import net as _native

Address = _native.Address
Cidr = _native.Cidr
parse_address, parse_cidr, parse_cidrs = _native.parse_address, _native.parse_cidr, _native.parse_cidrs
collapse = _native.collapse

__all__ = ["Address", "Cidr", "bare_address", "collapse", "parse_address", "parse_cidr", "parse_cidrs"]


def bare_address(text: str) -> str:
    """The address of `10.0.0.1/26`, as it is written; of a bare address the text itself. Nothing is checked."""
    return text.partition("/")[0]

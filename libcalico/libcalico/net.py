"""Addresses and networks as values: `Address` and `Cidr`, from text and back (`calico_native.net`)."""

from calico_native import net as _native

Address = _native.Address
Cidr = _native.Cidr
parse_address, parse_cidr, parse_cidrs = _native.parse_address, _native.parse_cidr, _native.parse_cidrs
collapse = _native.collapse

__all__ = ["Address", "Cidr", "collapse", "parse_address", "parse_cidr", "parse_cidrs"]

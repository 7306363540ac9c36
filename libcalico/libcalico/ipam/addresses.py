"""Addresses and ranges as callers write them: `10.1.0.5`, `10.1.0.5/26` as `auto_assign` returns it, `10.1.0.0/26`."""

from __future__ import annotations

import functools

from libcalico.errors import BadData
from libcalico.model.scalars import IPNetwork, parse_net
from libcalico.text import shown

KNOWN_NETWORKS = 16384


class AssignedAddress(str):
    """An address as `auto_assign` gives it, with the length of its block: `172.29.4.64/26`. Without this type, such a
    text means the whole range."""


@functools.lru_cache(KNOWN_NETWORKS)  # what is longer than any network is none, and raises: it is not kept
def host_net(text: str) -> IPNetwork:
    """The network of a CIDR, or the one-address network of an address; raises `BadData`."""
    network = parse_net(text)
    if network is None:
        raise BadData(f"invalid IP address specified: {shown(text)}")
    return network


def address_net(text: str) -> IPNetwork:
    """The one-address network of an address, also of one with its block's length; raises `BadData`, also for a range,
    which is a length without an address in it."""
    address, slash, length = text.partition("/")
    if slash and not length.isdecimal():
        raise BadData(f"invalid IP address specified: {text}")
    network = host_net(address)
    if slash and not isinstance(text, AssignedAddress):
        span = host_net(text)
        if span.num_addresses > 1 and span.network_address == network.network_address:
            error = BadData(f"invalid IP address specified: {text}")
            error.add_note(f"it is a range of {span.num_addresses} addresses: give each address that is meant")
            raise error
    return network

"""Requests about interfaces' addresses."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from libcalico.kernel import objects
from libcalico.kernel.objects import Address
from libcalico.kernel.rtnl.requests import REPLACE, RouteNetlink


class AddressRequests(RouteNetlink):
    """Addresses: read, added, deleted."""

    def addresses(self, device: int = 0, family: int = 0) -> list[Address]:
        """Addresses of one interface (0 = all) and one family (0 = both)."""
        found = self.dump(
            "list addresses", objects.RTM_GETADDR, objects.encode_address_dump(device, family), objects.decode_address
        )
        return [address for address in found if device in {0, address.device}]

    def replace_address(self, address: Address) -> None:
        """Add, or change, an address."""
        body = objects.encode_address(address)
        self.request(f"add address {address.cidr}", objects.RTM_NEWADDR, REPLACE, body)

    def delete_address(self, address: Address) -> bool:
        """Delete an address; False when it was not there."""
        body = objects.encode_address(address)
        return self.delete_object(f"delete address {address.cidr}", objects.RTM_DELADDR, body)

    def ensure_only_address(self, device: int, cidrs: Sequence[str], family: int = socket.AF_INET) -> bool:
        """Give the interface exactly these addresses of a family (IPv6 link-local ones stay); True when changed."""
        found = {address.cidr: address for address in self.addresses(device, family)}
        fresh = sorted(set(cidrs) - found.keys())
        for cidr in fresh:  # first: with its last IPv4 address an interface loses its routes
            self.replace_address(Address(device, cidr))
        others = [one for cidr, one in found.items() if cidr not in cidrs and not cidr.startswith("fe80:")]
        deleted = [self.delete_address(one) for one in others]
        return bool(fresh) or any(deleted)

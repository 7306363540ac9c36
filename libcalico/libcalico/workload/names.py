"""Names and addresses as the datastore has them, made of what callers have. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re

from libcalico.workload.labels import LONGEST_KEY, sanitise

KIND = "WorkloadEndpoint"
_ENDPOINT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NO_SEGMENT = re.compile(r"[^a-z0-9]+")
_NO_NAMESPACE = re.compile(r"[^a-z0-9-]+")


def endpoint_segment(interface: str) -> str:
    """The interface's name as endpoint names allow it: the same, or a legal one made of it and a digest."""
    if _ENDPOINT.fullmatch(interface):
        return interface
    clean = _NO_SEGMENT.sub("-", interface.lower()).strip("-") or "if"
    return f"{clean}-{hashlib.sha1(interface.encode(), usedforsecurity=False).hexdigest()[:7]}"


def legal_namespace(text: str) -> str:
    """A namespace's name of a cleaned label: the same when it is legal, else lower case and dashes."""
    return _NO_NAMESPACE.sub("-", text.lower())[:63].strip("-")


def canonical_address(text: str) -> str:
    """An address as it is stored; `ValueError`. An IPv4 address in IPv6's clothes (`::ffff:192.0.2.1`) is the IPv4
    address, as Go reads it."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def stored_namespace(text: str) -> str:
    """The namespace that a caller's text becomes, "" = none can be made of it."""
    return legal_namespace(sanitise(text[:LONGEST_KEY]))

"""CNI results: the shape of each protocol version (spec/cni.md 3.1), and reading those of other plug-ins. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from libcalico.cni import errors, versions
from libcalico.cni.errors import CniError
from libcalico.net import bare_address


class Interfaces(NamedTuple):
    """The two ends of the interface that a result tells of."""

    host: str
    container: str
    mac: str
    sandbox: str
    mtu: int = 0


class Addresses(NamedTuple):
    """What an IPAM plug-in answers: CIDRs in order, and routes to pass through."""

    cidrs: tuple[str, ...]
    routes: tuple[Mapping[str, Any], ...] = ()
    dns: Mapping[str, Any] = {}


def render_json(document: object) -> bytes:
    """Indented by four blanks, with a closing newline."""
    with contextlib.suppress(ValueError, OverflowError):  # no UTF-8, or a number of another plug-in beyond 64 bits
        return msgspec.json.format(msgspec.json.encode(document), indent=4) + b"\n"
    return (json.dumps(document, indent=4, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def render_result(version: str, addresses: Addresses, interfaces: Interfaces | None = None) -> bytes:
    """The result in the shape of the configuration's version ("" = 0.2.0)."""
    if not versions.at_least(version or "0.2.0", "0.3.0"):
        return render_json(_old_result(version or "0.2.0", addresses))
    modern = versions.at_least(version, "1.0.0")
    document: dict[str, Any] = {"cniVersion": version}
    if interfaces is not None:
        document["interfaces"] = _interfaces(interfaces, modern)
    place = {} if interfaces is None else {"interface": 1}
    document["ips"] = [
        ({} if modern else {"version": "6" if ":" in cidr else "4"}) | place | {"address": cidr}
        for cidr in addresses.cidrs
    ]
    if addresses.routes:
        document["routes"] = list(addresses.routes)
    if addresses.dns or not modern:
        document["dns"] = dict(addresses.dns)
    return render_json(document)


def _interfaces(ends: Interfaces, with_mtu: bool) -> list[dict[str, Any]]:
    near: dict[str, Any] = {"name": ends.host}
    far: dict[str, Any] = {"name": ends.container}
    if ends.mac:
        far["mac"] = ends.mac
    if with_mtu and ends.mtu:
        far["mtu"] = ends.mtu
    far["sandbox"] = ends.sandbox
    return [near, far]


def _old_result(version: str, addresses: Addresses) -> dict[str, Any]:
    document: dict[str, Any] = {"cniVersion": version}
    for member, is_v6 in (("ip4", False), ("ip6", True)):
        first = next((cidr for cidr in addresses.cidrs if (":" in cidr) == is_v6), None)
        if first is None:
            continue
        part: dict[str, Any] = {"ip": first}
        routes = [route for route in addresses.routes if (":" in str(route.get("dst", ""))) == is_v6]
        if routes:
            part["routes"] = routes
        document[member] = part
    if len(document) == 1:
        raise CniError(errors.GENERAL, "cannot convert: no valid IP addresses")
    document["dns"] = dict(addresses.dns)
    return document


def parse_result(document: object) -> Addresses:
    """The addresses of any plug-in's result, read by its shape and not by the version that it names."""
    if not isinstance(document, dict):
        raise CniError(errors.GENERAL, "the IPAM plugin's result is not a JSON object")
    dns = document.get("dns")
    found: list[str] = []
    routes: list[Mapping[str, Any]] = []
    for entry in _objects(document.get("ips")):
        if isinstance(entry.get("address"), str):
            found.append(entry["address"])
    routes += _objects(document.get("routes"))
    for member in ("ip4", "ip6"):
        part = document.get(member)
        if isinstance(part, dict) and isinstance(part.get("ip"), str):
            found.append(part["ip"])
            routes += _objects(part.get("routes"))
    return Addresses(tuple(found), tuple(routes), dns if isinstance(dns, dict) else {})


def previous_addresses(document: object) -> Sequence[str]:
    """The bare addresses of a `prevResult`."""
    return [bare_address(cidr) for cidr in parse_result(document).cidrs]


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

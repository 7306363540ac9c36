"""Members of stored objects that demand what this agent does not do: named, never passed over in silence. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from typing import Any

import msgspec
from msgspec import inspect

from libcalico.model.resources import (
    EntityRule,
    GlobalNetworkPolicy,
    IPPool,
    IPPoolSpec,
    NetworkPolicy,
    Profile,
    Rule,
    Tier,
    WorkloadEndpoint,
)

KINDS = ("HostEndpoint",)
"""Kinds without any effect on a host, of which upstream's programs there do something."""
READ_AGAIN = (NetworkPolicy, GlobalNetworkPolicy, Profile, Tier, IPPool)
"""Of these there are few, and a member more or less decides over packets."""
MOST_NAMED = 3
Fields = dict[str, "Fields | None"]
"""What stands below each member, by its name in lower case; None where nothing does that has names of its own."""


def unsupported(found: Any, value: bytes = b"") -> str:
    """What an object demands in vain, in words; empty when that is nothing. `value`: as it is stored."""
    if isinstance(found, WorkloadEndpoint) and not found.spec.ip_nats and found.spec.qos_controls is None:
        return ""  # nearly all objects are one of these
    strange = _strange(found, value) if value and isinstance(found, READ_AGAIN) else ()
    return "; ".join(chain(_members(found), strange))


def _strange(found: Any, value: bytes) -> Iterator[str]:
    """Members of the spec that nobody here knows: of a later release, of another product, or misspelt."""
    stored = next((item for name, item in msgspec.json.decode(value).items() if name.lower() == "spec"), None)
    fields = _fields_of(type(found).__name__)
    if _are_known(stored, fields):
        return
    names = list(islice(_unknown(stored, fields, "spec"), MOST_NAMED + 1))
    if names:
        more = ", …" if len(names) > MOST_NAMED else ""
        yield f"members that are not known here (all else acts): {', '.join(names[:MOST_NAMED])}{more}"


@cache
def _fields_of(name: str) -> Fields:
    """Those of a kind's spec."""
    found = inspect.type_info(next(kind for kind in READ_AGAIN if kind.__name__ == name))
    return (_read_fields(found) or {})["spec"] or {}


def _read_fields(kind: inspect.Type) -> Fields | None:
    """Those of a struct, which may stand in a list or be optional; None for any other type."""
    match kind:
        case inspect.UnionType():
            return next(filter(None, map(_read_fields, kind.types)), None)
        case inspect.ListType():
            return _read_fields(kind.item_type)
        case inspect.StructType():
            return {field.encode_name.lower(): _read_fields(field.type) for field in kind.fields}
    return None


def _are_known(stored: Any, fields: Fields) -> bool:
    """Has every member a name that is known? Nearly always: so this is asked before names are collected."""
    if type(stored) is list:
        return all(_are_known(item, fields) for item in stored if type(item) is dict)
    if type(stored) is dict:
        for name, item in stored.items():
            lower = name.lower()
            if lower not in fields:
                return False
            if item and (below := fields[lower]) is not None and not _are_known(item, below):
                return False
    return True


def _unknown(stored: Any, fields: Fields, path: str) -> Iterator[str]:
    """Names are compared without case, as everywhere where stored JSON is read."""
    if type(stored) is list:
        for number, item in enumerate(stored):
            if type(item) is dict:
                yield from _unknown(item, fields, f"{path}[{number}]")
    elif type(stored) is dict:
        for name, item in stored.items():
            lower = name.lower()
            if lower not in fields:
                yield f"{path}.{name}"
            elif (below := fields[lower]) is not None and item:
                yield from _unknown(item, below, f"{path}.{name}")


def _members(found: Any) -> Iterator[str]:
    match found:
        case IPPool():
            yield from _encapsulation(found.spec)
        case WorkloadEndpoint():
            if found.spec.ip_nats:
                yield "ipNATs (floating addresses)"
            if found.spec.qos_controls is not None:
                yield "qosControls"
        case Tier():
            if found.spec.default_action not in (None, "", "Deny", "Pass"):
                yield f"defaultAction {found.spec.default_action} (it is taken for Deny)"
        case NetworkPolicy():
            yield from _types(found.spec.types)
            yield from _rules(found.spec.ingress, found.spec.egress)
        case GlobalNetworkPolicy():
            spec = found.spec
            yield from _types(spec.types)
            for name, is_set in (("doNotTrack", spec.do_not_track), ("preDNAT", spec.pre_dnat)):
                if is_set:
                    yield f"{name} (the policy acts on host endpoints only, which are not supported here)"
            yield from _rules(spec.ingress, spec.egress)
        case Profile():
            yield from _rules(found.spec.ingress, found.spec.egress)


def _encapsulation(spec: IPPoolSpec) -> Iterator[str]:
    """Validation refuses both; what has been stored in another way acts as far as it can."""
    if spec.ipip_mode in ("", "Never"):
        return
    if ":" in spec.cidr:
        yield f"ipipMode {spec.ipip_mode} of a pool of IPv6 (there is none: set vxlanMode, or ipipMode Never)"
    elif spec.vxlan_mode not in ("", "Never"):
        both = f"ipipMode {spec.ipip_mode} beside vxlanMode {spec.vxlan_mode}"
        yield f"{both} (VXLAN is taken: set one of them to Never)"


def _types(types: list[str]) -> Iterator[str]:
    for name in types:
        if name not in ("Ingress", "Egress"):
            yield f"type {name} (there are Ingress and Egress)"


def _rules(ingress: list[Rule], egress: list[Rule]) -> Iterator[str]:
    for direction, rules in (("ingress", ingress), ("egress", egress)):
        for number, rule in enumerate(rules):
            if rule.http is not None:
                yield f"http of {direction} rule {number} (the rule matches whatever is asked by HTTP)"
            if _names_services(rule.source) or _names_services(rule.destination):
                yield f"services of {direction} rule {number} (the rule matches nothing)"


def _names_services(side: EntityRule) -> bool:
    return side.services is not None

"""Members of stored objects that demand what this agent does not do: named, never passed over in silence. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from libcalico.model.resources import (
    EntityRule,
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Profile,
    Rule,
    WorkloadEndpoint,
)

KINDS = ("HostEndpoint",)
"""Kinds without any effect here, of which an agent of upstream's enforces something."""


def unsupported(found: Any) -> str:
    """What an object demands in vain, in words; empty when that is nothing."""
    return "; ".join(_members(found))


def _members(found: Any) -> Iterator[str]:
    match found:
        case IPPool():
            if found.spec.ipip_mode not in ("", "Never"):
                yield f"ipipMode {found.spec.ipip_mode} (its packets go without a tunnel unless vxlanMode is set)"
        case WorkloadEndpoint():
            if found.spec.ip_nats:
                yield "ipNATs (floating addresses)"
            if found.spec.qos_controls is not None:
                yield "qosControls"
        case NetworkPolicy():
            yield from _rules(found.spec.ingress, found.spec.egress)
        case GlobalNetworkPolicy():
            spec = found.spec
            for name, is_set in (("doNotTrack", spec.do_not_track), ("preDNAT", spec.pre_dnat)):
                if is_set:
                    yield f"{name} (the policy acts on host endpoints only, which are not supported here)"
            yield from _rules(spec.ingress, spec.egress)
        case Profile():
            yield from _rules(found.spec.ingress, found.spec.egress)


def _rules(ingress: list[Rule], egress: list[Rule]) -> Iterator[str]:
    for direction, rules in (("ingress", ingress), ("egress", egress)):
        for number, rule in enumerate(rules):
            if rule.http is not None:
                yield f"http of {direction} rule {number} (the rule matches whatever is asked by HTTP)"
            if _names_services(rule.source) or _names_services(rule.destination):
                yield f"services of {direction} rule {number} (the rule matches nothing)"


def _names_services(side: EntityRule) -> bool:
    return side.services is not None

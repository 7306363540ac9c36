"""The checks of a FelixConfiguration (spec/resources.md 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.felix_fields import FIELDS, FelixField
from libcalico.model.resources import FelixConfiguration
from libcalico.model.validation_words import tag

Errors = Iterator[FieldError]
DURATION_PATTERN = r"^([0-9]+(\\.[0-9]+)?(ms|s|m|h))*$"
WHOLE_DURATION = re.compile(r"([0-9]+(ms|s|m|h))*")
LOG_PREFIX = re.compile(r"[A-Za-z0-9%: /_-]*")
RATE = re.compile(r"[1-9][0-9]{0,3}/(second|minute|hour|day)")
KEY_VALUES = re.compile(r"[a-zA-Z0-9-_]+=[^=\s,]+(,[a-zA-Z0-9-_]+=[^=\s,]+)*")
HOST = re.compile(r"[a-zA-Z0-9:._+-]{1,64}")
EMPTY_PASSES = frozenset(
    ("ipForwarding", "bpfConntrackLogLevel", "bpfRedirectToPeer", "bpfProfiling", "serviceLoopPrevention",
     "workloadSourceSpoofing", "bpfLogLevel")
)  # fmt: skip
TAGS = {
    "logSeverityScreen": "logLevel", "logSeverityFile": "logLevel", "logSeveritySys": "logLevel",
    "defaultEndpointToHostAction": "dropAcceptReturn", "iptablesFilterAllowAction": "acceptReturn",
    "iptablesMangleAllowAction": "acceptReturn", "nftablesFilterAllowAction": "acceptReturn",
    "nftablesMangleAllowAction": "acceptReturn", "iptablesFilterDenyAction": "dropReject",
    "nftablesFilterDenyAction": "dropReject", "bpfLogLevel": "bpfLogLevel", "iptablesBackend": "iptablesBackend",
    "routeSource": "routeSource", "wireguardInterfaceName": "interface", "wireguardInterfaceNameV6": "interface",
}  # fmt: skip


def felix_errors(configuration: FelixConfiguration) -> Errors:
    """Every bad field."""
    spec = configuration.spec
    for name, value in spec.items():
        yield from _field_errors(FIELDS[name], value)
    yield from _structure(configuration, spec)


def _go_name(name: str) -> str:
    return name[:1].upper() + name[1:]


def _field_errors(field: FelixField, value: Any) -> Errors:
    if field.type == "duration":
        if not WHOLE_DURATION.fullmatch(value):
            path = f"spec.{field.name}"
            yield FieldError(path, None, f"{path} in body should match '{DURATION_PATTERN}'")
    elif field.one_of and not _is_one_of(field, value):
        yield tag(_go_name(field.name), str(value), TAGS.get(field.name, "oneof"))
    elif field.type == "int" and not _in_range(field, value):
        yield tag(_go_name(field.name), str(value), "gte" if value < (field.minimum or 0) else "lte")
    elif field.type == "string" and field.form and value and not _has_form(field.form, value):
        yield tag(_go_name(field.name), value, field.form)


def _is_one_of(field: FelixField, value: Any) -> bool:
    if value == "":
        return field.any_case or field.name in EMPTY_PASSES
    if field.any_case:
        return str(value).lower() in {word.lower() for word in field.one_of}
    return value in field.one_of


def _in_range(field: FelixField, value: int) -> bool:
    return (field.minimum is None or value >= field.minimum) and (field.maximum is None or value <= field.maximum)


def _has_form(form: str, value: str) -> bool:
    if form == "regex":
        try:
            re.compile(value)
        except re.error:
            return False
        return True
    patterns = {
        "interface": scalars.INTERFACE,
        "interface filter": scalars.INTERFACE_FILTER,
        "host": HOST,
        "log prefix": LOG_PREFIX,
        "rate": RATE,
        "key=value list": KEY_VALUES,
    }
    pattern = patterns.get(form)
    return pattern is None or pattern.fullmatch(value) is not None


def _structure(configuration: FelixConfiguration, spec: dict[str, Any]) -> Errors:
    name = configuration.metadata.name
    if spec.get("nodeSelector") and (name == "default" or name.startswith("node.")):
        reason = "nodeSelector must not be set on the 'default' or per-node ('node.*') FelixConfiguration"
        yield FieldError("FelixConfigurationSpec.NodeSelector", spec["nodeSelector"], reason)
    yield from _route_tables(spec)
    if len(spec.get("kubeNodePortRanges", [])) > 7:
        yield FieldError(
            "KubeNodePortRanges", str(spec["kubeNodePortRanges"]), "node port ranges list is too long (max 7)"
        )
    for field, version in (
        ("natOutgoingAddress", 4), ("deviceRouteSourceAddress", 4), ("deviceRouteSourceAddressIPv6", 6)
    ):  # fmt: skip
        value = spec.get(field, "")
        if value and not scalars.is_address(value, version):
            yield FieldError(_go_name(field), value, f"is not a valid IPv{version} address")
    region = spec.get("openstackRegion", "")
    if len(region) > 46:
        yield FieldError("OpenstackRegion", region, "is too long")
    elif region and not scalars.LABEL.fullmatch(region):
        yield FieldError("OpenstackRegion", region, "must be a valid DNS label")


def _route_tables(spec: dict[str, Any]) -> Errors:
    single, ranges = spec.get("routeTableRange"), spec.get("routeTableRanges")
    if single is not None and ranges is not None:
        shown = f"{{{single.get('min', 0)} {single.get('max', 0)}}}"
        yield FieldError("RouteTableRange", shown, "cannot be set when `RouteTableRanges` is also set")
    if single is not None:
        low, high = single.get("min", 0), single.get("max", 0)
        if not 1 <= low <= high <= 250:
            reason = "must be a range of route table indices within 1..250"
            yield FieldError("RouteTableRange", f"{{{low} {high}}}", reason)
    total = 0
    for one in ranges or []:
        low, high = one.get("min", 0), one.get("max", 0)
        if low < 1:
            yield FieldError("RouteTableRanges", str(one), "cannot target indices < 1")
        elif low > high:
            yield FieldError("RouteTableRanges", str(one), "min value cannot be greater than max value")
        elif high > 0xFFFFFFFF:
            yield FieldError("RouteTableRanges", str(one), "max index too high")
        total += max(0, high - low + 1)
    if total > 65535:
        yield FieldError("RouteTableRanges", str(ranges), "targets too many tables")

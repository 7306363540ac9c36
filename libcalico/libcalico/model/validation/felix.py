"""The checks of a FelixConfiguration (spec/resources.md 9).

Fields with a tag in `TAGS`, bounds and cross-field rules are upstream's own validator; the others are its schema,
whose errors come under the JSON path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from libcalico.durations import parse_duration
from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.felix_fields import FIELDS, FelixField
from libcalico.model.go_regex import is_go_regex
from libcalico.model.resources import FelixConfiguration
from libcalico.model.validation.common import LONGEST_SELECTOR, tag
from libcalico.model.validation.rules import go_list, port_errors

Errors = Iterator[FieldError]
DURATION_PATTERN = r"^([0-9]+(\\.[0-9]+)?(ms|s|m|h))*$"
WHOLE_DURATION = re.compile(r"([0-9]+(ms|s|m|h))*")
CONNTRACK_TIMEOUT = re.compile(r"([0-9]*(\.[0-9]*)?(s|h|m|us))+|Auto")
CONNTRACK_PATTERN = r"^(([0-9]*(\.[0-9]*)?(ms|s|h|m|us)+)+|Auto)$"
"""What upstream's schema says, for its message; the one above takes the same texts (`ms` is an `m` and an `s`), without
the exponential time of a repeat within a repeat."""
HEALTH_NAME = re.compile(r"[a-zA-Z0-9_ -]+")
HOST = re.compile(r"[a-zA-Z0-9:._+-]{1,64}")
KEY_VALUE = re.compile(r"[a-zA-Z0-9_-]+=.*")
# The largest integer that upstream's schema, which looks at it as a float64, still takes for an int64.
LARGEST_INTEGER = (1 << 63) - 513
MOST_PORT_RANGES = 7
MOST_ROUTE_TABLES = 65535
PATTERNS = {
    "logPrefix": re.compile(r"^([a-zA-Z0-9%: /_-])*$"),
    "logActionRateLimit": re.compile(r"^[1-9]\d{0,3}/(?:second|minute|hour|day)$"),
    "featureDetectOverride": re.compile(r"^([a-zA-Z0-9-_]+=(true|false|),)*([a-zA-Z0-9-_]+=(true|false|))?$"),
    "featureGates": re.compile(r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$"),
}
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
    "bpfExternalServiceMode": "bpfServiceMode",
    **dict.fromkeys(
        ("awsSrcDstCheck", "bpfAttachType", "bpfConnectTimeLoadBalancing", "bpfConntrackMode", "bpfConntrackLogLevel",
         "bpfHostNetworkedNATWithoutCTLB", "bpfJITHardening", "bpfOverlayHostSourceIP", "localSubnetL2Reachability",
         "natOutgoingExclusions", "prometheusMetricsClientAuth", "serviceLoopPrevention",
         "windowsManageFirewallRules", "workloadSourceSpoofing"), "oneof"),
}  # fmt: skip
# Bounds whose tags are not gte and lte.
BOUND_TAGS = {
    "wireguardListeningPort": ("gt", "lte"),
    "wireguardListeningPortV6": ("gt", "lte"),
    "wireguardRoutingRulePriority": ("gt", "lt"),
    "bpfMaglevMaxEndpointsPerService": ("gt", "lte"),
    "bpfMaglevMaxServices": ("gt", "lte"),
}
GO_PREFIXES = (
    ("nftablesFlowTable", "NFTablesFlowTable"), ("bpfConntrackMode", "BPFConntrackCleanupMode"), ("bpf", "BPF"),
    ("nat", "NAT"), ("mtu", "MTU"), ("aws", "AWS"), ("ipv4", "IPv4"), ("ipv6", "IPv6"),
)  # fmt: skip


def felix_errors(configuration: FelixConfiguration) -> Errors:
    """Every bad field."""
    spec = configuration.spec
    for name, value in spec.items():
        yield from _field_errors(FIELDS[name], value)
    yield from _structure(configuration, spec)


def _go_name(name: str) -> str:
    for prefix, go in GO_PREFIXES:
        if name.startswith(prefix):
            return go + name[len(prefix) :]
    return name[:1].upper() + name[1:]


def _field_errors(field: FelixField, value: Any) -> Errors:
    match field.type:
        case "duration":
            if not WHOLE_DURATION.fullmatch(value):
                yield _schema(field.name, f"should match '{DURATION_PATTERN}'")
        case "int":
            yield from _integer_errors(field, value)
        case "string":
            yield from _word_errors(field, value)
        case "port":
            yield from port_errors(value)
        case "ports":
            for port in value:
                yield from port_errors(port)
        case "strings" | "map":
            yield from _many_errors(field, value)
        case "objects":
            for override in value:
                yield from _health_errors(override)
        case "object":
            for name, timeout in value.items():
                if not CONNTRACK_TIMEOUT.fullmatch(timeout):
                    yield _schema(f"{field.name}.{name}", f"should match '{CONNTRACK_PATTERN}'")


def _schema(path: str, reason: str) -> FieldError:
    return FieldError(f"spec.{path}", None, f"spec.{path} in body {reason}")


def _integer_errors(field: FelixField, value: int) -> Errors:
    low, high = BOUND_TAGS.get(field.name, ("gte", "lte"))
    if field.minimum is not None and value < field.minimum:
        yield tag(_go_name(field.name), str(value), low)
    elif field.maximum is not None and value > field.maximum:
        yield tag(_go_name(field.name), str(value), high)
    elif value > LARGEST_INTEGER:
        yield _schema(field.name, 'must be of type integer: "number"')


def _word_errors(field: FelixField, value: str) -> Errors:
    if field.one_of and not _is_one_of(field, value):
        if field.name in TAGS:
            yield tag(_go_name(field.name), value, TAGS[field.name])
        elif field.any_case:
            yield _schema(field.name, f"should match '^(?i)({'|'.join(field.one_of)})?$'")
        else:
            words = ", ".join(f'"{word}"' for word in field.one_of)
            yield FieldError(f"spec.{field.name}", None, f"supported values: {words}")
    elif field.form and value:
        yield from _form_errors(field, value)
    pattern = PATTERNS.get(field.name)
    if pattern is not None and not pattern.fullmatch(value):
        yield _schema(field.name, f"should match '{pattern.pattern}'")
    if field.name == "nodeSelector" and len(value.encode()) > LONGEST_SELECTOR:
        yield FieldError("spec.nodeSelector", None, f"may not be more than {LONGEST_SELECTOR} bytes")


def _is_one_of(field: FelixField, value: str) -> bool:
    if value == "":
        return field.any_case or field.name in EMPTY_PASSES
    if field.any_case:
        return value.lower() in {word.lower() for word in field.one_of}
    return value in field.one_of


def _form_errors(field: FelixField, value: str) -> Errors:
    name = _go_name(field.name)
    match field.form:
        case "regex":
            if not is_go_regex(value):
                yield tag(name, value, "regexp")
        case "interface":
            if value != "*" and not scalars.INTERFACE.fullmatch(value):
                yield tag(name, value, "interface")
        case "interface filter":
            if not scalars.INTERFACE_FILTER.fullmatch(value):
                yield tag(name, value, "ifaceFilter")
        case "host":
            if not HOST.fullmatch(value):
                yield tag(name, value, "prometheusHost")
        case "key=value list":
            entries = [entry.strip() for entry in value.split(",")]
            if any(entry and not KEY_VALUE.fullmatch(entry) for entry in entries):
                yield tag(name, value, "keyValueList")


def _many_errors(field: FelixField, value: Any) -> Errors:
    name = _go_name(field.name)
    if field.form == "CIDRs" and any(entry and not scalars.is_cidr(entry) for entry in value):
        yield tag(name, go_list(value), "cidrs")
    elif field.form == "interface filters" and not all(map(scalars.INTERFACE_FILTER.fullmatch, value)):
        yield tag(name, go_list(value), "ifaceFilterSlice")
    elif field.form == "keys = interfaces" and not all(map(scalars.INTERFACE.fullmatch, value)):
        pairs = " ".join(f"{key}:{value[key]}" for key in sorted(value))
        yield tag(name, f"map[{pairs}]", "bpfLogFilters")


def _health_errors(override: dict[str, str]) -> Errors:
    shown = f"{{{override['name']} {{{override['timeout']}}}}}"
    if not HEALTH_NAME.fullmatch(override["name"]):
        yield FieldError("HealthTimeoutOverride.Name", shown, f"name should match regex ^{HEALTH_NAME.pattern}$")
    if parse_duration(override["timeout"]) < 0:
        yield FieldError("HealthTimeoutOverride.Timeout", shown, "Timeout should not be negative")


def _structure(configuration: FelixConfiguration, spec: dict[str, Any]) -> Errors:
    name = configuration.metadata.name
    yield from _route_tables(spec)
    ranges = spec.get("kubeNodePortRanges", [])
    if len(ranges) > MOST_PORT_RANGES:
        reason = f"node port ranges list is too long (max {MOST_PORT_RANGES})"
        yield FieldError("KubeNodePortRanges", go_list(ranges), reason)
    for port in ranges:
        if isinstance(scalars.parse_port(port), str):
            yield FieldError("KubeNodePortRanges", go_list(ranges), "node port ranges should not contain named ports")
    for net in spec.get("externalNodesList", []):
        parsed = scalars.parse_net(net)
        if net and parsed is None:
            yield FieldError("ExternalNodesCIDRList", net, "has invalid CIDR(s)")
        elif parsed is None or parsed.version == 6:
            yield FieldError("ExternalNodesCIDRList", net, "has invalid IPv6 CIDR")
    for field, version in (
        ("natOutgoingAddress", 4), ("deviceRouteSourceAddress", 4), ("deviceRouteSourceAddressIPv6", 6)
    ):  # fmt: skip
        value = spec.get(field, "")
        if value and (not scalars.is_address(value, version) or (version == 4 and ":" in value)):
            yield FieldError(_go_name(field), value, f"is not a valid IPv{version} address")
    region = spec.get("openstackRegion", "")
    if len(region) > 46:
        yield FieldError("OpenstackRegion", region, "is too long")
    elif region and not scalars.LABEL.fullmatch(region):
        yield FieldError("OpenstackRegion", region, "must be a valid DNS label")
    if "nodeSelector" in spec and (name == "default" or name.startswith("node.")):
        reason = "nodeSelector must not be set on the 'default' or per-node ('node.*') FelixConfiguration"
        yield FieldError("FelixConfiguration", None, reason)


def _route_tables(spec: dict[str, Any]) -> Errors:
    single, ranges = spec.get("routeTableRange"), spec.get("routeTableRanges")
    total = 0
    for one in ranges or []:
        low, high = one["min"], one["max"]
        shown = f"{{{low} {high}}}"
        if low < 1:
            yield FieldError("RouteTableRange", shown, "cannot target indices < 1")
        elif low > high:
            yield FieldError("RouteTableRange", shown, "min value cannot be greater than max value")
        elif high > 0xFFFFFFFF:
            yield FieldError("RouteTableRange", shown, "max index too high")
        total += max(0, high - low + 1)
    if total > MOST_ROUTE_TABLES:
        shown = go_list(f"{{{one['min']} {one['max']}}}" for one in ranges or [])
        yield FieldError("RouteTableRanges", f"&{shown}", "targets too many tables")
    if single is None:
        return
    low, high = single["min"], single["max"]
    if not 1 <= low <= high <= 250:
        reason = "must be a range of route table indices within 1..250"
        yield FieldError("RouteTableRange", f"{{{low} {high}}}", reason)
    if ranges is not None:
        yield FieldError("RouteTableRange", f"&{{{low} {high}}}", "cannot be set when `RouteTableRanges` is also set")

"""The checks of one policy rule (spec/resources.md 3, rules 1-16 of its table)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.resources import EntityRule, HTTPMatch, Rule
from libcalico.model.validation.common import annotation_errors, is_selector, tag
from libcalico.net import parse_cidr

ACTIONS = ("Allow", "Deny", "Log", "Pass")
HTTP_WITHOUT_TCP = "rules that specify HTTP fields must set protocol to TCP or empty"
Errors = Iterator[FieldError]


def go_list(values: Iterable[object]) -> str:
    """A list as Go's `%v` prints it."""
    return "[" + " ".join(str(value) for value in values) + "]"


def rule_errors(rule: Rule) -> Errors:
    """Every bad field of a rule."""
    yield from _fields(rule)
    yield from _ports_need_protocol(rule)
    yield from _icmp(rule)
    yield from _nets(rule)
    yield from _services(rule)
    yield from _global_selectors(rule)
    if rule.http is not None:
        yield from _http(rule, rule.http)


def _fields(rule: Rule) -> Errors:
    if rule.action not in ACTIONS:
        yield tag("Action", rule.action, "action")
    if rule.ip_version not in (None, 4, 6):
        yield tag("IPVersion", str(rule.ip_version), "ipVersion")
    for protocol in (rule.protocol, rule.not_protocol):
        yield from protocol_errors(protocol)
    for icmp in (rule.icmp, rule.not_icmp):
        if icmp is None:
            continue
        if icmp.type is not None and not 0 <= icmp.type <= 254:
            yield tag("Type", str(icmp.type), "lte" if icmp.type > 254 else "gte")
        if icmp.code is not None and not 0 <= icmp.code <= 255:
            yield tag("Code", str(icmp.code), "lte" if icmp.code > 255 else "gte")
        if icmp.code is not None and icmp.type is None:
            yield FieldError("Code", str(icmp.code), "ICMP code specified without an ICMP type")
    for side in (rule.source, rule.destination):
        yield from _entity(side)
    if rule.metadata is not None:
        yield from annotation_errors(rule.metadata.annotations)


def protocol_errors(protocol: int | str | None) -> Errors:
    """A name that is not known, or a number that no protocol has."""
    if isinstance(protocol, str) and protocol not in scalars.PROTOCOL_NAMES:
        yield FieldError("Protocol", protocol, "protocol name invalid")
    elif isinstance(protocol, int) and not 1 <= protocol <= 255:
        yield FieldError("Protocol", str(protocol), "protocol number invalid")


def _entity(side: EntityRule) -> Errors:
    for name, nets in (("Nets", side.nets), ("NotNets", side.not_nets)):
        for place, net in enumerate(nets):
            if not scalars.is_net(net):
                yield tag(f"{name}[{place}]", net, "net")
    for field, value in (
        ("Selector", side.selector), ("NotSelector", side.not_selector), ("NamespaceSelector", side.namespace_selector)
    ):  # fmt: skip
        if value and not is_selector(value):
            yield tag(field, value, "selector")
    for port in [*side.ports, *side.not_ports]:
        yield from port_errors(port)
    if side.services is not None:
        for field, value in (("Name", side.services.name), ("Namespace", side.services.namespace)):
            if value and not scalars.is_name(value):
                yield tag(field, value, "name")
    accounts = side.service_accounts.selector if side.service_accounts is not None else ""
    if accounts and not is_selector(accounts):
        yield tag("Selector", accounts, "selector")


def port_errors(port: int | str) -> Errors:
    """What is wrong with a port, a range or a port name of a rule."""
    try:
        parsed = scalars.parse_port(port)
    except ValueError as error:
        yield FieldError("Port", str(port), str(error))
        return
    if isinstance(parsed, str):
        if not (len(parsed) <= 15 and scalars.PORT_NAME.fullmatch(parsed)):
            yield tag("PortName", parsed, "portName")
    elif not (1 <= parsed[0] <= 65535 and 1 <= parsed[1] <= 65535):
        yield FieldError("Port", str(port), "port range invalid, port number must be between 1 and 65535")


def _port_lists(rule: Rule) -> list[tuple[str, list[int | str]]]:
    return [
        ("Source.Ports", rule.source.ports),
        ("Source.NotPorts", rule.source.not_ports),
        ("Destination.Ports", rule.destination.ports),
        ("Destination.NotPorts", rule.destination.not_ports),
    ]


def _ports_need_protocol(rule: Rule) -> Errors:
    if rule.protocol is None:
        for field, ports in _port_lists(rule):
            if any(not _is_name(port) for port in ports):
                reason = "rules with numeric port or port range must set protocol to TCP or UDP or SCTP"
                yield FieldError(field, go_list(ports), reason)
    elif scalars.protocol_number(rule.protocol) not in scalars.PROTOCOLS_WITH_PORTS:
        for field, ports in _port_lists(rule):
            if ports:
                reason = "rules that specify ports must set protocol to TCP or UDP or SCTP"
                yield FieldError(field, go_list(ports), reason)


def _is_name(port: int | str) -> bool:
    try:
        return isinstance(scalars.parse_port(port), str)
    except ValueError:
        return False


def _icmp(rule: Rule) -> Errors:
    if rule.icmp is not None and rule.protocol not in ("ICMP", "ICMPv6"):
        value = f"&{{{_go(rule.icmp.type)} {_go(rule.icmp.code)}}}"
        yield FieldError("ICMP", value, "rules that specify ICMP fields must set protocol to ICMP")
    for name, version in (("ICMP", 4), ("ICMPv6", 6)):
        if name in (rule.protocol, rule.not_protocol) and rule.ip_version not in (None, version):
            reason = f"must set ipversion to '{version}' with protocol {name.lower()}"
            yield FieldError("IPVersion", str(rule.ip_version), reason)


def _go(value: int | None) -> str:
    return "<nil>" if value is None else str(value)


def _nets(rule: Rule) -> Errors:
    seen: set[int] = set()
    for field, nets in (
        ("Source.Nets", rule.source.nets), ("Source.NotNets", rule.source.not_nets),
        ("Destination.Nets", rule.destination.nets), ("Destination.NotNets", rule.destination.not_nets),
    ):  # fmt: skip
        parsed = [parse_cidr(net) for net in nets]
        for net, one in zip(nets, parsed, strict=True):
            if "/" not in net or one is None:
                yield FieldError(field, net, "invalid CIDR")
        versions = {one.family for one in parsed if one is not None}
        if rule.ip_version is not None and versions - {rule.ip_version}:
            yield FieldError(field, go_list(nets), "rule IP version doesn't match CIDR version")
        if versions and len(seen | versions) > 1:
            yield FieldError(field, go_list(nets), "rule contains both IPv4 and IPv6 CIDRs")
        seen |= versions
        if field.endswith("NotNets"):
            for net, one in zip(nets, parsed, strict=True):
                if one is not None and one.length == 0:
                    reason = "catch-all CIDR in negation creates logical contradiction (matches no traffic)"
                    yield FieldError(field, net, reason)


def _services(rule: Rule) -> Errors:
    for name, side in (("Source", rule.source), ("Destination", rule.destination)):
        services = side.services
        if services is None:
            continue
        shown = f"&{{{services.name} {services.namespace}}}"
        if not services.name:
            yield FieldError("Services field", shown, "must specify a service name")
        if side.selector or side.not_selector:
            reason = "cannot specify Selector/NotSelector and Services on the same rule"
            yield FieldError("Services field", shown, reason)
        if side.namespace_selector:
            reason = "cannot specify NamespaceSelector and Services on the same rule"
            yield FieldError("Services field", shown, reason)
        if side.service_accounts is not None:
            reason = "cannot specify ServiceAccounts and Services on the same rule"
            yield FieldError("Services field", shown, reason)
        if side.nets or side.not_nets:
            yield FieldError("Services field", shown, "cannot specify Nets/NotNets and Services on the same rule")
        if name == "Destination":
            for field, word, ports in (
                ("Destination.Ports", "ports", side.ports), ("Destination.NotPorts", "notports", side.not_ports)
            ):  # fmt: skip
                if ports:
                    yield FieldError(field, go_list(ports), f"cannot specify {word} with a service selector")


def _global_selectors(rule: Rule) -> Errors:
    for side in (rule.source, rule.destination):
        if "global(" in side.selector:
            reason = "global() can only be used in an EntityRule namespaceSelector"
            yield FieldError("Selector field", side.selector, reason)
        text = side.namespace_selector
        if "global(" in text and "".join(text.split()) != "global()":
            yield FieldError("NamespaceSelector field", text, "global() cannot be combined with other selectors")


def _http(rule: Rule, http: HTTPMatch) -> Errors:
    paths = go_list([f"{{{path.exact} {path.prefix}}}" for path in http.paths])
    if rule.action != "Allow":
        yield FieldError("HTTP", f"&{{{go_list(http.methods)} {paths}}}", "only valid for Allow rules")
    if rule.protocol not in (None, "TCP", 6):
        yield FieldError("Protocol", str(rule.protocol), HTTP_WITHOUT_TCP)
    if len(set(http.methods)) < len(http.methods):
        methods = go_list(http.methods)
        yield FieldError("Methods", methods, f"Invalid methods (duplicates): {methods}")
    for path in http.paths:
        reason = _path_error(path.exact, path.prefix)
        if reason:
            yield FieldError("Paths", paths, reason)
            return


def _path_error(exact: str, prefix: str) -> str:
    if exact and prefix:
        return "Invalid path match. Both 'exact' and 'prefix' are set"
    text = exact or prefix
    if not text:
        return "Invalid path match. Either 'exact' or 'prefix' must be set"
    if not text.startswith("/") or any(character in text for character in "? #"):
        return f"Invalid path {text}. (must start with `/` and not contain `?` or `#`"
    return ""

"""Tests for single values: names, labels, addresses, ports (spec/resources.md 1.2, 1.3, 2)."""

from __future__ import annotations

import base64
import ipaddress
import re

from libcalico.net import bare_address, parse_address, parse_cidr

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LABEL_PATTERN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN_PATTERN = rf"{LABEL_PATTERN}(\.{LABEL_PATTERN})*"
QUALIFIED_PATTERN = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL = re.compile(LABEL_PATTERN)
SUBDOMAIN = re.compile(SUBDOMAIN_PATTERN)
QUALIFIED = re.compile(QUALIFIED_PATTERN)
INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
INTERFACE_FILTER = re.compile(r"[a-zA-Z0-9:._+-]{1,15}")
CONTAINER_ID = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")
DECODED_PORT_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
MAC = re.compile(
    r"([0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){7}|[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){19}"
    r"|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){2}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){3}|[0-9a-fA-F]{4}(\.[0-9a-fA-F]{4}){9}"
    r"|[0-9a-fA-F]{12}|[0-9a-fA-F]{16}|[0-9a-fA-F]{40})"
)
DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))*")
PROTOCOL_NAMES = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
PROTOCOLS_WITH_PORTS = frozenset((6, 17, 132))
LONGEST_NAME = 253
LARGEST_PORT = 65535
LONGEST_LABEL_VALUE = 63
QUALIFIED_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
    " (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{QUALIFIED_PATTERN}')"
)
LABEL_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    r" '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
PREFIX_RULE = (
    "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and"
    " must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    f" '{SUBDOMAIN_PATTERN}')"
)


def is_name(text: str) -> bool:
    """A DNS subdomain."""
    return SUBDOMAIN.fullmatch(text) is not None


def label_key_errors(key: str) -> list[str]:
    """What is wrong with a label's key, in Kubernetes' words; empty if nothing."""
    parts = key.split("/")
    errors = []
    if len(parts) > 2:
        return [
            f"a valid label key {QUALIFIED_RULE} with an optional DNS subdomain prefix and '/'"
            " (e.g. 'example.com/MyName')"
        ]
    if len(parts) == 2:
        prefix = parts[0]
        if not prefix:
            errors.append("prefix part must be non-empty")
        elif not is_name(prefix):
            errors.append(PREFIX_RULE)
        elif len(prefix) > LONGEST_NAME:
            errors.append(f"prefix part must be no more than {LONGEST_NAME} bytes")
    name = parts[-1]
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > LONGEST_LABEL_VALUE:
        errors.append(f"name part must be no more than {LONGEST_LABEL_VALUE} bytes")
    if not QUALIFIED.fullmatch(name):
        errors.append("name part " + QUALIFIED_RULE)
    return errors


def label_value_errors(value: str) -> list[str]:
    """What is wrong with a label's value."""
    errors = []
    if len(value) > LONGEST_LABEL_VALUE:
        errors.append(f"must be no more than {LONGEST_LABEL_VALUE} bytes")
    if value and not QUALIFIED.fullmatch(value):
        errors.append(LABEL_VALUE_RULE)
    return errors


def parse_net(text: str) -> IPNetwork | None:
    """The network of a text as `libcalico.net.parse_cidr` reads it, for those who calculate with the standard library's
    values; None if it is none."""
    net = parse_cidr(text)
    if net is None:
        return None
    kind = ipaddress.IPv4Network if net.family == 4 else ipaddress.IPv6Network
    return kind((net.number, net.length))


def is_mapped(text: str) -> bool:
    """An IPv4 network or address in IPv6's spelling (`::ffff:10.0.0.0/112`), which is read as IPv4."""
    net = parse_cidr(text)
    return net is not None and net.family == 4 and ":" in text


def is_masked(text: str) -> bool:
    """No bits are set beyond the prefix length."""
    net = parse_cidr(text)
    return net is not None and parse_address(bare_address(text)) == net.address


def is_cidr(text: str, version: int = 0) -> bool:
    """Any CIDR or bare address, of this IP version if one is given."""
    net = parse_cidr(text)
    return net is not None and version in (0, net.family)


def is_base64_key(text: str) -> bool:
    """A WireGuard key: 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def is_net(text: str) -> bool:
    """A CIDR without host bits, or a bare address."""
    return is_masked(text)


def is_address(text: str, version: int = 0) -> bool:
    """A bare address, of this IP version if one is given."""
    address = parse_address(text)
    return address is not None and version in (0, address.family)


def protocol_number(protocol: int | str | None) -> int | None:
    """The IP protocol number of a rule's protocol, None when it has none or it is not known."""
    if isinstance(protocol, str):
        return PROTOCOL_NAMES.get(protocol)
    return protocol


def parse_port(port: int | str) -> tuple[int, int] | str:
    """(first, last) of a port or a range, or the name. Raises ValueError in upstream's words."""
    if isinstance(port, int):
        if not 0 <= port <= LARGEST_PORT:
            raise ValueError(f"json: cannot unmarshal number {port} into Go value of type uint16")
        return port, port
    if _is_digits(port):
        if int(port) > LARGEST_PORT:
            raise ValueError(f"invalid port format ({port})")
        return int(port), int(port)
    first, colon, last = port.partition(":")
    if colon and _is_digits(first) and _is_digits(last):
        low, high = int(first), int(last)
        if low > LARGEST_PORT:
            raise ValueError(f"invalid minimum port number in range ({port})")
        if high > LARGEST_PORT:
            raise ValueError(f"invalid maximum port number in range ({port})")
        if low > high:
            raise ValueError(f"minimum port number ({low}) is greater than maximum port number ({high}) in port range")
        return low, high
    if not DECODED_PORT_NAME.fullmatch(port):
        raise ValueError(f"invalid name for named port ({port})")
    return port


def canonical_port(port: int | str) -> int | str:
    """A port as it is stored: one port is an integer, a range or a name is text. Raises ValueError."""
    parsed = parse_port(port)
    if isinstance(parsed, str):
        return parsed
    first, last = parsed
    return first if first == last else f"{first}:{last}"


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()

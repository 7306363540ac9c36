"""The `calico_*` parameters of DC/OS's config.yaml: names, defaults, what is accepted (spec/dcos.md 5). Pure.

All values are text, as in DC/OS's installer: `1450` and `'1450'` are one thing, `yes` is not `true`."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

DEFAULTS = {
    "calico_enabled": "true",
    "calico_network_cidr": "172.29.0.0/16",
    "calico_vxlan_enabled": "true",
    "calico_vxlan_port": "64000",
    "calico_vxlan_vni": "4096",
    "calico_vxlan_mtu": "1450",
    "calico_ipinip_mtu": "1480",
    "calico_veth_mtu": "1500",
}
OVERLAY_DEFAULTS = {
    "dcos_overlay_enable": "true",
    "dcos_overlay_network": {
        "vtep_subnet": "44.128.0.0/20",
        "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8"}],
    },
}
"""Of parameters that others own, what the Calico network must not overlap."""
SWITCHES = ("calico_enabled", "calico_vxlan_enabled")
RANGES: Mapping[str, tuple[int, int | None]] = {
    "calico_vxlan_port": (1025, 65535),
    "calico_vxlan_vni": (1, 16777215),
    "calico_vxlan_mtu": (552, None),
    "calico_ipinip_mtu": (552, None),
    "calico_veth_mtu": (552, None),
}
OVERLAY_VNI = 1024
OTHERS = {
    "172.31.254.0/24": "the bridge network of Mesos",
    "172.17.0.0/16": "the usual network of Docker's bridge",
    "198.51.100.0/24": "DC/OS's resolvers",
    "169.254.0.0/16": "link-local addresses, of which Calico's gateway is one",
}
"""Networks of a DC/OS host that the installer does not compare with ours."""
SMALLEST_PREFIX = 26
"""Length of a block's prefix: a network with a longer one has room for no node."""
_INTEGER = re.compile(r"[0-9]{1,10}")
_LONGEST_SHOWN = 80


class Problem(NamedTuple):
    """One parameter's trouble: name, value as given, what is wrong and what would be right."""

    parameter: str
    value: str
    message: str


class Checked(NamedTuple):
    """All parameters with defaults filled in and numbers and networks in their plain spelling; errors; warnings, which
    the installer of DC/OS would not raise. Values are of use only without errors."""

    values: dict[str, str]
    errors: list[Problem]
    warnings: list[Problem]


def check(config: Mapping[str, Any]) -> Checked:
    """Judge a whole config.yaml: text, or for `dcos_overlay_network` a structure or its JSON."""
    values, errors, warnings = dict(DEFAULTS), list[Problem](), list(_unknown(config))
    for name, default in DEFAULTS.items():
        given = config.get(name, default)
        try:
            values[name] = _one(name, given)
        except ValueError as error:
            errors.append(Problem(name, _shown(given), str(error)))
    if values["calico_enabled"] == "true" and not any(one.parameter == "calico_network_cidr" for one in errors):
        network = ipaddress.IPv4Network(values["calico_network_cidr"])
        errors += _overlaps(config, network)
        warnings += _advice(config, network)
    return Checked(values, errors, warnings)


def _one(name: str, value: object) -> str:
    """A value in its plain spelling. Raises `ValueError` with the installer's text."""
    if not isinstance(value, str):
        raise ValueError(f"Must be text but got a {type(value).__name__}")
    if name in SWITCHES:
        if value not in ("true", "false"):
            raise ValueError(f"Must be one of 'true', 'false'. Got '{_shown(value)}'.")
        return value
    if name in RANGES:
        return str(_number(name, value))
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError:
        text = f"Incorrect value for `{name}`: `{_shown(value)}`. Only IPv4 subnets are allowed"
        raise ValueError(text) from None


def _number(name: str, value: str) -> int:
    low, high = RANGES[name]
    if not _INTEGER.fullmatch(value):
        raise ValueError(f"Must be an integer but got a {type(value)}: {_shown(value)}")
    number = int(value)
    if high is None:
        if number < low:
            raise ValueError(f"Must be above or equal to {low}")
    elif not low <= number <= high:
        raise ValueError(f"Must be between {low} and {high} inclusive")
    if name == "calico_vxlan_vni" and number == OVERLAY_VNI:
        between = f"Must be between {low} and {high} inclusive"
        raise ValueError(f"{between}, and not {OVERLAY_VNI}: that is the VNI of DC/OS's overlay network")
    return number


def _shown(value: object) -> str:
    """A value for one line of text."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[: _LONGEST_SHOWN + 1])
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _unknown(config: Mapping[str, Any]) -> Iterator[Problem]:
    for name in sorted(str(name) for name in config if str(name).startswith("calico_") and name not in DEFAULTS):
        near = difflib.get_close_matches(name[:_LONGEST_SHOWN], DEFAULTS, 1)
        meant = f": {near[0]} is meant?" if near else f": known are {', '.join(DEFAULTS)}"
        yield Problem(_shown(name), _shown(config.get(name)), f"No such parameter, it has no effect{meant}")


def _overlay(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `dcos_overlay_network` says. Raises `ValueError`."""
    given = config.get("dcos_overlay_network", OVERLAY_DEFAULTS["dcos_overlay_network"])
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        raise ValueError("Must be JSON, an object with `overlays`") from None
    overlays = found.get("overlays", []) if isinstance(found, Mapping) else None
    if not isinstance(overlays, Sequence) or not all(isinstance(one, Mapping) for one in overlays):
        raise ValueError("Must be an object with `overlays`, a list of objects")
    return found  # type: ignore[no-any-return]


def _overlaps(config: Mapping[str, Any], network: ipaddress.IPv4Network) -> Iterator[Problem]:
    """Overlays' networks that the Calico network overlaps. An overlay that is no network is not judged here."""
    if config.get("dcos_overlay_enable", OVERLAY_DEFAULTS["dcos_overlay_enable"]) != "true":
        return
    try:
        overlays = _overlay(config).get("overlays", [])
    except ValueError as error:
        yield Problem("dcos_overlay_network", _shown(config.get("dcos_overlay_network")), str(error))
        return
    for overlay in overlays:
        subnet = str(overlay.get("subnet", ""))
        if _overlap(subnet, network):
            message = f"overlay subnet {_shown(subnet)} overlaps calico network {network}"
            yield Problem("calico_network_cidr", str(network), message)


def _overlap(subnet: str, network: ipaddress.IPv4Network) -> bool:
    try:
        return ipaddress.IPv4Network(subnet, strict=False).overlaps(network)
    except ValueError:
        return False


def _advice(config: Mapping[str, Any], network: ipaddress.IPv4Network) -> Iterator[Problem]:
    """What the installer lets pass and an operator should know."""
    name = "calico_network_cidr"
    try:
        vtep = str(_overlay(config).get("vtep_subnet", ""))
    except ValueError:
        vtep = ""
    for subnet, whose in {**OTHERS, vtep: "the overlay's tunnel end points (vtep_subnet)"}.items():
        if _overlap(subnet, network):
            yield Problem(name, str(network), f"overlaps {subnet}, {whose}: choose a network that no host uses")
    if network.prefixlen > SMALLEST_PREFIX:
        message = (
            f"has room for no node: a node takes a block of a /{SMALLEST_PREFIX}, masters included. A /16 has 1024"
        )
        yield Problem(name, str(network), message)

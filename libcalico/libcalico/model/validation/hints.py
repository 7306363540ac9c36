"""What a refused field may hold, for people: upstream names only the check that failed (`because of Tag: mac`)."""

from __future__ import annotations

import re

from libcalico import selector
from libcalico.errors import FieldError
from libcalico.model.scalars import is_mapped, parse_net

TAG = re.compile(r"because of Tag: (\w+)")
PROTOCOLS = "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255"
BY_TAG = {
    "acceptReturn": "Accept or Return",
    "action": "Allow, Deny, Log or Pass",
    "assignmentMode": "Automatic or Manual",
    "cidr": "an address with a length, such as 10.0.0.0/16",
    "cidrs": "addresses with a length, such as 10.0.0.0/16",
    "cidrv4": "an IPv4 address with a length, such as 10.0.0.1/24",
    "cidrv6": "an IPv6 address with a length, such as fd00::1/64",
    "containerID": "letters, digits and '-', with a letter or a digit at both ends",
    "dropAcceptReturn": "Drop, Accept or Return",
    "dropReject": "Drop or Reject",
    "interface": "1 to 15 letters, digits, '.', '-' and '_'",
    "ip": "an address, such as 10.0.0.1",
    "ipVersion": "4 or 6",
    "ipIpMode": "Never, Always or CrossSubnet",
    "ipv4": "an IPv4 address, such as 10.0.0.1",
    "ipv6": "an IPv6 address, such as fd00::1",
    "labels": "keys such as role or example.com/role, values of at most 63 letters, digits, '.', '-' and '_'",
    "logLevel": "Trace, Debug, Info, Warning, Error or Fatal",
    "mac": "six bytes in hexadecimal, such as 0a:58:0a:00:00:05",
    "name": "lower-case letters, digits and '-', with '.' between such words",
    "net": "an address, with a length or without, such as 10.0.0.0/16",
    "policyType": "Ingress or Egress",
    "portName": "a name such as http or web-1",
    "vxlanMode": "Never, Always or CrossSubnet",
}
BY_REASON = {"protocol name invalid": PROTOCOLS}


def hint_for(error: FieldError) -> str:
    """What would be right; "" when the error itself says it, or nothing better is known."""
    found = TAG.search(error.reason)
    if found is None:
        if error.field == "IPPool.Spec.CIDR" and is_mapped(error.value or ""):
            return f"an IPv4 pool in IPv4's own spelling: {parse_net(error.value or '')}"
        return BY_REASON.get(error.reason, "")
    if found[1] == "selector" and error.value is not None:
        return _selector_problem(error.value)
    return BY_TAG.get(found[1], "")


def _selector_problem(text: str) -> str:
    try:
        selector.parse(text)
    except selector.SelectorError as error:
        return str(error)
    return ""

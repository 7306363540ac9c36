"""The rule IR: what a policy means, said once. nftables, iptables and the packet matcher all render from it.

A verdict is computed as spec/felix.md 2.4 says: the tiers in order, in each tier the policies in order, in each
policy the rules in order; then the profiles. All criteria of a rule are ANDed, the entries of one list are ORed,
a negated list means "none of". Networks are values, so that no renderer parses text.
Everything is immutable and hashable: equal meaning is equal value, and a diff is `!=`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from libcalico.net import Cidr


class Action(enum.Enum):
    """What a rule does to a packet that it matches."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"
    LOG = "log"


class Direction(enum.Enum):
    """Seen from the endpoint: INGRESS is traffic to it, EGRESS traffic from it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class PortRange(NamedTuple):
    """Ports `first`..`last`, both inclusive."""

    first: int
    last: int


class IcmpMatch(NamedTuple):
    """ICMP or ICMPv6 type, and code unless None."""

    type: int
    code: int | None


class Side(NamedTuple):
    """The criteria on one end of a packet. Set names are IP set ids (spec/felix.md 3.4).

    `sets`: the address must be in every one. `port_sets`: (address, protocol, port) sets of named ports; they
    are ORed with `ports`. `not_sets`, `not_port_sets`: in none of them."""

    nets: tuple[Cidr, ...] = ()
    not_nets: tuple[Cidr, ...] = ()
    sets: tuple[str, ...] = ()
    not_sets: tuple[str, ...] = ()
    ports: tuple[PortRange, ...] = ()
    not_ports: tuple[PortRange, ...] = ()
    port_sets: tuple[str, ...] = ()
    not_port_sets: tuple[str, ...] = ()


class Rule(NamedTuple):
    """One rule. `family` 0 = both; protocols are IP protocol numbers (IANA), None = any.

    `number` is the rule's 0-based place in what the user wrote (-1 in `DENY_ALL`): part of its identity in counters and
    explanations.
    A rule that can match in one family only has `family` set; one that can never match is not in the IR at all."""

    action: Action
    number: int
    family: int = 0
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: Side = Side()
    destination: Side = Side()


DENY_ALL = (Rule(Action.DENY, -1),)
"""What stands for the rules of a policy that is too large to be enforced."""


class PolicyId(NamedTuple):
    """Kind is `GlobalNetworkPolicy`, `NetworkPolicy` or `Profile`; namespace is empty for cluster scope."""

    kind: str
    namespace: str
    name: str


class Policy(NamedTuple):
    """The rules of one policy or profile; `tier` is empty for a profile."""

    id: PolicyId
    tier: str
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]


class TierPolicies(NamedTuple):
    """The part of a tier that applies to one endpoint. `end_action` is DENY, or PASS for a tier that falls through."""

    name: str
    end_action: Action
    ingress: tuple[PolicyId, ...]
    egress: tuple[PolicyId, ...]


class EndpointPolicy(NamedTuple):
    """All that decides about one endpoint's packets: its tiers in order, then its profiles in order."""

    tiers: tuple[TierPolicies, ...]
    profiles: tuple[str, ...]


class Verdict(enum.Enum):
    """The end of an evaluation."""

    ALLOW = "allow"
    DENY = "deny"


class Packet(NamedTuple):
    """The first packet of a connection. Ports are 0 and icmp fields None where the protocol has none."""

    family: int
    protocol: int
    source: int
    destination: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None

"""Verdicts in memory: what the kernel would do with a packet, and which rule decides it.

Policies are compiled once into `calico_native.rules`; an evaluation walks tiers, policies and profiles as
spec/felix.md 2.4 says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from calico_native import rules as native_rules
from libcalico.net import Cidr
from libcalico.policy.ir import (
    Action,
    Direction,
    EndpointPolicy,
    Packet,
    Policy,
    PolicyId,
    Rule,
    Side,
    Verdict,
)

ANY = -1


class Decision(NamedTuple):
    """A verdict and who gave it: a rule of a policy or profile, the end of a tier, or the end of everything."""

    verdict: Verdict
    reason: str
    tier: str = ""
    policy: PolicyId | None = None
    rule: int | None = None


class Matcher:
    """Policies and sets that packets are judged by. `rules` is the implementation: compiled, or the Python twin."""

    def __init__(self, rules: Any = None) -> None:
        self._rules = rules or native_rules
        self.sets = self._rules.Sets()
        self._compiled: dict[tuple[PolicyId, Direction], tuple[list[Any], tuple[Rule, ...]]] = {}

    def add_policy(self, policy: Policy) -> None:
        """Add or replace a policy or profile."""
        for direction, rules in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
            self._compiled[(policy.id, direction)] = ([self._compile(rule) for rule in rules], rules)

    def set_addresses(self, name: str, members: Iterable[Cidr]) -> None:
        """Give an address set its members."""
        fresh = self._rules.AddressSet()
        for member in members:
            fresh.add(*_triple(member))
        self.sets.addresses[name] = fresh

    def set_ports(self, name: str, members: Iterable[tuple[int, int, int, int]]) -> None:
        """Give a port set its (family, address, protocol, port) members."""
        fresh = self._rules.PortSet()
        for member in members:
            fresh.add(*member)
        self.sets.ports[name] = fresh

    def decide(self, endpoint: EndpointPolicy, direction: Direction, packet: Packet) -> Decision:
        """The verdict of an endpoint on the first packet of a connection."""
        native = self._packet(packet)
        for tier in endpoint.tiers:
            policies = tier.ingress if direction is Direction.INGRESS else tier.egress
            if not policies:
                continue
            decision, passed = self._walk(policies, direction, native, tier.name)
            if decision is not None:
                return decision
            if not passed and tier.end_action is not Action.PASS:
                return Decision(Verdict.DENY, "end of tier", tier.name)
        for name in endpoint.profiles:
            decision, _ = self._walk((PolicyId("Profile", "", name),), direction, native, "")
            if decision is not None:
                return decision
        return Decision(Verdict.DENY, "no policy and no profile decided")

    def _walk(
        self, policies: tuple[PolicyId, ...], direction: Direction, packet: Any, tier: str
    ) -> tuple[Decision | None, bool]:
        for identity in policies:
            compiled = self._compiled.get((identity, direction))
            if compiled is None:
                return Decision(Verdict.DENY, "the policy is not there", tier, identity), False
            index = self._rules.first_decision(compiled[0], self.sets, packet)
            if index < 0:
                continue
            rule = compiled[1][index]
            if rule.action is Action.PASS:
                return None, True
            verdict = Verdict.ALLOW if rule.action is Action.ALLOW else Verdict.DENY
            if rule.number < 0:
                return Decision(verdict, "the policy is too large", tier, identity), False
            return Decision(verdict, "rule", tier, identity, rule.number), False
        return None, False

    def _packet(self, packet: Packet) -> Any:
        return self._rules.Packet(
            packet.family,
            packet.protocol,
            packet.source,
            packet.destination,
            packet.source_port,
            packet.destination_port,
            ANY if packet.icmp_type is None else packet.icmp_type,
            ANY if packet.icmp_code is None else packet.icmp_code,
        )

    def _compile(self, rule: Rule) -> Any:
        return self._rules.Rule(
            rule.action is not Action.LOG,
            rule.family,
            ANY if rule.protocol is None else rule.protocol,
            ANY if rule.not_protocol is None else rule.not_protocol,
            None if rule.icmp is None else (rule.icmp.type, ANY if rule.icmp.code is None else rule.icmp.code),
            None
            if rule.not_icmp is None
            else (rule.not_icmp.type, ANY if rule.not_icmp.code is None else rule.not_icmp.code),
            _side(self._rules.Side, rule.source),
            _side(self._rules.Side, rule.destination),
        )


def _side(kind: Callable[..., Any], side: Side) -> Any:
    return kind(
        tuple(map(_triple, side.nets)),
        tuple(map(_triple, side.not_nets)),
        side.sets,
        side.not_sets,
        side.ports,
        side.not_ports,
        side.port_sets,
        side.not_port_sets,
    )


def _triple(net: Cidr) -> tuple[int, int, int]:
    return net.family, net.number, net.length

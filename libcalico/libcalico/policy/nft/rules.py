"""Policies and endpoints as chains.

One IR rule becomes one kernel rule where nftables can say it in one: anonymous sets hold lists of single values, named
sets hold selectors, and lists with a prefix or range (docs/adr/0030-new-sets-go-first.md). It becomes several
alternatives with the same action for the two families when addresses are compared, and where a list of ports mixes
numbers with named ports. Every rule counts and carries its identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from libcalico.conventions import INTERFACE_PREFIX
from libcalico.net import Cidr, collapse
from libcalico.policy.ir import (
    Action,
    Direction,
    EndpointPolicy,
    IcmpMatch,
    Policy,
    PolicyId,
    PortRange,
    Rule,
    Side,
)
from libcalico.policy.nft.names import Identity, endpoint_chain, kernel_set, list_set, policy_chain, policy_word, safe
from libcalico.policy.nft.table import Set

FAMILY_WORDS = {4: ("ip", "ipv4", "icmp"), 6: ("ip6", "ipv6", "icmpv6")}
LAST_PORT = 65535
MANY_PORTS = 500
LONGEST_LOG_PREFIX = 127
LOG_WORD = re.compile("%.?")
Rules = tuple[str, ...]
Sets = dict[str, Set]


class NftOptions(NamedTuple):
    """What the agent's configuration decides about the rendering (spec/felix-config.md), and which tunnels there are:
    in which families VXLAN, and IPIP."""

    interface_prefixes: tuple[str, ...] = (INTERFACE_PREFIX,)
    pass_mark: int = 0x20000
    deny: str = "drop"
    endpoint_to_host: str = "drop"
    check_invalid: bool = True
    log_prefix: str = "calico-packet"
    log_rate: str = ""
    vxlan_port: int = 4789
    vxlan_families: frozenset[int] = frozenset()
    ipip: bool = False
    allow_vxlan_from_workloads: bool = False
    allow_ipip_from_workloads: bool = False
    nat_port_range: str = ""


def render_policy(policy: Policy, options: NftOptions) -> tuple[dict[str, Rules], Sets]:
    """The chains of a policy or profile, one for each direction (without rules a chain is empty), and the sets that
    hold their lists. Such a set is named after its members, and never changes."""
    chains, sets = {}, Sets()
    for direction, rules in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
        texts: list[str] = []
        for rule in rules:
            texts += render_rule(rule, policy, direction, options, sets)
        chains[policy_chain(policy.id, direction)] = tuple(texts)
    return chains, sets


def may_pass(policy: Policy, direction: Direction) -> bool:
    """Does a policy have a Pass rule in this direction?"""
    rules = policy.ingress if direction is Direction.INGRESS else policy.egress
    return any(rule.action is Action.PASS for rule in rules)


def render_rule(rule: Rule, policy: Policy, direction: Direction, options: NftOptions, sets: Sets) -> list[str]:
    """The kernel rules of one IR rule; `sets` gets those that they need."""
    number = "too large" if rule.number < 0 else str(rule.number)
    identity = Identity(policy_word(policy.id), policy.tier, direction.value, number)
    end = f'{_action(rule.action, policy, options)} comment "{identity.text}"'
    return [" ".join([*match, end]) for match in _alternatives(rule, sets)]


def _action(action: Action, policy: Policy, options: NftOptions) -> str:
    if action is Action.ALLOW:
        return "counter accept"
    if action is Action.DENY:
        return f"counter {options.deny}"
    if action is Action.LOG:
        limit = f"limit rate {options.log_rate} " if options.log_rate else ""
        return f'counter {limit}log prefix "{_log_prefix(policy, options)}" level info'
    if policy.id.kind == "Profile":
        return "counter return"
    return f"counter meta mark set meta mark | {options.pass_mark:#x} return"


def _log_prefix(policy: Policy, options: NftOptions) -> str:
    """`%t` is the tier, `%k` the kind in short, `%n` the name, `%p` namespace and name."""
    kind, _, full = policy_word(policy.id).partition("/")
    words = {"%t": safe(policy.tier) if policy.tier else "", "%k": kind, "%n": safe(policy.id.name), "%p": full}
    text = LOG_WORD.sub(lambda found: words.get(found[0], ""), options.log_prefix)
    return f"{text[: LONGEST_LOG_PREFIX - 2]}: "


def _alternatives(rule: Rule, sets: Sets) -> Iterator[list[str]]:
    """The matches that together are the rule's match."""
    for family in _families(rule):
        protocol = _protocol(rule)
        sources = list(_side(rule.source, "s", family, sets))
        destinations = list(_side(rule.destination, "d", family, sets))
        for icmp in _icmp(rule, family):
            for source in sources:
                for destination in destinations:
                    match = [*protocol, *icmp, *source, *destination]
                    yield [*_family_test(match, family), *match]


def _family_test(match: list[str], family: int) -> list[str]:
    """A test of the IP version, unless a comparison of addresses implies it."""
    if not family:
        return []
    word, version, _ = FAMILY_WORDS[family]
    return [] if any(part.startswith(f"{word} ") for part in match) else [f"meta nfproto {version}"]


def _families(rule: Rule) -> Sequence[int]:
    if rule.family:
        return (rule.family,)
    sides = (rule.source, rule.destination)
    by_address = any(
        side.nets or side.not_nets or side.sets or side.not_sets or side.port_sets or side.not_port_sets
        for side in sides
    )
    return (4, 6) if by_address or rule.icmp or rule.not_icmp else (0,)


def _protocol(rule: Rule) -> list[str]:
    match = []
    if rule.protocol is not None:
        match.append(f"meta l4proto {rule.protocol}")
    if rule.not_protocol is not None:
        match.append(f"meta l4proto != {rule.not_protocol}")
    return match


def _icmp(rule: Rule, family: int) -> list[list[str]]:
    word = FAMILY_WORDS[family][2] if family else ""
    positive = [] if rule.icmp is None else [_icmp_match(rule.icmp, word)]
    if rule.not_icmp is None:
        return [positive]
    wanted = rule.not_icmp
    options = [[*positive, f"{word} type != {wanted.type}"]]
    if wanted.code is not None:
        options.append([*positive, f"{word} type {wanted.type} {word} code != {wanted.code}"])
    return options


def _icmp_match(match: IcmpMatch, word: str) -> str:
    return f"{word} type {match.type}" + ("" if match.code is None else f" {word} code {match.code}")


def _side(side: Side, letter: str, family: int, sets: Sets) -> Iterator[list[str]]:
    """Matches on one end of a packet; none at all when a list has nothing for this family."""
    match: list[str] = []
    word = FAMILY_WORDS[family][0] if family else ""
    address = f"{word} {letter}addr"
    if side.nets:
        nets = _of_family(side.nets, family)
        if not nets:
            return
        if not any(net.length == 0 for net in nets):
            match.append(f"{address} {_nets(nets, sets)}")
    if side.not_nets:
        nets = _of_family(side.not_nets, family)
        if any(net.length == 0 for net in nets):
            return
        if nets:
            match.append(f"{address} != {_nets(nets, sets)}")
    match += [f"{address} @{kernel_set(name, family)}" for name in side.sets]
    match += [f"{address} != @{kernel_set(name, family)}" for name in side.not_sets]
    triple = f"{address} . meta l4proto . th {letter}port"
    match += [f"{triple} != @{kernel_set(name, family)}" for name in side.not_port_sets]
    if side.not_ports:
        match.append(f"th {letter}port {_none_of(_merged(side.not_ports), sets)}")
    if not side.ports and not side.port_sets:
        yield match
    if side.ports:
        yield [*match, f"th {letter}port {_ports(_merged(side.ports), sets)}"]
    for name in side.port_sets:
        yield [*match, f"{triple} @{kernel_set(name, family)}"]


def _of_family(nets: Sequence[Cidr], family: int) -> list[Cidr]:
    return [net for net in nets if net.family == family]


def _nets(nets: Sequence[Cidr], sets: Sets) -> str:
    """Prefixes without overlaps, as nftables wants them in one set."""
    whole = collapse(nets)
    intervals = any(not net.is_single for net in whole)
    name = f"nets{nets[0].family}"
    return _list([net.brief for net in whole], intervals, name, f"{FAMILY_WORDS[nets[0].family][1]}_addr", sets)


def _ports(ports: Sequence[PortRange], sets: Sets) -> str:
    """Many single ports are an interval set, too: others are a bitmap, to which the kernel adds in quadratic time
    (30,000 ports: 6 s against 0.4 s)."""
    texts = [str(port.first) if port.first == port.last else f"{port.first}-{port.last}" for port in ports]
    intervals = len(ports) > MANY_PORTS or any(port.first < port.last for port in ports)
    return _list(texts, intervals, "ports", "inet_service", sets)


def _list(entries: Sequence[str], intervals: bool, prefix: str, kind: str, sets: Sets) -> str:
    if len(entries) == 1:
        return entries[0]
    if not intervals:
        return "{ " + ", ".join(entries) + " }"
    name = list_set(prefix, entries)
    sets[name] = Set(kind, True, frozenset(entries))
    return f"@{name}"


def _merged(ports: Sequence[PortRange]) -> list[PortRange]:
    """Ranges without overlaps."""
    merged: list[PortRange] = []
    for port in sorted(ports):
        if merged and port.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, port.last))
        else:
            merged.append(port)
    return merged


def _none_of(ports: Sequence[PortRange], sets: Sets) -> str:
    """The match "none of these ports". A single one is written as the ports around it: nft (1.0.6) folds `th sport != A
    th dport != B` into one comparison of four bytes, which lets a packet pass that has only one of the two."""
    if len(ports) > 1 or ports[0].first < ports[0].last:
        return f"!= {_ports(ports, sets)}"
    port = ports[0].first
    around = [PortRange(0, port - 1), PortRange(port + 1, LAST_PORT)]
    return _ports(_merged([one for one in around if one.first <= one.last]), sets)


def endpoint_chains(
    interface: str,
    endpoint: EndpointPolicy,
    direction: Direction,
    policies: Mapping[PolicyId, Policy],
    options: NftOptions,
) -> dict[str, Rules]:
    """The chains that judge one interface's packets in one direction."""
    return _EndpointChains(interface, direction, policies, options).render(endpoint)


class _EndpointChains:
    """Tiers in order; after one that may pass, the rest stands in a chain of its own."""

    def __init__(
        self, interface: str, direction: Direction, policies: Mapping[PolicyId, Policy], options: NftOptions
    ) -> None:
        self.interface = interface
        self.direction = direction
        self.policies = policies
        self.options = options
        self.chains: dict[str, Rules] = {}
        self.rules: list[str] = []
        self.part = 0

    def render(self, endpoint: EndpointPolicy) -> dict[str, Rules]:
        """All chains, the first of them named after the interface."""
        self._protections()
        for tier in endpoint.tiers:
            policies = tier.ingress if self.direction is Direction.INGRESS else tier.egress
            if policies:
                self._tier(tier.name, policies, tier.end_action)
        for profile in endpoint.profiles:
            identity = PolicyId("Profile", "", profile)
            if identity not in self.policies:
                self._deny("", f"{policy_word(identity)} is not there")
                break
            self.rules.append(f"jump {policy_chain(identity, self.direction)}")
        self._deny("", "nothing decided")
        self._close()
        return self.chains

    def _protections(self) -> None:
        if self.options.check_invalid:
            self._deny("", "invalid", "ct state invalid ")
        if self.direction is Direction.INGRESS:
            return
        if not self.options.allow_vxlan_from_workloads:
            self._deny("", "vxlan", f"udp dport {self.options.vxlan_port} ")
        if not self.options.allow_ipip_from_workloads:
            self._deny("", "ipip", "meta l4proto 4 ")

    def _tier(self, name: str, policies: tuple[PolicyId, ...], end: Action) -> None:
        passing = [p for p in policies if p in self.policies and may_pass(self.policies[p], self.direction)]
        mark = self.options.pass_mark
        if passing:
            self.rules.append(f"meta mark set meta mark & {~mark & 0xFFFFFFFF:#x}")
        following = endpoint_chain(self.interface, self.direction, self.part + 1)
        for identity in policies:
            if identity not in self.policies:
                self._deny(name, f"{policy_word(identity)} is not there")
                continue
            self.rules.append(f"jump {policy_chain(identity, self.direction)}")
            if identity in passing:
                self.rules.append(f"meta mark & {mark:#x} == {mark:#x} goto {following}")
        if end is not Action.PASS:
            self._deny(name, "end of tier")
        elif passing:
            self.rules.append(f"goto {following}")
        if passing:
            self._close()
            self.part += 1

    def _deny(self, tier: str, why: str, match: str = "") -> None:
        comment = Identity(f"endpoint/{self.interface}", tier, self.direction.value, why).text
        self.rules.append(f'{match}counter {self.options.deny} comment "{comment}"')

    def _close(self) -> None:
        self.chains[endpoint_chain(self.interface, self.direction, self.part)] = tuple(self.rules)
        self.rules = []

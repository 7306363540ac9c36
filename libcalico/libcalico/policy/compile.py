"""From v3 policies and profiles to the rule IR, and to the IP sets that the rules need.

What a policy means is decided here and nowhere else: spec/felix.md 1.4, 2.8, 3.4. A policy that upstream's agent
would treat as absent (a port range with 0, numeric ports without a protocol, an unknown action) raises `BadData`; a
rule that can never match is left out.
"""

from __future__ import annotations

from typing import NamedTuple

from libcalico.errors import BadData
from libcalico.model import scalars
from libcalico.model.resources import ICMP as ModelICMP
from libcalico.model.resources import EntityRule, GlobalNetworkPolicy, NetworkPolicy, Profile
from libcalico.model.resources import Rule as ModelRule
from libcalico.net import Cidr, parse_cidrs
from libcalico.policy import limits
from libcalico.policy.ir import DENY_ALL, Action, IcmpMatch, Policy, PolicyId, PortRange, Rule, Side
from libcalico.selector import Selector, parse
from libcalico.selector.identity import unique_id
from libcalico.selector.translate import global_policy_selector, network_policy_selector, rule_selector

ACTIONS = {"allow": Action.ALLOW, "deny": Action.DENY, "pass": Action.PASS, "log": Action.LOG, "": Action.ALLOW}
PROTOCOLS = {name.lower(): number for name, number in scalars.PROTOCOL_NAMES.items()}
ICMP_PROTOCOL = {4: 1, 6: 58}
NAMED_PORT_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
PROTOCOLS_WITH_PORTS = frozenset((6, 17, 132, 136))
BOTH = frozenset((4, 6))
LARGEST_ICMP = 255
_NOTHING, _ANYBODY = EntityRule(), Side()
"""A side of which a rule says nothing: as it is stored, and as it is compiled."""


class SetSpec(NamedTuple):
    """Who is in an IP set: the addresses of all that `selector` matches; for named ports only the endpoints that carry
    one of `ports` (an IP protocol number and a name), as (address, protocol, port)."""

    id: str
    selector: Selector
    ports: frozenset[tuple[int, str]] = frozenset()


class CompiledPolicy(NamedTuple):
    """A policy ready for use. `order` None is after all numbers. `workload`: it acts on workload endpoints. `refused`:
    why it denies all instead of what its rules say; empty when it does not."""

    policy: Policy
    selector: Selector
    tier: str
    order: float | None
    ingress: bool
    egress: bool
    workload: bool
    sets: dict[str, SetSpec]
    refused: str = ""


class CompiledProfile(NamedTuple):
    """A profile's rules and the sets that they need; `refused` as above."""

    policy: Policy
    sets: dict[str, SetSpec]
    refused: str = ""


def compile_policy(resource: NetworkPolicy | GlobalNetworkPolicy) -> CompiledPolicy:
    """Raises `BadData` when the policy must be treated as absent; the message names rule and value."""
    spec, metadata = resource.spec, resource.metadata
    if isinstance(resource, NetworkPolicy):
        text = network_policy_selector(metadata.namespace, spec.selector, spec.service_account_selector)
        namespace, workload = metadata.namespace, True
    else:
        text = global_policy_selector(
            resource.spec.selector, resource.spec.namespace_selector, spec.service_account_selector
        )
        namespace, workload = "", not (resource.spec.do_not_track or resource.spec.pre_dnat)
    identity = PolicyId(type(resource).__name__, namespace, metadata.name)
    sets: dict[str, SetSpec] = {}
    types = {word.lower() for word in spec.types or ["Ingress", "Egress"]}
    tier = spec.tier or "default"
    try:
        policy = Policy(
            identity, tier, compile_rules(spec.ingress, namespace, sets), compile_rules(spec.egress, namespace, sets)
        )
        selector = parse(text)
    except BadData as error:
        raise BadData(f"{error}: the policy is treated as absent") from None
    policy, sets, refused = _bounded(policy, sets)
    return CompiledPolicy(
        policy=policy,
        selector=selector,
        tier=tier,
        order=None if spec.order is None else float(spec.order),
        ingress="ingress" in types,
        egress="egress" in types,
        workload=workload,
        sets=sets,
        refused=refused,
    )


def compile_profile(resource: Profile) -> CompiledProfile:
    """Raises `BadData` when the profile must be treated as absent."""
    identity = PolicyId("Profile", "", resource.metadata.name)
    sets: dict[str, SetSpec] = {}
    try:
        ingress = compile_rules(resource.spec.ingress, "", sets)
        egress = compile_rules(resource.spec.egress, "", sets)
    except BadData as error:
        raise BadData(f"{error}: the profile is treated as absent") from None
    return CompiledProfile(*_bounded(Policy(identity, "", ingress, egress), sets))


def _bounded(policy: Policy, sets: dict[str, SetSpec]) -> tuple[Policy, dict[str, SetSpec], str]:
    """The policy and its sets; one that would cost too much denies all and needs none, and the text says why."""
    refused = limits.excess(policy, len(sets))
    return (policy._replace(ingress=DENY_ALL, egress=DENY_ALL), {}, refused) if refused else (policy, sets, "")


def compile_rules(rules: list[ModelRule], namespace: str, sets: dict[str, SetSpec]) -> tuple[Rule, ...]:
    """The IR of a list of rules; `sets` gains those that they need."""
    compiled: list[Rule] = []
    for number, rule in enumerate(rules):
        try:
            compiled += _compile_rule(rule, number, namespace, sets)
        except BadData as error:
            raise BadData(f"rule {number}: {error}") from None
    return tuple(compiled)


def _compile_rule(rule: ModelRule, number: int, namespace: str, sets: dict[str, SetSpec]) -> list[Rule]:
    action = ACTIONS.get(rule.action.lower())
    if action is None:
        raise BadData(f"action {rule.action!r} is not Allow, Deny, Log or Pass")
    if rule.source.services is not None or rule.destination.services is not None:
        return []
    protocol, not_protocol = _protocol(rule.protocol), _protocol(rule.not_protocol)
    needed: dict[str, SetSpec] = {}
    source = _side(rule.source, protocol, namespace, needed)
    destination = _side(rule.destination, protocol, namespace, needed)
    variants = _icmp_variants(rule, protocol, _families(rule, source, destination))
    if variants:
        sets.update(needed)
    return [
        Rule(action, number, v.family, v.protocol, not_protocol, v.icmp, v.not_icmp, source, destination)
        for v in variants
    ]


def _protocol(protocol: int | str | None) -> int | None:
    if protocol is None or isinstance(protocol, int):
        return protocol
    number = PROTOCOLS.get(protocol.lower())
    if number is None:
        raise BadData(f"protocol {protocol!r} is not known")
    return number


def _families(rule: ModelRule, source: Side, destination: Side) -> frozenset[int]:
    """The IP versions in which the rule exists."""
    families = BOTH if rule.ip_version is None else frozenset((rule.ip_version,)) & BOTH
    if isinstance(rule.protocol, str) and rule.protocol.lower() == "icmp":
        families &= {4}
    elif isinstance(rule.protocol, str) and rule.protocol.lower() == "icmpv6":
        families &= {6}
    for side in (source, destination):
        if side.nets:
            families &= {net.family for net in side.nets}
        if side.not_nets:
            families &= {net.family for net in side.not_nets}
            families -= {net.family for net in side.not_nets if net.length == 0}
    return families


class _Variant(NamedTuple):
    """What is different where a rule means another one in each IP version."""

    family: int
    protocol: int | None
    icmp: IcmpMatch | None
    not_icmp: IcmpMatch | None


def _icmp_variants(rule: ModelRule, protocol: int | None, families: frozenset[int]) -> list[_Variant]:
    """The rule, once for each IP version where that matters: ICMP has another protocol number in each."""
    if not families:
        return []
    icmp, not_icmp = _icmp(rule.icmp), _icmp(rule.not_icmp)
    if icmp is None and protocol is not None and protocol not in ICMP_PROTOCOL.values():
        not_icmp = None
    if icmp is None and not_icmp is None:
        return [_Variant(next(iter(families)) if len(families) == 1 else 0, protocol, None, None)]
    return [
        _Variant(family, ICMP_PROTOCOL[family], icmp, not_icmp)
        for family in sorted(families)
        if protocol in (None, ICMP_PROTOCOL[family])
    ]


def _icmp(match: ModelICMP | None) -> IcmpMatch | None:
    if match is None or match.type is None:
        return None
    for name, number in (("type", match.type), ("code", match.code)):
        if number is not None and not 0 <= number <= LARGEST_ICMP:
            raise BadData(f"ICMP {name} {number} is not between 0 and {LARGEST_ICMP}")
    return IcmpMatch(match.type, match.code)


def _nets(texts: list[str]) -> tuple[Cidr, ...]:
    """Networks of a list; text that is none is left out, as upstream does (the client refuses to store it)."""
    return tuple(parse_cidrs(texts)[0])


def _side(side: EntityRule, protocol: int | None, namespace: str, sets: dict[str, SetSpec]) -> Side:
    if side is _NOTHING or side == _NOTHING:
        return _ANYBODY
    accounts = side.service_accounts
    text = rule_selector(
        namespace,
        side.selector,
        side.not_selector,
        side.namespace_selector,
        accounts.names if accounts else (),
        accounts.selector if accounts else "",
    )
    positive = parse(text) if text else None
    negative = None
    if side.not_selector:
        if positive is not None:
            positive = parse(f"({text}) && !({side.not_selector})")
        else:
            negative = parse(side.not_selector)
    ports, names = _ports(side.ports, protocol)
    not_ports, not_names = _ports(side.not_ports, protocol)
    keep_set = positive is not None and not (names and not ports)
    return Side(
        nets=_nets(side.nets),
        not_nets=_nets(side.not_nets),
        sets=(_net_set(positive, sets),) if keep_set and positive is not None else (),
        not_sets=(_net_set(negative, sets),) if negative is not None else (),
        ports=ports,
        not_ports=not_ports,
        port_sets=_port_sets(names, protocol, positive, sets),
        not_port_sets=_port_sets(not_names, protocol, positive, sets),
    )


def _ports(ports: list[int | str], protocol: int | None) -> tuple[tuple[PortRange, ...], list[str]]:
    ranges, names = [], []
    for port in ports:
        try:
            parsed = scalars.parse_port(port)
        except ValueError as error:
            raise BadData(str(error)) from None
        if isinstance(parsed, str):
            names.append(parsed)
            continue
        if not (1 <= parsed[0] <= 65535 and 1 <= parsed[1] <= 65535):
            raise BadData(f"port {port!r} is not between 1 and 65535")
        if protocol not in PROTOCOLS_WITH_PORTS:
            raise BadData(f"port {port!r} needs protocol TCP, UDP or SCTP")
        ranges.append(PortRange(*parsed))
    return tuple(ranges), names


def _net_set(selector: Selector, sets: dict[str, SetSpec]) -> str:
    sets[selector.id] = SetSpec(selector.id, selector)
    return selector.id


def _port_sets(
    names: list[str], protocol: int | None, selector: Selector | None, sets: dict[str, SetSpec]
) -> tuple[str, ...]:
    """All named ports of a list are one set: they are ORed, and each member carries its protocol. The identity of a
    single one is upstream's."""
    if not names:
        return ()
    numbers = list(NAMED_PORT_PROTOCOLS) if protocol is None else [protocol]
    if any(number not in NAMED_PORT_PROTOCOLS for number in numbers):
        raise BadData(f"named port {names[0]!r} needs protocol TCP, UDP or SCTP")
    ports = frozenset((number, name) for number in numbers for name in names)
    chosen = selector or parse("")
    words = sorted(f"{NAMED_PORT_PROTOCOLS[number]},{name}" for number, name in ports)
    identity = unique_id("n", f"{chosen.id},{';'.join(words)}")
    sets[identity] = SetSpec(identity, chosen, ports)
    return (identity,)

"""A BGPFilter as functions of BIRD's language (spec/bgp.md 4.5, 4.6, 12.4, 12.5). Pure.

A rule that cannot be said makes its whole direction and family "reject all": a session that has the filter then
lets nothing through, so nothing leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from calico_bird.grammar import NotBird, community_add, community_match, filter_symbol, interface_pattern
from calico_bird.routing import Problem
from libcalico.model.bgp import BGPFilterSpec, FilterOperation, FilterRule, PrefixLengthRange
from libcalico.net import Cidr, parse_cidr
from libcalico.text import shown

OPERATORS = {"Equal": "=", "NotEqual": "!=", "In": "~", "NotIn": "!~"}
WITHIN = {"Equal": "~", "NotEqual": "!~", "In": "~", "NotIn": "!~"}
"""With prefixLength: a prefix compared with a set is never equal to it."""
LARGEST_METRIC = (1 << 31) - 1
REJECT_ALL = "reject;"
IMPORT, EXPORT = "import", "export"


class FilterFunction(NamedTuple):
    """One BGPFilter's rules of one direction and family; each of `statements` is one rule. `is_broken`: it rejects
    everything, and is to be called before any other."""

    symbol: str
    by_peer_type: bool
    statements: tuple[str, ...]
    is_broken: bool = False


def filter_functions(
    name: str, spec: BGPFilterSpec | None, family: int
) -> tuple[dict[str, FilterFunction], list[Problem]]:
    """The functions of a filter by direction, for the directions that have rules of the family. What one that cannot be
    read (None) lets through is not known: both reject everything."""
    if spec is None:
        symbols = {direction: filter_symbol(name, direction, family) for direction in (IMPORT, EXPORT)}
        return {way: FilterFunction(symbol, False, (REJECT_ALL,), True) for way, symbol in symbols.items()}, []
    rules = {4: (spec.import_v4, spec.export_v4), 6: (spec.import_v6, spec.export_v6)}[family]
    functions, problems = {}, []
    for direction, of_direction in zip((IMPORT, EXPORT), rules, strict=True):
        if of_direction:
            symbol = filter_symbol(name, direction, family)
            functions[direction], found = _function(symbol, of_direction, family)
            subject = f"BGPFilter({shown(name)}) {direction}V{family}"
            problems += [Problem(subject, reason) for reason in found]
    return functions, problems


def _function(symbol: str, rules: list[FilterRule], family: int) -> tuple[FilterFunction, list[str]]:
    by_peer_type = any(rule.peer_type for rule in rules)
    statements, problems = [], []
    for place, rule in enumerate(rules):
        try:
            statement, warning = _statement(rule, family)
        except NotBird as error:
            reason = f"rule {place}: {error}: everything is rejected"
            return FilterFunction(symbol, by_peer_type, (REJECT_ALL,), True), [reason]
        statements += [statement] if statement else []
        problems += [f"rule {place}: {warning}"] if warning else []
    return FilterFunction(symbol, by_peer_type, tuple(statements)), problems


def _statement(rule: FilterRule, family: int) -> tuple[str, str]:
    """A rule as a statement, and a warning; the statement is empty if the rule never matches."""
    net, warning = _net_condition(rule, family)
    if net is None:
        return "", warning
    conditions = [condition for condition in (net, *_conditions(rule)) if condition]
    body = _body(rule)
    if not conditions:
        return body, warning
    joined = " && ".join(f"({condition})" for condition in conditions)
    return f"if ({joined}) then {{ {body} }}", warning


def _net_condition(rule: FilterRule, family: int) -> tuple[str | None, str]:
    """The condition on the route's network, "" without one, None if no route can match; and a warning."""
    if not rule.cidr:
        if rule.match_operator or rule.prefix_length is not None:
            raise NotBird("matchOperator and prefixLength need a cidr")
        return "", ""
    net = parse_cidr(rule.cidr)
    if net is None or net.family != family:
        raise NotBird(f'cidr "{shown(rule.cidr)}" is no IPv{family} network')
    if rule.match_operator not in OPERATORS:
        raise NotBird(f'matchOperator "{shown(rule.match_operator)}" is none')
    if rule.prefix_length is None:
        return f"net {OPERATORS[rule.match_operator]} {net}", ""
    least, most = _bounds(net, rule.prefix_length)
    if most < least:
        return None, f"prefixLength leaves no length for {net}: the rule is left out"
    warning = "" if rule.match_operator in ("In", "NotIn") else "Equal with prefixLength means In, NotEqual NotIn"
    return f"net {WITHIN[rule.match_operator]} [ {net}{{{least},{most}}} ]", warning


def _bounds(net: Cidr, lengths: PrefixLengthRange) -> tuple[int, int]:
    longest = 32 if net.family == 4 else 128
    least = net.length if lengths.min is None else max(lengths.min, net.length)
    return least, longest if lengths.max is None else min(lengths.max, longest)


def _conditions(rule: FilterRule) -> Iterator[str]:
    """The other conditions, each one of BIRD's terms."""
    if rule.peer_type not in ("", "eBGP", "iBGP"):
        raise NotBird(f'peerType "{shown(rule.peer_type)}" is none')
    if rule.peer_type:
        yield "same_as" if rule.peer_type == "iBGP" else "!same_as"
    if rule.source not in ("", "RemotePeers"):
        raise NotBird(f'source "{shown(rule.source)}" is none')
    if rule.source:
        yield "defined(source) && (source ~ [ RTS_BGP ])"
    if rule.interface:
        yield f"defined(ifname) && (ifname ~ {interface_pattern(rule.interface)})"
    if rule.communities is not None:
        values = rule.communities.values or []
        if len(values) != 1:
            raise NotBird("communities.values must have one value")
        yield community_match(values[0])
    if rule.as_path_prefix:
        yield f"bgp_path ~ [= {' '.join(map(str, rule.as_path_prefix))} * =]"
    if rule.priority is not None:
        yield f"defined(bgp_local_pref) && (bgp_local_pref = {_local_pref(rule.priority)})"


def _body(rule: FilterRule) -> str:
    if rule.action == "Reject":
        return REJECT_ALL
    if rule.action != "Accept":
        raise NotBird(f'action "{shown(rule.action)}" is none')
    return " ".join([*(text for operation in rule.operations for text in _operation(operation)), "accept;"])


def _operation(operation: FilterOperation) -> Iterator[str]:
    members = (operation.add_community, operation.prepend_as_path, operation.set_priority)
    if sum(member is not None for member in members) != 1:
        raise NotBird("an operation must have one of addCommunity, prependASPath, setPriority")
    if operation.add_community is not None:
        yield community_add(operation.add_community.value or "")
    elif operation.prepend_as_path is not None:
        for number in reversed(operation.prepend_as_path.prefix or []):
            yield f"bgp_path.prepend({number});"
    elif operation.set_priority is not None:
        yield f"bgp_local_pref = {_local_pref(operation.set_priority.value)};"


def _local_pref(priority: int | None) -> int:
    """What carries a route's metric: the smaller the metric, the greater the preference."""
    if priority is None or not 1 <= priority < LARGEST_METRIC:
        raise NotBird(f"priority {priority} is outside 1-{LARGEST_METRIC - 1}")
    return LARGEST_METRIC - priority

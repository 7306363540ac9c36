"""How long and how many: the limits that upstream's schema sets, reported under JSON paths (spec/resources.md 3, 4).

Profiles, WorkloadEndpoints and Nodes have no schema, hence no limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from libcalico.errors import FieldError
from libcalico.model.resources import (
    Condition,
    EntityRule,
    GlobalNetworkPolicySpec,
    HTTPMatch,
    NetworkPolicySpec,
    Rule,
)
from libcalico.model.scalars import LABEL_PATTERN, LONGEST_NAME, QUALIFIED_PATTERN
from libcalico.model.validation.common import LONGEST_SELECTOR

MOST_RULES = 1024
MOST_NETS = 256
MOST_PORTS = 50
MOST_HTTP = 20
MOST_TYPES = 2
LONGEST_PATH = 1024
LONGEST_CONDITION_TYPE = 316
LONGEST_REASON = 1024
LONGEST_MESSAGE = 32768
LARGEST_GENERATION = (1 << 63) - 513
CONDITION_STATUSES = ("True", "False", "Unknown")
CONDITION_TYPE = re.compile(rf"({LABEL_PATTERN}(\.{LABEL_PATTERN})*/)?({QUALIFIED_PATTERN})")
CONDITION_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
Errors = Iterator[FieldError]


def policy_limits(spec: NetworkPolicySpec | GlobalNetworkPolicySpec) -> Errors:
    """Limits of a policy and of its rules."""
    yield from _length("spec.selector", spec.selector, LONGEST_SELECTOR)
    yield from _length("spec.serviceAccountSelector", spec.service_account_selector, LONGEST_SELECTOR)
    if isinstance(spec, GlobalNetworkPolicySpec):
        yield from _length("spec.namespaceSelector", spec.namespace_selector, LONGEST_SELECTOR)
    yield from _count("spec.types", spec.types, MOST_TYPES)
    for name, rules in (("ingress", spec.ingress), ("egress", spec.egress)):
        yield from _count(f"spec.{name}", rules, MOST_RULES)
        for place, rule in enumerate(rules):
            yield from _rule_limits(f"spec.{name}[{place}]", rule)


def _rule_limits(path: str, rule: Rule) -> Errors:
    yield from _entity_limits(f"{path}.source", rule.source)
    yield from _entity_limits(f"{path}.destination", rule.destination)
    if rule.http is not None:
        yield from _http_limits(f"{path}.http", rule.http)


def _entity_limits(path: str, side: EntityRule) -> Errors:
    for name, selector in (
        ("selector", side.selector), ("notSelector", side.not_selector), ("namespaceSelector", side.namespace_selector)
    ):  # fmt: skip
        yield from _length(f"{path}.{name}", selector, LONGEST_SELECTOR)
    yield from _count(f"{path}.nets", side.nets, MOST_NETS)
    yield from _count(f"{path}.notNets", side.not_nets, MOST_NETS)
    yield from _count(f"{path}.ports", side.ports, MOST_PORTS)
    yield from _count(f"{path}.notPorts", side.not_ports, MOST_PORTS)
    if side.services is not None:
        yield from _length(f"{path}.services.name", side.services.name, LONGEST_NAME)


def _http_limits(path: str, http: HTTPMatch) -> Errors:
    yield from _count(f"{path}.methods", http.methods, MOST_HTTP)
    yield from _count(f"{path}.paths", http.paths, MOST_HTTP)
    for place, entry in enumerate(http.paths):
        yield from _length(f"{path}.paths[{place}].exact", entry.exact, LONGEST_PATH)
        yield from _length(f"{path}.paths[{place}].prefix", entry.prefix, LONGEST_PATH)


def condition_errors(conditions: Sequence[Condition]) -> Errors:
    """Bad members of the conditions of a status."""
    for place, condition in enumerate(conditions):
        path = f"status.conditions[{place}]"
        yield from _length(f"{path}.type", condition.type, LONGEST_CONDITION_TYPE)
        yield from _length(f"{path}.reason", condition.reason, LONGEST_REASON)
        yield from _length(f"{path}.message", condition.message, LONGEST_MESSAGE)
        if condition.status not in CONDITION_STATUSES:
            words = ", ".join(f'"{word}"' for word in CONDITION_STATUSES)
            yield FieldError(f"{path}.status", None, f"supported values: {words}")
        if condition.last_transition_time is None:
            where = f"{path}.lastTransitionTime"
            yield FieldError(where, None, f'{where} in body must be of type string: "null"')
        generation = condition.observed_generation
        if isinstance(generation, int) and not 0 <= generation <= LARGEST_GENERATION:
            where = f"{path}.observedGeneration"
            yield FieldError(where, None, f"{where} in body should be greater than or equal to 0")
        for name, value, pattern in (
            ("type", condition.type, CONDITION_TYPE), ("reason", condition.reason, CONDITION_REASON)
        ):  # fmt: skip
            if not pattern.fullmatch(value):
                yield FieldError(f"{path}.{name}", None, f"{path}.{name} in body should match '^{pattern.pattern}$'")


def _length(path: str, text: str, most: int) -> Errors:
    if len(text.encode()) > most:
        yield FieldError(path, None, f"may not be more than {most} bytes")


def _count(path: str, entries: Sequence[object], most: int) -> Errors:
    if len(entries) > most:
        yield FieldError(path, None, f"must have at most {most} items")

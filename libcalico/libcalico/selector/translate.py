"""From the selectors that a v3 object holds to the one that the calculation graph evaluates (spec/selectors.md 8).

Labels of an endpoint are flat: those of its namespace and service account come from profiles, under the prefixes
`pcns.` and `pcsa.`. A clause that does not parse is left out, as upstream does; validation should have refused it.
"""

from __future__ import annotations

from collections.abc import Sequence

from libcalico.selector import SelectorError, parse

NAMESPACE_LABEL = "projectcalico.org/namespace"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."


def prefixed(selector: str, prefix: str) -> str:
    """The canonical text of `selector` with `prefix` before each label name; empty when it does not parse."""
    try:
        return parse(selector).with_prefix(prefix).text
    except SelectorError:
        return ""


def in_namespace(namespace: str) -> str:
    """The test for objects of one namespace."""
    return f"{NAMESPACE_LABEL} == '{namespace}'"


def network_policy_selector(namespace: str, selector: str, service_account_selector: str = "") -> str:
    """What a NetworkPolicy selects."""
    result = f"({selector}) && {in_namespace(namespace)}" if selector else in_namespace(namespace)
    if service_account_selector:
        result = _and(result, prefixed(service_account_selector, SERVICE_ACCOUNT_PREFIX))
    return result


def global_policy_selector(selector: str, namespace_selector: str = "", service_account_selector: str = "") -> str:
    """What a GlobalNetworkPolicy selects; empty means everything."""
    result = selector
    if namespace_selector:
        result = _and(result, prefixed(namespace_selector, NAMESPACE_PREFIX))
        result = result.replace("all()", f"has({NAMESPACE_LABEL})")
    if service_account_selector:
        result = _and(result, prefixed(service_account_selector, SERVICE_ACCOUNT_PREFIX))
        result = result.replace("all()", f"has({SERVICE_ACCOUNT_LABEL})")
    return result


def rule_selector(
    namespace: str,
    selector: str,
    not_selector: str,
    namespace_selector: str,
    service_account_names: Sequence[str] = (),
    service_account_selector: str = "",
) -> str:
    """What one side of a rule selects; empty means that it has no positive selector.

    `namespace` is that of the policy, empty for a global policy or a profile."""
    accounts = _service_accounts(service_account_names, service_account_selector)
    chosen = f"({accounts}) && ({selector})" if accounts and selector else accounts or selector
    if namespace_selector:
        scope = prefixed(namespace_selector, NAMESPACE_PREFIX)
        scope = scope.replace("all()", f"has({NAMESPACE_LABEL})").replace("global()", f"!has({NAMESPACE_LABEL})")
    else:
        scope = in_namespace(namespace) if namespace else ""
    if scope and (chosen or not_selector or namespace_selector):
        return f"({scope}) && ({chosen})" if chosen else scope
    return chosen


def _service_accounts(names: Sequence[str], selector: str) -> str:
    by_selector = prefixed(selector, SERVICE_ACCOUNT_PREFIX) if selector else ""
    if not names:
        return by_selector
    listed = ", ".join(f"'{name}'" for name in names)
    try:
        by_name = parse(f"{SERVICE_ACCOUNT_LABEL} in {{ {listed} }}").text
    except SelectorError:
        return by_selector
    return f"({by_selector}) && ({by_name})" if by_selector else by_name


def _and(one: str, other: str) -> str:
    return f"({one}) && {other}" if one and other else one or other

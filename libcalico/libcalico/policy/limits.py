"""How large a policy may be: what it costs the kernel is counted before anything is rendered.

A rule becomes one kernel rule for each combination of IP version, ICMP alternative, and "numeric or named port" of
its two sides; each of them carries the rule's lists, which are kernel sets of their own.
docs/adr/0022-large-policies.md has the times behind the limits.
"""

from __future__ import annotations

from libcalico.policy.ir import Policy, Rule, Side

MOST_SETS = 1_000
MOST_KERNEL_RULES = 30_000
MOST_LISTS = 3_000
MOST_LIST_ENTRIES = 200_000


def excess(policy: Policy, sets: int) -> str:
    """Which limit a policy that needs so many IP sets exceeds, with the figure; empty when it exceeds none."""
    kernel_rules = lists = entries = 0
    for rule in (*policy.ingress, *policy.egress):
        count = alternatives(rule)
        kernel_rules += count
        for side in (rule.source, rule.destination):
            for found in (side.nets, side.not_nets, side.ports, side.not_ports):
                if found:
                    lists += count * (len(found) > 1)
                    entries += count * len(found)
    for figure, limit, what in (
        (sets, MOST_SETS, "selectors and named ports"),
        (kernel_rules, MOST_KERNEL_RULES, "rules in the kernel"),
        (lists, MOST_LISTS, "lists of networks or ports in these rules"),
        (entries, MOST_LIST_ENTRIES, "networks and ports in these rules"),
    ):
        if figure > limit:
            return f"{figure} {what}, the limit is {limit}: split it, or name networks by network sets"
    return ""


def alternatives(rule: Rule) -> int:
    """At most how many kernel rules a rule becomes."""
    families = 1 if rule.family else 2
    icmp = 2 if rule.not_icmp is not None and rule.not_icmp.code is not None else 1
    return families * icmp * _port_alternatives(rule.source) * _port_alternatives(rule.destination)


def _port_alternatives(side: Side) -> int:
    return max(1, bool(side.ports) + len(side.port_sets))

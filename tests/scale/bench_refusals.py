"""Policies that nftables refuses among many that it takes: python -m tests.scale.bench_refusals [GOOD BAD]

As root, in a network namespace of its own. From the flush that brings them to a table that stands, with the refused
ones closed: an endpoint that comes with them waits as long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time

from calico_felix.dataplane.backends.nft.programmer import Programmer
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.loop import Dataplane
from libcalico.calc.messages import Flush, IPSet, PortMember
from libcalico.clock import SystemClock
from libcalico.kernel import netns
from libcalico.policy.ir import Action, Direction, IcmpMatch, Policy, PolicyId, Rule, Side
from libcalico.policy.nft.names import policy_chain
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Chain
from libcalico.testing.machine import namespace_name
from tests.scale.report import report

GOOD, BAD, ROUNDS = 2_000, 400, 3
ALLOWED = Rule(Action.ALLOW, 0)
REFUSED = {
    "libnftables": Rule(Action.ALLOW, 1, 4, protocol=1, icmp=IcmpMatch(300, None)),
    "libnftables, a type": Rule(Action.ALLOW, 1, 4, source=Side(sets=("s:ports",))),
    "the kernel": ALLOWED,
}


def flush(good: int, bad: int, rule: Rule) -> Flush:
    """All policies, the refused ones among the others."""
    policies = {}
    every = (good + bad) // max(bad, 1)
    for number in range(good + bad):
        one = PolicyId("GlobalNetworkPolicy", "", f"p{number}")
        policies[one] = Policy(one, "default", (ALLOWED,), (ALLOWED, rule) if number % every == 0 else (ALLOWED,))
    sets = {"s:ports": IPSet("s:ports", True, frozenset({PortMember(4, 0x0A000001, 6, 80)}))}
    return Flush(sets, policies, {}, {}, {}, None, None, 1)  # type: ignore[arg-type]


async def measure(namespace: str, who: str, good: int, bad: int) -> float:
    """Milliseconds of one apply."""
    with netns.entered(f"/run/netns/{namespace}"):
        dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
        dataplane.context.handles.programmer = Programmer()
    dataplane.connections._found = set()
    changes = flush(good, bad, REFUSED[who])
    dataplane.on_flush(changes._replace(policies={}))
    await dataplane.writer.apply(0.0)
    dataplane.on_flush(changes)
    if who == "the kernel":
        chains = dataplane.ruleset.table.chains
        for one, policy in changes.policies.items():
            if policy is not None and len(policy.egress) > 1:
                name = policy_chain(one, Direction.EGRESS)
                chains[name] = Chain((*chains[name].rules, "jump nowhere"))
    started = time.perf_counter()
    await dataplane.writer.apply(0.0)
    took_ms = (time.perf_counter() - started) * 1000
    assert len(dataplane.ruleset.quarantined) == bad, len(dataplane.ruleset.quarantined)
    dataplane.close()
    return took_ms


def main() -> None:
    """Whoever refuses."""
    if os.geteuid() != 0:
        sys.exit("needs root")
    logging.disable(logging.CRITICAL)
    good, bad = [int(word) for word in sys.argv[1:3]] or (GOOD, BAD)
    for who in REFUSED:
        taken = []
        for _ in range(ROUNDS):
            namespace = namespace_name("refused")
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            try:
                taken.append(asyncio.run(measure(namespace, who, good, bad)))
            finally:
                subprocess.run(["ip", "netns", "del", namespace], check=False)
        report("refused policies among others, to the table that stands", "ms", taken, good=good, bad=bad, by=who)


if __name__ == "__main__":
    main()

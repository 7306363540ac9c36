"""Chains that nftables refuses, among many that it takes: all are found in one answer, whoever refuses them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from calico_felix.dataplane.backends.nft import refusals
from calico_felix.dataplane.backends.nft.programmer import Programmer
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.loop import Dataplane
from libcalico.calc.messages import Flush, IPSet, PortMember
from libcalico.clock import SystemClock
from libcalico.kernel import netns
from libcalico.kernel.nft import Nft
from libcalico.net import Cidr
from libcalico.policy.ir import Action, Direction, IcmpMatch, Policy, PolicyId, Rule, Side
from libcalico.policy.nft.names import kernel_set, policy_chain
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Chain
from libcalico.testing.machine import namespace_name

GOOD = Rule(Action.ALLOW, 0)
LIBRARY_REFUSES = Rule(Action.ALLOW, 1, 4, protocol=1, icmp=IcmpMatch(300, None))
OF_ANOTHER_TYPE = Rule(Action.ALLOW, 1, 4, source=Side(sets=("s:ports",)))
SET_IS_REFUSED = Rule(Action.DENY, 1, 4, source=Side(not_port_sets=("s:bad",)))
LARGE_SET_IS_REFUSED = Rule(Action.DENY, 1, 4, destination=Side(not_sets=("s:large",)))
EVERY, COUNT = 4, 160


@pytest.fixture
def namespace(root: None) -> Iterator[str]:
    name = namespace_name("refuse")
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=False)


def identity(number: int) -> PolicyId:
    return PolicyId("GlobalNetworkPolicy", "", f"p{number}")


@pytest.mark.parametrize(
    "bad",
    [LIBRARY_REFUSES, OF_ANOTHER_TYPE, None, SET_IS_REFUSED, LARGE_SET_IS_REFUSED],
    ids=["library", "type", "kernel", "set", "large set"],
)
async def test_every_fourth_of_many_policies_is_refused(
    namespace: str, bad: Rule | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "PIECE", 50)
    with netns.entered(f"/run/netns/{namespace}"):
        dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
        dataplane.context.handles.programmer = Programmer()
    dataplane.connections._found = set()
    policies = {}
    for number in range(COUNT):
        rules = (GOOD,) if number % EVERY or bad is None else (GOOD, bad)
        policies[identity(number)] = Policy(identity(number), "default", (GOOD,), rules)
    sets = {
        "s:ports": IPSet("s:ports", True, frozenset({PortMember(4, 0x0A000001, 6, 80)})),
        "s:bad": IPSet("s:bad", True, frozenset({PortMember(4, 0x0A000001, 300, 80)})),
    }
    if bad is LARGE_SET_IS_REFUSED:
        nets = frozenset(Cidr(4, 0x0B000000 + 256 * number, 25) for number in range(1100))
        sets["s:large"] = IPSet("s:large", False, nets)
    if bad is not SET_IS_REFUSED:
        del sets["s:bad"]
    dataplane.on_flush(Flush(sets, policies, {}, {}, {}, None, None, 1))  # type: ignore[arg-type]
    wanted = {policy_chain(identity(number), Direction.EGRESS) for number in range(0, COUNT, EVERY)}
    if bad is None:
        chains_of_all = dataplane.ruleset.table.chains
        chains_of_all.update({name: Chain((*chains_of_all[name].rules, "jump nowhere")) for name in wanted})
    if bad is LARGE_SET_IS_REFUSED:
        large = kernel_set("s:large", 4)
        one = dataplane.ruleset.table.sets[large]
        dataplane.ruleset.table.sets[large] = one._replace(elements=one.elements | {"10.0.0.0/33"})
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == wanted
    assert dataplane.context.failures.count <= 2
    with netns.entered(f"/run/netns/{namespace}"):
        listing = Programmer()._nft.run("list table inet calico")
    chains = {block.split()[0]: block for block in listing.split("\tchain ")[1:]}
    assert all("accept" not in chains[name] and "drop" in chains[name] for name in wanted)
    assert sum("accept" in chains[policy_chain(one, Direction.EGRESS)] for one in policies) == COUNT - len(wanted)
    dataplane.close()


async def test_a_table_that_others_have_deleted_is_no_fault_of_the_rules(namespace: str) -> None:
    """What differs from a table that is gone is refused; the whole is written, with the one that is bad closed."""
    with netns.entered(f"/run/netns/{namespace}"):
        dataplane = Dataplane(DataplaneConfig("here", NftOptions()), SystemClock())
        dataplane.context.handles.programmer = Programmer()
        other = Nft()
    dataplane.connections._found = set()
    policies = {identity(n): Policy(identity(n), "default", (GOOD,), (GOOD,)) for n in range(40)}
    dataplane.on_flush(Flush({}, policies, {}, {}, {}, None, None, 1))  # type: ignore[arg-type]
    await dataplane.writer.apply(0.0)
    other.run("delete table inet calico")
    changed = {one: Policy(one, "default", (GOOD, GOOD), (GOOD,)) for one in policies}
    changed[identity(7)] = Policy(identity(7), "default", (GOOD,), (LIBRARY_REFUSES,))
    dataplane.on_flush(Flush({}, changed, {}, {}, {}, None, None, 2))  # type: ignore[arg-type]
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == {policy_chain(identity(7), Direction.EGRESS)}
    assert other.run("list chain inet calico pi-gnp/p3").count("accept") == 2
    other.close()
    dataplane.close()

"""A table changed step by step is the table loaded whole: the kernel's rules, sets and maps after each delta."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from calico_felix.dataplane.backends.nft.ruleset import address_set
from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_batches import NftBatches
from libcalico.net import Cidr
from libcalico.policy.nft import table
from libcalico.policy.nft.table import Chain, Map, Table
from libcalico.testing.machine import namespace_name
from tests.netns.listing import normal
from tests.netns.random_tables import random_table

STEPS = int(os.environ.get("CALICO_DELTA_STEPS", "60"))
KINDS = ("interval4", "interval6", "hash4", "hash6")


class Kernels:
    """Two namespaces: one is changed by deltas, the other is loaded whole each time."""

    def __init__(self) -> None:
        self.names = [namespace_name("delta") for _ in range(2)]
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        self.nfts = [Nft(f"/run/netns/{name}") for name in self.names]
        self.elements = NftBatches("calico", f"/run/netns/{self.names[0]}")

    def run(self, number: int, *texts: str) -> str:
        """Run transactions in one of them; returns its table."""
        for text in texts:
            self.nfts[number].run(text)
        return self.nfts[number].run("list table inet calico")

    def close(self) -> None:
        """Take them away."""
        self.elements.close()
        for nft, name in zip(self.nfts, self.names, strict=True):
            nft.close()
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def kernels(root: None) -> Iterator[Kernels]:
    made = Kernels()
    yield made
    made.close()


def test_deltas_lead_to_the_same_table(kernels: Kernels, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed} CALICO_DELTA_STEPS={STEPS}")
    dice = random.Random(seed)
    standing = random_table(dice)
    kernels.run(0, standing.render_replace())
    for step in range(STEPS):
        wanted = random_table(dice)
        changed = kernels.run(0, *wanted.render_steps(standing))
        whole = kernels.run(1, wanted.render_replace())
        assert normal(changed) == normal(whole), f"seed {seed}, step {step}"
        standing = wanted


def random_sets(dice: random.Random) -> Table:
    """Sets of both kinds and families and a map, of a few members or many."""
    made = Table()
    for family in (4, 6):
        full = 32 if family == 4 else 128
        for kind in ("interval", "hash"):
            members = []
            for _ in range(dice.choice((0, 3, 60))):
                length = full if kind == "hash" else full - dice.randrange(10)
                address = dice.randrange(1 << 12) + (10 << (full - 8))
                members.append(Cidr(family, address >> (full - length) << (full - length), length))
            name = f"{kind}{family}"
            made.sets[name] = address_set(members, family)
            word = "ip" if family == 4 else "ip6"
            made.chains[f"c{name}"] = Chain((f"{word} saddr @{name} counter accept",))
    names = dice.sample(range(30), dice.choice((0, 3, 20)))
    made.maps["m"] = Map("ifname : verdict", frozenset((f'"cali{n}"', f"jump c{dice.choice(KINDS)}") for n in names))
    return made


def test_members_that_change_by_batches(kernels: Kernels, request: pytest.FixtureRequest) -> None:
    """What differs in elements alone goes without libnftables, all else with it, in any order."""
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed} CALICO_DELTA_STEPS={STEPS}")
    dice = random.Random(seed)
    standing, batches = random_sets(dice), 0
    kernels.run(0, standing.render_replace())
    for step in range(STEPS):
        wanted = random_sets(dice)
        if dice.random() < 0.7:  # the same kinds of sets
            for name, one in standing.sets.items():
                if (one.type, one.interval) != (wanted.sets[name].type, wanted.sets[name].interval):
                    wanted.sets[name] = one
        changes = wanted.element_changes(standing)
        batches += changes is not None
        if changes is None:
            changed = kernels.run(0, *wanted.render_steps(standing))
        else:
            assert kernels.elements.commit(changes)
            changed = kernels.run(0)
        whole = kernels.run(1, wanted.render_replace())
        assert normal(changed) == normal(whole), f"seed {seed}, step {step}"
        standing = wanted
    assert 0 < batches < STEPS


@pytest.mark.parametrize("refills", [True, False])
@pytest.mark.parametrize("thresholds", ["as they are", "none"])
def test_members_that_change_in_any_way(
    kernels: Kernels, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, thresholds: str, refills: bool
) -> None:
    """Elements added, deleted, sets made again, flushed and filled: the kernel's sets are those of the whole table."""
    if thresholds == "none":
        for name in ("FEW_REMOVALS", "MOST_STEPS", "LARGE_READ"):
            monkeypatch.setattr(table, name, 0)
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed} CALICO_DELTA_STEPS={STEPS}")
    dice = random.Random(seed)
    standing = random_sets(dice)
    kernels.run(0, standing.render_replace())
    for step in range(STEPS):
        wanted = random_sets(dice)
        changed = kernels.run(0, *wanted.render_steps(standing, refills))
        whole = kernels.run(1, wanted.render_replace())
        assert normal(changed) == normal(whole), f"seed {seed}, step {step}"
        assert "size " not in changed
        standing = wanted

"""A table changed step by step is the table loaded whole: the kernel's rules, sets and maps after each delta."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from calico_felix.calc.graph import Graph
from calico_felix.dataplane.ruleset import Ruleset
from libcalico.kernel.nft import Nft
from libcalico.model.keys import ResourceKey, key_path
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Table
from tests.random_policies import NODE, World
from tests.services import namespace_name

STEPS = int(os.environ.get("CALICO_DELTA_STEPS", "60"))
COUNTED = re.compile(r"counter packets \d+ bytes \d+")


def ruleset(dice: random.Random) -> Table:
    """What the agent would want for a random world."""
    graph = Graph(NODE)
    for revision, resource in enumerate(World(dice).resources):
        metadata = resource["metadata"]
        key = ResourceKey(resource["kind"], metadata["name"], metadata["namespace"])
        graph.update(key_path(key).encode(), json.dumps(resource).encode(), revision + 1)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    made = Ruleset(NODE, NftOptions(vxlan_families=frozenset((4, 6)), nat_port_range="1024-2000"))
    made.on_flush(flush)
    return made.table


def normal(listing: str) -> list[str]:
    """A listing without counters, and without the order in which chains and sets were made."""
    text = COUNTED.sub("counter", listing).replace("\n\t\t     ", " ")
    blocks = re.split(r"\n(?=\t(?:chain|set|map) )", text)
    return sorted(re.sub(r"elements = \{ (.*) \}", _sorted_elements, block).strip("\n}") for block in blocks)


def _sorted_elements(match: re.Match[str]) -> str:
    return "elements = " + ", ".join(sorted(re.split(r",\s+", match.group(1))))


class Kernels:
    """Two namespaces: one is changed by deltas, the other is loaded whole each time."""

    def __init__(self) -> None:
        self.names = [namespace_name("delta") for _ in range(2)]
        for name in self.names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        self.nfts = [Nft(f"/run/netns/{name}") for name in self.names]

    def run(self, number: int, text: str) -> str:
        """Run commands in one of them; returns its table."""
        if text:
            self.nfts[number].run(text)
        return self.nfts[number].run("list table inet calico")

    def close(self) -> None:
        """Take them away."""
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
    standing = ruleset(dice)
    kernels.run(0, standing.render_replace())
    for step in range(STEPS):
        wanted = ruleset(dice)
        changed = kernels.run(0, wanted.render_delta(standing))
        whole = kernels.run(1, wanted.render_replace())
        assert normal(changed) == normal(whole), f"seed {seed}, step {step}"
        standing = wanted

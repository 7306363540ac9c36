"""Tables as the agent wants them for random worlds."""

from __future__ import annotations

import json
import random

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.graph import Graph
from libcalico.model.keys import ResourceKey, key_path
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Table
from libcalico.testing.random_policies import NODE, World


def random_table(dice: random.Random) -> Table:
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

"""A kind of which everything goes at once is named."""

from __future__ import annotations

import json

import pytest

from libcalico.calc.census import Census
from libcalico.calc.graph import Graph
from libcalico.model.keys import Key, key_path
from libcalico.testing.damaged import OBJECTS, to_bytes


def test_all_at_once_is_named_until_there_is_one_again() -> None:
    census = Census()
    assert census.take({"Node": 3, "IPPool": 1, "Tier": 1}) == []
    assert census.take({"Node": 0, "IPPool": 0, "Tier": 0}) == ["Node", "IPPool"]
    assert census.take({"Node": 0, "IPPool": 0, "Tier": 0}) == []
    assert census.vanished.keys() == {"Node", "IPPool"} and "(3)" in census.vanished["Node"]
    census.take({"Node": 1, "IPPool": 0, "Tier": 0})
    assert census.vanished.keys() == {"IPPool"}


def test_one_after_the_other_is_not() -> None:
    census = Census()
    for count in (3, 2, 1, 0):
        assert census.take({"Node": count}) == []


def test_the_graph_counts_what_can_be_used() -> None:
    graph = Graph("here")

    def put(key: Key, value: bytes | None) -> None:
        graph.update(key_path(key).encode(), value, 1)

    for key, value in OBJECTS.items():
        put(key, to_bytes(value))
        put(key, json.dumps(value).encode())
    wanted = {
        "WorkloadEndpoint": 3, "policy": 2, "Profile": 1, "Tier": 1, "IPPool": 1, "Node": 2, "block": 2,
        "FelixConfiguration": 1,
    }  # fmt: skip
    assert graph.counts() == wanted
    for key in OBJECTS:
        put(key, b"[")
        put(key, None)
    assert graph.counts() == dict.fromkeys(wanted, 0)


@pytest.mark.parametrize("value", [b"[", b'{"spec":{"ipNetworks":[]}}'])
def test_an_endpoint_that_cannot_be_used_is_counted_once(value: bytes) -> None:
    graph = Graph("here")
    key = next(key for key in OBJECTS if str(key).startswith("WorkloadEndpoint"))
    path = key_path(key).encode()
    for one in (value, to_bytes(OBJECTS[key]), value, None, value):
        graph.update(path, one, 1)
    assert graph.counts()["WorkloadEndpoint"] == 0

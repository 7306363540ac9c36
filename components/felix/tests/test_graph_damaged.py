"""Nothing that is stored ends the agent's graph: one damaged object counts as absent, and the others as they were."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from calico_felix.departures import Departures
from calico_felix.parameters import PARAMETERS
from libcalico.calc.graph import Graph
from libcalico.calc.messages import Flush
from libcalico.calc.settings import Settings
from libcalico.config import Configuration
from libcalico.errors import BadData
from libcalico.model.keys import Key, ResourceKey, key_path, parse_key
from libcalico.policy.nft.rules import NftOptions
from libcalico.testing.damaged import HOST, OBJECTS, damaged_values, damages, to_bytes

STORED = {key_path(key).encode(): to_bytes(value) for key, value in OBJECTS.items()}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def result(stored: dict[bytes, bytes]) -> tuple[Graph, Flush]:
    """What a graph makes of all that is stored."""
    graph = Graph(HOST)
    for path, value in stored.items():
        graph.update(path, value, 1)
    graph.in_sync = True
    flush = graph.flush(1)
    assert flush is not None
    return graph, flush


def render(flush: Flush) -> str:
    """The agent's table."""
    ruleset = Ruleset(HOST, NftOptions())
    ruleset.on_flush(flush)
    return str(ruleset.table.render_replace())


@settings(max_examples=4 * settings().max_examples)
@given(damages())
def test_one_damaged_object_counts_as_absent(damage: tuple[bytes, bytes]) -> None:
    path, value = damage
    graph, flush = result({**STORED, path: value})
    render(flush)
    key = parse_key(path)
    is_kept = isinstance(key, ResourceKey) and key.kind in ("ClusterInformation", "FelixConfiguration")
    is_used_in_part = any(problem.endswith("they match nothing") for problem in graph.problems.values())
    if graph.problems and not is_kept and not is_used_in_part:
        assert len(graph.problems) == 1
        rest = {one: kept for one, kept in STORED.items() if one != path}
        assert flush == result(rest)[1]


@settings(max_examples=settings().max_examples * 3 // 2)
@given(st.lists(damages(), min_size=1, max_size=8))
def test_what_is_mended_leaves_no_trace(found: list[tuple[bytes, bytes]]) -> None:
    graph, _ = result(STORED)
    departures = Departures(graph, lambda _interface: True)
    for number, (path, value) in enumerate(found):
        departures.update(path, value, 2, 0.0)
        if number % 2:
            assert graph.flush() is not None
    for path, _ in found:
        departures.update(path, STORED.get(path), 3, 0.0)
    departures.settle(1000.0)
    for path in STORED:
        departures.update(path, STORED[path], 4, 2000.0)
    graph.flush()
    assert graph.problems == {}
    whole = Graph(HOST)
    for path, value in STORED.items():
        whole.update(path, value, 4)
    whole.in_sync = True
    assert whole.flush() is not None
    assert _sent(graph) == _sent(whole)


def _sent(graph: Graph) -> Any:
    routing = graph.routing
    outs = (graph._rules._out, graph._endpoints._out, routing._routes, routing._vteps, routing._addresses)
    return [out.sent for out in outs], routing._pools_sent, graph._settings._sent, graph.datastore_ready


@given(damaged_values(ResourceKey("FelixConfiguration", "default")))
def test_settings_that_cannot_be_used_are_bad_data(value: bytes) -> None:
    graph, flush = result({**STORED, key_path(ResourceKey("FelixConfiguration", "default")).encode(): value})
    configuration = Configuration(PARAMETERS)
    configuration.load_datastore(flush.configuration or {})
    try:
        configuration.resolve()
    except BadData:
        pass
    assert isinstance(Settings(HOST).merged(), dict) and graph is not None


@pytest.mark.parametrize(
    ("key", "where", "leaf"),
    [
        (ResourceKey("Tier", "default"), ("spec", "order"), 10**400),
        (ResourceKey("GlobalNetworkPolicy", "g"), ("spec", "order"), 10**400),
        (ResourceKey("WorkloadEndpoint", f"{HOST}-cni-c1-eth0", "default"), ("spec", "ports", 0, "port"), 65536),
        (ResourceKey("WorkloadEndpoint", f"{HOST}-cni-c1-eth0", "default"), ("spec", "ports", 0, "port"), 1 << 70),
        (ResourceKey("GlobalNetworkPolicy", "g"), ("spec", "ingress", 1, "icmp", "type"), 256),
        (ResourceKey("GlobalNetworkPolicy", "g"), ("spec", "ingress", 0, "protocol"), 256),
    ],
)
def test_numbers_that_the_kernel_does_not_know_stay_outside(key: Key, where: tuple[Any, ...], leaf: Any) -> None:
    from libcalico.testing.damaged import replaced

    graph, _ = result({**STORED, key_path(key).encode(): to_bytes(replaced(OBJECTS[key], where, leaf))})
    assert list(graph.problems) == [str(key)]


def test_the_key_names_the_object() -> None:
    """A value that says that it is another object must not take that one's place."""
    stolen = to_bytes({"metadata": {"name": "p"}, "spec": {"ingress": [{"action": "Deny"}]}})
    graph, flush = result({**STORED, key_path(ResourceKey("Profile", "q")).encode(): stolen})
    assert flush.policies == result(STORED)[1].policies
    misnamed = to_bytes({"metadata": {"name": HOST}, "spec": {"bgp": {"ipv4Address": "10.1.0.77/24"}}})
    graph, flush = result({**STORED, key_path(ResourceKey("Node", "other")).encode(): misnamed})
    assert graph.routing.own is not None and graph.routing.own.addresses[0] == "10.1.0.1"


def test_a_problem_is_short_printable_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.disable(logging.NOTSET)
    caplog.set_level("WARNING")
    graph, _ = result(STORED)
    caplog.clear()
    spec = {"selector": "a == '\x1b[31m\n" + "x" * 1_000_000, "ingress": [{"action": "\x1b" * 1_000_000}]}
    path = key_path(ResourceKey("GlobalNetworkPolicy", "bad")).encode()
    for number in range(3):
        graph.update(path, to_bytes({"spec": spec, "metadata": {"uid": str(number)}}), number)
        graph.update(b"/calico/resources/v3/projectcalico.org/tiers/\xff\n" + b"x" * 100_000, b"{}", number)
    (stray, problem) = sorted(graph.problems.items())
    for name, text in (stray, problem):
        assert len(name) < 300 and len(text) < 2500 and (name + text).isprintable()
    assert len(caplog.records) == 2

"""What vanishes from the datastore while this host uses it: when the loss is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calico_felix.departures import HOLD_S, LONGEST_HOLD_S, Departures
from libcalico.calc.graph import Graph
from libcalico.model.keys import BlockKey, Key, ResourceKey, key_path

HOST = "here"
ENDPOINT = ResourceKey("WorkloadEndpoint", f"{HOST}-cni-a-eth0", "default")
BLOCK = BlockKey("10.0.0.0/30")


class World:
    """A graph behind departures, with one container that uses one of everything."""

    def __init__(self) -> None:
        self.graph = Graph(HOST)
        self.interfaces = {"calia"}
        self.departures = Departures(self.graph, self.interfaces.__contains__)
        self.now_s = 0.0
        self.put(ENDPOINT, endpoint("a"))
        self.put(ResourceKey("Profile", "p"), {"spec": {"ingress": [{"action": "Allow"}]}})
        self.put(ResourceKey("Profile", "other"), {"spec": {}})
        self.put(ResourceKey("Node", HOST), {"spec": {"bgp": {"ipv4Address": "10.1.0.1/24"}}})
        self.put(ResourceKey("Node", "there"), {"spec": {"bgp": {"ipv4Address": "10.1.0.2/24"}}})
        self.put(ResourceKey("Node", "idle"), {"spec": {"bgp": {"ipv4Address": "10.1.0.3/24"}}})
        self.put(ResourceKey("IPPool", "pool"), {"spec": {"cidr": "10.0.0.0/16", "vxlanMode": "Always"}})
        self.put(ResourceKey("Tier", "default"), {"spec": {"order": 1000000}})
        self.put(ResourceKey("FelixConfiguration", "default"), {"spec": {"vxlanPort": 64000}})
        self.put(ResourceKey("GlobalNetworkPolicy", "g"), {"spec": {"selector": "all()"}})
        self.put(BLOCK, block(0))
        self.put(BlockKey("10.0.0.4/30"), block(None, "10.0.0.4/30"))
        self.graph.in_sync = True
        assert self.graph.flush() is not None

    def put(self, key: Key, value: Any) -> None:
        stored = None if value is None else json.dumps(value).encode()
        self.departures.update(key_path(key).encode(), stored, 1, self.now_s)

    def is_believed(self, key: Key) -> bool:
        """Does the graph take a deletion for true at once?"""
        self.put(key, None)
        return key not in self.departures


def endpoint(name: str, **more: Any) -> dict[str, Any]:
    spec = {
        "node": HOST, "orchestrator": "cni", "containerID": name, "endpoint": "eth0", "interfaceName": f"cali{name}",
        "ipNetworks": ["10.0.0.1/32"], "profiles": ["p"], **more,
    }  # fmt: skip
    return {"metadata": {"name": f"{HOST}-cni-{name}-eth0", "namespace": "default"}, "spec": spec}


def block(index: int | None, cidr: str = BLOCK.cidr) -> dict[str, Any]:
    attributes = [] if index is None else [{"handle_id": "h", "secondary": {"node": "there"}}]
    return {
        "cidr": cidr, "affinity": "host:there", "allocations": [index, None, None, None],
        "unallocated": [1, 2, 3], "attributes": attributes, "sequenceNumber": 1,
    }  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    "key",
    [
        ENDPOINT, BLOCK, ResourceKey("Profile", "p"), ResourceKey("Node", HOST), ResourceKey("Node", "there"),
        ResourceKey("IPPool", "pool"), ResourceKey("Tier", "default"), ResourceKey("FelixConfiguration", "default"),
    ],
)  # fmt: skip
def test_what_containers_need_is_kept_for_a_while(world: World, key: Key) -> None:
    assert not world.is_believed(key)
    assert world.departures.describe().keys() == {str(key)}
    world.departures.settle(HOLD_S - 1)
    flush = world.graph.flush()
    assert flush is not None and flush.empty
    world.departures.settle(HOLD_S)
    flush = world.graph.flush()
    assert flush is not None and not world.departures


@pytest.mark.parametrize(
    "key",
    [
        ResourceKey("Profile", "other"), ResourceKey("Node", "idle"), ResourceKey("GlobalNetworkPolicy", "g"),
        BlockKey("10.0.0.4/30"), ResourceKey("IPPool", "unknown"),
    ],
)  # fmt: skip
def test_what_nothing_needs_goes_at_once(world: World, key: Key) -> None:
    assert world.is_believed(key)


def test_an_endpoint_without_its_interface_goes_at_once(world: World) -> None:
    """What every DEL looks like."""
    world.interfaces.clear()
    assert world.is_believed(ENDPOINT)


def test_an_interface_that_goes_later_takes_its_endpoint_along(world: World) -> None:
    assert not world.is_believed(ENDPOINT)
    world.interfaces.clear()
    world.departures.settle(0.1)
    flush = world.graph.flush()
    assert flush is not None and flush.endpoints == {ENDPOINT: None}


@pytest.mark.parametrize(
    "more", [{"interfaceName": "calia", "ipNetworks": ["10.0.0.9/32"]}, {}], ids=["name", "address"]
)
def test_a_successor_has_the_interface_and_the_address_at_once(world: World, more: dict[str, Any]) -> None:
    assert not world.is_believed(ENDPOINT)
    world.put(ENDPOINT._replace(name=f"{HOST}-cni-b-eth0"), endpoint("b", **more))
    world.departures.settle(0.1)
    flush = world.graph.flush()
    assert flush is not None and flush.endpoints[ENDPOINT] is None


def test_what_comes_back_was_never_gone(world: World) -> None:
    assert not world.is_believed(ENDPOINT)
    world.put(ENDPOINT, endpoint("a"))
    world.departures.settle(HOLD_S + 1)
    flush = world.graph.flush()
    assert flush is not None and flush.endpoints.get(ENDPOINT, ENDPOINT) is not None


def test_one_loss_after_the_other_prolongs_the_wait_within_limits(world: World) -> None:
    assert not world.is_believed(ENDPOINT)
    step_s = HOLD_S - 1
    for _ in range(int(LONGEST_HOLD_S / step_s) - 1):
        world.now_s += step_s
        world.departures.settle(world.now_s)
        assert ENDPOINT in world.departures
        world.put(ResourceKey("Tier", "default"), {"spec": {"order": 1}})
        assert not world.is_believed(ResourceKey("Tier", "default"))
    world.departures.settle(LONGEST_HOLD_S)
    assert ENDPOINT not in world.departures

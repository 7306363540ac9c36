"""The calculation graph: from what is stored to what the dataplane is told."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from libcalico.calc.graph import Graph
from libcalico.calc.messages import Flush, IPSetDelta, NodeAddresses
from libcalico.calc.routes import PLAIN
from libcalico.conventions import CLOSED
from libcalico.model.keys import BlockKey, ResourceKey, key_path
from libcalico.net import Cidr
from libcalico.policy.ir import DENY_ALL, Action, PolicyId
from libcalico.policy.nft.rules import NftOptions
from libcalico.testing.random_policies import World

HOST = "here"


class Datastore:
    """Feeds a graph, and keeps what its flushes add up to."""

    def __init__(self) -> None:
        self.graph = Graph(HOST)
        self.graph.in_sync = True
        self.state: dict[str, dict[Any, Any]] = {
            name: {} for name in ("sets", "policies", "endpoints", "routes", "vteps", "hosts")
        }
        self.pools: Any = None
        self._revision = 0

    def put(self, kind: str, name: str, spec: Any, namespace: str = "", **metadata: Any) -> None:
        value = {"kind": kind, "metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec}
        self.raw(ResourceKey(kind, name, namespace), value)

    def raw(self, key: Any, value: Any) -> None:
        self._revision += 1
        self.graph.update(key_path(key).encode(), None if value is None else json.dumps(value).encode(), self._revision)

    def flush(self) -> Flush:
        flush = self.graph.flush()
        assert flush is not None
        for name, kept in self.state.items():
            for key, value in getattr(flush, name).items():
                if value is None:
                    del kept[key]
                elif isinstance(value, IPSetDelta):
                    assert not value.added & kept[key].members and value.removed <= kept[key].members
                    kept[key] = kept[key]._replace(members=kept[key].members - value.removed | value.added)
                else:
                    kept[key] = value
        self.pools = flush.pools or self.pools
        return flush

    def endpoint(self, name: str, labels: dict[str, str], node: str = HOST, **spec: Any) -> None:
        self.put(
            "WorkloadEndpoint", f"{node}-cni-{name}-eth0",
            {"node": node, "orchestrator": "cni", "containerID": name, "endpoint": "eth0",
             "interfaceName": f"cali{name}", "ipNetworks": ["10.0.0.1/32"], **spec},
            "default", labels=labels,
        )  # fmt: skip

    def policy_of(self, name: str) -> Any:
        return self.state["endpoints"][ResourceKey("WorkloadEndpoint", f"{HOST}-cni-{name}-eth0", "default")].policy


@pytest.fixture
def store() -> Datastore:
    return Datastore()


def gnp(name: str) -> PolicyId:
    return PolicyId("GlobalNetworkPolicy", "", name)


@pytest.mark.parametrize("seed", range(40))
def test_the_way_to_a_state_does_not_matter(seed: int) -> None:
    """Random updates and deletions with flushes in between end where one update of each object ends."""
    dice = random.Random(seed)
    worlds = [World(dice), World(dice)]
    steps = [resource for world in worlds for resource in world.resources for _ in range(2)]
    dice.shuffle(steps)
    travelled, final = Datastore(), {}
    for resource in steps:
        metadata = resource["metadata"]
        key = ResourceKey(resource["kind"], metadata["name"], metadata["namespace"])
        value = None if dice.random() < 0.3 else resource
        travelled.raw(key, value)
        final[key] = value
        if dice.random() < 0.2:
            travelled.flush()
    travelled.flush()
    direct = Datastore()
    keys = list(final)
    dice.shuffle(keys)
    for key in keys:
        direct.raw(key, final[key])
    direct.flush()
    for state in (travelled.state, direct.state):
        state["endpoints"] = {key: one._replace(revision=0) for key, one in state["endpoints"].items()}
    assert travelled.state == direct.state
    assert travelled.graph.problems == direct.graph.problems
    assert travelled.flush().empty


def test_nothing_goes_out_before_in_sync() -> None:
    graph = Graph(HOST)
    assert graph.flush() is None


def test_an_equal_update_changes_nothing(store: Datastore) -> None:
    store.put("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": [{"action": "Allow"}]})
    store.flush()
    store.put("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": [{"action": "Allow"}]})
    assert store.flush().empty


def test_only_policies_that_a_local_endpoint_needs_go_out(store: Datastore) -> None:
    store.put("GlobalNetworkPolicy", "p", {"selector": "a == '1'", "ingress": [{"action": "Allow"}]})
    store.endpoint("far", {"a": "1"}, node="there")
    store.flush()
    assert store.state["policies"] == {}
    store.endpoint("near", {"a": "1"})
    store.flush()
    assert set(store.state["policies"]) == {gnp("p")}
    store.endpoint("near", {"a": "2"})
    store.flush()
    assert store.state["policies"] == {}
    assert store.policy_of("near").tiers == ()


def test_a_closed_endpoint_passes_nothing_whatever_policies_allow(store: Datastore) -> None:
    store.put("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": [{"action": "Allow"}]})
    store.put("Profile", "open", {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]})
    key = ResourceKey("WorkloadEndpoint", f"{HOST}-libnetwork-libnetwork-e1", "default")
    spec = {
        "node": HOST, "orchestrator": "libnetwork", "workload": "libnetwork", "endpoint": "e1",
        "interfaceName": "calie1", "ipNetworks": ["10.0.0.1/32"], "profiles": ["open"],
    }  # fmt: skip
    store.put("WorkloadEndpoint", key.name, spec, "default", annotations={CLOSED: "true"})
    store.flush()
    closed = store.state["endpoints"][key]
    assert (closed.policy.tiers, closed.policy.profiles) == ((), ())
    store.put("WorkloadEndpoint", key.name, spec, "default", labels={"role": "web"})
    store.flush()
    opened = store.state["endpoints"][key]
    assert opened.policy.profiles == ("open",) and len(opened.policy.tiers) == 1
    assert opened.revision > closed.revision


def test_order_of_tiers_and_policies(store: Datastore) -> None:
    store.put("Tier", "late", {"order": 20, "defaultAction": "Pass"})
    store.put("Tier", "early", {"order": 10})
    for name, tier, order in (("a", "late", None), ("b", "late", 7), ("c", "late", 3), ("d", "early", 9)):
        store.put(
            "GlobalNetworkPolicy", name, {"tier": tier, "order": order, "selector": "all()", "types": ["Ingress"]}
        )
    store.endpoint("w", {})
    store.flush()
    early, late = store.policy_of("w").tiers
    assert (early.name, early.end_action, late.name, late.end_action) == ("early", Action.DENY, "late", Action.PASS)
    assert late.ingress == (gnp("c"), gnp("b"), gnp("a"))
    assert late.egress == ()
    store.put("Tier", "late", {"order": 5, "defaultAction": "Pass"})
    store.flush()
    assert [tier.name for tier in store.policy_of("w").tiers] == ["late", "early"]


def test_a_policy_that_cannot_be_used_is_absent_and_reported_until_it_is_mended(store: Datastore) -> None:
    store.endpoint("w", {})
    bad = {"selector": "all()", "ingress": [{"action": "Allow", "destination": {"ports": [80]}}]}
    store.put("GlobalNetworkPolicy", "bad", bad)
    store.put("GlobalNetworkPolicy", "good", {"selector": "all()", "ingress": [{"action": "Allow"}]})
    store.raw(ResourceKey("GlobalNetworkPolicy", "number"), 7)
    store.flush()
    assert set(store.state["policies"]) == {gnp("good")}
    assert "needs protocol" in store.graph.problems["GlobalNetworkPolicy(bad)"]
    assert "GlobalNetworkPolicy(number)" in store.graph.problems
    bad["ingress"][0]["protocol"] = "TCP"  # type: ignore[index]
    store.put("GlobalNetworkPolicy", "bad", bad)
    store.raw(ResourceKey("GlobalNetworkPolicy", "number"), None)
    store.flush()
    assert set(store.state["policies"]) == {gnp("bad"), gnp("good")}
    assert store.graph.problems == {}


@pytest.mark.parametrize("kind", ["GlobalNetworkSet", "NetworkSet"])
def test_nets_of_a_set_that_cannot_be_read_are_reported_until_they_are_mended(store: Datastore, kind: str) -> None:
    namespace = "default" if kind == "NetworkSet" else ""
    store.put(kind, "s", {"nets": ["10.0.0.0/8", "10.0.0.0/33", "junk"]}, namespace=namespace)
    store.flush()
    (problem,) = store.graph.problems.values()
    assert problem.startswith("2 of its nets cannot be read, first '10.0.0.0/33': they match nothing")
    store.put(kind, "s", {"nets": ["10.0.0.0/8"]}, namespace=namespace)
    store.flush()
    assert store.graph.problems == {}


@pytest.mark.parametrize("kind", ["GlobalNetworkPolicy", "Profile"])
def test_what_is_too_large_denies_and_is_reported_until_it_is_smaller(store: Datastore, kind: str) -> None:
    """It stays in its place, so that nothing after it allows what it might deny; the others go on."""

    def put(selectors: int) -> None:
        rules = [{"action": "Allow", "source": {"selector": f"a == '{number}'"}} for number in range(selectors)]
        spec = {"ingress": rules} | ({"selector": "all()"} if kind == "GlobalNetworkPolicy" else {})
        store.put(kind, "p", spec)

    store.endpoint("a", {}, profiles=["p"])
    put(3)
    store.flush()
    assert len(store.state["sets"]) == 3 and store.graph.problems == {}
    put(2000)
    flush = store.flush()
    assert store.state["sets"] == {}
    (identity,) = flush.policies
    assert store.state["policies"][identity].ingress == DENY_ALL
    (problem,) = store.graph.problems.values()
    assert problem.startswith("it denies all: 2000 selectors and named ports, the limit is 1000")
    put(2)
    store.flush()
    assert len(store.state["sets"]) == 2 and store.graph.problems == {}


def test_an_endpoint_with_several_of_a_rule_s_ports_is_in_one_set(store: Datastore) -> None:
    """Two names of one port are one member, which leaves with the last of them."""
    rule = {"action": "Allow", "protocol": "TCP", "source": {"ports": ["web", "www", "dns"]}}
    store.put("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": [rule]})

    def ports(*names: str) -> set[Any]:
        numbers = {"web": 80, "www": 80, "dns": 53, "other": 1}
        store.endpoint("a", {}, ports=[{"name": n, "protocol": "TCP", "port": numbers[n]} for n in names])
        store.flush()
        (one,) = store.state["sets"].values()
        return {(member.protocol, member.port) for member in one.members}

    assert ports("web", "www", "dns", "other") == {(6, 80), (6, 53)}
    assert ports("www") == {(6, 80)}
    assert ports("other") == set()


def test_settings_that_cannot_be_read_are_not_taken_for_the_defaults(
    store: Datastore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    key = ResourceKey("FelixConfiguration", "default")
    store.put("FelixConfiguration", "default", {"vxlanPort": 4790})
    assert store.flush().configuration == {"vxlanPort": "4790"}
    store.graph.update(key_path(key).encode(), b"{garbage", 9)
    assert store.flush().configuration is None
    assert "FelixConfiguration(default)" in store.graph.problems and "FelixConfiguration(default)" in caplog.text
    store.raw(key, None)
    assert store.flush().configuration == {}
    assert store.graph.problems == {}


def test_settings_from_weak_to_strong(store: Datastore) -> None:
    settings = {"vxlanPort": 1, "vxlanVNI": 1, "ipv6Support": True, "externalNodesList": ["10.0.0.0/8", "192.0.2.1"]}
    store.put("FelixConfiguration", "default", settings)
    store.put("FelixConfiguration", "nowhere", {"vxlanMTU": 9})
    store.put("FelixConfiguration", "elsewhere", {"vxlanMTU": 9, "nodeSelector": "rack == 'b'"})
    store.put("FelixConfiguration", "broken", {"vxlanMTU": 9, "nodeSelector": "rack =="})
    rack = {"nodeSelector": "rack == 'a'", "vxlanVNI": 2, "vxlanPort": 2}
    store.put("FelixConfiguration", "a-young", {**rack, "vxlanVNI": 3}, creationTimestamp="2026-02-01T00:00:00Z")
    store.put("FelixConfiguration", "rack", rack, creationTimestamp="2026-01-01T00:00:00Z")
    store.put("FelixConfiguration", f"node.{HOST}", {"vxlanPort": 3})
    merged = {"vxlanPort": "3", "vxlanVNI": "1", "ipv6Support": "true", "externalNodesList": "10.0.0.0/8,192.0.2.1"}
    assert store.flush().configuration == merged
    store.put("Node", HOST, {}, labels={"rack": "a"})
    assert store.flush().configuration == {**merged, "vxlanVNI": "2"}
    store.put("FelixConfiguration", f"node.{HOST}", {})
    assert store.flush().configuration == {**merged, "vxlanVNI": "2", "vxlanPort": "2"}
    store.raw(ResourceKey("Node", HOST), None)
    assert store.flush().configuration == {**merged, "vxlanPort": "1"}


def test_annotations_of_settings_count_before_the_members_of_the_same_object(store: Datastore) -> None:
    note = "config.projectcalico.org/"
    annotations = {f"{note}VXLANPort": "7", f"{note}reportingintervalsecs": "9", f"{note}MTUFile": "x", "VXLANVNI": "3"}
    store.put("FelixConfiguration", "default", {"vxlanPort": 1}, annotations={**annotations, f"{note}VXLANVNI": ""})
    merged = {"vxlanPort": "7", "reportingInterval": "9", "MTUFile": "x"}
    assert store.flush().configuration == merged
    store.put("FelixConfiguration", f"node.{HOST}", {"vxlanPort": 3})
    assert store.flush().configuration == {**merged, "vxlanPort": "3"}, "of a stronger object the member counts"


def test_two_endpoints_with_one_address_share_the_member(store: Datastore) -> None:
    rule = {"action": "Allow", "source": {"selector": "a == '1'"}}
    store.put("GlobalNetworkPolicy", "p", {"selector": "all()", "ingress": [rule]})
    store.endpoint("one", {"a": "1"})
    store.endpoint("two", {"a": "1"})
    store.flush()
    (ip_set,) = store.state["sets"].values()
    assert ip_set.members == {Cidr(4, 0x0A000001, 32)}
    store.endpoint("one", {})
    assert store.flush().sets == {}
    store.endpoint("two", {})
    (change,) = store.flush().sets.values()
    assert isinstance(change, IPSetDelta) and (change.added, set(change.removed)) == (
        frozenset(),
        {Cidr(4, 0x0A000001, 32)},
    )
    store.endpoint("two", {"a": "1"})
    store.endpoint("two", {})
    assert store.flush().sets == {}


def test_labels_are_inherited_from_the_profile_and_own_ones_win(store: Datastore) -> None:
    store.put("Profile", "p", {"labelsToApply": {"a": "profile", "b": "profile"}})
    for name, value in (("a", "own"), ("b", "profile")):
        store.put("GlobalNetworkPolicy", name, {"selector": f"{name} == '{value}'", "types": ["Ingress"]})
    store.endpoint("w", {"a": "own"}, profiles=["p"])
    store.flush()
    assert store.policy_of("w").tiers[0].ingress == (gnp("a"), gnp("b"))


class TestRoutes:
    @pytest.fixture
    def store(self) -> Datastore:
        store = Datastore()
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "vxlanMode": "Always", "natOutgoing": True})
        for number, node in ((1, HOST), (2, "there"), (3, "elsewhere")):
            spec = {"bgp": {"ipv4Address": f"192.0.2.{number}/24"}, "ipv4VXLANTunnelAddr": f"10.0.{number}.0"}
            store.put("Node", node, spec)
        return store

    def block(self, store: Datastore, cidr: str, owner: str, holders: dict[int, str]) -> None:
        size = 64
        attributes = [{"handle_id": f"h{node}", "secondary": {"node": node}} for node in holders.values()]
        allocations: list[int | None] = [None] * size
        for place, ordinal in enumerate(holders):
            allocations[ordinal] = place
        store.raw(BlockKey(cidr), {
            "cidr": cidr, "affinity": f"host:{owner}", "allocations": allocations, "attributes": attributes,
            "unallocated": [n for n in range(size) if n not in holders], "strictAffinity": False,
            "sequenceNumber": 1, "sequenceNumberForAllocation": {}, "deleted": False,
        })  # fmt: skip

    def routes(self, store: Datastore) -> dict[str, tuple[str, str]]:
        store.flush()
        return {name: (route.kind, route.node) for name, route in store.state["routes"].items()}

    def test_blocks_and_borrowed_addresses(self, store: Datastore) -> None:
        self.block(store, "10.0.1.0/26", HOST, {5: HOST, 6: "there"})
        self.block(store, "10.0.2.0/26", "there", {0: "there", 7: HOST, 8: "elsewhere"})
        assert self.routes(store) == {
            "10.0.1.0/26": ("blackhole", ""),
            "10.0.1.6/32": ("vxlan", "there"),
            "10.0.2.0/26": ("vxlan", "there"),
            "10.0.2.8/32": ("vxlan", "elsewhere"),
        }
        store.raw(BlockKey("10.0.2.0/26"), None)
        assert set(self.routes(store)) == {"10.0.1.0/26", "10.0.1.6/32"}

    def test_addresses_in_no_pool_are_named(self, store: Datastore) -> None:
        self.block(store, "10.0.1.0/26", HOST, {6: HOST})
        self.block(store, "10.0.2.0/26", HOST, {})
        self.block(store, "10.0.3.0/26", "there", {1: "there"})
        assert store.graph.unmet() == []
        store.raw(ResourceKey("IPPool", "pool"), None)
        (line,) = store.graph.unmet()
        assert line.startswith("block 10.0.1.0/26: this host uses addresses of it and no IPPool contains it")

    def test_cross_subnet_goes_by_way_of_the_near_node(self, store: Datastore) -> None:
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "vxlanMode": "CrossSubnet"})
        self.block(store, "10.0.2.0/26", "there", {})
        assert self.routes(store) == {"10.0.2.0/26": ("same-subnet", "there")}
        store.put("Node", "there", {"bgp": {"ipv4Address": "198.51.100.2/24"}, "ipv4VXLANTunnelAddr": "10.0.2.0"})
        assert self.routes(store) == {"10.0.2.0/26": ("vxlan", "there")}

    def test_ipip_goes_to_the_node_s_own_address(self, store: Datastore) -> None:
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "ipipMode": "Always"})
        self.block(store, "10.0.1.0/26", HOST, {5: HOST, 6: "there"})
        self.block(store, "10.0.2.0/26", "there", {})
        assert self.routes(store) == {
            "10.0.1.0/26": ("blackhole", ""),
            "10.0.1.6/32": ("ipip", "there"),
            "10.0.2.0/26": ("ipip", "there"),
        }
        assert store.state["routes"]["10.0.2.0/26"].gateway == "192.0.2.2"
        assert store.pools is not None and (store.pools.ipip, store.pools.vxlan) == (("pool",), frozenset())
        store.put("Node", "there", {"bgp": {"ipv4Address": "198.51.100.2/24", "ipv4IPIPTunnelAddr": "10.0.2.1"}})
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "ipipMode": "CrossSubnet"})
        assert self.routes(store)["10.0.2.0/26"] == ("ipip", "there")
        assert store.state["hosts"]["there"] == NodeAddresses(("198.51.100.2", ""), "10.0.2.1")
        store.put("Node", "there", {"bgp": {"ipv4Address": "192.0.2.7/24"}})
        assert self.routes(store)["10.0.2.0/26"] == ("same-subnet", "there")
        assert store.state["routes"]["10.0.2.0/26"].gateway == "192.0.2.7"

    def test_without_encapsulation_the_agent_writes_routes_only_when_it_is_to(self, store: Datastore) -> None:
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16"})
        self.block(store, "10.0.1.0/26", HOST, {})
        self.block(store, "10.0.2.0/26", "there", {})
        assert self.routes(store) == {}, "these are BIRD's, and so are the blackholes"
        other = Datastore()
        other.graph.routing.programmed = frozenset((PLAIN,))
        other.put("IPPool", "pool", {"cidr": "10.0.0.0/16"})
        for number, name in ((1, HOST), (2, "there")):
            other.put("Node", name, {"bgp": {"ipv4Address": f"192.0.2.{number}/24"}})
        self.block(other, "10.0.1.0/26", HOST, {})
        self.block(other, "10.0.2.0/26", "there", {})
        assert self.routes(other) == {"10.0.1.0/26": ("blackhole", ""), "10.0.2.0/26": ("same-subnet", "there")}
        other.put("Node", "there", {"bgp": {"ipv4Address": "198.51.100.2/24"}})
        assert self.routes(other) == {"10.0.1.0/26": ("blackhole", "")}, "a router knows the way, or nobody"
        other.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "ipipMode": "Always"})
        assert self.routes(other) == {}, "and those of IPIP are BIRD's then"

    def test_of_two_modes_vxlan_is_taken_and_ipip_is_none_of_ipv6(self, store: Datastore) -> None:
        store.put("IPPool", "pool", {"cidr": "10.0.0.0/16", "vxlanMode": "Always", "ipipMode": "Always"})
        store.put("IPPool", "six", {"cidr": "fd00::/48", "ipipMode": "Always"})
        self.block(store, "10.0.2.0/26", "there", {})
        assert self.routes(store) == {"10.0.2.0/26": ("vxlan", "there")}
        assert store.pools is not None and store.pools.ipip == ()
        both, six = (store.graph.unsupported[f"IPPool({name})"] for name in ("pool", "six"))
        assert "ipipMode Always beside vxlanMode Always (VXLAN is taken: set one of them to Never)" in both
        assert "ipipMode Always of a pool of IPv6" in six

    def test_no_pool_no_route(self, store: Datastore) -> None:
        self.block(store, "10.0.2.0/26", "there", {})
        assert self.routes(store)
        store.raw(ResourceKey("IPPool", "pool"), None)
        assert self.routes(store) == {}
        assert store.pools is not None and store.pools.networks == store.pools.vxlan == frozenset()

    @pytest.mark.parametrize("size", [64, -1, 33, 8])
    def test_a_pool_with_an_impossible_block_size_is_to_blame_alone(self, store: Datastore, size: int) -> None:
        store.put("IPPool", "bad", {"cidr": "10.0.0.0/16", "vxlanMode": "Always", "blockSize": size})
        store.put("IPPool", "good", {"cidr": "10.9.0.0/16", "vxlanMode": "Always"})
        node = {"bgp": {"ipv4Address": "192.0.2.1/24"}, "ipv4VXLANTunnelAddr": "10.0.0.1"}
        store.put("Node", HOST, node)
        store.flush()
        assert list(store.graph.problems) == ["IPPool(bad)"]
        assert (HOST, 4) in store.state["vteps"]

    def test_a_mac_of_zeros_is_not_given(self, store: Datastore) -> None:
        store.put("IPPool", "good", {"cidr": "10.9.0.0/16", "vxlanMode": "Always"})
        spec = {"ipv4VXLANTunnelAddr": "10.9.0.1", "vxlanTunnelMACAddr": "00:00:00:00:00:00"}
        store.put("Node", "there", {"bgp": {"ipv4Address": "192.0.2.2/24"}, **spec})
        store.flush()
        assert store.state["vteps"][("there", 4)].mac.startswith("66:")

    def test_tunnel_ends(self, store: Datastore) -> None:
        store.flush()
        assert store.state["vteps"][("there", 4)].address == "10.0.2.0"
        assert store.state["vteps"][("there", 4)].parent == "192.0.2.2"
        store.put("Node", "there", {"bgp": {"ipv4Address": "192.0.2.2/24"}})
        assert store.flush().vteps == {("there", 4): None}

    def test_what_is_no_address_of_its_family_or_no_mac_counts_as_absent(self, store: Datastore) -> None:
        spec = {"bgp": {"ipv4Address": "fd00::1/64"}, "ipv4VXLANTunnelAddr": "10.0.2.0"}
        store.put("Node", "there", spec)
        store.flush()
        assert ("there", 4) not in store.state["vteps"]
        spec = {"bgp": {"ipv4Address": "192.0.2.2/24"}, "ipv4VXLANTunnelAddr": "10.0.2.0", "vxlanTunnelMACAddr": "zz;"}
        store.put("Node", "there", spec)
        store.flush()
        assert store.state["vteps"][("there", 4)].mac.startswith("66:")

    def test_a_tunnel_address_that_is_another_node_s_makes_no_tunnel_here(self, store: Datastore) -> None:
        self.block(store, "10.0.1.0/26", HOST, {0: HOST})
        store.flush()
        assert (HOST, 4) in store.state["vteps"] and store.graph.unmet() == []
        self.block(store, "10.0.1.0/26", HOST, {0: "there"})
        store.flush()
        assert (HOST, 4) not in store.state["vteps"] and ("there", 4) in store.state["vteps"]
        (line,) = store.graph.unmet()
        assert line.startswith(f"node {HOST}: its tunnel address 10.0.1.0 is assigned to node there: this host has no")
        spec = {"bgp": {"ipv4Address": "192.0.2.1/24", "ipv4IPIPTunnelAddr": "10.0.1.0"}}
        store.put("Node", HOST, {**spec, "ipv4VXLANTunnelAddr": "10.0.1.1"})
        store.flush()
        assert store.state["vteps"][(HOST, 4)].address == "10.0.1.1"
        assert store.state["hosts"][HOST] == NodeAddresses(("192.0.2.1", ""), "")
        store.raw(BlockKey("10.0.1.0/26"), None)
        store.flush()
        assert store.state["hosts"][HOST].ipip == "10.0.1.0" and store.graph.unmet() == []

    @pytest.mark.parametrize("text", ["66:AA:BB:CC:DD:EE", "67:AA:BB:CC:DD:EE"])
    def test_a_mac_is_what_the_kernel_tells_of_it(self, store: Datastore, text: str) -> None:
        """A difference would make the device anew again and again. One of a group is none for a device."""
        spec = {"bgp": {"ipv4Address": "192.0.2.2/24"}, "ipv4VXLANTunnelAddr": "10.0.2.0", "vxlanTunnelMACAddr": text}
        store.put("Node", "there", spec)
        store.flush()
        mac = store.state["vteps"][("there", 4)].mac
        assert mac == text.lower() if text.startswith("66") else mac.startswith("66:")

    def test_addresses_of_a_block_that_nobody_owns_any_more_are_reached(self, store: Datastore) -> None:
        self.block(store, "10.0.2.0/26", "there", {0: "there", 7: HOST, 8: "elsewhere"})
        store.flush()
        block = {"cidr": "10.0.2.0/26", "allocations": [None, 0, *[None] * 62], "unallocated": [0, *range(2, 64)],
                 "attributes": [{"handle_id": "h", "secondary": {"node": "there"}}], "deleted": False}  # fmt: skip
        store.raw(BlockKey("10.0.2.0/26"), block)
        assert self.routes(store) == {"10.0.2.1/32": ("vxlan", "there")}

    @pytest.mark.parametrize("damage", [{"affinity": 5}, {"attributes": [{"secondary": {"node": ["x"]}}]}])
    def test_a_damaged_block_counts_as_absent(self, store: Datastore, damage: dict[str, Any]) -> None:
        self.block(store, "10.0.1.0/26", "there", {})
        block = {"cidr": "10.0.2.0/26", "affinity": "host:there", "allocations": [0, *[None] * 63],
                 "unallocated": [], "attributes": [{"handle_id": "h"}], **damage}  # fmt: skip
        store.raw(BlockKey("10.0.2.0/26"), block)
        assert self.routes(store) == {"10.0.1.0/26": ("vxlan", "there")}
        assert list(store.graph.problems) == ["BlockKey(cidr=10.0.2.0/26)"]


def test_a_profile_that_is_missing_is_named_while_a_local_endpoint_needs_it(store: Datastore) -> None:
    store.endpoint("a", {}, profiles=["calico"])
    store.endpoint("b", {}, node="there", profiles=["other"])
    (line,) = store.graph.unmet()
    assert line.startswith("Profile(calico): is missing or cannot be used; endpoints of this host that name it (1)")
    store.put("Profile", "calico", {"egress": [{"action": "Allow"}]})
    assert store.graph.unmet() == []
    store.put("Profile", "calico", {"egress": [{"action": "Perhaps"}]})
    assert len(store.graph.unmet()) == 1
    store.endpoint("a", {}, profiles=[])
    assert store.graph.unmet() == []


def test_what_has_come_and_gone_leaves_nothing_behind(store: Datastore) -> None:
    ruleset = Ruleset(HOST, NftOptions())
    sizes = []
    for number in range(60):
        store.put("Profile", f"p{number}", {"labelsToApply": {"x": "y"}, "egress": [{"action": "Allow"}]})
        store.put("GlobalNetworkPolicy", f"g{number}", {"selector": "all()", "ingress": [{"action": "Allow"}]})
        store.put("Node", f"n{number}", {"bgp": {"ipv4Address": "192.0.2.9/24"}})
        store.endpoint(f"w{number}", {"a": "b"}, profiles=[f"p{number}"])
        store.raw(BlockKey("10.0.0.0/30"), {
            "cidr": "10.0.0.0/30", "affinity": f"host:n{number}", "allocations": [0, None, None, None],
            "unallocated": [1, 2, 3], "attributes": [{"handle_id": "h", "secondary": {"node": f"m{number}"}}],
        })  # fmt: skip
        ruleset.on_flush(store.flush())
        for key in (
            ResourceKey("WorkloadEndpoint", f"{HOST}-cni-w{number}-eth0", "default"),
            *(ResourceKey("Profile", f"p{number}"), ResourceKey("GlobalNetworkPolicy", f"g{number}")),
            *(BlockKey("10.0.0.0/30"), ResourceKey("Node", f"n{number}")),
        ):
            store.raw(key, None)
        ruleset.on_flush(store.flush())
        sizes.append(sum(map(_entries, (ruleset, ruleset.table, *_parts(store.graph)))))
    assert sizes[-1] == sizes[0]


def _parts(thing: object) -> list[object]:
    """A graph, its nodes, and theirs."""
    rooms = ("libcalico.calc", "calico_native")
    nodes = [one for one in vars(thing).values() if type(one).__module__.startswith(rooms) and hasattr(one, "__dict__")]
    return [thing, *(part for node in nodes for part in _parts(node))]


def _entries(thing: object) -> int:
    """Of all its containers."""
    return sum(len(value) for value in vars(thing).values() if isinstance(value, dict | set | list))

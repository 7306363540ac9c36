"""What is stored and this agent does not do is named once, and until it is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from libcalico.calc.graph import Graph
from libcalico.model.keys import ResourceKey, key_path

ENDPOINT = {
    "node": "here", "orchestrator": "cni", "containerID": "a", "endpoint": "eth0", "interfaceName": "calia",
    "ipNetworks": ["10.0.0.1/32"],
}  # fmt: skip
NAT = [{"internalIP": "10.0.0.1", "externalIP": "192.0.2.1"}]


@pytest.mark.parametrize(
    ("key", "spec", "more", "words"),
    [
        (ResourceKey("IPPool", "p"), {"cidr": "fd00::/48"}, {"ipipMode": "Always"}, "ipipMode Always"),
        (ResourceKey("WorkloadEndpoint", "here-cni-a-eth0", "default"), ENDPOINT, {"ipNATs": NAT}, "ipNATs"),
        (ResourceKey("WorkloadEndpoint", "here-cni-a-eth0", "default"), ENDPOINT,
         {"qosControls": {"ingressBandwidth": 1000}}, "qosControls"),
        (ResourceKey("GlobalNetworkPolicy", "g"), {"selector": "all()"}, {"doNotTrack": True}, "doNotTrack"),
        (ResourceKey("GlobalNetworkPolicy", "g"), {"selector": "all()"}, {"preDNAT": True}, "preDNAT"),
        (ResourceKey("NetworkPolicy", "n", "default"), {"selector": "all()"},
         {"ingress": [{"action": "Allow", "protocol": "TCP", "http": {"methods": ["GET"]}}]}, "http of ingress rule 0"),
        (ResourceKey("Tier", "t"), {"order": 5}, {"defaultAction": "Sing"}, "defaultAction Sing"),
        (ResourceKey("GlobalNetworkPolicy", "g"), {"selector": "all()"}, {"types": ["Ingress", "Sideways"]},
         "type Sideways"),
        (ResourceKey("GlobalNetworkPolicy", "g"), {"selector": "all()"}, {"later": 1}, "acts): spec.later"),
        (ResourceKey("NetworkPolicy", "n", "default"), {"selector": "all()"},
         {"egress": [{"action": "Deny"}, {"action": "Allow", "destination": {"Nets": [], "domains": ["a.org"]}}]},
         "spec.egress[1].destination.domains"),
        (ResourceKey("IPPool", "p"), {"cidr": "10.0.0.0/16"}, {"nat-outgoing": True}, "spec.nat-outgoing"),
        (ResourceKey("Profile", "f"), {"labelsToApply": {"any": "label"}},
         {"ingress": [{"action": "Deny", "x\u001b": 1}]},
         "spec.ingress[0].x"),
        (ResourceKey("Profile", "f"), {},
         {"egress": [{"action": "Deny"}, {"action": "Allow", "destination": {"services": {"name": "s"}}}]},
         "services of egress rule 1"),
    ],
)  # fmt: skip
def test_a_member_without_effect_is_named(
    key: ResourceKey, spec: Any, more: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    graph, path = Graph("here"), key_path(key).encode()
    for revision in (1, 2):
        graph.update(path, json.dumps({"spec": {**spec, **more}}).encode(), revision)
    assert list(graph.unsupported) == [str(key)] and words in graph.unsupported[str(key)]
    assert graph.problems == {}
    assert len(caplog.records) == 1 and words in caplog.text
    graph.update(path, json.dumps({"spec": spec}).encode(), 3)
    assert graph.unsupported == {}
    graph.update(path, json.dumps({"spec": {**spec, **more}}).encode(), 4)
    graph.update(path, None, 5)
    assert graph.unsupported == {}


@pytest.mark.parametrize("kind", ["HostEndpoint"])
def test_a_kind_without_effect_is_named(kind: str) -> None:
    graph, path = Graph("here"), key_path(ResourceKey(kind, "h")).encode()
    graph.update(path, b'{"spec":{"node":"here"}}', 1)
    assert graph.unsupported == {f"{kind}(h)": "not supported here: the whole object, which has no effect"}
    graph.update(path, None, 2)
    assert graph.unsupported == {}


def test_of_many_unknown_members_some_are_named() -> None:
    graph, spec = Graph("here"), {"selector": "all()", **{f"a{number}": 1 for number in range(1000)}}
    key = ResourceKey("GlobalNetworkPolicy", "g")
    graph.update(key_path(key).encode(), json.dumps({"spec": spec}).encode(), 1)
    assert graph.unsupported[str(key)].endswith("acts): spec.a0, spec.a1, spec.a2, …")


def test_what_is_supported_is_not_named() -> None:
    graph = Graph("here")
    spec = {"cidr": "10.0.0.0/16", "ipipMode": "Never", "vxlanMode": "Always"}
    graph.update(key_path(ResourceKey("IPPool", "p")).encode(), json.dumps({"spec": spec}).encode(), 1)
    graph.update(
        key_path(ResourceKey("WorkloadEndpoint", "e", "default")).encode(), json.dumps({"spec": ENDPOINT}).encode(), 1
    )
    assert graph.unsupported == {}

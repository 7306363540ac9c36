"""What the client fills in on the way to the datastore and back."""

from __future__ import annotations

from typing import Any

import pytest

from libcalico.model import codec, defaults
from libcalico.model.base import Metadata
from libcalico.model.resources import GlobalNetworkPolicy, IPPool, NetworkPolicy, Tier, WorkloadEndpoint


def _filled(kind: str, spec: dict[str, Any], **metadata: Any) -> Any:
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}
    return defaults.before_write(codec.from_input(document))


@pytest.mark.parametrize(
    ("ingress", "egress", "types"),
    [(0, 0, ["Ingress"]), (1, 0, ["Ingress"]), (0, 1, ["Egress"]), (1, 1, ["Ingress", "Egress"])],
)
def test_types_follow_the_rules_that_are_there(ingress: int, egress: int, types: list[str]) -> None:
    rule = {"action": "Allow"}
    policy = _filled("NetworkPolicy", {"ingress": [rule] * ingress, "egress": [rule] * egress})
    assert (policy.spec.types, policy.spec.tier) == (types, "default")


def test_types_that_are_given_stay() -> None:
    assert _filled("NetworkPolicy", {"types": ["Egress"]}).spec.types == ["Egress"]


@pytest.mark.parametrize(("cidr", "size"), [("10.0.0.0/16", 26), ("fd00::/64", 122), ("nonsense", 0)])
def test_pools(cidr: str, size: int) -> None:
    spec = _filled("IPPool", {"cidr": cidr}).spec
    assert (spec.block_size, spec.node_selector, spec.allowed_uses, spec.assignment_mode) == (
        size,
        "all()",
        ["Workload", "Tunnel"],
        "Automatic",
    )
    assert (spec.ipip_mode, spec.vxlan_mode) == ("Never", "Never")


def test_an_empty_word_is_not_a_missing_one() -> None:
    assert _filled("IPPool", {"cidr": "10.0.0.0/16", "assignmentMode": ""}).spec.assignment_mode == ""
    assert _filled("Tier", {"defaultAction": ""}).spec.default_action == ""
    tier: Tier = _filled("Tier", {})
    assert (tier.spec.order, tier.spec.default_action) == (1_000_000, "Deny")


def test_felix_configuration_and_its_legacy_switch() -> None:
    assert _filled("FelixConfiguration", {}).spec == defaults.FELIX_DEFAULTS
    spec = _filled("FelixConfiguration", {"bpfConnectTimeLoadBalancingEnabled": False}).spec
    assert spec["bpfConnectTimeLoadBalancing"] == "Disabled"
    assert spec["bpfHostNetworkedNATWithoutCTLB"] == "Disabled"


def test_stored_policies_carry_their_tier_and_name_and_lose_the_note_when_read() -> None:
    policy = _filled("GlobalNetworkPolicy", {"tier": "ops"}, name="web", labels={"projectcalico.org/tier": "lie"})
    stored = defaults.for_storage(policy)
    assert stored.metadata.labels == {"projectcalico.org/tier": "ops"}
    assert stored.metadata.annotations == {"projectcalico.org/metadata": '{"name":"web"}'}
    found = defaults.after_read(stored)
    assert isinstance(found, GlobalNetworkPolicy)
    assert (found.metadata.name, found.metadata.annotations) == ("web", {})


@pytest.mark.parametrize(
    ("name", "note", "seen"),
    [
        ("default.web", None, "web"),
        ("default.web", '{"name":"default.web"}', "default.web"),
        ("web", "garbage", "web"),
        ("web", '{"name":7}', "web"),
    ],
)
def test_names_of_old_policies(name: str, note: str | None, seen: str) -> None:
    annotations = {} if note is None else {"projectcalico.org/metadata": note}
    found = defaults.after_read(NetworkPolicy(metadata=Metadata(name=name, annotations=annotations)))
    assert found.metadata.name == seen
    assert found.metadata.labels == {"projectcalico.org/tier": "default"}


def test_pools_of_old_clients_are_filled_in_when_read() -> None:
    pool = defaults.after_read(codec.from_input({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "spec": {}}))
    assert isinstance(pool, IPPool) and pool.spec.allowed_uses == ["Workload", "Tunnel"]


def test_endpoint_labels_override_the_input() -> None:
    spec = {"orchestrator": "cni", "node": "a1", "containerID": "c1", "endpoint": "eth0"}
    endpoint = _filled("WorkloadEndpoint", spec, namespace="shop", labels={"projectcalico.org/namespace": "lie"})
    assert endpoint.metadata.name == "a1-cni-c1-eth0"
    stored = defaults.for_storage(endpoint)
    assert isinstance(stored, WorkloadEndpoint)
    assert stored.metadata.labels == {"projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "cni"}

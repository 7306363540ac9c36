"""What the cluster's state means for a command: its release, old policies, damaged objects."""

from __future__ import annotations

import asyncio
import json

import pytest

from calicoctl.testing import Outcome, run_calicoctl
from libcalico.datastore.memory import MemoryDatastore

RESOURCES = "/calico/resources/v3/projectcalico.org/"
SET = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: one}\nspec: {}\n"
POLICY = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\nspec: {selector: all()}\n"


@pytest.fixture
def store() -> MemoryDatastore:
    """A cluster without anything in it."""
    return MemoryDatastore()


def put(store: MemoryDatastore, path: str, name: str, spec: object) -> None:
    """Store an object as another client would."""
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2020-05-01T10:00:00Z"}
    value = json.dumps({"metadata": metadata, "spec": spec})
    asyncio.run(store.put(f"{RESOURCES}{path}/{name}".encode(), value.encode()))


def run(store: MemoryDatastore, line: str, **files: str) -> Outcome:
    """A command line; `in_yaml` is the file `in.yaml`."""
    return run_calicoctl(store, line.split(), {name.replace("_", "."): text for name, text in files.items()})


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("get node", "NAME   \n\n"),
        ("apply -f in.yaml", "Successfully applied 1 'GlobalNetworkSet' resource(s)\n"),
        ("create -f in.yaml", "Successfully created 1 'GlobalNetworkSet' resource(s)\n"),
        ("label profile calico a=b", "Successfully set label a on profile calico\n"),
        ("patch profile calico -p {}", "Successfully patched 1 'Profile' resource\n"),
        ("delete profile calico", "Successfully deleted 1 'Profile' resource(s)\n"),
        ("ipam show --ip=10.0.0.1", "10.0.0.1 is not assigned\n"),
    ],
)
def test_a_cluster_of_another_release_is_used_with_a_warning(store: MemoryDatastore, line: str, out: str) -> None:
    put(store, "clusterinformations", "default", {"calicoVersion": "v3.14.2"})
    put(store, "profiles", "calico", {})
    asked = run(store, line, in_yaml=SET)
    assert (asked.status, asked.stdout) == (0, out)
    assert asked.stderr.startswith("warning: version mismatch: the cluster says v3.14.2, this program does as v3.32.1")


@pytest.mark.parametrize("version", ["v3.32.1", "3.32.1", "v3.32.1-0.dev"])
def test_the_same_release_is_silent(store: MemoryDatastore, version: str) -> None:
    put(store, "clusterinformations", "default", {"calicoVersion": version})
    assert run(store, "get node").stderr == ""


def test_the_warning_can_be_silenced(store: MemoryDatastore) -> None:
    put(store, "clusterinformations", "default", {"calicoVersion": "v3.14.2"})
    assert run(store, "get node --allow-version-mismatch").stderr == ""
    assert run(store, "--allow-version-mismatch get node").stderr == ""


def test_a_damaged_cluster_information_stops_nothing(store: MemoryDatastore) -> None:
    asyncio.run(store.put(f"{RESOURCES}clusterinformations/default".encode(), b"{"))
    asked = run(store, "get node")
    assert (asked.status, asked.stdout) == (0, "NAME   \n\n")
    assert asked.stderr.startswith("warning: unable to get Cluster Information to verify version mismatch")


@pytest.mark.parametrize("name", ["web", "default.web"])
def test_an_old_policy_can_be_changed_by_either_name(store: MemoryDatastore, name: str) -> None:
    put(store, "globalnetworkpolicies", "default.web", {"selector": "all()", "types": ["Ingress"]})
    assert run(store, f"label gnp {name} a=b").stdout == f"Successfully set label a on gnp {name}\n"
    assert run(store, f'patch gnp {name} -p {{"spec":{{"order":7}}}}').status == 0
    assert run(store, "apply -f in.yaml", in_yaml=POLICY.replace("name: web", f"name: {name}")).status == 0
    assert run(store, f"get gnp {name}").stdout.split() == ["NAME", "TIER", "web", "default"]
    assert run(store, f"delete gnp {name}").stdout == "Successfully deleted 1 'GlobalNetworkPolicy' resource(s)\n"
    assert run(store, "get gnp").stdout.split() == ["NAME", "TIER"]


def test_the_old_one_of_two_policies_is_reached_by_its_stored_name(store: MemoryDatastore) -> None:
    put(store, "globalnetworkpolicies", "default.web", {"selector": "old == '1'", "types": ["Ingress"]})
    put(store, "globalnetworkpolicies", "web", {"selector": "new == '1'", "types": ["Ingress"], "tier": "default"})
    changed = run(store, 'patch gnp default.web -p {"spec":{"order":7}}')
    assert (changed.status, changed.stderr) == (0, "")
    changed = run(store, "label gnp web a=b")
    assert changed.stderr.startswith("warning: GlobalNetworkPolicy(web): another policy of this name is stored as")
    rows = [line.split() for line in run(store, "get gnp -o wide").stdout.splitlines()[1:3]]
    assert sorted(rows) == [
        ["web", "default", "7", "old", "==", "'1'"],
        ["web", "default", "<nil>", "new", "==", "'1'"],
    ]


def test_a_tier_without_order_has_the_default_one_in_lists(store: MemoryDatastore) -> None:
    put(store, "tiers", "secops", {})
    put(store, "tiers", "kube-baseline", {"order": 10_000_000})
    assert run(store, "get tiers").stdout.split() == ["NAME", "ORDER", "secops", "1e+06", "kube-baseline", "1e+07"]
    assert run(store, "get tier secops").stdout.split() == ["NAME", "ORDER", "secops", "<nil>"]


@pytest.mark.parametrize("output", ["wide", "custom-columns=NAME,ASN", "custom-columns=ASN"])
def test_a_node_has_the_clusters_as_number(store: MemoryDatastore, output: str) -> None:
    put(store, "bgpconfigurations", "default", {"asNumber": 64700})
    put(store, "nodes", "a1", {"bgp": {"ipv4Address": "10.0.0.1/24"}})
    assert "(64700)" in run(store, f"get node -o {output}").stdout.split()


@pytest.mark.parametrize("command", ["apply", "create", "validate"])
def test_an_empty_file_in_a_directory_is_an_error(store: MemoryDatastore, command: str) -> None:
    files = {"d/a.yaml": SET, "d/b.yaml": ""}
    refused = run_calicoctl(store, [command, "-f", "d"], files)
    assert refused == (1, "", "no resources specified in file d/b.yaml\n")
    assert run(store, "get globalnetworkset").stdout == "NAME   \n\n"
    assert run_calicoctl(store, [command, "-f", "d", "--skip-empty"], files).status == 0


def test_shares_of_a_pool_make_a_hundred(store: MemoryDatastore) -> None:
    put(store, "ippools", "p", {"cidr": "10.0.0.0/29", "blockSize": 29})
    block = {"cidr": "10.0.0.0/29", "affinity": "host:a1", "allocations": [0] * 5 + [None] * 3,
             "unallocated": [5, 6, 7], "attributes": [{}], "sequenceNumber": 1}  # fmt: skip
    asyncio.run(store.put(b"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-29", json.dumps(block).encode()))
    row = run(store, "ipam show").stdout.splitlines()[3]
    assert row == "| IP Pool  | 10.0.0.0/29 |         8 | 5 (62%)    | 3 (38%)  |"


@pytest.mark.parametrize("line", ["apply -f in.yaml", "replace -f in.yaml", "patch np knp.default.x -p {}",
                                  "label np knp.default.x a=b", "delete np knp.default.x", "delete -f in.yaml",
                                  "create -f in.yaml"])  # fmt: skip
def test_a_policy_of_kubernetes_is_only_shown(store: MemoryDatastore, line: str) -> None:
    put(store, "networkpolicies/default", "knp.default.x", {"selector": "all()", "types": ["Ingress"]})
    before = asyncio.run(store.range(b"/calico/resources/v3/projectcalico.org/networkpolicies/"))
    text = POLICY.replace("GlobalNetworkPolicy", "NetworkPolicy").replace("web", "knp.default.x")
    refused = run(store, f"-l error {line}", in_yaml=text)
    assert (refused.status, refused.stdout) == (1, "")
    assert "kubernetes network policies must be managed through the kubernetes API" in refused.stderr
    assert asyncio.run(store.range(b"/calico/resources/v3/projectcalico.org/networkpolicies/")).kvs == before.kvs
    assert run(store, "get np").stdout.split() == ["NAME", "TIER", "knp.default.x", "default"]

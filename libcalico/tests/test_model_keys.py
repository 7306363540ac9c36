"""Keys and paths are inverse to each other; endpoint names keep their four parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.errors import ValidationError
from libcalico.model import keys
from libcalico.model.kinds import KINDS, kind_of_word

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,10}[a-z0-9])?", fullmatch=True)
PARTS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
CIDRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.just(26)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.ip_addresses(v=6), st.just(122)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
)


@given(st.sampled_from(sorted(KINDS)), NAMES, NAMES)
def test_resource_paths_parse_back(kind: str, name: str, namespace: str) -> None:
    key = keys.ResourceKey(kind, name, namespace if KINDS[kind].namespaced else "")
    assert keys.parse_path(keys.key_path(key)) == key
    assert keys.key_path(key).startswith(keys.list_prefix(kind, key.namespace))


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), st.text("ab/%2f5", min_size=1, max_size=12))
def test_status_paths_keep_slashes_of_workloads(host: str, workload: str) -> None:
    host = host.replace("/", "_")
    for key in (
        keys.HostStatusKey(host),
        keys.LastReportedStatusKey(host),
        keys.WorkloadStatusKey(host, "cni", workload, "eth0"),
    ):
        assert keys.parse_path(keys.key_path(key)) == key


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (keys.BlockKey("172.29.4.64/26"), "/calico/ipam/v2/assignment/ipv4/block/172.29.4.64-26"),
        (keys.BlockKey("fd00::40/122"), "/calico/ipam/v2/assignment/ipv6/block/fd00::40-122"),
        (keys.AffinityKey("a1", "10.0.0.0/26"), "/calico/ipam/v2/host/a1/ipv4/block/10.0.0.0-26"),
        (keys.AffinityKey("lb", "10.0.0.0/26", "virtual"), "/calico/ipam/v2/virtual/lb/ipv4/block/10.0.0.0-26"),
        (keys.HandleKey("net.c1"), "/calico/ipam/v2/handle/net.c1"),
        (keys.IPAMConfigKey(), "/calico/ipam/v2/config"),
        (keys.ResourceKey("Node", "a1"), "/calico/resources/v3/projectcalico.org/nodes/a1"),
    ],
)
def test_known_paths(key: keys.Key, path: str) -> None:
    assert keys.key_path(key) == path
    assert keys.parse_path(path) == key


@given(st.text(max_size=60))
def test_any_other_path_is_none_and_never_an_error(tail: str) -> None:
    keys.parse_path(tail)
    keys.parse_path(keys.RESOURCES + tail)
    keys.parse_path(keys.IPAM + tail)
    assert keys.parse_path("/calico/v1/" + tail) is None


@pytest.mark.parametrize(
    "path",
    [
        "/calico/resources/v3/projectcalico.org/networkpolicies/web",
        "/calico/resources/v3/projectcalico.org/nodes/a/b",
        "/calico/resources/v3/projectcalico.org/nodes/",
        "/calico/resources/v3/projectcalico.org/unheardof/a",
        "/calico/ipam/v2/assignment/ipv4/block/300.0.0.0-26",
    ],
)
def test_paths_with_the_wrong_number_of_segments_are_skipped(path: str) -> None:
    assert keys.parse_path(path) is None


def test_keys_print_as_upstream_prints_them() -> None:
    assert str(keys.ResourceKey("Node", "a1")) == "Node(a1)"
    assert str(keys.ResourceKey("NetworkPolicy", "web", "shop")) == "NetworkPolicy(shop/web)"
    assert str(keys.BlockKey("10.0.0.0/26")) == "BlockKey(cidr=10.0.0.0/26)"


@given(PARTS, PARTS, PARTS, PARTS)
def test_endpoint_names_split_into_what_they_were_made_of(node: str, orchestrator: str, work: str, end: str) -> None:
    if orchestrator == "libnetwork":
        work = "libnetwork"
    name = keys.workload_endpoint_name(node, orchestrator, work, end)
    assert keys.split_workload_endpoint_name(name) == (node, orchestrator, work, end)
    assert name.startswith(keys.workload_endpoint_prefix(node, orchestrator, work))


@pytest.mark.parametrize(
    ("parts", "field", "reason"),
    [
        (("", "cni", "c1", "eth0"), "node", "field should be assigned"),
        (("a1", "cni", "", "eth0"), "containerID", "field should be assigned"),
        (("a1", "k8s", "", "eth0"), "pod", "field should be assigned"),
        (("a1", "nomad", "-c1", "eth0"), "workload", "field must not begin with a '-'"),
        (("a1", "cni", "c1", "eth0-"), "endpoint", "field must not end with a '-'"),
    ],
)
def test_endpoint_names_need_all_their_parts(parts: tuple[str, str, str, str], field: str, reason: str) -> None:
    with pytest.raises(ValidationError) as refused:
        keys.workload_endpoint_name(*parts)
    assert [(error.field, error.reason) for error in refused.value.fields] == [(field, reason)]


def test_words_of_the_command_line_mean_kinds_in_any_case() -> None:
    assert kind_of_word("WEP") == "WorkloadEndpoint"
    assert kind_of_word("policies") == "NetworkPolicy"
    assert kind_of_word("gnp") == "GlobalNetworkPolicy"
    assert kind_of_word("pod") is None

"""The judges of vector files: what counts as equal, and that everything else does not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tests.compat import cni_judge, texts
from tests.compat.ipam_judge import CONFIG, IpamJudge

BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30"
HANDLE = "/calico/ipam/v2/handle/h"


def keys(first: int = 1, **changes: Any) -> dict[str, Any]:
    block = {
        "cidr": "10.0.0.0/30", "affinity": "host:m1", "affinity_claim_time": "2026-01-01T00:00:00Z",
        "allocations": [0, None, None, None], "unallocated": [1, 2, 3], "attributes": [{"handle_id": "h"}],
        "sequenceNumber": first, "sequenceNumberForAllocation": {"0": first - 1}, "deleted": False, **changes,
    }  # fmt: skip
    return {BLOCK: block, HANDLE: {"block": {"10.0.0.0/30": 1}, "deleted": False}}


def recorded(**changes: Any) -> dict[str, Any]:
    return keys(1, affinity_claim_time="<now>", **changes)


def differences(ours: dict[str, Any], theirs: dict[str, Any], operation: str = "autoassign") -> list[str]:
    return IpamJudge(has_config=False).differences(ours, theirs, operation, ())


def test_ipam_numbers_are_relative_and_claim_times_free() -> None:
    assert differences(keys(1000), recorded()) == []
    assert differences(keys(1000), {**recorded(), CONFIG: {}}) == []
    late = keys(1000, sequenceNumberForAllocation={"0": 1000})
    assert differences(late, recorded()) == [f"{BLOCK}/sequenceNumberForAllocation/0 is 1, expected 0"]


def test_ipam_every_tampered_member_is_seen() -> None:
    for member, value in {
        "affinity": None, "allocations": [0, 0, None, None], "unallocated": [2, 1, 3], "cidr": "10.0.0.4/30",
        "attributes": [{"handle_id": "other"}], "deleted": True, "extra": 1, "affinity_claim_time": None,
    }.items():  # fmt: skip
        assert differences(keys(5, **{member: value}), recorded()), member
    assert differences({BLOCK: keys(5)[BLOCK]}, recorded())
    assert differences({**keys(5), "/calico/ipam/v2/handle/more": {"block": {}}}, recorded())
    two = keys(5)
    two[HANDLE] = {"block": {"10.0.0.0/30": 2}, "deleted": False}
    assert differences(two, recorded()) == [f"{HANDLE}/block/10.0.0.0/30 is 2, expected 1 to 1"]


def test_ipam_a_sequence_that_goes_astray_later() -> None:
    judge = IpamJudge()
    assert judge.differences(keys(100), recorded(), "autoassign", ()) == []
    wrong = judge.differences(keys(102), recorded(sequenceNumber=2), "autoassign", ())
    assert f"{BLOCK}/sequenceNumber is 3, expected 2" in wrong


def test_ipam_addresses_freed_together_have_any_order() -> None:
    both = {"allocations": [0, 0, None, None], "unallocated": [2, 3], "sequenceNumberForAllocation": {}}
    none = {"allocations": [None] * 4, "attributes": [], "sequenceNumberForAllocation": {}}
    for operation, expected in (("releaseips", 0), ("releasebyhandle", 1)):
        judge = IpamJudge()
        assert judge.differences(keys(1, **both), recorded(**both), "autoassign", ()) == []
        ours = {BLOCK: keys(2, **none, unallocated=[2, 3, 0, 1])[BLOCK]}
        theirs = {BLOCK: recorded(**none, unallocated=[2, 3, 1, 0], sequenceNumber=2)[BLOCK]}
        assert len(judge.differences(ours, theirs, operation, ())) == expected, operation


def test_texts_are_compared_to_the_byte_but_for_what_varies() -> None:
    same = texts.text_problem
    assert same("stdout", "NAME   \n", "NAME   \n") == ""
    assert same("stdout", "NAME\n", "NAME   \n")
    assert same("stderr", "gone: Node(n) with error: x\n", "gone: Node(n) with error: <nil>\n") == ""
    assert same("stderr", "gone: Node(m) with error: x\n", "gone: Node(n) with error: <nil>\n")
    assert same("stderr", "bad\n\nUsage:\n  ours\n", "bad\n\nUsage:\n<usage text>\n") == ""
    assert same("stdout", 'resourceVersion: "17"\n', 'resourceVersion: "<rv>"\n') == ""
    assert same("stdout", "b a\n", "a  b\n", unordered=True) == ""
    assert same("stderr", "failed: error converting YAML: x", "failed: error converting YAML: y") == ""
    assert same("stderr", "other: error converting YAML: x", "failed: error converting YAML: y")
    many = "failed: [error with the following fields:\n-  A = 'x' (first)\n-  spec.a (schema)\n]\n"
    assert same("stderr", "failed: [error with field A = 'y' (first)]\n", many) == ""
    assert same("stderr", "failed: [error with field B = 'y' (first)]\n", many)
    assert same("stderr", "refused: [error with field A = 'y' (first)]\n", many)


def test_ours_is_put_over_what_was_recorded() -> None:
    entry = {
        "stdout": "a",
        "stdout_normalised": "b",
        "stderr": "c",
        "exit": 1,
        "ours": {"stdout": "d", "stderr~": ["e"]},
    }
    wanted = texts.put_over(entry)
    assert texts.stream_problem("stdout", "d", wanted) == ""
    assert texts.stream_problem("stdout", "b", wanted)
    assert texts.stream_problem("stderr", "see", wanted) == ""
    assert texts.stream_problem("stderr", "c", wanted)


NOTHING: Mapping[str, Any] = {}
SIDE: dict[str, Any] = {"routes": [], "routes6": [], "links": [], "addrs": [], "sysctl": {}}
BOX: dict[str, Any] = {**SIDE, "neigh": [], "sysctl_if": {}}
STEP: dict[str, Any] = {
    "env": {"CNI_COMMAND": "ADD"}, "stdin": {"ipam": {"type": "calico-ipam"}}, "exit": 0,
    "stdout": {"cniVersion": "0.3.1", "ips": [{"address": "172.29.0.0/26"}], "routes": [{"dst": "172.29.0.0/26"}]},
    "etcd": {}, "host": SIDE, "containers": {"a": BOX},
}  # fmt: skip
SEEN: dict[str, Any] = {
    "exit": 0, "stderr": "", "text": "", "stdout": {"cniVersion": "0.3.1", "ips": [{"address": "172.29.0.0/32"}]},
    "etcd": {}, "host": SIDE, "containers": {"a": BOX},
}  # fmt: skip


def cni(seen: Mapping[str, Any] = NOTHING, step: Mapping[str, Any] = NOTHING) -> list[str]:
    return cni_judge.step_differences({**SEEN, **seen}, {**STEP, **step}, ["eth0"])


def test_cni_our_results_have_whole_addresses_and_no_routes() -> None:
    assert cni() == []
    assert cni({"stdout": STEP["stdout"]})
    foreign = {"stdin": {"ipam": {"type": "host-local"}}}
    assert cni({"stdout": STEP["stdout"]}, foreign) == []


def test_cni_every_aspect_is_compared() -> None:
    route = {"dst": "172.29.0.0", "dev": "cali1", "scope": "link", "flags": []}
    tampered: list[dict[str, Any]] = [
        {"exit": 1}, {"stdout": None}, {"etcd": {"/calico/ipam/v2/handle/h": {"block": {}}}},
        {"host": {**SIDE, "routes": [route]}}, {"containers": {"a": None}},
        {"containers": {"a": {**BOX, "neigh": [{"dst": "172.29.0.1", "state": ["STALE"]}]}}},
    ]  # fmt: skip
    for seen in tampered:
        assert len(cni(seen)) == 1, seen
    recorded_route = {"host": {**SIDE, "routes": [{**route, "prefsrc": "10.0.0.1"}]}}
    assert cni({"host": {**SIDE, "routes": [route]}}, recorded_route)


def test_cni_the_gateway_may_be_a_permanent_neighbour() -> None:
    entry = {"dst": "169.254.1.1", "dev": "eth0", "lladdr": "ee:ee:ee:ee:ee:ee", "state": ["PERMANENT"]}
    assert cni({"containers": {"a": {**BOX, "neigh": [entry]}}}) == []
    assert cni({"containers": {"a": {**BOX, "neigh": [{**entry, "state": ["REACHABLE"]}]}}})


def test_cni_words_and_wildcards_of_ours() -> None:
    error = {"code": 999, "msg": "no route", "details": "default exists"}
    ours = {"exit": 1, "stdout": {"code": 999, "msg~": ["0.0.0.0/0|Default", "exist"]}, "stderr~": ["note"]}
    seen = {"exit": 1, "stdout": error, "stderr": "a NOTE"}
    assert cni(seen, {"ours": ours}) == []
    assert len(cni({**seen, "stdout": {**error, "code": 7, "details": ""}, "stderr": ""}, {"ours": ours})) == 3
    routes = [{"dst": "default", "dev": "eth0"}, {"dst": "default", "dev": "eth1", "metric": "<any>"}]
    step = {"ours": {"containers": {"a": {**BOX, "routes": routes}}}}
    mine = [{"dst": "default", "dev": "eth1", "metric": 7}, {"dst": "default", "dev": "eth0"}]
    assert cni({"containers": {"a": {**BOX, "routes": mine}}}, step) == []
    assert cni({"containers": {"a": {**BOX, "routes": mine[:1]}}}, step)
    unused = {"ours": {"etcd": {BLOCK: "<unused>"}}}
    assert cni({}, unused) == []
    assert cni({"etcd": {BLOCK: {"allocations": [None]}}}, unused) == []
    assert cni({"etcd": {BLOCK: {"allocations": [0]}}}, unused)


def test_cni_versions_gain_the_newest() -> None:
    step = {"stdout": {"msg": 'plugin supports ["0.1.0" "1.0.0"]', "supportedVersions": ["1.0.0"]}, "stdin": None}
    seen = {"stdout": {"msg": 'plugin supports ["0.1.0" "1.0.0" "1.1.0"]', "supportedVersions": ["1.0.0", "1.1.0"]}}
    assert cni(seen, step) == []
    assert len(cni({"stdout": step["stdout"]}, step)) == 2


def test_cni_blocks_of_a_large_pool_have_the_names_of_the_recording() -> None:
    names = cni_judge.BlockNames([{"spec": {"cidr": "10.0.0.0/16", "blockSize": 26}}])
    prefix = "/calico/ipam/v2/assignment/ipv4/block/"
    names.learn({f"{prefix}10.0.7.64-26": {}}, {f"{prefix}10.0.3.0-26": {}})
    assert names.rename({f"{prefix}10.0.7.64-26": ["10.0.7.66/32", "10.0.8.1"]}) == {
        f"{prefix}10.0.3.0-26": ["10.0.3.2/32", "10.0.8.1"]
    }


def test_cni_links_of_two_queues_follow_the_processors() -> None:
    step = {"links": [{"num_tx_queues": 2, "num_rx_queues": 1, "mtu": 2}]}
    assert cni_judge.with_queues(copy.deepcopy(step), 4) == {
        "links": [{"num_tx_queues": 4, "num_rx_queues": 1, "mtu": 2}]
    }

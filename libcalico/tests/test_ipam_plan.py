"""IPAM's pure rules and stored form, with the compiled bitmap and with its Python twin."""

from __future__ import annotations

import importlib
import ipaddress
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import calico_native
from libcalico.errors import ParsingDatastoreEntry
from libcalico.ipam import plan
from libcalico.ipam.plan import Cover, NoQualifiedPool, Pool
from libcalico.model import ipam_data
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.keys import BlockKey

CIDR = "172.29.4.64/29"
KEY = BlockKey(CIDR)
WEB, DB = Attribute("web", (("node", "a1"),)), Attribute("db")
NOW = datetime(2026, 3, 1, 10, 5, 30, tzinfo=UTC)
STORED = {
    "cidr": CIDR,
    "affinity": "host:agent-1",
    "affinity_claim_time": "2026-03-01T10:00:00Z",
    "allocations": [0, None, 1, 1, None, None, 2, None],
    "unallocated": [1, 4, 5, 7],
    "attributes": [
        {"handle_id": "vxlan-tunnel-addr-agent-1", "secondary": {"node": "agent-1", "type": "vxlanTunnelAddress"}},
        {"handle_id": "calico.c1", "secondary": {"node": "agent-1"}},
        {"releasedAt": "2026-03-01T10:05:00Z"},
    ],
    "sequenceNumber": 1772359200000000007,
    "sequenceNumberForAllocation": {"0": 1772359200000000001, "2": 1772359200000000003, "6": 1772359200000000006},
    "deleted": False,
}


@pytest.fixture(params=["compiled", "twin"], autouse=True)
def bitmap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this module runs over both builds."""
    if request.param == "twin":
        monkeypatch.setattr(plan, "bitmap", importlib.import_module("calico_native.py.bitmap"))
    elif calico_native.implementation != "compiled":
        pytest.skip("the compiled modules are not built: make native")


def stored(**changes: Any) -> bytes:
    """A stored block."""
    return json.dumps({**STORED, **changes}).encode()


def fresh(cidr: str = CIDR) -> Block:
    """A new block."""
    return plan.new_block(cidr, "host:a1", "2026-03-01T10:00:00Z", 100)


def check(block: Block) -> None:
    """spec/ipam.md 2.4."""
    used = [ordinal for ordinal, index in enumerate(block.allocations) if index is not None]
    assert sorted([*block.unallocated, *used]) == list(range(len(block.allocations)))
    assert {index for index in block.allocations if index is not None} == set(range(len(block.attributes)))
    assert {ordinal for ordinal, _ in block.sequences} == set(used)


def test_a_block_is_stored_as_it_was_read() -> None:
    block = ipam_data.decode_block(KEY, stored())
    assert json.loads(ipam_data.encode_block(block)) == STORED
    assert block.sequence == 1772359200000000007  # beyond 2^53


def test_members_are_written_in_upstreams_order() -> None:
    members = list(json.loads(ipam_data.encode_block(ipam_data.decode_block(KEY, stored()))))
    assert members == list(STORED)


def test_unknown_members_survive_and_old_ones_are_read() -> None:
    old = stored(
        strictAffinity=True,
        futureMember={"x": [1, 2**60]},
        hostAffinity="agent-1",
        attributes=[{"handle_id": None, "secondary": None}, {"handle_id": "c1\r\n", "secondary": None}, {}],
    )
    block = ipam_data.decode_block(KEY, old)
    assert block.attributes == (Attribute(), Attribute("c1"), Attribute())
    raw = json.loads(ipam_data.encode_block(plan.disown(block)))
    assert raw["strictAffinity"] is True and raw["futureMember"] == {"x": [1, 2**60]}
    assert "hostAffinity" not in raw and raw["affinity"] is None and "affinity_claim_time" not in raw


@pytest.mark.parametrize(
    "damage",
    [
        {"allocations": [9] + [None] * 7},
        {"allocations": [None] * 7},
        {"cidr": "172.29.4.64/40"},
        {"cidr": "172.29.4.72/29"},
        {"attributes": "none"},
        {"allocations": None},
        {"unallocated": ["1"]},
    ],
)
def test_a_damaged_block_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ParsingDatastoreEntry, match=r"172\.29\.4\.64-29"):
        ipam_data.decode_block(KEY, stored(**damage))


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (b"", "confirmed"),
        (b"{}", "confirmed"),
        (b'{"state":""}', "confirmed"),
        (b'{"state":"pending","deleted":false}', "pending"),
        (b'{"state":"pendingDeletion"}', "pendingDeletion"),
    ],
)
def test_affinity_states(value: bytes, state: str) -> None:
    assert ipam_data.decode_affinity(value) == state


def test_an_absent_configuration_allocates_blocks_and_an_empty_one_does_not() -> None:
    assert ipam_data.decode_config(None).auto_allocate_blocks
    assert not ipam_data.decode_config(b"{}").auto_allocate_blocks
    written = ipam_data.encode_config(ipam_data.Config(True, True, 4, None, 30))
    assert json.loads(written) == {
        "strict_affinity": True,
        "auto_allocate_blocks": True,
        "maxBlocksPerHost": 4,
        "ipCooldownSeconds": 30,
    }


def test_addresses_come_off_the_front_and_go_back_to_the_end() -> None:
    block, taken = plan.take(fresh(), 3, WEB)
    assert taken == [0, 1, 2] and block.sequence == 101 and dict(block.sequences) == {0: 100, 1: 100, 2: 100}
    block = plan.release(block, [1])
    assert block.unallocated == (3, 4, 5, 6, 7, 1)
    block, taken = plan.take(block, 9, DB)
    assert taken == [3, 4, 5, 6, 7, 1] and block.unallocated == ()
    assert plan.take(block, 1, WEB) == (block, [])
    check(block)


def test_equal_owners_share_one_record() -> None:
    block, _ = plan.take(fresh(), 1, WEB)
    block, _ = plan.take(block, 1, DB)
    block, _ = plan.take(block, 2, WEB)
    assert block.attributes == (WEB, DB) and block.allocations[:4] == (0, 1, 0, 0)
    block = plan.release(block, [0, 2, 3])
    assert block.attributes == (DB,) and block.allocations[1] == 0
    check(block)


def test_reserved_ordinals_keep_their_place() -> None:
    reserved = plan.reserved_bits(fresh().network, [ipaddress.ip_network("172.29.4.64/31")])
    block, taken = plan.take(fresh(), 2, WEB, reserved)
    assert taken == [2, 3] and block.unallocated == (0, 1, 4, 5, 6, 7)
    assert plan.free_count(block, reserved) == 4


def test_a_free_list_that_names_a_used_ordinal_never_hands_it_out() -> None:
    block, _ = plan.take(fresh(), 2, WEB)
    broken = block._replace(unallocated=(1, 0, *block.unallocated, 7, 99))
    repaired, taken = plan.take(broken, 1, DB)
    assert taken == [2] and repaired.unallocated == (3, 4, 5, 6, 7)
    check(repaired)


def test_released_addresses_cool_down_before_they_are_free() -> None:
    block, _ = plan.take(fresh(), 3, WEB)
    cooling = plan.release(block, [2, 0], "2026-03-01T10:05:00Z")
    assert [plan.is_cooling(cooling, ordinal) for ordinal in range(3)] == [True, False, True]
    assert 0 not in cooling.unallocated and not plan.is_empty(plan.release(cooling, [1]))
    assert dict(cooling.sequences)[0] == 101  # the number before this write
    assert plan.collect(cooling, NOW, 30) == cooling
    free = plan.collect(cooling, NOW, 29)
    assert free.unallocated == (3, 4, 5, 6, 7, 0, 2) and free.attributes == (WEB,)
    assert free.sequence == cooling.sequence  # collecting is part of the write that follows
    check(free)


def test_nobody_takes_an_allocation_that_names_another_node() -> None:
    block, _ = plan.take(fresh(), 1, WEB)
    block, _ = plan.take(block, 1, DB)
    assert plan.is_of_node(block, 0, "a1") and not plan.is_of_node(block, 0, "a2") and plan.is_of_node(block, 0, "")
    assert plan.is_of_node(block, 1, "a2")


@pytest.mark.parametrize(
    ("existing", "candidate", "overlap"),
    [
        (["10.0.0.0/24"], "10.0.0.64/26", True),
        (["10.0.0.64/28"], "10.0.0.64/26", True),
        (["10.0.0.112/28"], "10.0.0.64/26", True),
        (["10.0.0.0/26", "10.0.0.128/26"], "10.0.0.64/26", False),
        (["10.0.0.0/16", "10.0.0.0/28"], "10.0.9.0/26", True),
        (["fd00::/122"], "10.0.0.64/26", False),
        ([], "10.0.0.64/26", False),
    ],
)
def test_blocks_of_another_size_are_seen(existing: list[str], candidate: str, overlap: bool) -> None:
    cover = Cover(ipaddress.ip_network(text) for text in existing)
    assert cover.overlaps(ipaddress.ip_network(candidate)) is overlap


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 30)), max_size=12), st.integers(0, 255))
def test_cover_says_what_ipaddress_says(existing: list[tuple[int, int]], start: int) -> None:
    networks = [ipaddress.ip_network(f"10.0.{third}.0/{length}", strict=False) for third, length in existing]
    candidate = ipaddress.ip_network(f"10.0.{start}.128/26", strict=False)
    assert Cover(networks).overlaps(candidate) == any(network.overlaps(candidate) for network in networks)


def pool(name: str, cidr: str, **changes: Any) -> Pool:
    """A pool that anybody may use."""
    usual = Pool(name, ipaddress.ip_network(cidr), 26, True, True, "all()", "", ("Workload", "Tunnel"))
    return usual._replace(**changes)


POOLS = [
    pool("a", "10.1.0.0/16", node_selector="rack == 'one'"),
    pool("b", "10.2.0.0/16", automatic=False),
    pool("c", "10.3.0.0/16", namespace_selector="team == 'x'"),
    pool("d", "10.4.0.0/16", enabled=False),
    pool("e", "10.5.0.0/16", uses=("Tunnel",)),
    pool("f", "fd00::/64", block_length=122),
    pool("g", "10.6.0.0/16", node_selector="((("),
]


@pytest.mark.parametrize(
    ("requested", "labels", "namespace", "use", "names"),
    [
        ((), {"rack": "one"}, {}, "Workload", "a"),
        ((), {"rack": "one"}, {"team": "x"}, "Workload", "ac"),
        ((), {}, {}, "Tunnel", "e"),
        (("10.2.0.0/16", "10.1.0.0/16"), {}, {}, "Workload", "ba"),
    ],
)
def test_pool_selection(
    requested: tuple[str, ...], labels: dict[str, str], namespace: dict[str, str], use: str, names: str
) -> None:
    chosen = plan.select_pools(POOLS, 4, requested, "a1", labels, namespace, use)
    assert "".join(one.name for one in chosen) == names


@pytest.mark.parametrize(
    ("version", "requested", "use", "text"),
    [
        (4, ("10.4.0.0/16",), "Workload", r"the given pool \(10.4.0.0/16\) does not exist, or is not enabled"),
        (4, ("fd00::/64",), "Workload", "provided IPv4 IPPools list contains one or more IPv6 IPPools"),
        (6, ("10.4.0.0/16",), "Workload", "provided IPv6 IPPools list contains one or more IPv4 IPPools"),
        (4, (), "Workload", r"no pools match the required use \(Workload\)"),
    ],
)
def test_why_no_pool_serves(version: int, requested: tuple[str, ...], use: str, text: str) -> None:
    with pytest.raises(NoQualifiedPool, match=text):
        plan.select_pools(POOLS, version, requested, "a1", {}, {}, use)
    with pytest.raises(NoQualifiedPool, match="no configured Calico pools for node a1"):
        plan.select_pools(POOLS[:1], 4, (), "a1", {}, {}, use)


def test_a_hosts_start_is_stable_and_hosts_are_spread() -> None:
    starts = [plan.start_index(f"agent-{number}", 1024) for number in range(200)]
    assert starts == [plan.start_index(f"agent-{number}", 1024) for number in range(200)]
    assert len(set(starts)) > 150


def test_every_block_of_a_pool_is_visited_once() -> None:
    cidrs = list(plan.block_cidrs(pool("p", "10.1.0.0/24", block_length=28), 13))
    assert cidrs[0] == "10.1.0.208/28" and len(set(cidrs)) == len(cidrs) == 16


@given(
    st.lists(st.tuples(st.integers(0, 1023), st.integers(22, 32)), max_size=6),
    st.integers(0, 63),
)
def test_blocks_that_are_reserved_whole_are_not_visited(reserved: list[tuple[int, int]], first: int) -> None:
    base = int(ipaddress.ip_address("10.1.0.0"))
    reservations = [ipaddress.IPv4Network((base + offset, length), strict=False) for offset, length in reserved]
    some = pool("p", "10.1.0.0/22", block_length=28)
    taken = {address for one in reservations for address in one}
    wanted = [cidr for cidr in plan.block_cidrs(some, first) if not set(ipaddress.ip_network(cidr)) <= taken]
    assert list(plan.block_cidrs(some, first, reservations)) == wanted


def test_half_of_a_large_pool_may_be_reserved() -> None:
    half = ipaddress.ip_network("fd00:9::/65")
    some = pool("p", "fd00:9::/64", block_length=122)
    assert next(plan.block_cidrs(some, 5, [half])) == "fd00:9:0:0:8000::/122"
    assert list(plan.block_cidrs(some, 5, [ipaddress.ip_network("fd00::/8")])) == []


@given(st.data())
def test_any_history_of_a_block_keeps_its_invariants(data: st.DataObject) -> None:
    block = fresh()
    for _ in range(data.draw(st.integers(1, 12))):
        used = [o for o, index in enumerate(block.allocations) if index is not None and not plan.is_cooling(block, o)]
        if used and bool(data.draw(st.integers(0, 1))):
            gone = data.draw(st.lists(st.sampled_from(used), min_size=1, unique=True))
            block = plan.release(block, gone, data.draw(st.sampled_from(["", "2026-03-01T10:05:00Z"])))
        else:
            attribute = data.draw(st.sampled_from([WEB, DB, Attribute()]))
            block, _ = plan.take(block, data.draw(st.integers(1, 4)), attribute, data.draw(st.integers(0, 255)))
        if data.draw(st.booleans()):
            block = plan.collect(block, NOW, 0)
        check(block)
        assert ipam_data.decode_block(KEY, ipam_data.encode_block(block)) == block

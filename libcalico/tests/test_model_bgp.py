"""BGP's kinds: what is stored, what is refused; the recorded answers of upstream's client are in tests/compat."""

from __future__ import annotations

from typing import Any

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, ValidationError
from libcalico.model import ResourceKey, from_input, key_path
from libcalico.model.bgp import BGPPeer, BGPPeerSpec
from libcalico.model.codec import decode, encode
from libcalico.model.validation.objects import validate


def made(kind: str, spec: dict[str, Any], name: str = "default", **members: Any) -> Any:
    head = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}}
    return from_input({**head, "spec": spec, **members})


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("BGPConfiguration", {"asNumber": 64512, "listenPort": 1790, "nodeMeshMaxRestartTime": "1m30s"}),
        ("BGPPeer", {"peerIP": "[fd00::1]:1790", "asNumber": 65537, "ttlSecurity": 1, "nextHopMode": "Self"}),
        ("BGPFilter", {"exportV4": [{"action": "Accept", "operations": [{"setPriority": {"value": 9}}]}]}),
        ("IPReservation", {"reservedCIDRs": ["10.0.0.1", "fd00::/64"]}),
        ("BlockAffinity", {"state": "confirmed", "node": "a", "cidr": "10.0.0.0/26", "deleted": False}),
        ("CalicoNodeStatus", {"node": "a", "classes": ["BGP"], "updatePeriodSeconds": 10}),
    ],
)
def test_what_is_stored_is_read_again(kind: str, spec: dict[str, Any]) -> None:
    resource = made(kind, spec)
    assert validate(resource) == []
    stored = encode(resource)
    again = decode(ResourceKey(kind, "default"), stored)
    assert again == resource and encode(again) == stored


def test_a_newer_release_may_have_stored_more() -> None:
    value = (
        b'{"metadata":{"name":"x"},"spec":{"state":"pending","node":"a","cidr":"10.0.0.0/26","deleted":"true","new":1}}'
    )
    affinity: Any = decode(ResourceKey("BlockAffinity", "x"), value)
    assert (affinity.spec.state, affinity.spec.deleted) == ("pending", "true")


@pytest.mark.parametrize(
    ("peer", "good"),
    [
        ("10.0.0.1", True), ("10.0.0.1:179", True), ("fd00::1", True), ("[fd00::1]:179", True),
        ("10.0.0.1:0", False), ("10.0.0.1:65536", False), ("10.0.0.1:", False), ("10.0.0.1:1x", False),
        ("[10.0.0.1]:179", True), ("[fd00::1", False), ("fd00::1]:179", False), ("fd00::1:99999", False),
        ("host:179", False), ("10.0.0.1/24", False), ("10.0.0.1:" + "1" * 70_000, False), ("fd00::1%eth0", False),
    ],
)  # fmt: skip
def test_addresses_of_peers(peer: str, good: bool) -> None:
    assert (validate(made("BGPPeer", {"peerIP": peer, "asNumber": 1})) == []) == good


@pytest.mark.parametrize(
    "community", ["1:2:3:4", "a:b", "01:2", "65536:1", "4294967296:1:1", "1:2\n", "1:" + "9" * 30, '1:2"; }', ""]
)
def test_a_filter_takes_communities_only(community: str) -> None:
    rule = {"action": "Accept", "communities": {"values": [community]}}
    (error,) = validate(made("BGPFilter", {"importV6": [rule]}))
    assert error.field == "spec.importV6[0].communities.values" and "leading zeros" in error.reason


def test_a_number_that_is_too_long_is_no_community() -> None:
    spec = {"communities": [{"name": "c", "value": "1:" + "9" * 5000}], "prefixAdvertisements": [{"cidr": "10.0.0.0/8",
            "communities": ["c"]}]}  # fmt: skip
    assert [error.reason for error in validate(made("BGPConfiguration", spec))] == [
        "invalid community value, expected 16 bit value"
    ]


async def test_a_peer_needs_its_filters() -> None:
    store = MemoryDatastore()
    client = AsyncClient(store)
    peer: Any = made("BGPPeer", {"peerIP": "10.0.0.1", "asNumber": 1, "filters": ["there", "not"]})
    await client.create(made("BGPFilter", {}, "there"))
    with pytest.raises(ValidationError, match=r"BGPPeer\.Spec\.Filters = '\[not\]' \(BGPFilter\(s\) not found\)"):
        await client.create(peer)
    await client.create(made("BGPFilter", {}, "not"))
    await client.create(peer)
    stored = await store.get(key_path(ResourceKey("BGPPeer", "default")).encode())
    assert stored is not None and b'"filters":["there","not"]' in stored.value
    await client.delete("BGPFilter", "not")  # as upstream: a peer keeps the names of filters that are gone
    with pytest.raises(ValidationError, match="not found"):
        await client.apply(peer)


def test_status_counts_beyond_what_upstream_reads_are_refused() -> None:
    status = {"bgp": {"numberEstablishedV4": (1 << 63) - 1}}
    resource = made("CalicoNodeStatus", {"node": "a", "classes": [], "updatePeriodSeconds": 0}, status=status)
    assert [error.field for error in validate(resource)] == ["status.bgp.numberEstablishedV4"]


def test_bad_numbers_are_refused_where_they_are_read() -> None:
    for spec in ({"asNumber": "1.65536"}, {"ttlSecurity": 256}, {"numAllowedLocalASNumbers": 1 << 31}):
        with pytest.raises(BadData):
            made("BGPPeer", spec)


def test_a_peer_made_in_a_script_has_upstreams_members() -> None:
    peer = BGPPeer(spec=BGPPeerSpec(peer_ip="10.0.0.1", as_number=64512, next_hop_mode="Keep", max_restart_time="5s"))
    assert encode(peer) == (
        b'{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{},"spec":'
        b'{"peerIP":"10.0.0.1","asNumber":64512,"nextHopMode":"Keep","maxRestartTime":"5s"}}'
    )

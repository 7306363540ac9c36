"""Stored values that no program of ours wrote: sound objects with one member replaced, and bytes that are no object."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from libcalico.model.keys import (
    AffinityKey,
    BlockKey,
    HandleKey,
    IPAMConfigKey,
    Key,
    ResourceKey,
    key_path,
)

HOST = "here"
HANDLE = "calico.c1"
BLOCK = "10.61.0.0/29"
PLACEHOLDER = "\x00deep"
DEEP = "[" * 20_000 + "]" * 20_000
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 256, 65535, 65536, 1 << 70, 10**400, 1.5, 1e308, -0.0, "", "0", "65536",
    "x" * 3000, "10.0.0.1/33", "fd00::/8", "0.0.0.0/0", "::/0",
    "a\x1b[31m\nb", "\u202e", "all()", "has(", "((((", "a == '", [], {},
    [[]], [None], {"a": {"b": [1]}}, [1 << 70], {"": ""}, PLACEHOLDER,
)  # fmt: skip
"""Wrong types, numbers beyond every limit, text that looks like something else, JSON that is deep."""

_RULES = [
    {"action": "Allow", "protocol": "TCP", "source": {"selector": "a == '1'", "nets": ["10.0.0.0/8"]},
     "destination": {"ports": [80, "90:99", "http"], "notPorts": ["http"]}},
    {"action": "Deny", "protocol": "ICMP", "ipVersion": 4, "icmp": {"type": 8, "code": 0},
     "destination": {"notNets": ["10.1.0.0/16"], "notSelector": "b == '2'"}},
]  # fmt: skip
_POLICY = {
    "tier": "default", "order": 5, "selector": "all()", "types": ["Ingress", "Egress"],
    "ingress": _RULES, "egress": _RULES,
}  # fmt: skip


def _resource(kind: str, name: str, spec: Any, namespace: str = "", **more: Any) -> tuple[Key, Any]:
    metadata = {"name": name, "labels": {"a": "1"}, "annotations": {"note": "x"}, "uid": "u"}
    if namespace:
        metadata["namespace"] = namespace
    document = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec, **more}
    return ResourceKey(kind, name, namespace), document


def _endpoint(node: str, name: str, address: str) -> tuple[Key, Any]:
    return _resource(
        "WorkloadEndpoint", f"{node}-cni-{name}-eth0",
        {
            "node": node, "orchestrator": "cni", "containerID": name, "endpoint": "eth0",
            "interfaceName": f"cali{name}",
            "mac": "0a:00:00:00:00:01", "ipNetworks": [f"{address}/32"], "profiles": ["p"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}], "ipNATs": [],
            "qosControls": {"ingressBurst": 1},
        },
        "default",
    )  # fmt: skip


OBJECTS: dict[Key, Any] = dict(
    [
        _resource("ClusterInformation", "default", {"datastoreReady": True, "clusterGUID": "0" * 32}),
        _resource("FelixConfiguration", "default", {"logSeverityScreen": "Info", "vxlanPort": 64000}),
        _resource("Node", HOST, {
            "bgp": {"ipv4Address": "10.1.0.1/24", "asNumber": 64512}, "ipv4VXLANTunnelAddr": "10.61.0.1",
            "addresses": [{"address": "10.1.0.1", "type": "InternalIP"}], "vxlanTunnelMACAddr": "66:00:00:00:00:01"}),
        _resource("Node", "there", {"bgp": {"ipv4Address": "10.1.0.2/24"}, "ipv4VXLANTunnelAddr": "10.61.0.9"}),
        _resource("IPPool", "pool", {
            "cidr": "10.61.0.0/16", "vxlanMode": "Always", "ipipMode": "Never", "blockSize": 29, "natOutgoing": True,
            "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic"}),
        _resource("IPReservation", "r", {"reservedCIDRs": ["10.61.9.0/24"]}),
        _resource("Tier", "default", {"order": 1000000, "defaultAction": "Deny"}),
        _resource("Profile", "p", {"ingress": _RULES, "egress": _RULES, "labelsToApply": {"p": "1"}}),
        _resource("GlobalNetworkPolicy", "g", _POLICY),
        _resource("NetworkPolicy", "n", _POLICY, "default"),
        _resource("GlobalNetworkSet", "s", {"nets": ["10.9.0.0/16", "fd00::1"]}),
        _resource("NetworkSet", "s", {"nets": ["10.9.0.0/16"]}, "default"),
        _resource("HostEndpoint", "h", {"node": HOST, "interfaceName": "eth0", "expectedIPs": ["10.1.0.1"]}),
        _resource("BGPPeer", "b", {"node": HOST, "peerIP": "10.1.0.3", "asNumber": 64512}),
        _endpoint(HOST, "c1", "10.61.0.2"),
        _endpoint(HOST, "c2", "10.61.0.3"),
        _endpoint("there", "c3", "10.61.0.10"),
        (BlockKey(BLOCK), {
            "cidr": BLOCK, "affinity": f"host:{HOST}", "affinity_claim_time": "2026-03-01T10:00:00Z",
            "allocations": [None, 0, 1, None, None, None, None, None], "unallocated": [0, 3, 4, 5, 6, 7],
            "attributes": [{"handle_id": "vxlan-tunnel-addr-here", "secondary": {"node": HOST}},
                           {"handle_id": HANDLE, "secondary": {"node": HOST}, "releasedAt": None}],
            "sequenceNumber": 7, "sequenceNumberForAllocation": {"1": 5, "2": 6}, "deleted": False}),
        (BlockKey("10.61.0.8/29"), {
            "cidr": "10.61.0.8/29", "affinity": "host:there", "allocations": [0] + [None] * 7,
            "unallocated": [1, 2, 3, 4, 5, 6, 7], "attributes": [{"handle_id": "h3", "secondary": {"node": "there"}}],
            "sequenceNumber": 7, "sequenceNumberForAllocation": {"0": 5}}),
        (AffinityKey(HOST, BLOCK), {"state": "confirmed", "deleted": False}),
        (HandleKey(HANDLE), {"block": {BLOCK: 1}, "deleted": False}),
        (IPAMConfigKey(), {"strict_affinity": False, "auto_allocate_blocks": True, "ipCooldownSeconds": 5}),
    ]
)  # fmt: skip
KEYS = tuple(OBJECTS)


def paths(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a JSON-shaped value, itself included."""
    yield place
    for step, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(inner, (*place, step))


def replaced(value: Any, place: tuple[Any, ...], leaf: Any) -> Any:
    """The value with another one at a place."""
    if not place:
        return leaf
    fresh = copy.copy(value)
    fresh[place[0]] = replaced(value[place[0]], place[1:], leaf)
    return fresh


def to_bytes(value: Any) -> bytes:
    """As it is stored."""
    return json.dumps(value).replace(json.dumps(PLACEHOLDER), DEEP).encode()


@st.composite
def damaged_values(draw: st.DrawFn, key: Key) -> bytes:
    """A value for a key: its own with a member replaced, one of another kind, or no JSON at all."""
    way = draw(st.integers(0, 9))
    if way == 0:
        return draw(st.binary(max_size=40))
    if way == 1:
        return draw(st.sampled_from((b"", b"null", b"{", b"[]", b'"\\ud800"', b"\xff\xfe", DEEP.encode(), b"1e999")))
    sound = OBJECTS[key] if way > 2 else OBJECTS[draw(st.sampled_from(KEYS))]
    for _ in range(draw(st.integers(1, 2))):
        sound = replaced(sound, draw(st.sampled_from(list(paths(sound)))), draw(st.sampled_from(LEAVES)))
    stored = to_bytes(sound)
    return stored[: draw(st.integers(0, len(stored)))] if way == 9 else stored


@st.composite
def damaged_paths(draw: st.DrawFn, key: Key) -> bytes:
    """The key of an object, or bytes that resemble it."""
    path = key_path(key).encode()
    way = draw(st.integers(0, 5))
    if way < 3:
        return path
    noise = draw(
        st.sampled_from((b"\xff", b"\x00", b"/", b"", b"\n\x1b[31m", b" ", b"%2f", b"-0", b'"', "\u202e".encode()))
    )
    place = draw(st.integers(len(b"/calico/"), len(path)))
    return path[:place] + noise + path[place + (way == 4) :]


@st.composite
def damages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A key and a value to store."""
    key = draw(st.sampled_from(KEYS))
    return draw(damaged_paths(key)), draw(damaged_values(key))

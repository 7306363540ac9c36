"""Routing states from objects as a client stores them, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from calico_bird.routing import Routing
from libcalico.model.base import API_VERSION
from libcalico.model.keys import AffinityKey, ResourceKey

Object = dict[str, Any]


def resource(kind: str, name: str, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    """An object in its stored form; members of the spec as they are spelt there."""
    metadata = {"name": name, **({"labels": labels} if labels else {})}
    return {"kind": kind, "apiVersion": API_VERSION, "metadata": metadata, "spec": spec}


def node(name: str, v4: str = "", v6: str = "", labels: dict[str, str] | None = None, **bgp: Any) -> Object:
    """A Node with these addresses, as `address/length`."""
    addresses = {key: text for key, text in (("ipv4Address", v4), ("ipv6Address", v6)) if text}
    return resource("Node", name, labels, bgp=addresses | bgp)


def routing(
    name: str,
    objects: Iterable[Object],
    *,
    blocks: Iterable[str] = (),
    passwords: dict[tuple[str, str], str] | None = None,
    workloads: dict[str, Object] | None = None,
    router_id: str = "",
) -> Routing:
    """The state of node `name` with these objects, confirmed blocks, secrets and endpoint-status files."""
    state = Routing(name, router_id)
    for one in objects:
        state.put(ResourceKey(one["kind"], one["metadata"]["name"]), json.dumps(one).encode())
    for block in blocks:
        state.put(AffinityKey(name, block), b'{"state":"confirmed"}')
    state.put_passwords(passwords or {})
    for file, status in (workloads or {}).items():
        state.put_workload(file, json.dumps(status).encode())
    return state

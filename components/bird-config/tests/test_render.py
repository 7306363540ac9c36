"""What a renderer remembers never shows: the text depends on the state alone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from calico_bird.render import Renderer
from calico_bird.routing import Routing
from calico_bird.testing import node, resource
from libcalico.model.keys import AffinityKey, ResourceKey

OBJECTS = [
    *(node(f"m{place}", f"192.168.{cross}.1{place}/24", f"fd10::{cross}{place}/64", {"rack": f"r{cross}"}, **bgp)
      for place in (1, 2, 3)
      for cross, bgp in ((1, {}), (2, {"asNumber": 65009}), (3, {"routeReflectorClusterID": "0.0.0.9"}))),
    *(resource("BGPConfiguration", name, **spec) for name in ("default", "node.m1", "node.m2")
      for spec in ({}, {"listenPort": 1179}, {"nodeToNodeMeshEnabled": False}, {"logSeverityScreen": "Debug"},
                   {"nodeMeshPassword": {"secretKeyRef": {"name": "s", "key": "k"}}})),
    *(resource("BGPPeer", name, **spec) for name in ("a", "b")
      for spec in ({"peerIP": "192.168.1.12", "asNumber": 64512},
                   {"peerIP": "198.51.100.1", "asNumber": 65100, "filters": ["f"]},
                   {"nodeSelector": "rack == 'r1'", "peerSelector": "rack == 'r3'"})),
    *(resource("BGPFilter", "f", exportV4=[{"action": action}]) for action in ("Accept", "Reject", "Perhaps")),
    *(resource("IPPool", "p", cidr="10.50.0.0/16", ipipMode=mode) for mode in ("Never", "Always")),
]  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(OBJECTS), st.booleans())
    | st.tuples(st.sampled_from(["10.50.3.64/26", "10.50.3.128/26"]), st.booleans())
    | st.tuples(st.just({("s", "k"): "secret"}), st.booleans()),
    max_size=25,
)  # fmt: skip


def _take(state: Routing, what: Any, stays: bool) -> None:
    if isinstance(what, str):
        state.put(AffinityKey("m1", what), b'{"state":"confirmed"}' if stays else None)
    elif "kind" in what:
        key = ResourceKey(what["kind"], what["metadata"]["name"])
        state.put(key, json.dumps(what).encode() if stays else None)
    else:
        state.put_passwords(what if stays else {})


@given(STEPS)
def test_the_way_to_a_state_does_not_matter(steps: list[tuple[Any, bool]]) -> None:
    state, renderer = Routing("m1"), Renderer()
    for what, stays in steps:
        _take(state, what, stays)
        renderer.render(state)
    last = {json.dumps(_name(what)): (what, stays) for what, stays in steps}
    other = Routing("m1")
    for what, stays in sorted(last.values(), key=str, reverse=True):
        _take(other, what, stays)
    assert renderer.render(state) == Renderer().render(other)


def _name(what: Any) -> Any:
    if isinstance(what, str):
        return what
    return [what["kind"], what["metadata"]["name"]] if "kind" in what else "secrets"


def test_a_node_object_that_is_missing_leaves_no_sessions() -> None:
    state = Routing("m1")
    _take(state, node("m2", "192.168.1.12/24"), True)
    _take(state, resource("BGPPeer", "a", peerIP="198.51.100.1", asNumber=65100), True)
    rendered = Renderer().render(state)
    assert (rendered.sessions, rendered.has_node) == (0, False)
    assert "router id 0.0.0.0" not in rendered.text


def test_an_explicit_peer_wins_over_a_selector_and_the_mesh_and_says_so() -> None:
    state = Routing("m1")
    for one in (
        node("m1", "192.168.1.11/24"), node("m2", "192.168.1.12/24", labels={"x": "y"}),
        resource("BGPPeer", "by-address", node="m1", peerIP="192.168.1.12", asNumber=64512, ttlSecurity=1),
        resource("BGPPeer", "all-by-selector", peerSelector="x == 'y'", reversePeering="Manual"),
    ):  # fmt: skip
        _take(state, one, True)
    rendered = Renderer().render(state)
    assert rendered.sessions == 1 and "protocol bgp Node_192_168_1_12 " in rendered.text
    reason = "192.168.1.12 is a neighbour by BGPPeer(by-address) already"
    assert [(one.subject, one.reason) for one in rendered.problems] == [
        ("BGPPeer(all-by-selector)", reason), ("node mesh", reason)
    ]  # fmt: skip

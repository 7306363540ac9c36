"""Stored objects that cannot be used, or that contradict each other: what is said, and that nothing leaks."""

from __future__ import annotations

from calico_bird.render import Renderer
from calico_bird.routing import Problem
from calico_bird.testing import node, resource, routing
from libcalico.model.keys import ResourceKey
from libcalico.testing.bird import refusal


def test_a_filter_that_cannot_be_read_lets_nothing_through() -> None:
    peer = resource("BGPPeer", "p", peerIP="198.51.100.1", asNumber=65100, filters=["f", "gone"])
    state = routing("m1", [node("m1", "192.168.10.11/24"), peer])
    state.put(ResourceKey("BGPFilter", "f"), b'{"spec": {"importV4": 7}}')
    rendered = Renderer().render(state)
    assert refusal(rendered.text) == ""
    for direction in ("import", "export"):
        symbol = f"'bgp_f_{direction}FilterV4'()"
        assert f"function {symbol}\n{{\n  reject;\n}}" in rendered.text and f"      {symbol};\n" in rendered.text
    (problem,) = rendered.problems
    assert problem.subject == "BGPFilter(f)" and problem.reason.endswith(": peers that name it exchange no routes")
    state.put(ResourceKey("BGPFilter", "f"), None)
    assert "bgp_f_" not in Renderer().render(state).text


def test_nodes_with_one_address_are_named_and_one_of_them_is_the_neighbour() -> None:
    nodes = [node("m1", "192.168.10.11/24"), node("m2", "192.168.10.12/24"), node("m3", "192.168.10.12/24"),
             node("m4", "192.168.10.11/24")]  # fmt: skip
    rendered = Renderer().render(routing("m1", nodes))
    assert rendered.sessions == 1
    text = (
        "spec.bgp.ipv4Address {} is that of Node({}), too: no session is made for it; give one of them its own address"
    )
    assert rendered.problems == (
        Problem("Node(m3)", text.format("192.168.10.12", "m2")),
        Problem("Node(m4)", text.format("192.168.10.11", "m1")),
    )

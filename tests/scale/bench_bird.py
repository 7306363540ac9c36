"""BIRD's configuration of a node with 1,000 nodes and 10 BGPPeers, in a full mesh of both families."""

from __future__ import annotations

import json
from collections.abc import Callable

from calico_bird.render import Renderer
from calico_bird.testing import Object, node, resource, routing
from libcalico.model.keys import ResourceKey
from libcalico.testing.bird import has_bird, refusal
from tests.scale.report import per_call_us, report

NODES, PEERS = 1000, 10


def main() -> None:
    """All of it."""
    nodes = [
        node(f"n{place}", f"10.{place // 250}.{place % 250}.1/16", f"fd00::{place:x}/64", {"rack": f"r{place % 20}"})
        for place in range(1, NODES + 1)
    ]
    peers = [_peer(place, 65000) for place in range(PEERS)]
    pool = resource("IPPool", "p", cidr="10.128.0.0/9", ipipMode="Never")
    state = routing("n1", [*nodes, *peers, pool], blocks=["10.128.3.64/26"])
    whole = _each_ms(lambda: Renderer().render(state))
    renderer = Renderer()
    rendered = renderer.render(state)
    changes = iter(range(65001, 66000))

    def change() -> None:
        one = _peer(0, next(changes))
        state.put(ResourceKey("BGPPeer", one["metadata"]["name"]), json.dumps(one).encode())
        renderer.render(state)

    facts = {"nodes": NODES, "peers": PEERS, "sessions": rendered.sessions}
    report("BIRD's configuration, whole", "ms", whole, **facts)
    report("BIRD's configuration, one peer changed", "ms", _each_ms(change), **facts)
    if has_bird():
        report("bird -p of it", "ms", _each_ms(lambda: refusal(rendered.text)), bytes=len(rendered.text))


def _peer(place: int, as_number: int) -> Object:
    if place < PEERS // 2:
        return resource("BGPPeer", f"edge{place}", peerIP=f"198.51.100.{place + 1}", asNumber=as_number)
    return resource("BGPPeer", f"rack{place}", nodeSelector=f"rack == 'r{place}'", peerSelector=f"rack == 'r{place}'")


def _each_ms(call: Callable[[], object]) -> list[float]:
    return [taken / 1000 for taken in per_call_us(call, 1)]


if __name__ == "__main__":
    main()

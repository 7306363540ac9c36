"""`-show-status`: what a CalicoNodeStatus of this node would say, as tables, IPv4 first (spec/node-startup.md 10.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from calico_felix.bird_status import AGENT, BGP, ROUTES, collect
from libcalico import boxes
from libcalico.model.bgp import BGPDaemonStatus, CalicoNodeStatusStatus, PeerStatus, RouteStatus
from libcalico.text import escaped

AGENT_HEADER = ("STATE", "VERSION", "ROUTER ID", "LAST BOOT TIME", "LAST RECONFIGURATION TIME")
PEER_HEADER = ("PEER IP", "TYPE", "STATE", "SINCE")
ROUTE_HEADER = ("TYPE", "DESTINATION", "GATEWAY", "INTERFACE", "SOURCE TYPE", "PEER IP")


async def show_status() -> str:
    """All tables. Raises `Unavailable` when BIRD does not answer, `BadData` when its answer is not understood."""
    return "\n\n".join(tables(await collect((AGENT, BGP, ROUTES)))) + "\n"


def tables(status: CalicoNodeStatusStatus) -> Iterator[str]:
    """Each with its heading."""
    agent, bgp, routes = status.agent, status.bgp, status.routes
    yield _agent("IPv4", agent.bird_v4)
    yield _peers("IPv4", bgp.number_established_v4, bgp.number_not_established_v4, bgp.peers_v4)
    yield _routes("IPv4", routes.routes_v4)
    yield _agent("IPv6", agent.bird_v6)
    yield _peers("IPv6", bgp.number_established_v6, bgp.number_not_established_v6, bgp.peers_v6)
    yield _routes("IPv6", routes.routes_v6)


def _agent(family: str, one: BGPDaemonStatus) -> str:
    row = (one.state, one.version, one.router_id, one.last_boot_time, one.last_reconfiguration_time)
    return _table(f"{family} agent", AGENT_HEADER, [row])


def _peers(family: str, up: int, down: int, peers: Iterable[PeerStatus]) -> str:
    rows = [(one.peer_ip, one.type, one.state, one.since) for one in peers]
    return _table(f"{family} BGP peers: {up} established, {down} not", PEER_HEADER, rows)


def _routes(family: str, routes: Iterable[RouteStatus]) -> str:
    rows = [
        (one.type, one.destination, one.gateway, one.interface, one.learned_from.source_type, one.learned_from.peer_ip)
        for one in routes
    ]
    return _table(f"{family} routes", ROUTE_HEADER, rows)


def _table(heading: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return f"{heading}\n{boxes.render(header, [tuple(map(escaped, row)) for row in rows])}"

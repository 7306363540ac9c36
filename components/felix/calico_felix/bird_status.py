"""What this node's BIRD is doing, in the form of a CalicoNodeStatus (spec/node-startup.md 10.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from libcalico.bird.control import SOCKETS, SOCKETS_V6, NoBird, find_socket, show_protocols, show_routes, show_status
from libcalico.bird.names import GLOBAL, LOCAL_WORKLOAD, MESH, NODE, parse_session_name
from libcalico.bird.replies import BirdStatus, NextHop, Protocol, Route
from libcalico.errors import BadData
from libcalico.model.bgp import (
    AgentStatus,
    BGPDaemonStatus,
    BGPStatus,
    CalicoNodeStatusStatus,
    LearnedFrom,
    PeerStatus,
    RoutesStatus,
    RouteStatus,
)
from libcalico.text import shown

ANSWER_S = 5.0
LARGEST_ROUTES = 1 << 20
"""Octets of BIRD's answer: more would be no object that etcd takes."""
AGENT, BGP, ROUTES = "Agent", "BGP", "Routes"
ESTABLISHED, NO_GATEWAY = "Established", "N/A"
STATES = {"Down": "Idle", "Passive": "Active"}
"""BIRD's words for two states that RFC 4271 calls otherwise."""
PEER_TYPES = {MESH: "NodeMesh", GLOBAL: "GlobalPeer", NODE: "NodePeer", LOCAL_WORKLOAD: "NodePeer"}
SOURCES = {"Kernel": "Kernel", "Static": "Static", "Direct": "Direct"}


class Bird(NamedTuple):
    """One daemon: where it listens, what it says of itself, and which families it serves."""

    path: str
    status: BirdStatus
    families: tuple[int, ...]


async def collect(
    classes: Collection[str], places: Sequence[str] = SOCKETS, places_v6: Sequence[str] = SOCKETS_V6
) -> CalicoNodeStatusStatus:
    """The parts that `classes` name; a BIRD that does not run is not ready, and has no sessions and no routes.

    Raises `Unavailable` when one that runs does not answer, `BadData` when its answer is not understood."""
    birds = await _birds(places, places_v6)
    protocols = {bird.path: await show_protocols(bird.path, ANSWER_S, details=True) for bird in birds}
    agent, bgp, routes = AgentStatus(), BGPStatus(), RoutesStatus()
    if AGENT in classes:
        agent = agent_status(birds)
    if BGP in classes:
        bgp = bgp_status([one for bird in birds for one in protocols[bird.path]])
    if ROUTES in classes:
        found: list[RouteStatus] = []
        for bird in birds:
            found += route_statuses(await show_routes(bird.path, ANSWER_S, LARGEST_ROUTES), protocols[bird.path])
        routes = RoutesStatus(
            routes_v4=[one for one in found if _family(one.destination) == 4],
            routes_v6=[one for one in found if _family(one.destination) == 6],
        )
    return CalicoNodeStatusStatus(agent=agent, bgp=bgp, routes=routes)


async def _birds(places: Sequence[str], places_v6: Sequence[str]) -> list[Bird]:
    first = await _bird(find_socket(places), (4, 6))
    if first is not None and first.status.serves_both_families:
        return [first]
    second = await _bird(find_socket(places_v6), (6,))
    return [one._replace(families=(family,)) for one, family in ((first, 4), (second, 6)) if one is not None]


async def _bird(path: str, families: tuple[int, ...]) -> Bird | None:
    try:
        return Bird(path, await show_status(path, ANSWER_S), families)
    except NoBird:
        return None


def _family(text: str) -> int:
    return 6 if ":" in text else 4


def agent_status(birds: Iterable[Bird]) -> AgentStatus:
    """The state of BIRD by family."""
    of = {family: _daemon(bird.status) for bird in birds for family in bird.families}
    absent = BGPDaemonStatus(state="NotReady")
    return AgentStatus(bird_v4=of.get(4, absent), bird_v6=of.get(6, absent))


def _daemon(status: BirdStatus) -> BGPDaemonStatus:
    return BGPDaemonStatus(
        state="NotReady" if status.daemon.startswith("Shutdown") else "Ready",
        version=status.version,
        router_id=status.router_id,
        last_boot_time=status.last_reboot,
        last_reconfiguration_time=status.last_reconfiguration,
    )


def bgp_status(protocols: Iterable[Protocol]) -> BGPStatus:
    """Our sessions, by the family of their neighbour."""
    peers = list(_peers(protocols))
    v4, v6 = ([one for one in peers if _family(one.peer_ip) == family] for family in (4, 6))
    up_v4, up_v6 = (sum(one.state == ESTABLISHED for one in some) for some in (v4, v6))
    return BGPStatus(
        number_established_v4=up_v4,
        number_not_established_v4=len(v4) - up_v4,
        number_established_v6=up_v6,
        number_not_established_v6=len(v6) - up_v6,
        peers_v4=v4,
        peers_v6=v6,
    )


def _peers(protocols: Iterable[Protocol]) -> Iterator[PeerStatus]:
    for one in protocols:
        name = parse_session_name(one.name) if one.kind == "BGP" else None
        if name is not None:
            state = STATES.get(one.bgp_state, one.bgp_state)
            yield PeerStatus(
                peer_ip=one.neighbor or name.address, type=PEER_TYPES[name.scope], state=state, since=one.since
            )


def route_statuses(routes: Iterable[Route], protocols: Iterable[Protocol]) -> list[RouteStatus]:
    """The routes, one for each next hop. Raises `BadData` for one that no protocol of these is the source of."""
    sources = {one.name: _source(one) for one in protocols}
    found = []
    for route in routes:
        source = sources.get(route.protocol)
        if source is None:
            raise BadData(
                f"BIRD's route {route.destination} is of '{shown(route.protocol)}', which is no source we know"
            )
        hops = route.hops or (NextHop("", route.kind),)
        found += [
            RouteStatus(
                type="FIB" if route.is_best else "RIB",
                destination=route.destination,
                gateway=hop.gateway or NO_GATEWAY,
                interface=hop.interface,
                learned_from=source,
            )
            for hop in hops
        ]
    return found


def _source(protocol: Protocol) -> LearnedFrom | None:
    if protocol.kind != "BGP":
        kind = SOURCES.get(protocol.kind)
        return None if kind is None else LearnedFrom(source_type=kind)
    name = parse_session_name(protocol.name)
    is_mesh = name is not None and name.scope == MESH
    address = protocol.neighbor or (name.address if name is not None else "")
    return LearnedFrom(source_type="NodeMesh" if is_mesh else "BGPPeer", peer_ip=address)

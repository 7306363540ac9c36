"""Which sessions this node has: the mesh, BGPPeers, and the peerings back (spec/bgp.md 4 and 12).

Pure: `plan_sessions` answers with sessions sorted by name. There is one for each neighbour address and port:
of several the first by `_Rank` is taken, the others are named in the plan's problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from calico_bird.grammar import NotBird, neighbor_address, password, router_id
from calico_bird.routing import DEFAULT_PORT, FAMILIES, Host, Problem, Routing
from libcalico.bird.names import GLOBAL, LOCAL_WORKLOAD, NODE, session_name
from libcalico.bird.names import MESH as MESH_SCOPE
from libcalico.durations import parse_duration
from libcalico.model.bgp import BGPPassword, BGPPeerSpec
from libcalico.net import Cidr, parse_cidr
from libcalico.selector import SelectorError, parse
from libcalico.text import shown

EXPLICIT, SELECTED, REVERSE, MESH = range(4)
LARGEST_KEEPALIVE_S, LARGEST_RESTART_S = 65535, 4095
SECOND_NS = 1_000_000_000
LARGEST_PORT = 65535


class Remote(NamedTuple):
    """The far end of a session; port 0 is BIRD's default. `cluster_id` is that of a Calico node found by selector, else
    empty; `is_node`: the address is a Calico node's."""

    address: str
    family: int
    port: int
    as_number: int
    cluster_id: str = ""
    is_node: bool = False


class Times(NamedTuple):
    """In seconds; None: BIRD's own."""

    restart_s: int | None = None
    keepalive_s: int | None = None


class Session(NamedTuple):
    """One BGP session as BIRD is to have it. `local_as` 0: the node's; `ttl` 0: no TTL security; `cluster_id` not
    empty: the far end is a reflector's client; `password` is quoted, `next_hop` is `self`, `keep` or empty."""

    name: str
    remote: Remote
    same_as: bool
    local_as: int = 0
    source: str = ""
    passive: bool = False
    disabled: bool = False
    ttl: int = 0
    times: Times = Times()
    cluster_id: str = ""
    password: str = ""
    next_hop: str = ""
    allow_local_as: int = 0
    filters: tuple[str, ...] = ()


class HostRoute(NamedTuple):
    """The static route to a neighbour that is reached by way of a gateway."""

    net: Cidr
    via: str


class Plan(NamedTuple):
    """The sessions by name, the routes to their neighbours, and what was left out."""

    sessions: tuple[Session, ...]
    routes: tuple[HostRoute, ...]
    problems: tuple[Problem, ...]


class _Rank(NamedTuple):
    """The order of sessions that would have one neighbour: least first."""

    origin: int
    is_of_node: bool
    peer_name: str


class _Found(NamedTuple):
    rank: _Rank
    session: Session
    reachable_by: str


class Mesh(NamedTuple):
    """The mesh's sessions of one version of the state, and what was wrong with them."""

    version: int
    sessions: tuple[_Found, ...]
    problems: tuple[Problem, ...]


def plan_sessions(state: Routing, known: Mesh | None = None) -> tuple[Plan, Mesh]:
    """Every session of this node. `known` is the mesh that the last plan of this same state was made with: it is taken
    again while nothing changed that it depends on."""
    planner = _Planner(state)
    mesh = known if known is not None and known.version == state.mesh_version else planner.mesh()
    return planner.plan(mesh), mesh


class _Planner:
    """One run over the state. `by_address` finds a Calico node by address, the first by name."""

    def __init__(self, state: Routing) -> None:
        self.state = state
        self.own = state.host
        self.own_as = self.own.as_number or state.global_as
        self.problems: list[Problem] = []
        self.hosts = [state.hosts[name] for name in sorted(state.hosts)]
        self.by_address: dict[str, Host] = {}
        for host in self.hosts:
            for address in host.addresses.values():
                self.by_address.setdefault(address, host)
        self.cluster_id = self._own_cluster_id()

    def plan(self, mesh: Mesh) -> Plan:
        """BGPPeers' sessions and the mesh's, one for each neighbour."""
        found = [one for name, spec in sorted(self.state.peers.items()) for one in self._of_peer(name, spec)]
        found.sort(key=lambda one: one.rank)
        found += mesh.sessions
        taken: dict[tuple[str, int], _Found] = {}
        for one in found:
            key = (one.session.remote.address, one.session.remote.port or DEFAULT_PORT)
            winner = taken.setdefault(key, one)
            if winner.rank.peer_name != one.rank.peer_name and one.rank.origin != REVERSE:
                self._problem(
                    one.rank.peer_name, f"{one.session.remote.address} is a neighbour by {_origin(winner)} already"
                )
        chosen = sorted(taken.values(), key=lambda one: one.session.name)
        problems = tuple(sorted({*self.problems, *mesh.problems}))
        return Plan(tuple(one.session for one in chosen), self._routes(chosen), problems)

    def _routes(self, chosen: list[_Found]) -> tuple[HostRoute, ...]:
        routes: dict[Cidr, str] = {}
        for one in chosen:
            if one.reachable_by:
                net = parse_cidr(one.session.remote.address)
                assert net is not None
                routes.setdefault(net, one.reachable_by)
        return tuple(HostRoute(net, routes[net]) for net in sorted(routes))

    def _problem(self, peer_name: str, reason: str) -> None:
        subject = f"BGPPeer({shown(peer_name)})" if peer_name else "node mesh"
        self.problems.append(Problem(subject, reason))

    def _own_cluster_id(self) -> str:
        """Checked; empty without one, or with one that is none: then sessions lack the client's flag (12.9)."""
        text = self.own.cluster_id
        try:
            return router_id(text) if text else ""
        except NotBird as error:
            self.problems.append(Problem(f"Node({shown(self.own.name)})", f"routeReflectorClusterID {error}"))
            return ""

    # Which nodes a BGPPeer is about

    def _matching(self, peer_name: str, field: str, selector: str) -> list[Host]:
        try:
            parsed = parse(selector)
        except SelectorError as error:
            self._problem(peer_name, f'{field} "{shown(selector)}" does not parse: {shown(error)}')
            return []
        return [host for host in self.hosts if parsed.evaluate(host.labels)]

    def _applies(self, peer_name: str, spec: BGPPeerSpec) -> bool:
        """Is this node one of those that have the peering?"""
        if spec.node_selector:
            return any(host is self.own for host in self._matching(peer_name, "nodeSelector", spec.node_selector))
        return not spec.node or spec.node == self.own.name

    def _subjects(self, peer_name: str, spec: BGPPeerSpec) -> list[Host]:
        """The nodes that have the peering."""
        if spec.node_selector:
            return self._matching(peer_name, "nodeSelector", spec.node_selector)
        if spec.node:
            return [host for host in self.hosts if host.name == spec.node]
        return self.hosts

    # BGPPeer -> sessions

    def _of_peer(self, name: str, spec: BGPPeerSpec) -> Iterator[_Found]:
        scope = NODE if spec.node or spec.node_selector else GLOBAL
        if spec.local_workload_selector:
            if self._applies(name, spec):
                yield from self._workloads(name, spec)
        elif spec.peer_selector:
            targets = self._matching(name, "peerSelector", spec.peer_selector)
            if self._applies(name, spec):
                yield from self._to_hosts(_Rank(SELECTED, scope == NODE, name), spec, targets)
            if spec.reverse_peering != "Manual" and any(host is self.own for host in targets):
                yield from self._to_hosts(_Rank(REVERSE, True, name), spec, self._subjects(name, spec))
        else:
            remote = self._explicit_remote(name, spec)
            if remote is None:
                return
            if self._applies(name, spec):
                yield from self._explicit(name, spec, remote, scope)
            if spec.reverse_peering != "Manual" and self._is_pointed_at(spec, remote):
                subjects = self._subjects(name, spec)
                yield from self._to_hosts(_Rank(REVERSE, True, name), spec, subjects, (remote.family,))

    def _workloads(self, name: str, spec: BGPPeerSpec) -> Iterator[_Found]:
        if not spec.as_number:
            self._problem(name, "asNumber is missing")
            return
        filters = BGPPeerSpec(filters=spec.filters, source_address="None")
        for workload in self.state.workloads.values():
            for text in workload.addresses if workload.peer_name == name else ():
                try:
                    address = neighbor_address(text)
                except NotBird as error:
                    self._problem(name, str(error))
                    continue
                remote = Remote(str(address), address.family, 0, spec.as_number)
                rank = _Rank(EXPLICIT, True, name)
                found = self._session(rank, filters, remote, LOCAL_WORKLOAD, spec.local_as_number or 0)
                for one in found:
                    yield one._replace(session=one.session._replace(passive=True))

    def _explicit_remote(self, name: str, spec: BGPPeerSpec) -> Remote | None:
        """The far end of a BGPPeer with peerIP, None (and a problem) if it is none."""
        host, port = _host_and_port(spec.peer_ip)
        try:
            address = neighbor_address(host)
        except NotBird as error:
            self._problem(name, f"peerIP {error}")
            return None
        if not spec.as_number:
            self._problem(name, "asNumber is missing or 0")
            return None
        if not self._is_reachable(name, spec, address.family):
            return None
        node = self.by_address.get(str(address))
        if port < 0:
            same = node is not None and (node.as_number or self.state.global_as) == spec.as_number
            port = self.state.listen_port(node.name) if node is not None and same else 0
        return Remote(str(address), address.family, port, spec.as_number, is_node=node is not None)

    def _is_reachable(self, name: str, spec: BGPPeerSpec, family: int) -> bool:
        """reachableBy must be an address of the peer's family, or the whole BGPPeer is ignored."""
        if not spec.reachable_by:
            return True
        try:
            fits = neighbor_address(spec.reachable_by).family == family
        except NotBird as error:
            self._problem(name, f"reachableBy {error}")
            return False
        if not fits:
            self._problem(name, f"reachableBy {shown(spec.reachable_by)} is not of peerIP's family")
        return fits

    def _explicit(self, name: str, spec: BGPPeerSpec, remote: Remote, scope: str) -> Iterator[_Found]:
        rank = _Rank(EXPLICIT, scope == NODE, name)
        allow_local_as = max(spec.num_allowed_local_as_numbers or 0, 0)
        own = self.own.addresses.get(remote.family, "")
        passive = scope == GLOBAL and remote.is_node and remote.address > own
        for one in self._session(rank, spec, remote, scope, spec.local_as_number or 0):
            session = one.session._replace(passive=passive, allow_local_as=allow_local_as)
            yield one._replace(session=session)

    def _is_pointed_at(self, spec: BGPPeerSpec, remote: Remote) -> bool:
        """Does a BGPPeer's peerIP mean this node: its address, AS, and port if that is given?"""
        if self.own.addresses.get(remote.family) != remote.address or spec.as_number != self.own_as:
            return False
        _host, port = _host_and_port(spec.peer_ip)
        return port < 0 or port == (self.state.listen_port(self.own.name) or DEFAULT_PORT)

    def _to_hosts(
        self, rank: _Rank, spec: BGPPeerSpec, targets: list[Host], families: tuple[int, ...] = FAMILIES
    ) -> Iterator[_Found]:
        """Sessions with Calico nodes, one for each family that both have."""
        scope = NODE if rank.is_of_node else GLOBAL
        for host in targets:
            if host is self.own:
                continue
            port, as_number = self.state.listen_port(host.name), host.as_number or self.state.global_as
            for family, address in host.addresses.items():
                if family in families:
                    remote = Remote(address, family, port, as_number, host.cluster_id, True)
                    yield from self._session(rank, spec, remote, scope, 0)

    def _session(self, rank: _Rank, spec: BGPPeerSpec, remote: Remote, scope: str, local_as: int) -> Iterator[_Found]:
        """The session with one far end: none with ourselves, or of a family that this node does not have."""
        own = self.own.addresses.get(remote.family)
        if own is None or own == remote.address:
            return
        name = rank.peer_name
        same_as = remote.as_number == (local_as or self.own_as)
        secret, disabled = self._password(name, spec.password)
        session = Session(
            session_name(scope, remote.address, remote.port), remote, same_as,
            local_as=local_as,
            source="" if spec.source_address == "None" else own,
            ttl=spec.ttl_security or 0,
            times=Times(
                self._seconds(name, "maxRestartTime", spec.max_restart_time, 0, LARGEST_RESTART_S),
                self._seconds(name, "keepaliveTime", spec.keepalive_time, 1, LARGEST_KEEPALIVE_S),
            ),
            cluster_id=self.cluster_id if same_as and remote.cluster_id != self.cluster_id else "",
            next_hop=_next_hop(spec, same_as),
            password=secret, disabled=disabled, filters=tuple(spec.filters),
        )  # fmt: skip
        yield _Found(rank, session, self._gateway(name, spec.reachable_by, remote))

    def _gateway(self, name: str, text: str, remote: Remote) -> str:
        """The checked gateway to a neighbour; empty without one, or with one of the other family (12.8)."""
        if not text:
            return ""
        try:
            address = neighbor_address(text)
        except NotBird as error:
            self._problem(name, f"reachableBy {error}")
            return ""
        return str(address) if address.family == remote.family else ""

    def _seconds(self, name: str, field: str, text: str | None, least: int, most: int) -> int | None:
        """A duration in whole seconds, half up, within what BIRD and the wire take (12.6)."""
        if text is None:
            return None
        try:
            seconds = (parse_duration(text) + SECOND_NS // 2) // SECOND_NS
        except ValueError as error:
            self._problem(name, f"{field}: {shown(error)}")
            return None
        within = min(max(seconds, least), most)
        if within != seconds:
            self._problem(name, f"{field} {shown(text)} is outside {least}-{most} s: {within} s is used")
        return within

    def _password(self, name: str, wanted: BGPPassword | None) -> tuple[str, bool]:
        """The quoted password, and whether the session must stay disabled for want of it (4.7)."""
        if wanted is None:
            return "", False
        reference = wanted.secret_key_ref
        key = (reference.name, reference.key) if reference else ("", "")
        text = self.state.passwords.get(key)
        if text is None:
            self._problem(name, f"there is no secret {shown(key[0])}/{shown(key[1])}: its sessions are disabled")
            return "", True
        try:
            return password(text), False
        except NotBird as error:
            self._problem(name, f"secret {shown(key[0])}/{shown(key[1])}: {error}: its sessions are disabled")
            return "", True

    # Mesh

    def mesh(self) -> Mesh:
        """The mesh as of now."""
        before, self.problems = self.problems, []
        self._find_shared_addresses()
        sessions = tuple(self._mesh())
        mesh = Mesh(self.state.mesh_version, sessions, tuple(self.problems))
        self.problems = before
        return mesh

    def _find_shared_addresses(self) -> None:
        """Name every node whose address another one has: only one of them can be the neighbour."""
        for host in self.hosts:
            for family, address in host.addresses.items():
                first = self.by_address[address]
                if first is not host:
                    reason = f"spec.bgp.ipv{family}Address {address} is that of Node({shown(first.name)}), too"
                    fix = f"{reason}: no session is made for it; give one of them its own address"
                    self.problems.append(Problem(f"Node({shown(host.name)})", fix))

    def _mesh(self) -> Iterator[_Found]:
        """A session with every node that is no reflector, from a node that is none (4.1)."""
        default = self.state.default
        if default.node_to_node_mesh_enabled is False or self.own.cluster_id:
            return
        rank = _Rank(MESH, False, "")
        secret, disabled = self._password("", default.node_mesh_password)
        restart_s = self._seconds(
            "", "nodeMeshMaxRestartTime", default.node_mesh_max_restart_time, 0, LARGEST_RESTART_S
        )
        for host in self.hosts:
            if host is self.own or host.cluster_id:
                continue
            port, as_number = self.state.listen_port(host.name), host.as_number or self.state.global_as
            for family, address in host.addresses.items():
                own = self.own.addresses.get(family)
                if own is None or own == address:
                    continue
                session = Session(
                    session_name(MESH_SCOPE, address), Remote(address, family, port, as_number, is_node=True),
                    as_number == self.own_as, source=own, passive=address > own, times=Times(restart_s),
                    password=secret, disabled=disabled,
                )  # fmt: skip
                yield _Found(rank, session, "")


def _origin(found: _Found) -> str:
    return f"BGPPeer({shown(found.rank.peer_name)})" if found.rank.peer_name else "the node mesh"


def _next_hop(spec: BGPPeerSpec, same_as: bool) -> str:
    """`self`, `keep` or nothing; nextHopMode wins over the deprecated member, `Auto` too."""
    if spec.next_hop_mode:
        return {"Self": "self", "Keep": "keep"}.get(spec.next_hop_mode, "")
    return "keep" if spec.keep_original_next_hop and not same_as else ""


def _host_and_port(text: str) -> tuple[str, int]:
    """The parts of `a.b.c.d:port`, `[v6]:port` or an address alone, for which the port is -1. Both unchecked, but the
    port is within its range; anything else is returned as a host."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (bracketed or ":" not in host) or not (port.isascii() and port.isdigit() and len(port) <= 6):
        return text, -1
    return (host[1:-1] if bracketed else host, int(port)) if 1 <= int(port) <= LARGEST_PORT else (text, -1)

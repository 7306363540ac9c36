"""The text of BIRD's configuration for one node, both families in one file (spec/bgp.md 3 and 5-7). Pure.

`Renderer.render(state)` answers with the same text for the same state, whatever way led to it. What a user stored
goes through `grammar`, or is a number, an `Address` or a `Cidr`; the templates only lay it out. The text of sessions
and filters is kept from one rendering to the next: of a thousand sessions mostly one changes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jinja2

from calico_bird.filters import EXPORT, IMPORT, FilterFunction, filter_functions
from calico_bird.grammar import NotBird, community_add, hashed_router_id, interface_pattern, router_id
from calico_bird.peers import HostRoute, Mesh, Session, plan_sessions
from calico_bird.routing import FAMILIES, Problem, Routing
from libcalico.model.resources import IPPoolSpec
from libcalico.net import Cidr, parse_cidr
from libcalico.text import shown

ENCAPSULATED = ("Always", "CrossSubnet")
FELIX_IPIP, FELIX_PLAIN = ("Disabled", "EnabledNoEncapOnly"), ("Disabled", "EnabledIPIPOnly")
"""Values of programClusterRoutes by which felix writes the routes of IPIP pools, and of pools without encapsulation."""
DEFAULT_PROGRAM = "EnabledNoEncapOnly"
NEVER_DIRECT = ('-"cali*"', '-"kube-ipvs*"', '"*"')
DEFAULT_HOLD_S, LONGEST_HOLD_S = 240, 65535
PENDING, CONFIRMED = "pending", "confirmed"


NO_CALLS: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


class Rendered(NamedTuple):
    """The text, how many sessions it has, and what was left out of it. `has_node` is false while the node's own
    object is missing: there are no sessions then."""

    text: str
    sessions: int
    problems: tuple[Problem, ...]
    has_node: bool


class _Pool(NamedTuple):
    """`tunnel`: the condition under which BIRD itself routes the pool through `tunl0`, empty if it never does."""

    cidr: Cidr
    action: str
    exported: bool
    tunnel: str


class _Advertised(NamedTuple):
    cidr: Cidr
    additions: str


class _Family(NamedTuple):
    """What the templates lay out for one family."""

    number: int
    address: str
    filters: list[FilterFunction]
    advertised: list[_Advertised]
    blocks: list[Cidr]
    pools: list[_Pool]
    kernel_pools: list[_Pool]
    statics: list[str]


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("calico_bird"), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    return environment.get_template(name)


class Renderer:
    """Renders states; remembers the texts that the last one needed."""

    def __init__(self) -> None:
        self._main, self._session = _template("bird.conf.j2"), _template("session.j2")
        self._texts: dict[tuple[Any, ...], str] = {}
        self._mesh: tuple[Routing, Mesh] | None = None

    def render(self, state: Routing) -> Rendered:
        """The configuration of the state's node."""
        known = self._mesh[1] if self._mesh is not None and self._mesh[0] is state else None
        plan, mesh = plan_sessions(state, known)
        self._mesh = state, mesh
        problems = [*state.problems(), *plan.problems]
        functions = {family: _functions(state, family, problems) for family in FAMILIES}
        pools, advertised = _pools(state, problems), _advertised(state, problems)
        families = [_family(state, family, functions[family], pools, advertised, plan.routes) for family in FAMILIES]
        text = self._main.render(
            router_id=_router_id(state, problems), local_as=state.host.as_number or state.global_as,
            debug=_debug(state), direct=", ".join(_direct(state, problems)), families=families,
            listen=_Listen(state), felix_ipip=_program(state) in FELIX_IPIP,
            sessions=self._sessions(plan.sessions, functions),
        )  # fmt: skip
        return Rendered(text, len(plan.sessions), tuple(sorted(set(problems))), state.node in state.hosts)

    def _sessions(
        self, sessions: tuple[Session, ...], functions: dict[int, dict[str, dict[str, FilterFunction]]]
    ) -> list[str]:
        texts: dict[tuple[Any, ...], str] = {}
        for session in sessions:
            of_family = functions[session.remote.family]
            calls = NO_CALLS
            if session.filters:
                calls = _calls(session, IMPORT, of_family), _calls(session, EXPORT, of_family)
            key = (session, calls)
            text = self._texts.get(key)
            if text is None:
                hold_s = _hold_s(session.times.keepalive_s)
                text = self._session.render(session=session, imports=calls[0], exports=calls[1], hold_s=hold_s)
            texts[key] = text
        self._texts = texts
        return list(texts.values())


def _family(
    state: Routing,
    family: int,
    functions: dict[str, dict[str, FilterFunction]],
    pools: list[_Pool],
    advertised: list[_Advertised],
    routes: tuple[HostRoute, ...],
) -> _Family:
    """One family's part of everything; without an address of the family there are no filters, as there are no peers."""
    statics = [f"{net} blackhole" for net in state.affinities if _is_static(state, net, family)]
    statics += [f"{one.net} via {one.via}" for one in routes if one.net.family == family]
    of_family = [pool for pool in pools if pool.cidr.family == family]
    address = state.host.addresses.get(family, "")
    return _Family(
        number=family,
        address=address,
        filters=[one for of_filter in functions.values() for one in of_filter.values()] if address else [],
        advertised=[one for one in advertised if one.cidr.family == family],
        blocks=[net for net in sorted(state.affinities) if net.family == family and _is_own(state, net)],
        pools=of_family,
        kernel_pools=_kernel_pools(family, of_family, address),
        statics=sorted(statics),
    )


class _Listen:
    """Where BIRD accepts sessions: `port` 0 and `bind` false mean anywhere on the default port."""

    def __init__(self, state: Routing) -> None:
        self.port = state.listen_port(state.node)
        self.bind = state.default.bind_mode == "NodeIP"


def _calls(session: Session, direction: str, functions: dict[str, dict[str, FilterFunction]]) -> tuple[str, ...]:
    """The calls of a session's BGPFilters in their order; one that rejects everything comes first (12.4). Filters that
    are not there, or have no rules of the direction, are passed over."""
    found = [functions[name][direction] for name in session.filters if direction in functions.get(name, {})]
    found.sort(key=lambda function: not function.is_broken)
    argument = "true" if session.same_as else "false"
    return tuple(f"'{one.symbol}'({argument if one.by_peer_type else ''});" for one in found)


def _hold_s(keepalive_s: int | None) -> int:
    """BIRD refuses a keepalive time beyond the hold time, by default 240 s: then three times it; 0 leaves it alone."""
    if keepalive_s is None or keepalive_s <= DEFAULT_HOLD_S:
        return 0
    return min(3 * keepalive_s, LONGEST_HOLD_S)


def _functions(state: Routing, family: int, problems: list[Problem]) -> dict[str, dict[str, FilterFunction]]:
    """The functions of every filter that has rules of the family, by name and direction."""
    functions = {}
    for name, spec in sorted(state.filters.items()):
        found, reasons = filter_functions(name, spec, family)
        problems += reasons
        if found:
            functions[name] = found
    return functions


def _router_id(state: Routing, problems: list[Problem]) -> str:
    """The operator's, else the node's IPv4 address, else a hash of its name (3, 12.2)."""
    if state.router_id and state.router_id != "hash":
        try:
            return router_id(state.router_id)
        except NotBird as error:
            problems.append(Problem("CALICO_ROUTER_ID", str(error)))
    own = state.host.addresses.get(4, "")
    return own if own and state.router_id != "hash" else hashed_router_id(state.node)


def _debug(state: Routing) -> str:
    """`all`, `states`, or nothing: only Debug and Info mean anything to BIRD (2.3)."""
    level = (state.own.log_severity_screen or state.default.log_severity_screen or "info").lower()
    return {"debug": "all", "info": "{ states }"}.get(level, "")


def _direct(state: Routing, problems: list[Problem]) -> list[str]:
    patterns = []
    for pattern in state.default.ignored_interfaces:
        try:
            patterns.append(f"-{interface_pattern(pattern)}")
        except NotBird as error:
            problems.append(Problem("BGPConfiguration(default)", f"ignoredInterfaces: {error}"))
    return [*patterns, *NEVER_DIRECT]


def _program(state: Routing) -> str:
    return state.default.program_cluster_routes or DEFAULT_PROGRAM


def _pools(state: Routing, problems: list[Problem]) -> list[_Pool]:
    """Every pool, in the order of its text: disabled ones and those of other uses count like all others."""
    pools: dict[Cidr, _Pool] = {}
    for name, spec in sorted(state.pools.items()):
        cidr = parse_cidr(spec.cidr)
        if cidr is None:
            problems.append(Problem(f"IPPool({shown(name)})", f'cidr "{shown(spec.cidr)}" is none'))
            continue
        pools.setdefault(cidr, _pool(state, cidr, spec))
    return sorted(pools.values(), key=lambda pool: str(pool.cidr))


def _pool(state: Routing, cidr: Cidr, spec: IPPoolSpec) -> _Pool:
    """Who writes the pool's routes into the kernel: BIRD (accept) or felix (reject; 6.2-6.4)."""
    action, tunnel = "accept", ""
    if spec.vxlan_mode in ENCAPSULATED:
        action = "reject"
    elif spec.ipip_mode in ENCAPSULATED and cidr.family == 4:
        if _program(state) in FELIX_IPIP:
            action = "reject"
        elif 4 in state.host.subnets:
            tunnel = f"net ~ {cidr}"
            if spec.ipip_mode == "CrossSubnet":
                tunnel += f" && !(bgp_next_hop ~ {state.host.subnets[4]})"
    elif _program(state) in FELIX_PLAIN:
        action = "reject"
    return _Pool(cidr, action, not spec.disable_bgp_export, tunnel)


def _kernel_pools(family: int, pools: list[_Pool], address: str) -> list[_Pool]:
    """The pools that the kernel's filter names: of IPv4 all, if the own subnet is known; of IPv6 the rejected ones."""
    if family == 4:
        return pools if address else []
    return [pool for pool in pools if pool.action == "reject"]


def _advertised(state: Routing, problems: list[Problem]) -> list[_Advertised]:
    """Networks with communities: the node's, if it has any, else the global ones (2.3)."""
    own, default = (f"node.{state.node}", state.own), ("default", state.default)
    name, spec = own if state.own.prefix_advertisements else default
    advertised = []
    values = {community.name: community.value for community in spec.communities}
    for prefix in spec.prefix_advertisements:
        cidr = parse_cidr(prefix.cidr)
        if cidr is None:
            reason = f'prefixAdvertisements: cidr "{shown(prefix.cidr)}" is none'
            problems.append(Problem(f"BGPConfiguration({shown(name)})", reason))
            continue
        additions = set()
        for word in prefix.communities or ():
            try:
                additions.add(community_add(values.get(word, word)))
            except NotBird as error:
                reason = f"prefixAdvertisements {cidr}: {error}"
                problems.append(Problem(f"BGPConfiguration({shown(name)})", reason))
        if additions:
            advertised.append(_Advertised(cidr, " ".join(sorted(additions))))
    return advertised


def _is_static(state: Routing, net: Cidr, family: int) -> bool:
    """Does this node attract the block? Single addresses have routes of their own; a pending claim is none."""
    return net.family == family and not net.is_single and state.affinities[net] != PENDING


def _is_own(state: Routing, net: Cidr) -> bool:
    """Is the block advertised as a whole?"""
    return state.affinities[net] == CONFIRMED

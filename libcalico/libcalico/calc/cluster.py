"""What hosts would enforce, from stored objects alone: without an agent, a datastore or a kernel. Pure.

`read_dump` takes what `etcdctl get --prefix /calico` prints, `picture` puts the objects through a host's graph, and
`lines` tells the outcome as text: endpoints with their policies in order, members of sets, routes, problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from libcalico.calc.graph import Graph
from libcalico.calc.messages import Endpoint, IPSet, Member, PortMember, Route, Vtep
from libcalico.errors import BadData
from libcalico.model.keys import ResourceKey, parse_key, split_workload_endpoint_name
from libcalico.net import Address
from libcalico.policy.compile import NAMED_PORT_PROTOCOLS, SetSpec
from libcalico.policy.ir import Policy, PolicyId, TierPolicies
from libcalico.text import shown

ROOT = b"/calico/"


class HostPicture(NamedTuple):
    """All that one host would enforce. `specs`: who is in each set; `problems`: object -> text, also of
    what objects demand in vain and of what endpoints need and is not there."""

    host: str
    endpoints: dict[ResourceKey, Endpoint]
    policies: dict[PolicyId, Policy]
    sets: dict[str, IPSet]
    specs: dict[str, SetSpec]
    routes: dict[str, Route]
    tunnels: dict[tuple[str, int], Vtep]
    problems: tuple[str, ...]


def read_dump(text: str) -> dict[bytes, bytes]:
    """Keys and values of a dump: a line with a key of `/calico/`, then the value, which may be many lines.

    Raises `BadData` for a dump that does not begin with a key."""
    stored: dict[bytes, bytes] = {}
    key = b""
    for number, line in enumerate(text.encode("utf-8", "surrogateescape").split(b"\n"), 1):
        if line.startswith(ROOT):
            key = line.rstrip(b"\r")
            stored[key] = b""
        elif key:
            stored[key] += line + b"\n"
        elif line.strip():
            raise BadData(f"line {number} of the dump is {shown(line)!r}, not a key of {ROOT.decode()}")
    return {key: value.strip() for key, value in stored.items()}


def hosts(stored: Mapping[bytes, bytes]) -> list[str]:
    """The hosts that the objects name: those of Nodes, and of workload endpoints by their names; sorted."""
    found = set()
    for key in map(parse_key, stored):
        if isinstance(key, ResourceKey) and key.kind == "Node":
            found.add(key.name)
        elif isinstance(key, ResourceKey) and key.kind == "WorkloadEndpoint":
            found.update((split_workload_endpoint_name(key.name) or ("",))[:1])
    return sorted(found - {""})


def picture(stored: Mapping[bytes, bytes], host: str) -> HostPicture:
    """What the objects (key in etcd -> value) make a host enforce. An object that cannot be used counts as absent and
    stands in `problems`, as with the agent."""
    graph = Graph(host)
    for revision, (key, value) in enumerate(stored.items(), 1):
        graph.update(key, value, revision)
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None
    noted = [f"{name}: {text}" for name, text in chain(graph.problems.items(), graph.unsupported.items())]
    return HostPicture(
        host,
        {key: endpoint for key, endpoint in flush.endpoints.items() if endpoint is not None},
        {identity: policy for identity, policy in flush.policies.items() if policy is not None},
        {set_id: found for set_id, found in flush.sets.items() if isinstance(found, IPSet)},
        graph.set_specs(),
        {destination: route for destination, route in flush.routes.items() if route is not None},
        {key: vtep for key, vtep in flush.vteps.items() if vtep is not None},
        (*sorted(noted), *graph.unmet()),
    )


def lines(found: HostPicture) -> Iterator[str]:
    """A picture as text, sorted, so that two of them can be compared line by line."""
    yield f"host {shown(found.host)}"
    for key in sorted(found.endpoints):
        yield from _endpoint(found.endpoints[key])
    for set_id in sorted(found.sets, key=lambda one: _title(found.specs[one])):
        yield f"  {_title(found.specs[set_id])}: {_members(found.sets[set_id].members)}"
    for destination, route in sorted(found.routes.items()):
        yield f"  route {destination} {route.kind}" + (f" to {shown(route.node)}" if route.node else "")
    for (node, family), vtep in sorted(found.tunnels.items()):
        yield f"  tunnel to {shown(node)} IPv{family}: {vtep.address} {vtep.mac} at {vtep.parent}"
    for problem in found.problems:
        yield f"  problem {problem}"


def _endpoint(endpoint: Endpoint) -> Iterator[str]:
    addresses = " ".join(map(str, endpoint.nets))
    yield f"  {shown(endpoint.key)} {endpoint.interface} {addresses}"
    for direction in ("ingress", "egress"):
        for tier in endpoint.policy.tiers:
            yield from _tier(direction, tier)
    yield f"    profiles: {_words(endpoint.policy.profiles)}"


def _tier(direction: str, tier: TierPolicies) -> Iterator[str]:
    policies: tuple[PolicyId, ...] = getattr(tier, direction)
    if policies:
        names = _words(f"{identity.kind}({'/'.join(filter(None, identity[1:]))})" for identity in policies)
        yield f"    {direction}, tier {shown(tier.name)}: {names}, then {tier.end_action.value}"


def _title(spec: SetSpec) -> str:
    """Who is in the set: a selector's text, before it the named ports if it has any."""
    ports = " ".join(sorted(f"{NAMED_PORT_PROTOCOLS[number]}/{shown(name)}" for number, name in spec.ports))
    return f"set {f'ports {ports} of ' if ports else ''}{shown(spec.selector)}"


def _members(members: Iterable[Member]) -> str:
    return _words(text for _, text in sorted(map(_member, members))) or "nothing"


def _member(member: Member) -> tuple[tuple[int, int, int], str]:
    """A member as text, and what it is sorted by."""
    if not isinstance(member, PortMember):
        return (member.family, member.number, member.length), str(member)
    address = Address(member.family, member.number)
    text = f"{address} {NAMED_PORT_PROTOCOLS[member.protocol]} {member.port}"
    return (member.family, member.number, member.port), text


def _words(words: Iterable[str]) -> str:
    return ", ".join(map(shown, words))

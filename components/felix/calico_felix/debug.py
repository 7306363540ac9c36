"""What the agent believes, for people: `Debug` of libcalico/rpc/node.proto (docs/howto/debug.md).

Every answer is made at once and sent in parts, since a host may have more sets or problems than fit one message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from calico_felix.dataplane.loop import Dataplane
from calico_felix.report import Report
from calico_felix.trace import Trace
from libcalico.policy.ir import PolicyId
from libcalico.policy.nft.names import policy_word
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.text import escaped, shown

PART = 1000
"""Rows or lines in one message."""
LONGEST_TEXT = 1024 * 1024
"""Characters in one message."""
NOT_OPEN = "nothing is programmed by this agent yet: `problems` says what it waits for"
RESYNCED = "the kernel's state is read and written again"

Context = grpc.aio.ServicerContext
T = TypeVar("T")


class DebugService(stubs.DebugServicer):  # type: ignore[misc]
    """Register with `add_DebugServicer_to_server`."""

    def __init__(self, report: Report) -> None:
        self._report = report

    async def Config(self, _request: Any, _context: Context[Any, Any]) -> AsyncIterator[Any]:
        """Every parameter with its source; warnings of settings below."""
        configuration = self._report.configuration
        rows = [[name, _value(value.value), value.source] for name, value in sorted(configuration.values.items())]
        for part in _rows(["PARAMETER", "VALUE", "SOURCE"], rows):
            yield part
        yield pb.Rows(notes=map(escaped, configuration.warnings))

    async def Show(self, request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        """One kind of objects."""
        show = KINDS.get(request.kind)
        if show is None:
            stranger = f"there is no '{shown(request.kind)}' to show; " if request.kind else ""
            problem = f"{stranger}show one of {', '.join(KINDS)}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        for part in show(await self._opened(context)):
            yield part

    async def Pending(self, _request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        """What is tried again."""
        dataplane = await self._opened(context)
        for part in _lines([*dataplane.pending(), *self._report.serving.problems()]):
            yield part

    async def Problems(self, _request: Any, _context: Context[Any, Any]) -> AsyncIterator[Any]:
        """What cannot be used."""
        for part in _lines(self._report.problems()):
            yield part

    async def Dirty(self, _request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        """What is on its way to the kernel."""
        await self._opened(context)
        for part in _lines(self._report.dirty()):
            yield part

    async def Table(self, _request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        """The table in nft's words."""
        text = (await self._opened(context)).ruleset.table.render_replace()
        for start in range(0, len(text), LONGEST_TEXT):
            yield pb.Text(text=text[start : start + LONGEST_TEXT])

    async def Trace(self, request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        """One object's changes, for ever."""
        trace = Trace(request.object, self._report.follower, await self._opened(context))
        async for line in trace.run():
            yield pb.Lines(lines=[escaped(line)])

    async def Resync(self, _request: Any, context: Context[Any, Any]) -> Any:
        """Believe nothing of the kernel's state."""
        (await self._opened(context)).resync()
        return pb.ResyncReply()

    async def _opened(self, context: Context[Any, Any]) -> Dataplane:
        if self._report.dataplane is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, NOT_OPEN)
        assert self._report.dataplane is not None
        return self._report.dataplane


def _parts(all_: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_), PART):
        yield all_[start : start + PART]


def _rows(header: list[str], rows: Iterable[list[str]]) -> Iterator[Any]:
    for part in _parts([header, *rows]):
        yield pb.Rows(rows=[pb.Row(cells=map(escaped, row)) for row in part])


def _lines(lines: Sequence[str]) -> Iterator[Any]:
    for part in _parts(lines):
        yield pb.Lines(lines=map(escaped, part))


def _value(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _endpoints(dataplane: Dataplane) -> Iterator[Any]:
    rows = []
    for key, endpoint in sorted(dataplane.ruleset.owners.endpoints.items()):
        policies = [
            policy_word(p) for tier in endpoint.policy.tiers for p in dict.fromkeys((*tier.ingress, *tier.egress))
        ]
        rows.append(
            [
                str(key),
                endpoint.interface,
                ",".join(net.brief for net in endpoint.nets),
                ",".join(policies) or "-",
                ",".join(_profile(name, dataplane) for name in endpoint.policy.profiles) or "-",
                str(dataplane.readiness.programmed.get(key, 0)),
                dataplane.endpoint_problem(endpoint) or "up",
            ]
        )
    return _rows(["ENDPOINT", "INTERFACE", "ADDRESSES", "POLICIES", "PROFILES", "REVISION", "STATE"], rows)


def _profile(name: str, dataplane: Dataplane) -> str:
    known = PolicyId("Profile", "", name) in dataplane.ruleset.policies
    return name if known else f"{name} (missing)"


def _policies(dataplane: Dataplane) -> Iterator[Any]:
    rows = [
        [policy_word(identity), policy.tier or "-", str(len(policy.ingress)), str(len(policy.egress))]
        for identity, policy in sorted(dataplane.ruleset.policies.items())
    ]
    return _rows(["POLICY", "TIER", "INGRESS", "EGRESS"], rows)


def _sets(dataplane: Dataplane) -> Iterator[Any]:
    rows = [
        [name, "interval" if one.interval else "hash", str(len(one.elements))]
        for name, one in sorted(dataplane.ruleset.table.sets.items())
    ]
    return _rows(["SET", "TYPE", "MEMBERS"], rows)


def _routes(dataplane: Dataplane) -> Iterator[Any]:
    actual = dataplane.routes.delta.actual
    names = {link.ifindex: name for name, link in dataplane.interfaces.links.items()}
    rows = [
        [
            route.destination,
            names.get(route.device, "-"),
            route.gateway or "-",
            str(route.metric),
            "yes" if actual.get(key) else "no",
        ]
        for key, route in sorted(dataplane.routes.delta.desired.items())
    ]
    return _rows(["DESTINATION", "DEVICE", "GATEWAY", "METRIC", "PROGRAMMED"], rows)


def _links(dataplane: Dataplane) -> Iterator[Any]:
    rows = [
        [name, str(link.ifindex), "up" if link.up else "down", str(link.mtu)]
        for name, link in sorted(dataplane.interfaces.links.items())
    ]
    return _rows(["LINK", "INDEX", "STATE", "MTU"], rows)


KINDS: dict[str, Callable[[Dataplane], Iterator[Any]]] = {
    "endpoints": _endpoints,
    "policies": _policies,
    "sets": _sets,
    "routes": _routes,
    "links": _links,
}

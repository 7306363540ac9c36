"""The node API: what the agent offers to programs of this host (libcalico/rpc/node.proto)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import calico_native
from calico_felix.debug import DebugService
from calico_felix.report import Report
from calico_felix.routing_feed import RoutingFeed
from libcalico import __version__
from libcalico.obs.figures import reply_of
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION
from libcalico.text import shown


class NodeApi(stubs.NodeServicer):  # type: ignore[misc]
    """What the agent believes."""

    def __init__(self, report: Report, feed: RoutingFeed) -> None:
        self._report = report
        self._feed = feed

    async def Status(self, _request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Revisions, counts, and what is still pending."""
        dataplane, figures = self._report.dataplane, self._report.figures.read()
        return pb.StatusReply(
            node=self._report.follower.graph.host,
            version=__version__,
            in_sync=dataplane is not None and dataplane.programmed_revision > 0,
            pending=dataplane.pending() if dataplane is not None else (),
            native=calico_native.implementation,
            **self._report.facts(),
            **reply_of(figures),
            figures=figures,
        )

    async def WatchRouting(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """The feed, for a caller of this node."""
        own, code = self._report.follower.graph.host, grpc.StatusCode.FAILED_PRECONDITION
        if request.api_version != API_VERSION:
            await context.abort(code, f"this is version {API_VERSION} of the node API, not {request.api_version}")
        if request.node != own:
            await context.abort(code, f"this is the agent of node {shown(own)}, not of {shown(request.node)}")
        async with contextlib.aclosing(self._feed.watch()) as parts:  # type: ignore[type-var]
            async for part in parts:
                yield part


class LateWorkloads(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The service `Workloads`, from when the agent can attach workloads. Until then its calls are UNIMPLEMENTED: who
    calls knows that nothing was done, and does it by itself."""

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler[Any, Any]] = []

    def open(self, servicer: stubs.WorkloadsServicer) -> None:
        """From now on `servicer` answers."""
        stubs.add_WorkloadsServicer_to_server(servicer, self)

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler[Any, Any], ...]) -> None:
        """As a server's."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, _service: str, _handlers: dict[str, Any]) -> None:
        """As a server's: the same methods, which the generic handlers have."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method that a call asks for."""
        return next((found for one in self._handlers if (found := one.service(handler_call_details))), None)


def registration(report: Report, feed: RoutingFeed, workloads: LateWorkloads) -> Callable[[grpc.aio.Server], None]:
    """What puts all services of the node API on a server."""

    def register(server: grpc.aio.Server) -> None:
        stubs.add_NodeServicer_to_server(NodeApi(report, feed), server)
        stubs.add_DebugServicer_to_server(DebugService(report), server)
        server.add_generic_rpc_handlers((workloads,))

    return register

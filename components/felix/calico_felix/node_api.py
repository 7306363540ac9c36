"""The node API: what neighbours on this host may ask of the agent (`libcalico/rpc/node.proto`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc.aio

import calico_native
from calico_felix.dataplane.loop import Dataplane
from libcalico import __version__
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION
from libcalico.workload.cni.handler import handle
from libcalico.workload.cni.request import CniRequestData
from libcalico.workload.cni.services import Services

log = logging.getLogger(__name__)


class WorkloadsApi(stubs.WorkloadsServicer):  # type: ignore[misc]
    """Births and deaths of workloads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.calls = 0
        self.errors = 0

    async def Cni(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """One CNI call, verbatim."""
        self.calls += 1
        if request.api_version != API_VERSION:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f"the agent speaks version {API_VERSION} of the node API, the caller version {request.api_version}:"
                " install plug-in and agent of the same release",
            )
        data = CniRequestData(request.program, dict(request.environment), request.stdin)
        try:
            answer = await handle(data, self._services)
        except Exception as error:  # the request handler: one bad call must not end the agent
            self.errors += 1
            log.exception("CNI call failed")
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        if answer.exit_code:
            self.errors += 1
        return pb.CniReply(exit_code=answer.exit_code, stdout=answer.stdout, stderr=answer.stderr)


class NodeApi(stubs.NodeServicer):  # type: ignore[misc]
    """What the agent believes."""

    def __init__(
        self, host: str, dataplane: Dataplane, seen_revision: Callable[[], int], started_s: Callable[[], float]
    ) -> None:
        self._host = host
        self._dataplane = dataplane
        self._seen_revision = seen_revision
        self._uptime_s = started_s

    async def Status(self, _request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Revisions, counts, and what is still pending."""
        dataplane = self._dataplane
        return pb.StatusReply(
            node=self._host,
            version=__version__,
            in_sync=dataplane.programmed_revision > 0,
            datastore_revision=self._seen_revision(),
            programmed_revision=dataplane.programmed_revision,
            local_endpoints=len(dataplane.ruleset.endpoints),
            active_policies=len(dataplane.ruleset.policies),
            ip_sets=len(dataplane.ruleset.table.sets),
            pending=dataplane.pending(),
            uptime_s=self._uptime_s(),
            native=calico_native.implementation,
        )

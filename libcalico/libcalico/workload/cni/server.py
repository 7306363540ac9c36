"""The agent's side of the C program: `Workloads.Cni` of rpc/node.proto, one `handle` a call."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION
from libcalico.workload.cni.handler import handle
from libcalico.workload.cni.request import CniRequestData
from libcalico.workload.cni.services import Services


class WorkloadsService(stubs.WorkloadsServicer):  # type: ignore[misc, unused-ignore]
    """Register with `add_WorkloadsServicer_to_server`. A call is cancelled, and undone, with its caller."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.calls = 0
        self.failures = 0

    async def Cni(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """One CNI call. FAILED_PRECONDITION tells a caller that speaks another version that nothing was done."""
        if request.api_version != API_VERSION:
            text = f"the agent speaks version {API_VERSION} of the node API, the caller {request.api_version}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        self.calls += 1
        answer = await handle(CniRequestData(request.program, dict(request.environment), request.stdin), self._services)
        self.failures += answer.exit_code != 0
        return pb.CniReply(exit_code=answer.exit_code, stdout=answer.stdout, stderr=answer.stderr)

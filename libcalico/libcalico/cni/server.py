"""The agent's side of the C program: `Cni` of rpc/node.proto, one `handle` a call.

The rest of `Workloads` speaks no CNI: `libcalico.workload.service`."""

from __future__ import annotations

from typing import Any

from libcalico.cni.handler import handle
from libcalico.cni.request import CniRequestData
from libcalico.cni.unfinished import Unfinished
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc.channel import API_VERSION
from libcalico.workload.host import Host
from libcalico.workload.service import AttachmentsService, Context, refuse_version


class WorkloadsService(AttachmentsService):
    """Register with `add_WorkloadsServicer_to_server`. A call is cancelled, and undone, with its caller."""

    def __init__(self, host: Host, kept: Unfinished | None = None) -> None:
        super().__init__(host)
        self._kept = kept

    async def Cni(self, request: Any, context: Context) -> Any:
        """One CNI call. FAILED_PRECONDITION says to a caller of another version that nothing was done."""
        if request.api_version != API_VERSION:
            await refuse_version(request, context)
        self.calls += 1
        data = CniRequestData(request.program, dict(request.environment), request.stdin)
        answer = await handle(data, self._host, kept=self._kept)
        self.failures += answer.exit_code != 0
        return pb.CniReply(exit_code=answer.exit_code, stdout=answer.stdout, stderr=answer.stderr)

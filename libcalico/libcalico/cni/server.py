"""The agent's side of the C program: `Workloads` of rpc/node.proto, one `handle` a call.

`Attach` and `Detach` are for callers that speak no CNI: they become an ADD or DEL of the same meaning, so that there
is one way in which interfaces are made.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from libcalico.cni import errors, labels
from libcalico.cni.handler import handle
from libcalico.cni.request import CniAnswer, CniRequestData
from libcalico.cni.unfinished import Unfinished
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION
from libcalico.workload.host import Host

CNI_VERSION = "1.0.0"
BAD_REQUESTS = (errors.BAD_ENVIRONMENT, errors.DECODING_FAILURE, errors.BAD_CONFIG)


class WorkloadsService(stubs.WorkloadsServicer):  # type: ignore[misc, unused-ignore]
    """Register with `add_WorkloadsServicer_to_server`. A call is cancelled, and undone, with its caller."""

    def __init__(self, host: Host, kept: Unfinished | None = None) -> None:
        self._host = host
        self._kept = kept
        self.calls = 0
        self.failures = 0

    async def Cni(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """One CNI call. FAILED_PRECONDITION tells a caller that speaks another version that nothing was done."""
        answer = await self._handle(
            request, context, CniRequestData(request.program, dict(request.environment), request.stdin)
        )
        return pb.CniReply(exit_code=answer.exit_code, stdout=answer.stdout, stderr=answer.stderr)

    async def Attach(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """An ADD. INVALID_ARGUMENT: the request is wrong; UNAVAILABLE: try again; ABORTED: anything else."""
        data = CniRequestData("calico", _environment("ADD", request), json.dumps(_attach_conf(request)).encode())
        answer = await self._handle(request, context, data)
        if answer.exit_code:
            await _abort(context, answer)
        result = json.loads(answer.stdout)
        inside = next(one for one in result["interfaces"] if one.get("sandbox"))
        outside = next(one for one in result["interfaces"] if not one.get("sandbox"))
        return pb.AttachReply(
            addresses=[one["address"] for one in result["ips"]], host_interface=outside["name"], mac=inside["mac"]
        )

    async def Detach(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """A DEL; the same codes."""
        data = CniRequestData("calico", _environment("DEL", request), json.dumps(_conf(request)).encode())
        answer = await self._handle(request, context, data)
        if answer.exit_code:
            await _abort(context, answer)
        return pb.DetachReply()

    async def _handle(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any], data: CniRequestData
    ) -> CniAnswer:
        if request.api_version != API_VERSION:
            text = f"the agent speaks version {API_VERSION} of the node API, the caller {request.api_version}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        self.calls += 1
        answer = await handle(data, self._host, kept=self._kept)
        self.failures += answer.exit_code != 0
        return answer


def _environment(command: str, request: Any) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": request.workload.workload,
        "CNI_IFNAME": request.workload.endpoint,
        "CNI_PATH": "/",
        **({"CNI_NETNS": request.netns_path} if request.netns_path else {}),
    }


def _conf(request: Any) -> dict[str, Any]:
    pairs = {**getattr(request, "labels", {})}
    if request.workload.namespace:
        pairs[labels.NAMESPACE] = request.workload.namespace
    info = {"labels": {"labels": [{"key": key, "value": value} for key, value in pairs.items()]}}
    return {
        "name": request.network, "type": "calico", "cniVersion": CNI_VERSION, "ipam": {"type": "calico-ipam"},
        "nodename_file_optional": True, "args": {"org.apache.mesos": {"network_info": info}},
    }  # fmt: skip


def _attach_conf(request: Any) -> dict[str, Any]:
    conf = _conf(request)
    conf["args"]["cni"] = {"ips": list(request.addresses)}
    ipam = conf["ipam"]
    if request.want_ipv6:
        ipam |= {"assign_ipv4": "true", "assign_ipv6": "true"}
    for member in ("ipv4_pools", "ipv6_pools"):
        if pools := list(getattr(request, member)):
            ipam[member] = pools
    return {**conf, "mtu": request.mtu, "policy_setup_timeout_seconds": request.policy_timeout_s}


async def _abort(context: grpc.aio.ServicerContext[Any, Any], answer: CniAnswer) -> NoReturn:
    failure = json.loads(answer.stdout)
    code = grpc.StatusCode.ABORTED
    if failure["code"] == errors.TRY_AGAIN:
        code = grpc.StatusCode.UNAVAILABLE
    elif failure["code"] in BAD_REQUESTS:
        code = grpc.StatusCode.INVALID_ARGUMENT
    await context.abort(code, failure["msg"])
    raise AssertionError("abort raises")

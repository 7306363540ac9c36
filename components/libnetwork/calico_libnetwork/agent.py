"""The node agent, which does the work: the steps of the node API, each within a bounded time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from calico_libnetwork.protocol import DriverError
from libcalico.clock import Clock, SystemClock
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION, open_channel

OTHER_VERSION = "the agent speaks version"
"""What the refusal of a caller of another version begins with."""
ORCHESTRATOR = "libnetwork"
"""Of Docker's endpoints; their workload has the same name."""
CALL_S = 18.0
"""A step and its repetitions; Docker itself waits without a limit, and holds its locks meanwhile."""
RETRY_S = 0.1
POLICY_S = 5
_NOT_DONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)
"""The agent is not there, is starting, or says itself that nothing was done and that it may be asked again."""


class Impossible(DriverError):
    """What was asked for cannot be, however often."""


class OutOfOrder(DriverError):
    """A step that needs another one before it."""


class Agent:
    """A connection that is made when it is needed, and made again."""

    def __init__(self, socket: str, namespace: str, clock: Clock | None = None) -> None:
        self._socket = socket
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._channel = open_channel(socket)
        self._workloads = stubs.WorkloadsStub(self._channel)
        self._node = stubs.NodeStub(self._channel)

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)

    async def node(self) -> str:
        """The node's name in the datastore. Raises `DriverError`."""
        return str((await self._ask(self._node.Status, pb.StatusRequest())).node)

    async def assign(self, handle: str, version: int, address: str = "", pool: str = "") -> str:
        """An address with its prefix length: this bare one, or any of a pool (a name; "" = of all)."""
        pools = [pool] if pool else []
        request = pb.AssignRequest(
            api_version=API_VERSION,
            handle=handle,
            addresses=[address] if address else [],
            ipv4_pools=pools if version == 4 else [],
            ipv6_pools=pools if version == 6 else [],
            ip_versions=[version],
        )
        found = list((await self._ask(self._workloads.Assign, request)).addresses)
        if len(found) != 1:
            got = " ".join(found)
            text = f"Unexpected number of assigned IP addresses. A single address should be assigned. Got [{got}]"
            raise DriverError(text)
        return str(found[0])

    async def release(self, address: str) -> None:
        """Free an address, whatever its handle; one that is not assigned is fine."""
        await self._ask(self._workloads.Release, pb.ReleaseRequest(api_version=API_VERSION, addresses=[address]))

    async def put(
        self,
        endpoint: str,
        profile: str,
        addresses: Sequence[str],
        *,
        mac: str = "",
        creates_profile: bool = True,
        is_closed: bool = False,
    ) -> None:
        """Store the endpoint; put again with the same addresses and profile it stays as it is."""
        request = pb.PutEndpointRequest(
            api_version=API_VERSION,
            workload=self._workload(endpoint),
            network=profile,
            addresses=addresses,
            mac=mac,
            no_profile=not creates_profile,
            closed=is_closed,
            policy_timeout_s=POLICY_S,
        )
        await self._ask(self._workloads.PutEndpoint, request)

    async def open(self, endpoint: str, labels: Mapping[str, str]) -> None:
        """Add labels to a stored endpoint, and open it if it is closed; returns when the kernel enforces its policy. An
        endpoint that is gone is fine."""
        request = pb.PutEndpointRequest(
            api_version=API_VERSION,
            workload=self._workload(endpoint),
            no_profile=True,
            exact_labels=labels,
            policy_timeout_s=POLICY_S,
        )
        with contextlib.suppress(OutOfOrder):
            await self._ask(self._workloads.PutEndpoint, request)

    async def drop(self, endpoint: str) -> None:
        """Remove the endpoint, and before it its interface; what is gone is fine."""
        request = pb.DropEndpointRequest(api_version=API_VERSION, workload=self._workload(endpoint))
        await self._ask(self._workloads.DropEndpoint, request)

    async def wire(self, endpoint: str, mtu: int, sandbox: str) -> Any:
        """Make the endpoint's veth pair, for a container's network namespace; see `WireReply`."""
        request = pb.WireRequest(
            api_version=API_VERSION,
            workload=self._workload(endpoint),
            mtu=mtu,
            policy_timeout_s=POLICY_S,
            sandbox_path=sandbox,
        )
        return await self._ask(self._workloads.Wire, request)

    async def unwire(self, endpoint: str) -> None:
        """Remove the endpoint's veth pair; what is gone is fine."""
        request = pb.UnwireRequest(api_version=API_VERSION, workload=self._workload(endpoint))
        await self._ask(self._workloads.Unwire, request)

    def _workload(self, endpoint: str) -> pb.WorkloadId:
        return pb.WorkloadId(
            namespace=self._namespace, orchestrator=ORCHESTRATOR, workload=ORCHESTRATOR, endpoint=endpoint
        )

    async def _ask(self, call: Any, request: Any) -> Any:
        """The answer. What was not done is asked for again until the time is over: the agent may be starting."""
        until_s = self._clock.monotonic_s() + CALL_S
        while True:
            rest_s = until_s - self._clock.monotonic_s()
            try:
                return await call(request, timeout=max(rest_s, RETRY_S))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise Impossible(self._explained(error)) from None
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION and OTHER_VERSION not in str(error.details()):
                    raise OutOfOrder(self._explained(error)) from None
                if error.code() not in _NOT_DONE or rest_s <= 2 * RETRY_S:
                    raise DriverError(self._explained(error)) from None
            await self._clock.sleep(RETRY_S)

    def _explained(self, error: grpc.aio.AioRpcError) -> str:
        text = error.details() or error.code().name
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return f"the node agent at {self._socket} is still waiting for the datastore; calicoctl node debug says why"
        if error.code() is grpc.StatusCode.UNAVAILABLE and ("connect" in text or "Socket closed" in text):
            return f"the node agent does not answer at {self._socket}: is dcos-calico-felix running?"
        return text

"""The node API's `Workloads` without CNI: requests become attachments, what was made becomes replies."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from libcalico.conventions import NODENAME_FILE
from libcalico.errors import CalicoError, DatastoreError, ValidationError
from libcalico.model.resources import WorkloadEndpointPort
from libcalico.net import bare_address
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION
from libcalico.workload import lifecycle, making, steps
from libcalico.workload.errors import BadRequest, NotReady, OutOfOrder, TryAgain
from libcalico.workload.host import EtcdMembers, Host
from libcalico.workload.host_files import read_mtu, read_nodename
from libcalico.workload.labels import LONGEST_KEY, compress, sanitise
from libcalico.workload.names import canonical_address, stored_namespace
from libcalico.workload.plan import GATEWAY, interface_name_problem, mac_problem
from libcalico.workload.ready import check_ready
from libcalico.workload.request import (
    CNI,
    DEFAULT_NAMESPACE,
    POLICY_TIMEOUT_S,
    AddressRequest,
    Attachment,
    Device,
    Identity,
)
from libcalico.workload.work import CALL_TIMEOUT_S, Work

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,252}")
_log = logging.getLogger(__name__)


class AttachmentsService(stubs.WorkloadsServicer):  # type: ignore[misc, unused-ignore]
    """A call is cancelled, and undone, with its caller."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.calls = 0
        self.failures = 0

    async def Attach(self, request: Any, context: Context) -> Any:
        """See `lifecycle.attach`."""

        async def attach() -> Any:
            wanted = _attachment(request.workload, self._host.own_node, request.network, request.netns_path)
            if wanted.identity.orchestrator != CNI:
                raise BadRequest("workloads of an engine are attached in steps: Assign, PutEndpoint, Wire")
            if not request.netns_path:
                raise BadRequest("netns_path is missing")
            if self._host.attacher.is_host(request.netns_path):
                raise BadRequest(f"netns_path {request.netns_path} is the host's own network namespace")
            work = await self._open(
                wanted._replace(
                    addresses=_attach_addresses(request),
                    device=Device(mtu=request.mtu or read_mtu()),
                    labels=_labels(request.labels),
                    ports=_ports(request.ports),
                    policy_timeout_s=request.policy_timeout_s or POLICY_TIMEOUT_S,
                )
            )
            making.check(work)
            made = await work.alone(lambda: lifecycle.attach(work), ends_with_caller=True)
            return pb.AttachReply(addresses=made.cidrs, host_interface=made.host_interface, mac=made.mac)

        return await self._answer(request, context, attach)

    async def Detach(self, request: Any, context: Context) -> Any:
        """See `lifecycle.detach`; the first of its failures."""

        async def detach() -> Any:
            wanted = _attachment(request.workload, self._host.own_node, request.network, request.netns_path)
            work = await self._open(wanted, adds=False)
            work.node_names = self._node_names
            if problems := await work.alone(lambda: lifecycle.detach(work)):
                raise problems[0]
            return pb.DetachReply()

        return await self._answer(request, context, detach)

    def _node_names(self) -> list[str]:
        names = (self._host.own_node, read_nodename(NODENAME_FILE), socket.gethostname().strip().lower())
        return [name for name in dict.fromkeys(names) if name]

    async def Assign(self, request: Any, context: Context) -> Any:
        """See `steps.assign_addresses`."""

        async def assign() -> Any:
            versions = set(request.ip_versions) or {4}
            if versions - {4, 6}:
                raise BadRequest(f"ip_versions {sorted(versions)}: only 4 and 6 are known")
            addresses = AddressRequest(
                tuple(map(_bare, request.addresses)),
                want_v4=4 in versions,
                want_v6=6 in versions,
                pools_v4=tuple(request.ipv4_pools),
                pools_v6=tuple(request.ipv6_pools),
            )
            work = await self._open(_of_handle(_checked_id("handle", request.handle), self._host.own_node, addresses))
            found = await work.alone(lambda: steps.assign_addresses(work), ends_with_caller=True)
            return pb.AssignReply(addresses=found)

        return await self._answer(request, context, assign)

    async def Release(self, request: Any, context: Context) -> Any:
        """See `steps.release_addresses`."""

        async def release() -> Any:
            listed = [_bare(address) for address in request.addresses]
            if not request.handle and not listed:
                raise BadRequest("a handle or addresses are needed")
            handle = _checked_id("handle", request.handle) if request.handle else ""
            work = await self._open(_of_handle(handle, self._host.own_node, AddressRequest()), adds=False)
            await work.alone(lambda: steps.release_addresses(work, listed))
            return pb.ReleaseReply()

        return await self._answer(request, context, release)

    async def PutEndpoint(self, request: Any, context: Context) -> Any:
        """See `steps.put_endpoint`."""

        async def put() -> Any:
            bare = [_bare(address) for address in request.addresses]
            if problem := mac_problem(request.mac):
                raise BadRequest(problem)
            wanted = _attachment(request.workload, self._host.own_node, request.network)
            work = await self._open(
                wanted._replace(
                    device=Device(mac=request.mac.lower()),
                    labels={**_labels(request.labels), **request.exact_labels},
                    is_closed=request.closed,
                    ports=_ports(request.ports),
                    needs_profile=not request.no_profile,
                    policy_timeout_s=request.policy_timeout_s or POLICY_TIMEOUT_S,
                )
            )
            if bare:
                making.check_names(work)
            stored = await work.alone(lambda: steps.put_endpoint(work, bare), ends_with_caller=True)
            return pb.PutEndpointReply(
                name=stored.metadata.name, host_interface=stored.spec.interface_name, mac=stored.spec.mac
            )

        return await self._answer(request, context, put)

    async def DropEndpoint(self, request: Any, context: Context) -> Any:
        """See `steps.drop_endpoint`."""

        async def drop() -> Any:
            work = await self._open(_attachment(request.workload, self._host.own_node), adds=False)
            await work.alone(lambda: steps.drop_endpoint(work))
            return pb.DropEndpointReply()

        return await self._answer(request, context, drop)

    async def Wire(self, request: Any, context: Context) -> Any:
        """See `steps.wire`."""

        async def wire() -> Any:
            path = request.netns_path
            wanted = _attachment(request.workload, self._host.own_node, netns_path=path)
            if path and self._host.attacher.is_host(path):
                raise BadRequest(f"netns_path {path} is the host's own network namespace")
            device = Device(mtu=request.mtu or read_mtu())
            timeout_s = request.policy_timeout_s or POLICY_TIMEOUT_S
            work = await self._open(wanted._replace(device=device, policy_timeout_s=timeout_s))
            made, gateway = await work.alone(lambda: steps.wire(work), ends_with_caller=True)
            return pb.WireReply(
                host_interface=made.host_interface,
                container_interface=made.container_interface,
                mac=made.mac,
                gateway_ipv4=GATEWAY if any(":" not in cidr for cidr in made.cidrs) else "",
                gateway_ipv6=gateway,
                present=await self._host.attacher.calico_addresses(request.sandbox_path),
            )

        return await self._answer(request, context, wire)

    async def Unwire(self, request: Any, context: Context) -> Any:
        """See `steps.unwire`."""

        async def unwire() -> Any:
            work = await self._open(_attachment(request.workload, self._host.own_node), adds=False)
            await work.alone(lambda: steps.unwire(work))
            return pb.UnwireReply()

        return await self._answer(request, context, unwire)

    async def _open(self, attachment: Attachment, *, adds: bool = True) -> Work:
        """What a step works with; the datastore must be ready for what adds to it. What takes away goes through."""
        client = await self._host.connect(EtcdMembers())
        if adds and not self._host.datastore_ready():
            await check_ready(client)
        ipam = self._host.open_ipam(client, attachment.identity.node)
        return Work(attachment, self._host, client, ipam)

    async def _answer(self, request: Any, context: Context, step: Callable[[], Awaitable[T]]) -> T:
        if request.api_version != API_VERSION:
            await refuse_version(request, context)
        self.calls += 1
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await step()
        except (CalicoError, TimeoutError) as error:
            self.failures += 1
            await _abort(context, error, type(request).__name__)


async def refuse_version(request: Any, context: Context) -> NoReturn:
    """FAILED_PRECONDITION: nothing was done for a caller that speaks another version."""
    text = f"the agent speaks version {API_VERSION} of the node API, the caller {request.api_version}"
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
    raise AssertionError("abort raises")


async def _abort(context: Context, error: Exception, what: str) -> NoReturn:
    code, text = grpc.StatusCode.ABORTED, str(error)
    match error:
        case OutOfOrder():
            code = grpc.StatusCode.FAILED_PRECONDITION
        case BadRequest() | ValidationError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case TryAgain() | NotReady():
            code = grpc.StatusCode.UNAVAILABLE
        case DatastoreError():
            code, text = grpc.StatusCode.UNAVAILABLE, f"{error}: try again later"
        case TimeoutError():
            code, text = grpc.StatusCode.UNAVAILABLE, f"not finished in {CALL_TIMEOUT_S:.0f} s: try again later"
    _log.warning("%s: %s", what, text)
    await context.abort(code, text)
    raise AssertionError("abort raises")


# --- requests as values ----------------------------------------------------------------------------------------------


def _attachment(given: Any, node: str, network: str = "", netns_path: str = "") -> Attachment:
    """`BadRequest` for ids that cannot be."""
    orchestrator = _checked_id("orchestrator", given.orchestrator or CNI)
    workload = _checked_id("workload", given.workload)
    if orchestrator != CNI:
        _checked_id("endpoint", given.endpoint)
    elif problem := interface_name_problem(given.endpoint):
        raise BadRequest(f"{problem}: {given.endpoint!r}")
    namespace = stored_namespace(given.namespace) if given.namespace else DEFAULT_NAMESPACE
    if not namespace:
        raise BadRequest(f"{given.namespace!r} cannot name a namespace")
    identity = Identity(node, namespace, workload, given.endpoint, orchestrator)
    return Attachment(identity, _checked_id("network", network) if network else "", netns_path)


def _of_handle(handle: str, node: str, addresses: AddressRequest) -> Attachment:
    """Addresses of a handle, whatever they are for. Calls about one handle wait for each other."""
    identity = Identity(node, DEFAULT_NAMESPACE, handle, "addresses", "ipam")
    return Attachment(identity, "", addresses=addresses, given_handle=handle)


def _checked_id(what: str, text: str) -> str:
    if not _ID.fullmatch(text):
        raise BadRequest(f"{what} {text[:80]!r}: letters, digits, _ . and - are allowed, the first is no sign")
    return text


def _attach_addresses(request: Any) -> AddressRequest:
    return AddressRequest(
        tuple(map(_bare, request.addresses)),
        want_v6=request.want_ipv6,
        pools_v4=tuple(request.ipv4_pools),
        pools_v6=tuple(request.ipv6_pools),
    )


def _bare(text: str) -> str:
    try:
        return canonical_address(bare_address(text))
    except ValueError:
        raise BadRequest(f"{text[:80]!r} is not an address") from None


def _labels(given: Mapping[str, str]) -> dict[str, str]:
    found = {sanitise(key[:LONGEST_KEY]): sanitise(compress(value)) for key, value in sorted(given.items())}
    if "" in found:
        raise BadRequest("a label has a key of which nothing is a legal character")
    return found


def _ports(given: Iterable[Any]) -> tuple[WorkloadEndpointPort, ...]:
    return tuple(WorkloadEndpointPort(name=one.name, protocol=one.protocol, port=one.port) for one in given)

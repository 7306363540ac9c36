"""Attaching over the node API, at once and in an engine's steps, in namespaces, with a real etcd."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from libcalico.conventions import CLOSED
from libcalico.model.codec import from_input
from libcalico.model.resources import WorkloadEndpoint
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION, open_channel
from libcalico.testing.machine import need
from libcalico.workload.host import PlainHost
from tests.netns.cni_host import Host, sh


@pytest.fixture
async def host(root: None, tmp_path: Path) -> AsyncIterator[Host]:
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    made = Host(tmp_path, tmp_path)
    await made.start()
    yield made
    await made.close()


async def test_attach_and_detach(host: Host) -> None:
    box = host.box()
    workload = pb.WorkloadId(namespace="shop", workload="w1", endpoint="eth0")
    async with host.agent(), open_channel(str(host.socket)) as channel:
        stub = stubs.WorkloadsStub(channel)
        request = pb.AttachRequest(
            api_version=API_VERSION, workload=workload, netns_path=box, network="net", labels={"role": "server"},
            addresses=["172.29.0.77"], mtu=1400,
        )  # fmt: skip
        reply = await stub.Attach(request)
        assert list(reply.addresses) == ["172.29.0.77/32"]
        assert host.interfaces() == [reply.host_interface]
        (stored,) = (await host.client.list(WorkloadEndpoint)).items
        assert (stored.metadata.namespace, stored.metadata.labels["role"]) == ("shop", "server")
        assert (stored.spec.profiles, stored.spec.ip_networks) == (["net"], ["172.29.0.77/32"])
        assert stored.spec.mac == reply.mac
        gone = pb.DetachRequest(api_version=API_VERSION, workload=workload, netns_path=box, network="net")
        await stub.Detach(gone)
        await stub.Detach(gone)
        assert await host.problems() == []


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"api_version": 99}, grpc.StatusCode.FAILED_PRECONDITION, "version 1"),
        ({"netns_path": ""}, grpc.StatusCode.INVALID_ARGUMENT, "netns_path is missing"),
        ({"netns_path": "/nowhere"}, grpc.StatusCode.ABORTED, "/nowhere"),
        ({"addresses": ["10.1.1.1"]}, grpc.StatusCode.ABORTED, "not in a configured pool"),
        ({"mtu": 12}, grpc.StatusCode.ABORTED, "12"),
        ({"workload": pb.WorkloadId(workload="w/1", endpoint="eth0")}, grpc.StatusCode.INVALID_ARGUMENT, "'w/1'"),
        ({"workload": pb.WorkloadId(workload="w1", endpoint="a b")}, grpc.StatusCode.INVALID_ARGUMENT, "'a b'"),
        ({"workload": pb.WorkloadId(workload="W1", endpoint="eth0")}, grpc.StatusCode.INVALID_ARGUMENT, "lower case"),
        ({"addresses": ["x"]}, grpc.StatusCode.INVALID_ARGUMENT, "'x' is not an address"),
    ],
)
async def test_a_refused_request_leaves_nothing(
    host: Host, change: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    given: dict[str, Any] = {
        "api_version": API_VERSION, "workload": pb.WorkloadId(workload="w1", endpoint="eth0"),
        "netns_path": host.box(), "network": "net", **change,
    }  # fmt: skip
    async with host.agent(), open_channel(str(host.socket)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stubs.WorkloadsStub(channel).Attach(pb.AttachRequest(**given))
        assert (failure.value.code(), words in str(failure.value.details())) == (code, True), failure.value.details()
        assert await host.problems() == []


# --- in steps, as an engine takes them


ENDPOINT = "ab12" * 16
WORKLOAD = pb.WorkloadId(orchestrator="libnetwork", workload="libnetwork", endpoint=ENDPOINT)
HOST_INTERFACE, TEMPORARY = f"cali{ENDPOINT[:11]}", f"temp{ENDPOINT[:11]}"
HANDLE = "libnetwork.request-1"


class Engine:
    """A gRPC client that calls as Docker's plug-in does, and moves the interface as Docker does."""

    def __init__(self, host: Host, channel: grpc.aio.Channel) -> None:
        self._host = host
        self._stub = stubs.WorkloadsStub(channel)

    async def assign(self, **changed: Any) -> list[str]:
        request = pb.AssignRequest(**{"api_version": API_VERSION, "handle": HANDLE, **changed})
        return list((await self._stub.Assign(request)).addresses)

    async def put(self, addresses: list[str], **changed: Any) -> Any:
        given: dict[str, Any] = {"workload": WORKLOAD, "network": "net", "addresses": addresses, **changed}
        return await self._stub.PutEndpoint(pb.PutEndpointRequest(api_version=API_VERSION, **given))

    async def wire(self, **changed: Any) -> Any:
        return await self._stub.Wire(pb.WireRequest(api_version=API_VERSION, workload=WORKLOAD, **changed))

    def move(self, wired: Any, box: str, address: str) -> None:
        """What Docker does between Join and the container's start."""
        name = box.rpartition("/")[2]
        self._host.ip("link", "set", wired.container_interface, "netns", name, "name", "cali0")
        for line in (
            f"addr add {address} dev cali0",
            "link set cali0 up",
            f"route add {wired.gateway_ipv4} dev cali0 scope link",
            f"route add default via {wired.gateway_ipv4} dev cali0",
        ):  # fmt: skip
            sh("ip", "-n", name, *line.split())

    async def unwire(self) -> None:
        await self._stub.Unwire(pb.UnwireRequest(api_version=API_VERSION, workload=WORKLOAD))

    async def drop(self) -> None:
        await self._stub.DropEndpoint(pb.DropEndpointRequest(api_version=API_VERSION, workload=WORKLOAD))

    async def release(self, **changed: Any) -> None:
        given = {"handle": HANDLE, **changed}
        await self._stub.Release(pb.ReleaseRequest(api_version=API_VERSION, **given))


@asynccontextmanager
async def engine(host: Host) -> AsyncIterator[Engine]:
    """A client of an agent that has just started."""
    async with host.agent(), open_channel(str(host.socket)) as channel:
        yield Engine(host, channel)


async def test_docker_s_order_each_step_twice(host: Host) -> None:
    box = host.box()
    async with engine(host) as docker:
        (address,) = await docker.assign()
        assert await docker.assign() == [address]
        for _ in range(2):
            stored = await docker.put([address])
            assert (stored.host_interface, stored.name) == (
                HOST_INTERFACE,
                f"10.0.4.17-libnetwork-libnetwork-{ENDPOINT}",
            )
        assert host.interfaces() == []
        for _ in range(2):
            wired = await docker.wire(mtu=1400)
            assert (wired.host_interface, wired.container_interface) == (HOST_INTERFACE, TEMPORARY)
            assert (wired.mac, wired.gateway_ipv4, wired.gateway_ipv6) == (stored.mac, "169.254.1.1", "")
        ends = {link["ifname"]: link for link in host.ip("link")}
        assert (ends[TEMPORARY]["address"], ends[TEMPORARY]["mtu"]) == (stored.mac, 1400)
        assert ends[HOST_INTERFACE]["operstate"] == "UP" and host.routes() == [address.partition("/")[0]]
        docker.move(wired, box, address)
        await reach(host, box, address)
        with pytest.raises(grpc.aio.AioRpcError, match="leads into a container already: call Unwire first"):
            await docker.wire()
        await reach(host, box, address)
        for step in (docker.unwire, docker.drop, docker.release):
            await step()
            await step()
        assert await host.problems() == []


async def reach(host: Host, box: str, address: str) -> None:
    """Host and container reach each other: nothing of the host was changed for the pair."""
    name = box.rpartition("/")[2]
    sh("ip", "netns", "exec", host.name, "ping", "-c1", "-W2", address.partition("/")[0])
    inner = sh("ip", "-n", host.name, "-4", "-o", "addr", "show", "up0").split()[3].partition("/")[0]
    sh("ip", "netns", "exec", name, "ping", "-c1", "-W2", inner)


@pytest.mark.parametrize("done", range(5))
async def test_after_a_crash_between_any_two_steps_drop_and_release_leave_nothing(host: Host, done: int) -> None:
    """The agent is another one after each step, and the engine too."""
    box = host.box()
    async with engine(host) as docker:
        (address,) = await docker.assign()
    if done >= 1:
        async with engine(host) as docker:
            await docker.put([address])
    if done >= 2:
        async with engine(host) as docker:
            wired = await docker.wire()
    if done >= 3:
        docker.move(wired, box, address)
    if done >= 4:
        async with engine(host) as docker:
            await docker.unwire()
    async with engine(host) as docker:
        if done:
            with pytest.raises(grpc.aio.AioRpcError, match=f"in use by endpoint .*{ENDPOINT}: call DropEndpoint first"):
                await docker.release()
        await docker.drop()
        await docker.release(handle="", addresses=[address])
        assert await host.problems() == []


async def test_steps_out_of_order_do_nothing(host: Host) -> None:
    async with engine(host) as docker:
        for step, words in (
            (docker.put(["172.29.0.9"]), "call Assign first"),
            (docker.wire(), "call PutEndpoint first"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=words) as failure:
                await step
            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await docker.release(handle="", addresses=["0.0.0.0", "::", "203.0.113.7/32"])
        await docker.unwire()
        await docker.drop()
        assert await host.problems() == []


async def test_what_a_repeated_step_may_change(host: Host) -> None:
    async with engine(host) as docker:
        first, second = await docker.assign(), await docker.assign(handle="other")
        stored = await docker.put(first, labels={"role": "web"})
        again = await docker.put(first, labels={"tier": "front"}, mac="0a:58:00:00:00:01")
        assert (stored.mac != again.mac, again.mac) == (True, "0a:58:00:00:00:01")
        (endpoint,) = (await host.client.list(WorkloadEndpoint)).items
        assert {"role": "web", "tier": "front"}.items() <= endpoint.metadata.labels.items()
        for addresses, network in ((second, "net"), (first, "else")):
            with pytest.raises(grpc.aio.AioRpcError, match=r"is stored with .*: call DropEndpoint first"):
                await docker.put(addresses, network=network)
        with pytest.raises(grpc.aio.AioRpcError, match=f"handle {HANDLE} has .* already"):
            await docker.assign(addresses=["172.29.0.99"])


async def test_a_closed_endpoint_opens_when_it_is_put_with_its_labels(host: Host) -> None:
    async with engine(host) as docker:
        addresses = await docker.assign()
        labels = {"example.com/role": "web"}
        await docker.put(addresses, closed=True)
        for changed, closed in (({"closed": True}, True), ({"exact_labels": labels}, False), ({"closed": True}, False)):
            await docker.put(addresses, **changed)
            (endpoint,) = (await host.client.list(WorkloadEndpoint)).items
            assert (CLOSED in endpoint.metadata.annotations) is closed
        assert labels.items() <= endpoint.metadata.labels.items()
        with pytest.raises(grpc.aio.AioRpcError, match="a b") as failure:
            await docker.put(addresses, exact_labels={"a b": ""})
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"orchestrator": "lib network"}, {"workload": ""}, {"workload": "a/b"}, {"endpoint": "x" * 300},
        {"endpoint": "../x"}, {"namespace": "///"},
    ],
)  # fmt: skip
async def test_bad_ids_are_refused_by_every_step(host: Host, wrong: dict[str, str]) -> None:
    fields = {"orchestrator": "libnetwork", "workload": "libnetwork", "endpoint": ENDPOINT, **wrong}
    workload = pb.WorkloadId(**fields)
    async with host.agent(), open_channel(str(host.socket)) as channel:
        stub = stubs.WorkloadsStub(channel)
        for call, request in (
            (stub.PutEndpoint, pb.PutEndpointRequest(network="net", addresses=["172.29.0.1"])),
            (stub.Wire, pb.WireRequest()),
            (stub.Unwire, pb.UnwireRequest()),
            (stub.DropEndpoint, pb.DropEndpointRequest()),
        ):  # fmt: skip
            request.api_version = API_VERSION
            request.workload.CopyFrom(workload)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(request)
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failure.value.details()


async def test_two_versions_of_ip_and_the_gateway_of_each(host: Host) -> None:
    pool = {"cidr": "fd29::/112", "blockSize": 122}
    await host.client.create(
        from_input({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "six"}, "spec": pool})
    )
    async with engine(host) as docker:
        (v4,) = await docker.assign()
        both = await docker.assign(ip_versions=[6, 4])
        assert both[0] == v4 and both[1].startswith("fd29::") and len(both) == 2
        await docker.put(both)
        wired = await docker.wire()
        assert wired.gateway_ipv6.startswith("fe80::")
        await docker.drop()
        await docker.release()
        assert await host.problems() == []


async def test_the_steps_with_a_namespace_are_what_attach_does(host: Host) -> None:
    box = host.box()
    workload = pb.WorkloadId(workload="w1", endpoint="eth0")
    async with engine(host) as steps:
        addresses = await steps.assign(handle="net.w1")
        await steps.put(addresses, workload=workload)
        stub = steps._stub
        for _ in range(2):
            wired = await stub.Wire(pb.WireRequest(api_version=API_VERSION, workload=workload, netns_path=box))
        assert (wired.container_interface, wired.host_interface) == ("eth0", "caliw1")
        await reach(host, box, addresses[0])
        gone = pb.DetachRequest(api_version=API_VERSION, workload=workload, netns_path=box, network="net")
        await stub.Detach(gone)
        assert await host.problems() == []


async def test_an_interface_without_policy_is_taken_away_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_arguments: object) -> None:
        raise TimeoutError

    async with engine(host) as docker:
        addresses = await docker.assign()
        await docker.put(addresses)
        monkeypatch.setattr(PlainHost, "wait_programmed", never)
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"not programmed .* the interface was taken away again"
        ) as failure:
            await docker.wire(policy_timeout_s=1)
        assert (failure.value.code(), host.interfaces(), host.routes()) == (grpc.StatusCode.UNAVAILABLE, [], [])
        monkeypatch.undo()
        await docker.wire()
        await docker.drop()
        await docker.release()
        assert await host.problems() == []

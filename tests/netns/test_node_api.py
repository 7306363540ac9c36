"""Attach and detach over the node API, in namespaces, with a real etcd."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from libcalico.model.resources import WorkloadEndpoint
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION, open_channel
from libcalico.testing.machine import need
from tests.netns.cni_host import Host


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
        ({"netns_path": ""}, grpc.StatusCode.INVALID_ARGUMENT, "CNI_NETNS"),
        ({"netns_path": "/nowhere"}, grpc.StatusCode.ABORTED, "/nowhere"),
        ({"addresses": ["10.1.1.1"]}, grpc.StatusCode.ABORTED, "not in a configured pool"),
        ({"mtu": 12}, grpc.StatusCode.ABORTED, "12"),
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

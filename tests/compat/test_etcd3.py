"""etcd3, a client of etcd that knows nothing of ours: it reads what we store, and we what it stores."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import ResourceUpdateConflict
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.model.resources import IPPool, Node, WorkloadEndpoint
from libcalico.testing.etcd import Etcd
from libcalico.testing.following import following

SCRIPT = Path(__file__).with_name("etcd3_script.py")
PURE = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
RESOURCES = "/calico/resources/v3/projectcalico.org/"
NODE, POOL = RESOURCES + "nodes/there", RESOURCES + "ippools/theirs"
ENDPOINT = RESOURCES + "workloadendpoints/default/there-cni-c1-eth0"
STATUS = "/calico/felix/v2/no-region/host/here/status"
TTL_S, CREATED = 60, "2026-03-01T10:00:00Z"
IMPORTS = ("import etcd3", "from libcalico import Client")
BOTH = """
import sys
office = {"kind": "GlobalNetworkSet", "metadata": {"name": "office"}, "spec": {"nets": ["192.0.2.0/24"]}}
path = "/calico/resources/v3/projectcalico.org/globalnetworksets/"
theirs = '{"kind": "GlobalNetworkSet", "metadata": {"name": "theirs"}, "spec": {"nets": ["198.51.100.0/24"]}}'
with Client(sys.argv[1]) as calico, etcd3.client(port=int(sys.argv[2])) as foreign:
    calico.apply(office)
    foreign.put(path + "theirs", theirs)
    assert b"192.0.2.0/24" in foreign.get(path + "office")[0]
    assert calico.get("GlobalNetworkSet", "theirs").spec.nets == ["198.51.100.0/24"]
print("both read ours and theirs")
"""
ENDPOINT_SPEC = {
    "node": "there", "orchestrator": "cni", "containerID": "c1", "endpoint": "eth0",
    "interfaceName": "cali1", "ipNetworks": ["10.62.0.1/32"], "profiles": ["p"],
}  # fmt: skip
DOCUMENTS = {
    NODE: {"kind": "Node", "apiVersion": "projectcalico.org/v3",
           "metadata": {"name": "there", "uid": "u1", "creationTimestamp": CREATED},
           "spec": {"bgp": {"ipv4Address": "10.1.0.2/24"}}},
    POOL: {"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "theirs", "uid": "u2"},
           "spec": {"cidr": "10.62.0.0/16", "vxlanMode": "Always", "ipipMode": "Never", "nodeSelector": "all()"}},
    ENDPOINT: {"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
               "metadata": {"name": "there-cni-c1-eth0", "namespace": "default", "uid": "u3"},
               "spec": ENDPOINT_SPEC},
}  # fmt: skip


def etcd3(etcd: Etcd, command: str, *arguments: Any) -> Any:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(etcd.port)], input=json.dumps([command, arguments]), env=PURE,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
async def store(etcd: Etcd) -> AsyncIterator[EtcdDatastore]:
    """An empty datastore."""
    made = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    await made.txn((), (Delete(b"/calico/", prefix=True),))
    yield made
    await made.close()


async def test_it_reads_what_we_store(etcd: Etcd, store: EtcdDatastore) -> None:
    """Nodes, pools, endpoints as the client writes them, an address of IPAM, and a status under a lease."""
    client = AsyncClient(store)
    await client.ensure_initialized()
    for document in DOCUMENTS.values():
        await client.create(from_input(document))
    await IpamService(store, "there").auto_assign(num4=1, handle="h")
    lease = await store.grant_lease(TTL_S)
    await store.put(STATUS.encode(), b"{}", lease)
    ours = {kv.key.decode(): [kv.value.decode(), kv.mod_revision, kv.version]
            for kv in (await store.range(b"/calico/")).kvs}  # fmt: skip
    theirs = etcd3(etcd, "read", "/calico/")
    assert {key: [one["value"], one["mod_revision"], one["version"]] for key, one in theirs.items()} == ours
    assert {NODE, POOL, ENDPOINT, "/calico/ipam/v2/handle/h", STATUS} <= theirs.keys()
    spec = json.loads(theirs[ENDPOINT]["value"])["spec"]
    assert {name: spec[name] for name in ENDPOINT_SPEC} == ENDPOINT_SPEC
    assert (theirs[STATUS]["ttl_s"], theirs[STATUS]["leased"]) == (TTL_S, [STATUS])
    assert all(not one["leased"] for key, one in theirs.items() if key != STATUS)


async def test_we_read_what_it_stores(etcd: Etcd, store: EtcdDatastore) -> None:
    """By our client, and by a follower whose watch stands when it writes, swaps and deletes."""
    client = AsyncClient(store)
    texts = {key: json.dumps(document) for key, document in DOCUMENTS.items()}
    async with following(store) as follower:
        await follower.until(lambda: follower.in_sync)
        await asyncio.to_thread(etcd3, etcd, "write", texts, TTL_S)
        await follower.until(lambda: {key.encode(): text.encode() for key, text in texts.items()} == follower.known)
        node = await client.get(Node, "there")
        pool = await client.get(IPPool, "theirs")
        endpoint = await client.get(WorkloadEndpoint, "there-cni-c1-eth0", "default")
        assert node.spec.bgp is not None and node.spec.bgp.ipv4_address == "10.1.0.2/24"
        assert (pool.spec.cidr, pool.metadata.uid) == ("10.62.0.0/16", "u2")
        assert list(endpoint.spec.ip_networks) == ["10.62.0.1/32"]
        changed = texts[NODE].replace("10.1.0.2", "10.1.0.3")
        assert not await asyncio.to_thread(etcd3, etcd, "swap", NODE, "another value", changed)
        assert await asyncio.to_thread(etcd3, etcd, "swap", NODE, texts[NODE], changed)
        await follower.until(lambda: follower.known[NODE.encode()] == changed.encode())
        with pytest.raises(ResourceUpdateConflict):
            await client.update(node)
        assert await asyncio.to_thread(etcd3, etcd, "delete", ENDPOINT) == 1
        await follower.until(lambda: ENDPOINT.encode() not in follower.known)


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["ours first", "etcd3 first"])
def test_both_live_in_one_process(etcd: Etcd, imports: tuple[str, ...]) -> None:
    """Protobuf knows one message of a name in a process: ours are not called as etcd's are."""
    program = "\n".join((*imports, BOTH))
    done = subprocess.run(
        [sys.executable, "-c", program, etcd.endpoint, str(etcd.port)],
        env=PURE, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "both read ours and theirs\n", "")

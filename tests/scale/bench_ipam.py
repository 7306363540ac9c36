"""IPAM against a real etcd: one address at a time, and 64 clients at once; etcd requests counted."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
import urllib.request
from pathlib import Path

from libcalico.client.objects import AsyncClient
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.testing.etcd import Etcd
from tests.scale.report import report

NODE = "node-1"
ONE_BY_ONE = 200
CLIENTS, EACH = 64, 4


def etcd_requests(endpoint: str) -> int:
    """How many KV requests etcd has answered."""
    with urllib.request.urlopen(f"{endpoint}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'^grpc_server_handled_total\{[^}]*grpc_service="etcdserverpb.KV"[^}]*\} (\d+)', text, re.M)
    return sum(int(number) for number in found)


async def followed(store: EtcdDatastore) -> IpamService:
    """A service that knows what is stored, as the agent's does after its snapshot."""
    service = IpamService(store, NODE)
    for prefix in service.follow():
        for kv in (await store.range(prefix.encode())).kvs:
            service.observe(kv.key.decode(), kv.value, kv.mod_revision)
    return service


async def assign(service: IpamService, handle: str) -> str:
    """One IPv4 address."""
    v4, _ = await service.auto_assign(1, 0, handle, {"node": NODE})
    assert v4 is not None
    return v4.addresses[0]


async def measure(endpoint: str) -> None:
    """All of it."""
    store = EtcdDatastore(EtcdConfig((endpoint,)))
    client = AsyncClient(store)
    await client.ensure_initialized()
    for kind, name, spec in (("IPPool", "p", {"cidr": "10.61.0.0/16"}), ("Node", NODE, {})):
        document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
        await client.create(from_input(document))
    service = await followed(store)
    await assign(service, "warm")
    taken, released, requests = [], [], etcd_requests(endpoint)
    addresses = []
    for number in range(ONE_BY_ONE):
        started = time.perf_counter()
        addresses.append(await assign(service, f"h{number}"))
        taken.append((time.perf_counter() - started) * 1000)
    used = (etcd_requests(endpoint) - requests) / ONE_BY_ONE
    report("IPAM assign, warm", "ms", taken, etcd_requests_each=round(used, 2), reference_ms=4.8)
    for address in addresses:
        started = time.perf_counter()
        await service.release_ips([Release(address.partition("/")[0])])
        released.append((time.perf_counter() - started) * 1000)
    report("IPAM release", "ms", released, reference_ms=2.9)

    rates, waits = [], []
    for round_ in range(3):

        async def one(number: int, round_: int = round_) -> None:
            for turn in range(EACH):
                started = time.perf_counter()
                await assign(service, f"r{round_}-{number}-{turn}")
                waits.append((time.perf_counter() - started) * 1000)

        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(CLIENTS)))
        rates.append(CLIENTS * EACH / (time.perf_counter() - started))
    report("IPAM, 64 clients of one host at once", "addresses/s", rates, reference=18)
    report("IPAM, 64 clients of one host at once, wait", "ms", waits, reference_ms=2000)
    await store.close()


def main() -> None:
    """Start etcd, measure, end it."""
    with tempfile.TemporaryDirectory(prefix="calico-bench-") as folder:
        etcd = Etcd(Path(folder))
        etcd.start()
        try:
            asyncio.run(measure(etcd.endpoint))
        finally:
            etcd.kill()


if __name__ == "__main__":
    main()

"""`python -m tests.scale.bench_cni [--count N] [--bare]`: CNI ADD and DEL, process start to exit.

Each call is the C program in an environment as Mesos gives it. The agent is calico-felix, and every ADD waits for its
policy in the kernel; with `--bare` it is the servicer in a process of its own, without a policy engine.
At 1, 8 and 30 calls in parallel; and etcd requests for one ADD and DEL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from libcalico.testing.machine import DIE_WITH_US
from tests import node_door
from tests.netns.cni_host import Host, build_plugins
from tests.scale import bench_ipam
from tests.scale.report import report

PARALLEL = (1, 8, 30)
REFERENCE_MS = {("ADD", 1): 87, ("DEL", 1): 84, ("ADD", 30): 1340, ("DEL", 30): 1110}
"""Upstream's medians on a machine of this class."""
AGENT = """
import asyncio, sys
from pathlib import Path
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.client.objects import AsyncClient
from libcalico.ipam.service import IpamService
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_server
from libcalico.workload.attach import Attacher
from libcalico.workload.host import PlainHost
from libcalico.cni.server import WorkloadsService

async def follow(datastore, ipam):
    # What the agent does from its own watch: IPAM's view of the pools and blocks stays current.
    prefixes = ipam.follow()
    for prefix in prefixes:
        found = await datastore.range(prefix.encode())
        for kv in found.kvs:
            ipam.observe(kv.key.decode(), kv.value, kv.mod_revision)
    async for batch in datastore.watch(b"/calico/", found.revision + 1):
        for event in batch.events:
            key = event.key.decode()
            if key.startswith(prefixes):
                ipam.observe(key, event.value, event.mod_revision)

async def main(endpoint, socket, netns, node):
    client = AsyncClient(EtcdDatastore(EtcdConfig((endpoint,))))
    ipam = IpamService(client.datastore, node)
    class Agent(PlainHost):
        async def connect(self, etcd): return client
        def open_ipam(self, client, node): return ipam
        def datastore_ready(self): return True
        def has_profile(self, name): return True
    host = Agent(Attacher(netns), own_node=node)
    ipam_watch = asyncio.create_task(feed(client.datastore, ipam))
    server = open_server(socket)
    stubs.add_WorkloadsServicer_to_server(WorkloadsService(host), server)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main(*sys.argv[1:]))
"""


async def call(host: Host, command: str, box: str, container: str) -> float:
    """One run of the program; milliseconds from before its start until after its exit."""
    environment = host.environment(command, box, container, CALICO_NODE_SOCKET=str(host.socket))
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(host.plugins / "calico"), stdin=-1, stdout=-1, stderr=-1, env=environment
    )
    out, err = await process.communicate(json.dumps(host.conf).encode())
    taken = (time.perf_counter() - started) * 1000
    if process.returncode:
        raise RuntimeError(f"{command} failed: {out!r} {err!r}")
    return taken


async def series(host: Host, boxes: list[str], parallel: int) -> None:
    pairs = [(box, str(uuid.uuid4())) for box in boxes]
    for command in ("ADD", "DEL"):
        gate = asyncio.Semaphore(parallel)

        async def one(box: str, container: str, command: str = command, gate: asyncio.Semaphore = gate) -> float:
            async with gate:
                return await call(host, command, box, container)

        started = time.perf_counter()
        taken = await asyncio.gather(*(one(box, container) for box, container in pairs))
        rate = len(pairs) / (time.perf_counter() - started)
        report(
            f"CNI {command}", "ms", taken, parallel=parallel, per_second=round(rate),
            reference_ms=REFERENCE_MS.get((command, parallel)),
        )  # fmt: skip


def etcd_requests(host: Host) -> float:
    """How many KV requests the host's etcd has answered."""
    return float(bench_ipam.etcd_requests(host.endpoint))


def start_agent(host: Host, felix: bool, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The agent's process, which may need a moment until it listens; `before` are words that run it."""
    node = str(host.conf["nodename"])
    argv = [sys.executable, "-c", AGENT, host.endpoint, str(host.socket), host.path, node]
    environment = dict(os.environ)
    if felix:
        settings = host.directory / "felix.cfg"
        settings.touch()
        argv = [
            "ip",
            "netns",
            "exec",
            host.name,
            *before,
            sys.executable,
            "-m",
            "calico_felix.main",
            "-c",
            str(settings),
        ]
        environment |= {
            "FELIX_ETCDENDPOINTS": host.endpoint,
            "FELIX_FELIXHOSTNAME": node,
            "FELIX_NODESOCKET": str(host.socket),
            "FELIX_STATEDIRECTORY": str(host.directory),
            "FELIX_MTUFILE": str(host.directory / "mtu"),
            "FELIX_LOGSEVERITYSCREEN": "warning",
        }
    return subprocess.Popen([*DIE_WITH_US, *argv], env=environment, stdout=subprocess.DEVNULL, text=True)


async def measure(count: int, felix: bool) -> None:
    directory = Path(tempfile.mkdtemp(prefix="t-cni-bench-"))
    missing = build_plugins(directory)
    if missing or os.geteuid() != 0 or shutil.which("etcd") is None:
        sys.exit(missing or "needs root and etcd")
    host = Host(directory, directory)
    agent = None
    try:
        await host.start()
        agent = start_agent(host, felix)
        while felix and not (await node_door.status(host.socket)).get("in_sync") and agent.poll() is None:
            await asyncio.sleep(0.1)
        while not host.socket.exists() and agent.poll() is None:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        boxes = [host.box() for _ in range(count)]
        await call(host, "ADD", boxes[0], "warm")
        await call(host, "DEL", boxes[0], "warm")
        for command in ("ADD", "DEL"):
            before = etcd_requests(host)
            await call(host, command, boxes[0], "counted")
            report(f"CNI {command}, etcd requests", "requests", [etcd_requests(host) - before])
        for parallel in PARALLEL:
            await series(host, boxes, parallel)
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait()
        await host.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="measure CNI calls")
    parser.add_argument("--count", type=int, default=90, help="containers")
    parser.add_argument("--bare", action="store_true", help="without the agent's policy engine")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.count, not arguments.bare))


if __name__ == "__main__":
    main()

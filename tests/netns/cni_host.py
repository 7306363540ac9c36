"""A "host" for CNI calls: a namespace with a veth to the caller's own, over which it reaches an etcd of its own.

The agent is the servicer that the real agent uses, without a policy engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from libcalico.client.objects import AsyncClient
from libcalico.cni.server import WorkloadsService
from libcalico.cni.unfinished import Unfinished
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import CalicoError
from libcalico.model.codec import from_input
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_server
from libcalico.testing.machine import DIE_WITH_US
from libcalico.workload.attach import Attacher
from libcalico.workload.host import EtcdMembers, PlainHost
from libcalico.workload.locks import Locks

NODE = "10.0.4.17"
PREFIX = f"t-cni-{os.getpid()}-"  # of the names of this run's namespaces
ID = "5f0c9e11-2b7a-4c1e-9d55-0a1b2c3d4e5f"
SOURCE = Path(__file__).parents[2] / "components" / "cni" / "shim" / "shim.c"
FALLBACK = f"""#!{sys.executable} -I
import sys
from calico_cni.main import main
sys.exit(main())
"""


def sh(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout


def free_pair(device: str) -> tuple[str, str]:
    """Give a device of this namespace an address that nobody else here has; it, and that for its other end.

    Between the gateway of containers (169.254.1.1) and what clouds use (169.254.169.254)."""
    while True:
        network = ipaddress.IPv4Address("169.254.16.0") + 4 * random.randrange(140 * 64)
        outer, inner = str(network + 1), str(network + 2)
        sh("ip", "addr", "add", f"{outer}/30", "dev", device)
        held = json.loads(sh("ip", "-j", "addr", "show", "to", f"{network}/30"))
        if [link["ifname"] for link in held if link] == [device]:  # whoever comes at the same moment sees two as well
            return outer, inner
        sh("ip", "addr", "del", f"{outer}/30", "dev", device)


def build_plugins(target: Path) -> str:
    """Put the plug-in's programs into a directory, as installed; "" or why that cannot be."""
    command = ["gcc", "-std=c11", "-O2", "-static", str(SOURCE), "-o", str(target / "calico"), "-lnghttp2"]
    if shutil.which("gcc") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return "needs gcc and libnghttp2-dev"
    shutil.copy(target / "calico", target / "calico-ipam")
    (target / "calico-cni-fallback").write_text(FALLBACK)
    (target / "calico-cni-fallback").chmod(0o755)
    return ""


class Host:
    """A host in a namespace, and its etcd."""

    def __init__(self, plugins: Path, tmp_path: Path) -> None:
        self.tag = uuid.uuid4().hex[:6]
        self.name = f"{PREFIX}h-{self.tag}"
        self.plugins = plugins
        self.directory = tmp_path
        self.socket = tmp_path / "node.sock"
        self.spaces = [self.name]
        self.conf: dict[str, Any] = {}
        sh("ip", "netns", "add", self.name)
        self.path = f"/run/netns/{self.name}"
        sh("ip", "link", "add", f"tc-{self.tag}", "type", "veth", "peer", "name", "up0", "netns", self.name)
        outer, inner = free_pair(f"tc-{self.tag}")
        sh("ip", "link", "set", f"tc-{self.tag}", "up")
        self.ip("addr", "add", f"{inner}/30", "dev", "up0")
        self.ip("link", "set", "up0", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("route", "add", "default", "via", outer)
        self.endpoint = f"http://{outer}:2379"
        self.start_etcd()
        self.conf = {
            "name": "calico",
            "type": "calico",
            "cniVersion": "0.1.0",
            "etcd_endpoints": self.endpoint,
            "nodename": NODE,
            "nodename_file_optional": True,
            "ipam": {"type": "calico-ipam"},
        }

    def start_etcd(self) -> None:
        """With the data that it had."""
        peers = self.endpoint.replace(":2379", ":2380")
        self.etcd = subprocess.Popen(
            [*DIE_WITH_US, "etcd", "--data-dir", str(self.directory / "etcd"), "--listen-client-urls", self.endpoint,
             "--advertise-client-urls", self.endpoint, "--listen-peer-urls", peers, "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    async def start(self) -> None:
        self.store = EtcdDatastore(EtcdConfig(tuple(self.endpoint.split(","))))
        self.client = AsyncClient(self.store)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(CalicoError):
                    await self.client.ensure_initialized()
                    break
                await asyncio.sleep(0.1)
        for kind, name, spec in (("IPPool", "pool", {"cidr": "172.29.0.0/24"}), ("Node", NODE, {})):
            await self.client.create(
                from_input(
                    {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
                )
            )

    async def close(self) -> None:
        await self.store.close()
        self.etcd.kill()
        self.etcd.wait()
        for name in self.spaces:
            sh("ip", "netns", "del", name, check=False)
        sh("ip", "link", "del", f"tc-{self.tag}", check=False)

    def ip(self, *argv: str) -> Any:
        out = sh("ip", "-n", self.name, "-j", *argv)
        return json.loads(out) if out.strip() else []

    def box(self) -> str:
        """A new container's namespace; its path."""
        name = f"{PREFIX}c-{uuid.uuid4().hex[:6]}"
        sh("ip", "netns", "add", name)
        self.spaces.append(name)
        return f"/run/netns/{name}"

    def environment(self, command: str, netns: str, container: str, **more: str) -> dict[str, str]:
        found = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_PATH": str(self.plugins),
            "CNI_IFNAME": "eth0",
            "PATH": "/usr/bin:/bin",
            "CALICO_STATE_DIRECTORY": str(self.directory),
            **more,
        }
        return {**found, "CNI_NETNS": netns} if netns else found

    async def run(
        self, command: str, netns: str = "", container: str = ID, name: str = "calico", **conf: Any
    ) -> tuple[int, Any, str]:
        environment = self.environment(command, netns, container, CALICO_NODE_SOCKET=str(self.socket))
        return await self.program([str(self.plugins / name)], environment, {**self.conf, **conf})

    async def program(self, argv: list[str], environment: dict[str, str], conf: Any) -> tuple[int, Any, str]:
        process = await asyncio.create_subprocess_exec(
            *DIE_WITH_US, "/usr/sbin/ip", "netns", "exec", self.name, *argv,
            stdin=-1, stdout=-1, stderr=-1, env=environment,
        )  # fmt: skip
        out, err = await process.communicate(json.dumps(conf).encode())
        return process.returncode or 0, json.loads(out) if out else None, err.decode()

    async def ok(self, *args: Any, **kwargs: Any) -> Any:
        code, out, err = await self.run(*args, **kwargs)
        assert code == 0, (out, err)
        return out

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[WorkloadsService]:
        """The agent's service for this host."""

        agent = AgentWithoutPolicy(self)
        service = WorkloadsService(agent, Unfinished(str(self.directory)))
        server = open_server(str(self.socket))
        stubs.add_WorkloadsServicer_to_server(service, server)
        await server.start()
        try:
            yield service
        finally:
            await server.stop(1)
            agent.attacher.close()

    def interfaces(self) -> list[str]:
        return [link["ifname"] for link in self.ip("link") if link["ifname"].startswith("cali")]

    def routes(self) -> list[str]:
        return [route["dst"] for route in self.ip("route") if route.get("dev", "").startswith("cali")]

    async def problems(self) -> list[str]:
        """What is left of any workload."""
        found = [f"interface {name}" for name in self.interfaces()] + [f"route {dst}" for dst in self.routes()]
        found += [f"endpoint {item.metadata.name}" for item in (await self.client.list("WorkloadEndpoint")).items]
        for prefix in (b"/calico/ipam/v2/handle/", b"/calico/ipam/v2/assignment/"):
            for kv in (await self.store.range(prefix)).kvs:
                value = json.loads(kv.value)
                held = [index for index in value.get("allocations", ["handle"]) if index is not None]
                found += [f"{kv.key.decode()}: {held}"] if held else []
        for name in self.spaces[1:]:
            out = sh("ip", "-n", name, "-j", "link", check=False)
            found += [f"{name} {link['ifname']}" for link in json.loads(out or "[]") if link["ifname"] != "lo"]
        return found


class AgentWithoutPolicy(PlainHost):
    """What the agent gives to those who attach workloads, without a policy engine."""

    def __init__(self, host: Host, locks: Locks | None = None) -> None:
        super().__init__(Attacher(host.path), own_node=NODE, locks=locks)
        self._client = host.client

    async def connect(self, etcd: EtcdMembers) -> AsyncClient:
        return self._client

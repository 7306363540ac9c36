"""The CNI plug-in as executables, in namespaces, with a real etcd: by an agent, without one, and killed half-way.

A "host" is a namespace with a veth to the test's own, over which it reaches etcd. The agent is the servicer that the
real agent uses, without a policy engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.datastore.resources import AsyncClient
from libcalico.errors import CalicoError
from libcalico.model.codec import from_input
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_server
from libcalico.workload.attach import Attacher
from libcalico.workload.cni import Services
from libcalico.workload.cni.server import WorkloadsService

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

NODE = "10.0.4.17"
ID = "5f0c9e11-2b7a-4c1e-9d55-0a1b2c3d4e5f"
SOURCE = Path(__file__).parents[2] / "components" / "cni" / "shim" / "shim.c"
FALLBACK = f"""#!{sys.executable} -I
import sys
from calico_cni.main import main
sys.exit(main())
"""
# Dies by SIGKILL when the function of the numbered point is about to run ("-") or has run ("+").
KILLER = """
import os, signal, sys
from libcalico.kernel.rtnl import Rtnl
from libcalico.workload.cni import addresses, endpoint
POINTS = [
    (addresses, "assign", "-"), (addresses, "assign", "+"), (Rtnl, "create_veth", "-"), (Rtnl, "create_veth", "+"),
    (Rtnl, "set_link", "+"), (Rtnl, "replace_address", "+"), (Rtnl, "create_route", "+"),
    (endpoint, "create_endpoint", "-"), (endpoint, "create_endpoint", "+"), (endpoint, "ensure_profile", "+"),
]
place, name, side = POINTS[int(os.environ.pop("KILL_POINT"))]
call = getattr(place, name)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
if place is Rtnl:
    def deadly(*args, **kwargs):
        side == "-" and die()
        call(*args, **kwargs)
        die()
else:
    async def deadly(*args, **kwargs):
        side == "-" and die()
        await call(*args, **kwargs)
        die()
setattr(place, name, deadly)
from calico_cni.main import main
sys.argv = ["calico-cni-fallback", "--program", "calico"]
sys.exit(main())
"""
KILL_POINTS = 10


def sh(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in's programs in one directory, as installed."""
    target = tmp_path_factory.mktemp("t-cni-bin")
    command = ["gcc", "-std=c11", "-O2", "-static", str(SOURCE), "-o", str(target / "calico"), "-lnghttp2"]
    if shutil.which("gcc") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        reason = "needs gcc and libnghttp2-dev"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    shutil.copy(target / "calico", target / "calico-ipam")
    (target / "calico-cni-fallback").write_text(FALLBACK)
    (target / "calico-cni-fallback").chmod(0o755)
    return target


class Host:
    """A host in a namespace, and its etcd."""

    def __init__(self, plugins: Path, tmp_path: Path) -> None:
        self.tag = uuid.uuid4().hex[:6]
        self.name = f"t-cni-h-{self.tag}"
        self.plugins = plugins
        self.directory = tmp_path
        self.socket = tmp_path / "node.sock"
        self.spaces = [self.name]
        self.conf: dict[str, Any] = {}
        sh("ip", "netns", "add", self.name)
        self.path = f"/run/netns/{self.name}"
        net = f"169.254.{random.randrange(10, 250)}"
        sh("ip", "link", "add", f"tc-{self.tag}", "type", "veth", "peer", "name", "up0", "netns", self.name)
        sh("ip", "addr", "add", f"{net}.1/30", "dev", f"tc-{self.tag}")
        sh("ip", "link", "set", f"tc-{self.tag}", "up")
        self.ip("addr", "add", f"{net}.2/30", "dev", "up0")
        self.ip("link", "set", "up0", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("route", "add", "default", "via", f"{net}.1")
        self.endpoint = f"http://{net}.1:2379"
        self.etcd = subprocess.Popen(
            ["etcd", "--data-dir", str(tmp_path / "etcd"), "--listen-client-urls", self.endpoint,
             "--advertise-client-urls", self.endpoint, "--listen-peer-urls", f"http://{net}.1:2380",
             "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.conf = {
            "name": "calico",
            "type": "calico",
            "cniVersion": "0.1.0",
            "etcd_endpoints": self.endpoint,
            "nodename": NODE,
            "nodename_file_optional": True,
            "ipam": {"type": "calico-ipam"},
        }

    async def start(self) -> None:
        self.store = EtcdDatastore(EtcdConfig((self.endpoint,)))
        self.client = AsyncClient(self.store)
        async with asyncio.timeout(20):
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
        name = f"t-cni-c-{uuid.uuid4().hex[:6]}"
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
            "/usr/sbin/ip", "netns", "exec", self.name, *argv, stdin=-1, stdout=-1, stderr=-1, env=environment
        )
        out, err = await process.communicate(json.dumps(conf).encode())
        return process.returncode or 0, json.loads(out) if out else None, err.decode()

    async def ok(self, *args: Any, **kwargs: Any) -> Any:
        code, out, err = await self.run(*args, **kwargs)
        assert code == 0, (out, err)
        return out

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[WorkloadsService]:
        """The agent's service for this host."""

        async def connect(_conf: Any) -> AsyncClient:
            return self.client

        async def wait(*_args: Any) -> None:
            return None

        attacher = Attacher(self.path)
        service = WorkloadsService(Services(attacher, connect, wait, own_node=NODE))
        server = open_server(str(self.socket))
        stubs.add_WorkloadsServicer_to_server(service, server)
        await server.start()
        try:
            yield service
        finally:
            await server.stop(1)
            attacher.close()

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


@pytest.fixture
async def host(plugins: Path, tmp_path: Path) -> AsyncIterator[Host]:
    if shutil.which("etcd") is None:
        pytest.fail("needs etcd") if os.environ.get("CI") else pytest.skip("needs the program etcd: install it")
    made = Host(plugins, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_mesos_attaches_and_detaches_through_the_agent(host: Host) -> None:
    box = host.box()
    async with host.agent() as agent:
        shown = await host.ok("ADD", box)
        assert shown == {"cniVersion": "0.1.0", "ip4": {"ip": "172.29.0.0/32"}, "dns": {}} or set(shown) == {
            "cniVersion",
            "ip4",
            "dns",
        }
        assert host.interfaces() == ["cali5f0c9e11-2b"]
        assert host.routes() == [shown["ip4"]["ip"].removesuffix("/32")]
        assert agent.calls == 1
        assert await host.ok("DEL", box) is None
    assert await host.problems() == []


async def test_the_same_without_an_agent_and_the_guard_closes_the_door(host: Host) -> None:
    box = host.box()
    await host.ok("ADD", box)
    ruleset = sh("ip", "netns", "exec", host.name, "nft", "list", "table", "inet", "calico")
    assert "unknown workload interface" in ruleset
    address = host.endpoint.removeprefix("http://").partition(":")[0]
    code = f"import socket; socket.create_connection(({address!r}, 2379), 1)"
    tried = ["ip", "netns", "exec", box.rpartition("/")[2], "python3", "-c", code]
    assert b"timed out" in subprocess.run(tried, capture_output=True, check=False).stderr
    await host.ok("DEL", box)
    await host.ok("DEL", box)
    assert await host.problems() == []


async def test_agent_and_fallback_take_over_from_each_other(host: Host) -> None:
    box = host.box()
    async with host.agent():
        first = await host.ok("ADD", box)
    assert await host.ok("ADD", box) == first
    async with host.agent():
        await host.ok("DEL", "")
    assert await host.problems() == []


async def test_thirty_at_once(host: Host) -> None:
    boxes = [host.box() for _ in range(30)]
    async with host.agent():
        shown = await asyncio.gather(*(host.ok("ADD", box, str(uuid.uuid4())) for box in boxes))
        assert len({item["ip4"]["ip"] for item in shown}) == len(host.interfaces()) == 30


@pytest.mark.parametrize("gone", [False, True], ids=["namespace stays", "namespace gone"])
async def test_killed_at_ten_points_and_deleted_nothing_leaks(host: Host, gone: bool) -> None:
    for point in range(KILL_POINTS):
        box = host.box()
        environment = host.environment("ADD", box, ID, KILL_POINT=str(point))
        argv = [sys.executable, "-I", "-c", textwrap.dedent(KILLER)]
        code, _, err = await host.program(argv, environment, host.conf)
        assert code in {-9, 137}, f"point {point} was not reached: {code} {err}"
        if gone:
            sh("ip", "netns", "del", host.spaces.pop())
            await asyncio.sleep(0.2)
        code, out, err = await host.run("DEL", "" if gone else box)
        assert code == 0, (point, out, err)
        assert await host.problems() == [], f"after point {point}"


async def test_a_caller_killed_at_any_time_leaves_nothing_after_del(host: Host) -> None:
    async with host.agent():
        for pause_ms in (0, 1, 2, 3, 4, 5, 6, 8, 10, 15):
            box = host.box()
            environment = host.environment("ADD", box, ID, CALICO_NODE_SOCKET=str(host.socket))
            process = await asyncio.create_subprocess_exec(
                str(host.plugins / "calico"), stdin=-1, stdout=-1, env=environment
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(host.conf).encode())
            process.stdin.close()
            await asyncio.sleep(pause_ms / 1000)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await host.ok("DEL", box)
            assert await host.problems() == [], f"killed after {pause_ms} ms"


async def test_a_full_pool_leaves_no_interface(host: Host) -> None:
    pool = await host.client.get("IPPool", "pool")
    await host.client.delete("IPPool", pool.metadata.name)
    box = host.box()
    async with host.agent():
        code, out, _ = await host.run("ADD", box)
    assert (code, out["msg"]) == (1, "cannot find a qualified ippool")
    assert await host.problems() == []


async def test_etcd_down_is_an_answer_in_time(host: Host) -> None:
    box = host.box()
    host.etcd.kill()
    host.etcd.wait()
    async with asyncio.timeout(30):
        code, out, _ = await host.run("ADD", box)
    assert (code, out["code"]) == (1, 11)
    assert host.interfaces() == []


async def test_datastore_test_flag(host: Host) -> None:
    environment = host.environment("ADD", "", ID)
    argv = [str(host.plugins / "calico"), "-t"]
    assert await host.program(argv, environment, host.conf) == (0, None, "")
    code, out, _ = await host.program(argv, environment, {**host.conf, "etcd_endpoints": "http://127.0.0.1:1"})
    assert (code, out["code"], out["msg"]) == (1, 100, "data store connection failed")


def test_the_list_of_points_is_as_long_as_it_says() -> None:
    assert KILLER.count('"-"') + KILLER.count('"+"') - KILLER.count('== "-"') == KILL_POINTS


@pytest.fixture(autouse=True)
def no_left_overs() -> Iterator[None]:
    yield
    assert (
        not [name for name in os.listdir("/run/netns") if name.startswith("t-cni-")]
        if os.path.isdir("/run/netns")
        else True
    )

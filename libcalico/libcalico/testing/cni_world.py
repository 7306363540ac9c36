"""A world for CNI calls without etcd and kernel: the datastore in memory, and a kernel that only remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.cni import CniAnswer, CniRequestData, handle
from libcalico.cni.unfinished import Unfinished
from libcalico.datastore.contract import KeyValue
from libcalico.datastore.memory import MemoryDatastore
from libcalico.ipam.service import IpamService
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Link, family_of
from libcalico.model.codec import from_input
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import EndState, Inspection, InterfaceExists, LeadsElsewhere, NameTaken
from libcalico.workload.host import EtcdMembers, PlainHost
from libcalico.workload.plan import Wiring

NODE = "10.0.4.17"
ID = "5f0c9e11-2b7a-4c1e-9d55-0a1b2c3d4e5f"


class FakeKernel:
    """Stands in for `Attacher`: host interfaces by name, container interfaces by (namespace, name)."""

    def __init__(self) -> None:
        self.host: dict[str, tuple[str, str]] = {}
        self.boxes: dict[tuple[str, str], Wiring] = {}
        self.fail: Exception | None = None
        self.pause_s = 0.0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.completed = 0
        self.down: set[tuple[str, str]] = set()
        self.unrouted: set[int] = set()
        self.dies_after = -1  # inspections until the last container's namespace is gone

    def is_host(self, path: str) -> bool:
        """Is it the host's own namespace?"""
        return path == "/host"

    async def host_addresses(self) -> list[str]:
        """The addresses of the host, in the order of its interfaces."""
        return ["192.0.2.7", NODE]

    def check_netns(self, path: str) -> None:
        """Only `/nowhere` is missing."""
        if path == "/nowhere":
            raise KernelError(f"open network namespace {path}", 2)

    async def attach(self, wiring: Wiring, path: str) -> str:
        """Wire, unless `fail` says otherwise; the container's MAC."""
        await asyncio.sleep(self.pause_s)
        await self.may_go_on.wait()
        if self.fail is not None:
            raise self.fail
        standing = self.host.get(wiring.host_interface)
        if standing is not None and standing != (path, wiring.container_interface):
            raise NameTaken(wiring.host_interface)
        if standing is None and (path, wiring.container_interface) in self.boxes:
            raise InterfaceExists(wiring.container_interface)
        self.host[wiring.host_interface] = (path, wiring.container_interface)
        self.boxes[path, wiring.container_interface] = wiring
        return wiring.mac or f"0a:00:00:00:00:{len(self.boxes):02x}"

    async def make_pair(self, wiring: Wiring) -> str:
        """Both ends in the host's namespace."""
        former = self.host.pop(wiring.host_interface, None)
        if former is not None:
            self.boxes.pop(former, None)
        await self.attach(wiring, "")
        return "fe80::1" if wiring.has_v6 else ""

    def move(self, name: str, path: str, new_name: str) -> None:
        """An engine moves an interface of the host into a container and renames it."""
        wiring = self.boxes[path, new_name] = self.boxes.pop(("", name))
        self.host[wiring.host_interface] = (path, new_name)

    async def complete(self, wiring: Wiring, path: str) -> None:
        """Wire what lacks."""
        self.completed += 1
        assert self.host[wiring.host_interface] == (path, wiring.container_interface)
        self.boxes[path, wiring.container_interface] = wiring

    async def detach(self, path: str, interface: str, names: Iterable[str], *, unless_elsewhere: bool = False) -> None:
        """Remove a container's interface, and host interfaces by name."""
        if unless_elsewhere and any(self.host.get(name, (path, ""))[0] != path for name in names):
            raise LeadsElsewhere("another container's")
        gone = self.boxes.pop((path, interface), None)
        if gone is not None:
            self.host.pop(gone.host_interface, None)
        for name in names:
            far = self.host.pop(name, None)
            if far is not None:
                self.boxes.pop(far, None)

    async def inspect(self, path: str, interface: str, host_interface: str) -> Inspection:
        """What stands of a wiring, on both ends."""
        self.dies_after -= 1
        if self.dies_after == 0:
            self.host.clear()
            self.boxes.clear()
        wiring = self.boxes.get((path, interface))
        up = (path, interface) not in self.down
        link = Link(7, interface, up, up, 1500, (wiring and wiring.mac) or "0a:00:00:00:00:01", lower=8)
        container = EndState(link, wiring.addresses) if wiring is not None else None
        far = self.host.get(host_interface)
        near = Link(
            8, host_interface, True, True, 1500, "ee:ee:ee:ee:ee:ee",
            lower=7 if far == (path, interface) else 9, leads_away=far is not None and far[0] != "",
        )  # fmt: skip
        routed = self.boxes[far].addresses if far is not None else ()
        families = frozenset(map(family_of, wiring.addresses if wiring is not None else ())) - self.unrouted
        outside = EndState(near, ()) if far is not None else None
        far_name = far[1] if far is not None and far[0] == path else ""
        return Inspection(outside, container, routed, families, far_name)

    async def is_used_elsewhere(self, path: str, host_interface: str) -> bool:
        """Does the host interface lead to another container?"""
        seen = await self.inspect(path, "eth0", host_interface)
        return seen.host is not None and not seen.leads_here

    async def host_interfaces(self) -> dict[str, object]:
        """Every host interface."""
        return dict.fromkeys(self.host)


class WorldHost(PlainHost):
    """Knows what an agent would know, if the world has one."""

    def __init__(self, world: World) -> None:
        super().__init__(world.kernel)  # type: ignore[arg-type]
        self._world = world

    async def connect(self, etcd: EtcdMembers) -> AsyncClient:
        """The client of the world, or the error that it is to have."""
        if self._world.connect_error is not None:
            raise self._world.connect_error
        return self._world.client

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Note who waited; raise what the world is to raise."""
        stored = await self._world.client.get(key.kind, key.name, key.namespace)
        assert int(stored.metadata.resource_version) <= revision
        self._world.waited.append(key.name)
        if self._world.wait_error is not None:
            raise self._world.wait_error

    def is_unused(self, interface: str) -> bool:
        """As an agent knows it."""
        world = self._world
        return world.has_agent and not world.is_held(interface) and interface not in world.kernel.host

    def is_held(self, interface: str, own: ResourceKey) -> bool | None:
        """As an agent knows it."""
        return self._world.is_held(interface, own.name) if self._world.has_agent else None


class World:
    """A cluster of one host, as a CNI call sees it; `wait_error` and `connect_error` are what fails."""

    def __init__(self) -> None:
        self.store = MemoryDatastore()
        self.client = AsyncClient(self.store)
        self.kernel = FakeKernel()
        self.waited: list[str] = []
        self.wait_error: Exception | None = None
        self.host = WorldHost(self)
        self.kept: Unfinished | None = None
        self.has_agent = False
        self.plugin_path = "/opt/cni"
        self.connect_error: Exception | None = None

    def now(self) -> list[KeyValue]:
        """All that is stored."""
        return self.store._below(b"/", b"", 0)

    def is_held(self, interface: str, own: str = "") -> bool:
        """A stored endpoint of another name has this interface."""
        stored = (msgspec.json.decode(kv.value) for kv in self.now() if b"/workloadendpoints/" in kv.key)
        holders = {
            document["metadata"]["name"] for document in stored if document["spec"]["interfaceName"] == interface
        }
        return bool(holders - {own})

    async def start(self, cidr: str = "172.29.0.0/26", **spec: Any) -> None:
        """A cluster with one pool and this node."""
        await self.client.ensure_initialized()
        pool = {"cidr": cidr, "blockSize": 31 if cidr.endswith("/31") else 26, **spec}
        for kind, name, body in (("IPPool", "pool", pool), ("Node", NODE, {})):
            await self.client.create(
                from_input(
                    {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": body}
                )
            )

    async def call(
        self,
        command: str,
        container: str = ID,
        netns: str = "/box",
        interface: str = "eth0",
        args: str = "",
        program: str = "calico",
        conf: dict[str, Any] | None = None,
        **members: Any,
    ) -> CniAnswer:
        """One CNI call, as a runtime makes it; `members` are members of its configuration."""
        merged: dict[str, Any] = {
            "name": "calico",
            "type": "calico",
            "cniVersion": "0.3.1",
            "nodename": NODE,
            "nodename_file_optional": True,
            "ipam": {"type": "calico-ipam"},
            **members,
            **(conf or {}),
        }
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": interface,
            "CNI_PATH": self.plugin_path,
            "CNI_ARGS": args,
        }
        data = json.dumps(merged).encode()
        return await handle(CniRequestData(program, environment, data), self.host, kept=self.kept)

    async def ok(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """A call that succeeds; its result."""
        answer = await self.call(command, *args, **kwargs)
        assert answer.exit_code == 0, answer.stdout.decode()
        return json.loads(answer.stdout) if answer.stdout else None

    async def refused(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """A call that fails; its error."""
        answer = await self.call(command, *args, **kwargs)
        assert answer.exit_code == 1
        assert answer.stderr
        return json.loads(answer.stdout)

    async def endpoints(self) -> list[Any]:
        """Every workload endpoint that is stored."""
        return list((await self.client.list("WorkloadEndpoint")).items)

    async def held(self) -> set[str]:
        """Every address that is assigned, out of the blocks."""
        found = set()
        for kv in (await self.store.range(b"/calico/ipam/v2/assignment/")).kvs:
            block = json.loads(kv.value)
            base, _, _ = block["cidr"].partition("/")
            prefix, _, last = base.rpartition(".")
            found |= {f"{prefix}.{int(last) + i}" for i, a in enumerate(block["allocations"]) if a is not None}
        return found

    async def is_clean(self) -> bool:
        """Is nothing left of any workload?"""
        handles = (await self.store.range(b"/calico/ipam/v2/handle/")).kvs
        return not (await self.endpoints() or await self.held() or handles or self.kernel.host or self.kernel.boxes)


async def started(has_agent: bool) -> World:
    """A world to make calls in: without an agent whose view spares requests, or with one."""
    made = World()
    made.has_agent = has_agent
    if has_agent:
        ipam = IpamService(made.store, NODE)
        made.host.open_ipam = lambda client, node: ipam if node == NODE else IpamService(made.store, node)  # type: ignore[method-assign]
    await made.start()
    return made

"""Three hosts and an outside router on one network, each a namespace with a real BIRD; each host with its own
`dcos-calico-confd` and one container. One etcd for all."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from calico_bird.testing import Object, node, resource
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import etcd_config, from_environment
from libcalico.model.keys import AffinityKey, ResourceKey, key_path
from libcalico.testing.etcd import Etcd
from tests.netns.bird_host import Bird, Confd, until
from tests.netns.spaces import Space

PASSWORD = "not a real one, {but long}; # enough"
ROUTER, ROUTER_AS, CLUSTER_AS = "10.77.0.9", 65009, 64512
GATEWAY = "169.254.1.1"
SERVICES = "10.99.0.0/24"
POOLS = (
    resource("IPPool", "plain", cidr="10.88.0.0/16", ipipMode="Never", vxlanMode="Never"),
    resource("IPPool", "services", cidr="10.99.0.0/16", ipipMode="Never", vxlanMode="Never", disabled=True),
)
ROUTER_FILE = f"""log stderr all;
router id {ROUTER};
timeformat protocol iso short;
protocol device {{}}
protocol static {{ ipv4; route 203.0.113.0/24 blackhole; route 198.51.100.0/24 blackhole; }}
protocol bgp h1 {{
  local as {ROUTER_AS};
  neighbor 10.77.0.1 as {CLUSTER_AS};
  multihop;
  connect delay time 1; connect retry time 2; error wait time 1, 5;
  graceful restart;
  password "{PASSWORD}";
  ipv4 {{ import all; export filter {{ if source = RTS_STATIC then accept; reject; }}; }};
}}
"""


def block(place: int) -> str:
    """The block of host number `place`."""
    return f"10.88.{place}.0/26"


def address(place: int) -> str:
    """That of the container on host number `place`."""
    return f"10.88.{place}.5"


class LabHost:
    """A host: its namespace, its container's, BIRD, and the daemon that configures it."""

    def __init__(self, place: int, lan: Space, folder: Path, etcd: Etcd) -> None:
        self.place, self.name = place, f"h{place}"
        self.space, self.box = Space("host"), Space("box")
        self.folder = folder / self.name
        self.folder.mkdir()
        self.bird = Bird(self.name, self.space.name, self.folder)
        attach(self.space, lan, f"10.77.0.{place}", self.name)
        self._wire_container()
        self.status = self.folder / "confd-status.json"
        self.secrets = self.folder / "secrets"
        self.confd = Confd(
            self.bird, self.name, etcd.endpoint,
            CALICO_CONFD_SECRETS=str(self.secrets), CALICO_CONFD_STATUS=str(self.status),
        )  # fmt: skip

    def _wire_container(self) -> None:
        """As the agent does, but that the host's end has the gateway's address: a proxy needs a default route."""
        space, box = self.space, self.box
        space.ip("link", "add", "cali1", "type", "veth", "peer", "name", "eth0", "netns", box.name)
        space.ip("link", "set", "cali1", "up")
        space.ip("route", "add", f"{address(self.place)}/32", "dev", "cali1")
        space.ip("addr", "add", f"{GATEWAY}/32", "dev", "cali1")
        space.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        box.ip("addr", "add", f"{address(self.place)}/32", "dev", "eth0")
        box.ip("link", "set", "eth0", "up")
        box.ip("route", "add", GATEWAY, "dev", "eth0", "scope", "link")
        box.ip("route", "add", "default", "via", GATEWAY)

    def pings(self, place: int) -> bool:
        """Does the container reach that of another host?"""
        command = ["ip", "netns", "exec", self.box.name, "ping", "-c1", "-W1", "-q", address(place)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def said(self) -> dict[str, Any]:
        """The daemon's status file."""
        return dict(json.loads(self.status.read_text()))

    def close(self) -> None:
        """Everything of it."""
        self.confd.kill()
        self.bird.kill()
        self.box.close()
        self.space.close()


def attach(space: Space, lan: Space, own: str, name: str) -> None:
    """Put a namespace on the network."""
    space.ip("link", "add", "up0", "type", "veth", "peer", "name", name, "netns", lan.name)
    space.ip("addr", "add", f"{own}/24", "dev", "up0")
    space.ip("link", "set", "up0", "up")
    lan.ip("link", "set", name, "master", "lan", "up")


class Lab:
    """All of it, started once. Each test stores its objects and calls `reset` for the next one."""

    def __init__(self, folder: Path, etcd: Etcd) -> None:
        self.etcd = etcd
        self.lan = Space("lan")
        self.lan.ip("link", "add", "lan", "type", "bridge")
        self.lan.ip("link", "set", "lan", "up")
        self.outside = Space("router")
        attach(self.outside, self.lan, ROUTER, "router")
        self.router = Bird("router", self.outside.name, folder)
        self.router.file.write_text(ROUTER_FILE)
        self.hosts = [LabHost(place, self.lan, folder, etcd) for place in (1, 2, 3)]
        self.store = self._open()

    def _open(self) -> EtcdDatastore:
        return EtcdDatastore(etcd_config(from_environment({"ETCD_ENDPOINTS": self.etcd.endpoint})))

    async def put(self, *objects: Object) -> None:
        """Store objects."""
        for one in objects:
            await self.put_raw(one["kind"], one["metadata"]["name"], json.dumps(one).encode())

    async def put_raw(self, kind: str, name: str, value: bytes) -> None:
        """Store bytes in the place of an object."""
        await self.store.put(key_path(ResourceKey(kind, name)).encode(), value)

    async def drop(self, kind: str, name: str) -> None:
        """Delete an object."""
        await self.store.txn([], [Delete(key_path(ResourceKey(kind, name)).encode())])

    async def start(self) -> None:
        """The full mesh of the three hosts, up."""
        await self.put(*POOLS, *(node(one.name, f"10.77.0.{one.place}/24") for one in self.hosts))
        for one in self.hosts:
            await self.store.put(key_path(AffinityKey(one.name, block(one.place))).encode(), b'{"state":"confirmed"}')
        for one in self.hosts:
            await until(one.bird.file.exists, f"the file of {one.name}")
            one.bird.start()
        self.router.start()
        await self.until_up(2)

    async def until_up(self, count: int) -> None:
        """Until each host has so many sessions, all of them up."""
        for one in self.hosts:
            await until(partial(_all_up, one.bird, count), f"{count} sessions of {one.name}")

    async def established(self) -> list[dict[str, str]]:
        """Each host's sessions that are up, and since when."""
        return [await one.bird.established() for one in self.hosts]

    def close(self) -> None:
        """Everything."""
        for one in self.hosts:
            one.close()
        self.router.kill()
        self.outside.close()
        self.lan.close()


async def _all_up(bird: Bird, count: int) -> bool:
    sessions = await bird.sessions()
    return len(sessions) == count and all(row.info.startswith("Established") for row in sessions.values())

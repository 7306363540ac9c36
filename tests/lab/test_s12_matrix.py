"""S12: every kind of traffic, of every size, between tasks on one host, on two, and behind a router, under each
encapsulation that this kernel has."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from libcalico.testing.machine import need
from tests.lab import Cluster, Task
from tests.lab.bgp import Bgp
from tests.lab.host import Host, connect, has_ipip

BEHIND = "10.20.1.23"
HOSTS = ("m1", "a1", "a2")
MODES = {
    "VXLAN always": {"ipipMode": "Never", "vxlanMode": "Always"},
    "VXLAN across subnets": {"ipipMode": "Never", "vxlanMode": "CrossSubnet"},
    "BGP with IPIP": {"ipipMode": "Always", "vxlanMode": "Never"},
    "BGP without encapsulation": {"ipipMode": "Never", "vxlanMode": "Never"},
}


class Routed(Cluster):
    """a2 is in another network, behind the router."""

    addresses = {**Cluster.addresses, "a2": BEHIND}
    gateways = {"a2": "10.20.1.1"}

    def _plug(self, host: Host, cidr: str) -> None:
        if cidr != f"{BEHIND}/24":
            super()._plug(host, cidr)
            return
        connect(self.router, "eth2", host, "eth0")
        self.router.run("ip addr add 10.20.1.1/24 dev eth2")
        host.run(["ip", "addr", "add", cidr, "dev", "eth0"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    need(os.geteuid() == 0, "root", "run as root")
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    with Routed(HOSTS) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture(scope="module")
def tasks(lab: Cluster) -> dict[str, Task]:
    """One on m1, behind the router on a2, and two on a1."""
    made = {}
    for name, host in (("one", "a1"), ("neighbour", "a1"), ("same network", "m1"), ("other network", "a2")):
        made[name] = task = lab.mesos(host).launch(name.replace(" ", "-"))
        task.start_traffic("echo", 9000, "/dev/null")
        task.start_traffic("send", 9001, 5_000_000)
    for task in made.values():
        lab.wait("the servers", lambda s=task: s.listens("udp:9000") and s.listens("tcp:9001"))  # type: ignore[misc]
    return made


@pytest.mark.parametrize("mode", MODES)
def test_s12_matrix(lab: Cluster, tasks: dict[str, Task], mode: str) -> None:
    if "IPIP" in mode and not has_ipip():
        pytest.skip("this kernel has no IPIP device")
    patch = json.dumps({"spec": MODES[mode]})
    lab.calicoctl("patch", "ippool", "default-ipv4-ippool", "-p", patch)
    if "BGP" not in mode:
        _play(lab, tasks)
        return
    near = {name: task for name, task in tasks.items() if task.host.name != "a2"}
    with Bgp(lab, HOSTS):  # the router has no BGP here: without a tunnel it knows no way to a task
        _play(lab, tasks if "IPIP" in mode else near)


def _play(lab: Cluster, tasks: dict[str, Task]) -> None:
    for name in HOSTS:
        lab.wait_programmed(name)
    one = tasks["one"]
    for other in (task for task in tasks.values() if task is not one):
        lab.wait(f"a way to {other.name}", lambda o=other: pings(one, o, 56) and pings(o, one, 56), timeout_s=60)  # type: ignore[misc]
        for client, server in ((one, other), (other, one)):
            _exchange(client, server)


def pings(client: Task, server: Task, size: int) -> bool:
    done = client.exec(["ping", "-c1", "-W2", "-M", "dont", "-s", str(size), server.address], check=False)
    return done.returncode == 0


def _exchange(client: Task, server: Task) -> None:
    assert client.fetch(server.address)[0] == 0, f"{client.name} asks {server.name}"
    for size in (1372, 1422, 7972):
        assert pings(client, server, size), f"{client.name} pings {server.name} with {size} octets"
    for size in (1400, 1450, 8000):
        client.traffic("ask", server.address, 9000, size)
    client.traffic("receive", server.address, 9001, 5_000_000)

"""Pools change their encapsulation under traffic, in both families: what is lost, and what of others is touched.

Two tasks on two hosts ping each other every 10 ms, by IPv4 and by IPv6. The tunnels' addresses come from
`calico-node -allocate-tunnel-addrs-daemon`, as on a host with DC/OS.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libcalico.testing.machine import need
from tests.lab.cluster import ADDRESSES, BIN, POOL, Cluster, network_conf
from tests.lab.host import Host
from tests.lab.mesos import Task

POOL_V6 = "fd29::/112"
UNDERLAY_V6 = {"a1": "fd20::21", "a2": "fd20::22"}
HOSTS = tuple(UNDERLAY_V6)
PAUSE_S = 0.01
MOST_LOST = 3
"""Of several hundred: a host that is busy answers late, and `ping` counts what is on the way when it ends."""
LEAST_SENT = 50
SETTLED_S = 14.0
"""After this no tunnel lingers (`encapsulations.LINGER_S`)."""
TRANSMITTED = re.compile(r"(\d+) packets transmitted, (\d+) received")
ANSWER = re.compile(r"\[([\d.]+)\] .*icmp_seq=(\d+)")


class Ping:
    """One a hundredth of a second, until it is stopped."""

    def __init__(self, task: Task, address: str, log: Path) -> None:
        self._host, self._log = task.host, log
        words = ["ping", "-n", "-D", "-i", str(PAUSE_S), "-W", "1", address]
        self._process = self._host.start(words, netns=task.netns, log=log.open("wb"))

    def stop(self) -> tuple[int, int]:
        """How many were sent, and how many lost."""
        self._host.stop_process(self._process, 2)
        found = TRANSMITTED.search(self._log.read_text())
        assert found is not None, self._log.read_text()
        return int(found[1]), int(found[1]) - int(found[2])

    @property
    def is_answered(self) -> bool:
        """The first answer is there."""
        return "icmp_seq" in self._log.read_text()

    def gaps(self) -> str:
        """Where answers are missing: seconds since the epoch, from which number to which."""
        found = [(float(time), int(number)) for time, number in ANSWER.findall(self._log.read_text())]
        return "; ".join(
            f"{at:.2f}-{to:.2f} {n}-{m}" for (at, n), (to, m) in itertools.pairwise(found) if m > n + 1
        )  # fmt: skip


class World:
    """Two hosts with a task each."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.hosts = [cluster.hosts[name] for name in HOSTS]
        self.tasks = [cluster.mesos(name).launch(f"t-{name}", "both", serve=False) for name in HOSTS]
        self.six = [_address_v6(task) for task in self.tasks]
        self._number = 0

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """As a user does."""
        document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.cluster.calicoctl("apply", "-f", "-", stdin=json.dumps(document))

    def pools(self, mode: str, ipip: str = "Never") -> None:
        """Both pools have this VXLAN mode; that of IPv4 may have IPIP instead."""
        four = {"cidr": POOL, "vxlanMode": mode, "ipipMode": ipip, "natOutgoing": True}
        self.apply("IPPool", "default-ipv4-ippool", four)
        self.apply("IPPool", "six", {"cidr": POOL_V6, "vxlanMode": mode, "natOutgoing": True})

    def device_to(self, family: int) -> str:
        """By which device the hosts reach each other's tasks; empty while they do not agree."""
        addresses = [task.address for task in self.tasks] if family == 4 else self.six
        devices = {
            _json(host, f"ip -j -{family} route get {address}")[0].get("dev", "")
            for host, address in zip(self.hosts, reversed(addresses), strict=True)
        }
        return str(devices.pop()) if len(devices) == 1 else ""

    def pings(self) -> list[Ping]:
        """One a family, from the first task to the second."""
        self._number += 1
        addresses = (self.tasks[1].address, self.six[1])
        folder = self.cluster.folder
        made = [Ping(self.tasks[0], one, folder / f"ping-{self._number}-{n}") for n, one in enumerate(addresses)]
        self.cluster.wait("answers", lambda: all(ping.is_answered for ping in made))
        return made

    def reaches(self) -> bool:
        """Both families pass."""
        words = [f"ping -n -q -c 1 -W 1 {address}" for address in (self.tasks[1].address, self.six[1])]
        return self.tasks[0].exec(" && ".join(words), check=False).returncode == 0


def _json(host: Host, command: str) -> Any:
    return json.loads(host.run(command, check=False).stdout or "[{}]")


def _address_v6(task: Task) -> str:
    found = json.loads(task.exec("ip -j -6 addr show dev eth0 scope global").stdout)
    return next(str(one["local"]) for link in found for one in link["addr_info"])


def _foreign(host: Host) -> str:
    """What another program has on a host, as text."""
    commands = [
        "ip -d link show vtep1024 | grep -v mtu", "bridge fdb show dev vtep1024", "ip addr show dev vtep1024",
        "ip route show proto static", "ip -6 route show proto static", "ip neigh show dev vtep1024",
    ]  # fmt: skip
    return "\n".join(host.run(command, check=False).stdout for command in commands)


def _make_foreign(host: Host, local: str) -> None:
    """DC/OS's overlay device on the same UDP port, and routes: of a network inside the pool, and elsewhere."""
    host.run(
        f"ip link add vtep1024 type vxlan id 1024 dstport 64000 local {local} nolearning"
        " && ip addr add 44.128.0.1/20 dev vtep1024 && ip link set vtep1024 up"
        " && bridge fdb append 70:b3:d5:00:00:02 dev vtep1024 dst 10.20.0.99"
        " && ip neigh add 44.128.0.2 lladdr 70:b3:d5:00:00:02 dev vtep1024 nud permanent"
        " && ip route add 172.29.0.0/17 via 10.20.0.1 proto static metric 900"
        " && ip route add 198.51.100.0/24 via 10.20.0.1 proto static"
        " && ip route add blackhole 203.0.113.0/24 proto static"
        " && ip -6 route add fd29::/113 dev eth0 proto static metric 900"
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    need(shutil.which("ping") is not None, "ping", "apt-get install iputils-ping")
    with Cluster(("m1", *HOSTS)) as cluster:
        cluster.start()
        patch(cluster, programClusterRoutes="Enabled")
        for name, address in UNDERLAY_V6.items():
            host = cluster.hosts[name]
            host.run(f"ip addr add {address}/64 dev eth0 nodad")
            spec = {"spec": {"bgp": {"ipv6Address": f"{address}/64"}}}
            cluster.calicoctl("patch", "node", ADDRESSES[name], "-p", json.dumps(spec))
            words = [str(BIN / "calico-node"), "-allocate-tunnel-addrs-daemon"]
            log = (cluster.folder / f"tunnels-{name}.log").open("wb")
            host.start(words, environment=cluster.environment(name), log=log)
            cluster.mesos(name).add_network(
                network_conf("both")
                | {"mtu": 1400, "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}}
            )
            _make_foreign(host, ADDRESSES[name])
        pool = {"cidr": POOL_V6, "vxlanMode": "Always", "natOutgoing": True}
        document = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "six"}, "spec": pool}
        cluster.calicoctl("apply", "-f", "-", stdin=json.dumps(document))
        for name in HOSTS:
            cluster.wait_agent(name)
        made = World(cluster)
        cluster.wait("both families pass", made.reaches)
        yield made


def patch(cluster: Cluster, **spec: Any) -> None:
    cluster.calicoctl("patch", "felixconfiguration", "default", "-p", json.dumps({"spec": spec}))


def _change(world: World, mode: str, device: tuple[str, str]) -> str:
    """Change both pools under pings; the figures as text."""
    pings = world.pings()
    world.pools(mode)
    world.cluster.wait(f"{mode} by {device[0]}", lambda: world.device_to(4) == device[0])
    world.cluster.wait(f"{mode} by {device[1]}", lambda: world.device_to(6) == device[1])
    world.cluster.wait("what goes to be gone", lambda: _devices(world) == set(device) - {"eth0"}, SETTLED_S + 30)
    results = [ping.stop() for ping in pings]
    for sent, lost in results:
        assert sent > LEAST_SENT, results
        assert lost <= MOST_LOST, f"{mode}: {lost} of {sent}; {[ping.gaps() for ping in pings]}\n{world.cluster.dump()}"
    return f"{mode}: " + ", ".join(f"{lost} of {sent} lost" for sent, lost in results)


def _devices(world: World) -> set[str]:
    """The tunnels' devices on the hosts; all hosts have the same, or this is no set of ours."""
    found = [{name for name in ("vxlan.calico", "vxlan-v6.calico") if _has(host, name)} for host in world.hosts]
    return found[0] if found[0] == found[1] else {"not the same"}


def _has(host: Host, device: str) -> bool:
    return host.run(["ip", "link", "show", device], check=False).returncode == 0


def test_pools_change_under_traffic_and_nothing_of_others_is_touched(world: World) -> None:
    tunnels, direct = ("vxlan.calico", "vxlan-v6.calico"), ("eth0", "eth0")
    before = [_foreign(host) for host in world.hosts]
    exits = {name: agent.exits() for name, agent in world.cluster.agents.items()}
    assert all("44.128.0.1/20" in text and "172.29.0.0/17" in text and "fd29::/113" in text for text in before)
    assert (world.device_to(4), world.device_to(6)) == tunnels
    figures = [_cross_subnet(world)]
    figures += [_change(world, mode, way) for mode, way in (("Never", direct), ("Always", tunnels))]
    print("\n".join(figures))
    assert [_foreign(host) for host in world.hosts] == before
    assert {name: agent.exits() for name, agent in world.cluster.agents.items()} == exits, "no agent started again"


def _cross_subnet(world: World) -> str:
    """The devices stay, for hosts of other subnets."""
    pings = world.pings()
    for mode, device in (("CrossSubnet", "eth0"), ("Always", "vxlan.calico"), ("CrossSubnet", "eth0")):
        world.pools(mode)
        world.cluster.wait(f"{mode} by {device}", lambda device=device: world.device_to(4) == device)  # type: ignore[misc]
    assert _devices(world) == {"vxlan.calico", "vxlan-v6.calico"}
    for length, device in ((32, "vxlan.calico"), (24, "eth0")):  # a node that says so is in a subnet of its own
        for name in HOSTS:
            spec = {"spec": {"bgp": {"ipv4Address": f"{ADDRESSES[name]}/{length}"}}}
            world.cluster.calicoctl("patch", "node", ADDRESSES[name], "-p", json.dumps(spec))
        world.cluster.wait(f"/{length} by {device}", lambda device=device: world.device_to(4) == device)  # type: ignore[misc]
    results = [ping.stop() for ping in pings]
    assert all(lost <= MOST_LOST for _, lost in results), results
    return "CrossSubnet and back, five times: " + ", ".join(f"{lost} of {sent} lost" for sent, lost in results)


def test_another_vni_costs_the_device_s_own_re_creation(world: World) -> None:
    """All hosts' agents start again, each in its own time: until both have, packets of two VNIs pass each other by."""
    pings = world.pings()
    old = [_index(host) for host in world.hosts]
    patch(world.cluster, vxlanVNI=4097)
    world.cluster.wait("other devices", lambda: not {_index(host) for host in world.hosts} & {None, *old})
    world.cluster.wait("both families pass", world.reaches)
    print("another VNI: " + ", ".join(f"{lost} of {sent} lost" for sent, lost in (ping.stop() for ping in pings)))
    same = [_index(host) for host in world.hosts]
    patch(world.cluster, vxlanMTU=1300)
    world.cluster.wait("another MTU", lambda: all(_mtu(host) == 1300 for host in world.hosts))
    assert [_index(host) for host in world.hosts] == same, "an MTU is changed, and no device made again for it"
    for host in world.hosts:
        assert "id 1024" in host.run("ip -d link show vtep1024").stdout


def _index(host: Host) -> int | None:
    found = _json(host, "ip -j link show vxlan.calico")
    return found[0].get("ifindex") if found else None


def _mtu(host: Host) -> int | None:
    found = _json(host, "ip -j link show vxlan.calico")
    return found[0].get("mtu") if found else None


def test_ipip_that_the_kernel_lacks_is_named_and_stops_nothing_else(world: World) -> None:
    """By the real request to the real kernel."""
    probe = "ip link add probe0 type ipip && ip link del probe0"
    if world.hosts[0].run(probe, check=False).returncode == 0:
        pytest.skip("this kernel has IPIP")
    world.pools("Never", ipip="Always")
    words = "pool default-ipv4-ippool wants IPIP, and this kernel has no ipip device: load the module ipip"
    world.cluster.wait("the problem in the status", lambda: words in _pending(world))
    world.cluster.wait("the route to be gone", lambda: world.device_to(4) != "vxlan.calico")
    assert world.device_to(6) == "eth0", "IPv6 has its way"
    assert world.cluster.log("felix-a1").count(words) == 1
    world.pools("Always")
    world.cluster.wait("both families pass", world.reaches)
    world.cluster.wait("no problem", lambda: "IPIP" not in _pending(world))


def test_ipip_by_the_kernel(world: World) -> None:
    probe = "ip link add probe0 type ipip && ip link del probe0"
    if world.hosts[0].run(probe, check=False).returncode:
        pytest.skip("this kernel has no IPIP: load the module ipip")
    world.pools("Never", ipip="Always")
    world.cluster.wait("the way through tunl0", lambda: world.device_to(4) == "tunl0")
    world.cluster.wait("both families pass", world.reaches)
    world.pools("Always")
    world.cluster.wait("the way back", lambda: world.device_to(4) == "vxlan.calico")


def _pending(world: World) -> str:
    done: subprocess.CompletedProcess[str] = world.hosts[0].run(
        [str(BIN / "calicoctl"), "node", "debug", "pending"], check=False
    )
    return done.stdout

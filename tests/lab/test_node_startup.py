"""Hosts that are booted by `calico-node` as its upstream is: start-up, tunnel addresses, the agent, its checks; and a
pool that wants VXLAN only after all of them run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest

from libcalico.testing.machine import need
from tests.lab.agent import Agent
from tests.lab.bgp import Bgp
from tests.lab.cluster import ADDRESSES, BIN, ROUTER, Cluster
from tests.lab.host import Host

NODE = str(BIN / "calico-node")
MISSED = f"calico/node is not ready: BIRD is not ready: BGP not established with {ADDRESSES['a1']}\n"
OTHER = {"m1": "a1", "a1": "m1"}


class Booted(Cluster):
    """Its hosts find their addresses themselves, and no pool wants a tunnel yet."""

    def environment(self, name: str) -> dict[str, str]:
        own = {"IP": "autodetect", "IP_AUTODETECTION_METHOD": "can-reach=10.20.0.1", "CALICO_IPV4POOL_VXLAN": "Never"}
        return {**super().environment(name), **own, "FELIX_IPV6SUPPORT": "false"}

    def prepare(self, name: str) -> None:
        for mode in ("-startup", "-allocate-tunnel-addrs"):
            self.hosts[name].run([NODE, mode], environment=self.environment(name))

    def start_agent(self, name: str) -> None:
        log = self.folder / f"felix-{name}.log"
        self.agents[name] = Agent(self.hosts[name], [NODE, "-felix"], self.environment(name), log)

    def node(self, name: str) -> dict:
        return dict(json.loads(self.calicoctl("get", "node", ADDRESSES[name], "-o", "json").stdout)["spec"])

    def tunnel(self, name: str) -> str:
        return str(self.node(name).get("ipv4VXLANTunnelAddr", ""))

    def set_mode(self, mode: str) -> None:
        self.calicoctl("patch", "ippool", "default-ipv4-ippool", "-p", json.dumps({"spec": {"vxlanMode": mode}}))


@pytest.fixture(scope="module")
def lab() -> Iterator[Booted]:
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    cluster = Booted(("m1", "a1"))
    with cluster:
        cluster.start()
        yield cluster


def device_address(host: Host) -> str:
    found = host.run("ip -j -4 addr show dev vxlan.calico", check=False).stdout
    entries = json.loads(found)[0]["addr_info"] if found.strip() else []
    return str(entries[0]["local"]) if entries else ""


def test_the_address_was_found_and_the_checks_pass(lab: Booted) -> None:
    for name, host in lab.hosts.items():
        assert lab.node(name)["bgp"]["ipv4Address"] == f"{ADDRESSES[name]}/24" and not lab.tunnel(name)
        assert host.read("/var/lib/calico/nodename") == ADDRESSES[name]
        assert len(host.read("/var/lib/calico/clusterguid")) == 32
        lab.wait("the agent to be ready", lambda h=host: h.run([NODE, "-felix-ready"], check=False).returncode == 0)  # type: ignore[misc]
        assert host.run([NODE, "-felix-live", "-felix-ready"]).stdout == ""
        done = host.run([NODE, "-bird-live"], check=False)
        assert done.returncode == 1 and "bird/confd is not live" in done.stdout


def test_the_checks_of_a_real_bird(lab: Booted) -> None:
    m1, a1 = lab.hosts["m1"], lab.hosts["a1"]
    with Bgp(lab, ("m1", "a1")) as bgp:
        for host in (m1, a1):
            ready = [NODE, "-bird-live", "-bird-ready", "-felix-ready"]
            lab.wait("BIRD to be ready", lambda h=host, r=ready: h.run(r, check=False).returncode == 0)  # type: ignore[misc]
        shown = a1.run([NODE, "-show-status"]).stdout
        assert "IPv4 BGP peers: 1 established, 0 not\n" in shown and "IPv6 BGP peers: 0 established, 0 not\n" in shown
        assert re.search(rf"\| {ADDRESSES['m1']} \| NodeMesh \| Established \|", shown), shown
        bgp.stop_bird("a1")
        done = a1.run([NODE, "-bird-live"], check=False)
        assert done.returncode == 1 and "bird/confd is not live: ask BIRD at " in done.stdout
        lab.wait("m1 to miss it", lambda: m1.run([NODE, "-bird-ready"], check=False).stdout == MISSED)


def test_a_pool_that_wants_vxlan_at_run_time(lab: Booted) -> None:
    """The address is assigned, the Node shows it, the device has it; and it all goes again."""
    lab.set_mode("Always")
    for name, host in lab.hosts.items():
        lab.wait(f"the tunnel address of {name}", lambda n=name: bool(lab.tunnel(n)))  # type: ignore[misc]
        lab.wait(f"the device of {name}", lambda n=name, h=host: device_address(h) == lab.tunnel(n))  # type: ignore[misc]
    for name, other in OTHER.items():
        ping = ["ping", "-c1", "-W1", lab.tunnel(other)]
        lab.wait("the tunnel", lambda h=lab.hosts[name], p=ping: h.run(p, check=False).returncode == 0)  # type: ignore[misc]
    before = lab.etcdctl("get", "--prefix", "/calico/").stdout
    lab.hosts["a1"].run([NODE, "-allocate-tunnel-addrs"], environment=lab.environment("a1"))
    assert lab.etcdctl("get", "--prefix", "/calico/").stdout == before
    address = lab.tunnel("a1")
    lab.set_mode("Never")
    for name, host in lab.hosts.items():
        lab.wait(f"{name} to be without", lambda n=name: not lab.tunnel(n))  # type: ignore[misc]
        lab.wait(f"{name} without the device", lambda h=host: not device_address(h))  # type: ignore[misc]
    lab.wait(
        "the address to be free", lambda: "is not assigned" in lab.calicoctl("ipam", "show", "--ip", address).stdout
    )


def test_the_monitor_follows_the_host(lab: Booted) -> None:
    host, name = lab.hosts["a1"], ADDRESSES["a1"]
    environment = {**lab.environment("a1"), "AUTODETECT_POLL_INTERVAL": "1s"}
    monitor = host.start([NODE, "-monitor-addresses"], environment=environment)
    change = "ip addr add {0}/{1} dev eth0 && ip addr del {0}/{2} dev eth0 && ip route replace default via {3}"
    try:
        host.run(change.format(name, 20, 24, ROUTER))
        lab.wait("the new length", lambda: lab.node("a1")["bgp"]["ipv4Address"] == f"{name}/20")
    finally:
        host.stop_process(monitor, 15)
        host.run(change.format(name, 24, 20, ROUTER))

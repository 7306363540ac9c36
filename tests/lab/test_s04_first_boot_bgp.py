"""S4: the first boot with `calico_vxlan_enabled: "false"`: the agent, dcos-calico-confd and BIRD as DC/OS's units.

Where the kernel has no IPIP device, the pool has no encapsulation: the units and BIRD's paths are the same, and what is
asserted of the device is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import dcos
from tests.lab.booted import BIRD, CALICOCTL, CONFD, FELIX, Booted
from tests.lab.dcos import ROOT, Options
from tests.lab.host import has_ipip

CONFIG = "/etc/calico/confd/config/bird.cfg"
CIDR = "192.168.128.0/17"
HOSTS = ("m1", "a1", "p1")
ESTABLISHED = re.compile(r"\| (10\.20\.0\.[0-9]+) +\| node-to-node mesh \| up +\| \S+ +\| Established +\|")
OWN_BLOCK = re.compile(r"blackhole (192\.168\.\S+)")


IPIP = has_ipip()


@pytest.fixture(scope="module")
def bgp(package: Path) -> Iterator[Booted]:
    with Booted(package, HOSTS, Options(cidr=CIDR, vxlan=False, ipip=IPIP)) as cluster:
        cluster.boot()
        cluster.start_etcd()
        cluster.start_units()
        cluster.wait_ready()
        yield cluster


def peers(bgp: Booted, name: str) -> set[str]:
    return set(ESTABLISHED.findall(bgp.hosts[name].run([CALICOCTL, "node", "status"], check=False).stdout))


def test_s04_units_and_the_mesh(bgp: Booted) -> None:
    for name in HOSTS:
        others = {bgp.addresses[other] for other in HOSTS if other != name}
        bgp.wait(f"the mesh on {name}", lambda name=name, others=others: peers(bgp, name) == others, timeout_s=60)  # type: ignore[misc]
        for unit in (FELIX, CONFD, BIRD):
            state = bgp.state(name, unit)
            assert (state["ActiveState"], state["SubState"], state["ConditionResult"]) == ("active", "running", "yes")
            assert dcos.health(bgp.host(name), unit) == ""
        assert bgp.host(name).read(f"/proc/{bgp.state(name, BIRD)['MainPID']}/cmdline").startswith("bird\0")
        assert "NODENAME" not in bgp.host(name).systemctl("show-environment")
        bgp.hosts[name].run([f"{ROOT}/bin/bird", "-p", "-c", CONFIG])
        assert "vxlan.calico" not in bgp.hosts[name].run("ip -br link").stdout


def test_s04_bird_before_its_file(bgp: Booted) -> None:
    """BIRD's unit ends on the first boot, since confd has not run yet, and recovers without help."""
    host = bgp.host("a1")
    host.systemctl("stop", CONFD, BIRD)
    host.run(f"rm {CONFIG}")
    host.systemctl("start", BIRD)
    bgp.wait("BIRD to end", lambda: bgp.state("a1", BIRD)["SubState"] == "auto-restart")
    host.systemctl("start", CONFD)
    bgp.wait("the mesh again", lambda: len(peers(bgp, "a1")) == len(HOSTS) - 1, timeout_s=60)


def test_s04_confd_started_again_lays_nothing_down_twice(bgp: Booted) -> None:
    host = bgp.host("p1")
    before = bgp.state("p1", BIRD)["MainPID"]
    for _ in range(3):
        host.systemctl("restart", CONFD)
    bgp.wait("confd to run", lambda: bgp.state("p1", CONFD)["SubState"] == "running")
    host.run("test ! -e /etc/calico/confd/confd && test -s " + CONFIG)
    assert bgp.state("p1", BIRD)["MainPID"] == before and len(peers(bgp, "p1")) == len(HOSTS) - 1


def test_s04_pool_and_routes(bgp: Booted) -> None:
    pools = [pool["spec"] for pool in bgp.get("ippool")["items"] if ":" not in pool["spec"]["cidr"]]
    assert [(pool["cidr"], pool["ipipMode"], pool["vxlanMode"]) for pool in pools] == [
        (CIDR, "Always" if IPIP else "Never", "Never")
    ]
    tasks = {name: bgp.mesos(name).launch(f"task-{name}") for name in ("a1", "p1")}
    for one, other in (("a1", "p1"), ("p1", "a1")):
        block = OWN_BLOCK.search(bgp.hosts[other].run("ip route").stdout)
        assert block
        bgp.wait("the other's block", lambda one=one, net=block[1]: net in bird_routes(bgp, one))  # type: ignore[misc]
        assert tasks[one].fetch(tasks[other].address)[0] == 0
    for name in ("a1", "p1"):
        bgp.mesos(name).close()
    if IPIP:
        for node in bgp.get("nodes")["items"]:
            assert node["spec"]["bgp"]["ipv4IPIPTunnelAddr"].startswith("192.168.")
        assert "mtu 1480" in bgp.hosts["a1"].run("ip -d link show tunl0").stdout


def bird_routes(bgp: Booted, name: str) -> str:
    return bgp.hosts[name].run("ip route show proto bird").stdout

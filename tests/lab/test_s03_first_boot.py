"""S3: the first boot of a VXLAN cluster from DC/OS's package, on hosts that systemd boots."""

from __future__ import annotations

import ipaddress
import json
import re

from tests.lab.booted import BIRD, CONFD, FELIX, Booted
from tests.lab.cluster import POOL
from tests.lab.conftest import FirstBoot, add_overlay
from tests.lab.dcos import PORT
from tests.lab.host import Host

BUDGET_S = 90.0
"""Of a first boot, spec/scenarios.md 1.4. Here it is measured from etcd's start, for which the units had waited."""
GUID = re.compile("[0-9a-f]{32}")


def tunnel_addresses(units: Booted) -> dict[str, str]:
    nodes = units.get("nodes")["items"]
    return {node["metadata"]["name"]: node["spec"]["ipv4VXLANTunnelAddr"] for node in nodes}


def test_s03_units(first_boot: FirstBoot, units: Booted) -> None:
    assert first_boot.converged_s < BUDGET_S
    for name in ("m1", "a1", "p1"):
        felix = units.state(name, FELIX)
        assert (felix["ActiveState"], felix["SubState"], felix["NRestarts"]) == ("active", "running", "0")
        words = units.hosts[name].read(f"/proc/{felix['MainPID']}/cmdline").split("\0")
        assert words[:2] == ["calico-node", "-felix"], "the main process is the agent, under upstream's name"
        for unit in (CONFD, BIRD):
            state = units.state(name, unit)
            assert (state["ActiveState"], state["ConditionResult"]) == ("inactive", "no")
        assert "[ERROR]" not in units.host(name).journal(FELIX)


def test_s03_objects_of_the_first_boot(units: Booted) -> None:
    hosts = {name: units.addresses[name] for name in ("m1", "a1", "p1")}
    for name, address in hosts.items():
        assert units.hosts[name].read("/var/lib/calico/nodename") == address
    pools = {pool["metadata"]["name"]: pool["spec"] for pool in units.get("ippool")["items"]}
    spec = pools["default-ipv4-ippool"]
    assert [name for name, pool in pools.items() if ":" not in pool["cidr"]] == ["default-ipv4-ippool"]
    assert (spec["cidr"], spec["vxlanMode"], spec["ipipMode"]) == (POOL, "Always", "Never")
    assert spec["natOutgoing"] is True and spec["blockSize"] == 26
    assert units.get("profile", "calico")["spec"] == {
        "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}], "labelsToApply": {"calico": ""},
    }  # fmt: skip
    nodes = units.get("nodes")["items"]
    assert {node["metadata"]["name"]: node["spec"]["bgp"]["ipv4Address"] for node in nodes} == {
        address: f"{address}/24" for address in hosts.values()
    }
    felix = units.get("felixconfig", "default")["spec"]
    assert felix["vxlanEnabled"] is True
    assert felix["reportingInterval"] == "0s" and felix["logSeverityScreen"] == "Info"
    for address in hosts.values():
        assert units.get("felixconfig", f"node.{address}")["spec"]["defaultEndpointToHostAction"] == "Return"
    cluster = units.get("clusterinfo", "default")["spec"]
    assert cluster["datastoreReady"] is True and GUID.fullmatch(cluster["clusterGUID"])


def test_s03_vxlan_device_and_its_entries(units: Booted) -> None:
    tunnels = tunnel_addresses(units)
    assert len(set(tunnels.values())) == 3
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(POOL) for address in tunnels.values())
    for name in ("m1", "a1", "p1"):
        host = units.hosts[name]
        device = json.loads(host.run("ip -d -j link show vxlan.calico").stdout)[0]
        data = device["linkinfo"]["info_data"]
        assert (data["id"], data["port"], device["mtu"]) == (4096, PORT, 1450)
        address = json.loads(host.run("ip -j -4 addr show vxlan.calico").stdout)[0]["addr_info"][0]
        assert address["local"] == tunnels[units.addresses[name]] and address["prefixlen"] == 32
        others = {node: tunnel for node, tunnel in tunnels.items() if node != units.addresses[name]}
        units.wait(f"forwarding entries of {name}", lambda h=host, o=others: fdb_targets(h) == set(o))  # type: ignore[misc]
        listed = json.loads(host.run("ip -j neigh show dev vxlan.calico nud permanent").stdout)
        assert {entry["dst"] for entry in listed if ":" not in entry["dst"]} == set(others.values())
        lines = host.run("ip route show dev vxlan.calico").stdout.splitlines()
        blocks = [ipaddress.ip_network(line.split()[0]) for line in lines]
        for tunnel in others.values():
            assert any(ipaddress.ip_address(tunnel) in block for block in blocks), f"{name} has no route to {tunnel}"
            host.run(["ping", "-c1", "-W5", tunnel])


def fdb_targets(host: Host) -> set[str]:
    entries = json.loads(host.run("bridge -j fdb show dev vxlan.calico").stdout)
    return {entry["dst"] for entry in entries if entry.get("dst")}


def test_s03_beside_the_vxlan_device_of_the_overlay(units: Booted) -> None:
    """DC/OS's own device has the same UDP port: on m1 it was there before ours, on a1 it comes after."""
    one, other = units.hosts["m1"], units.hosts["a1"]
    add_overlay(units, "a1")
    try:
        one.run(["ping", "-c1", "-W5", "44.128.0.21"])
        tunnels = tunnel_addresses(units)
        one.run(["ping", "-c1", "-W5", tunnels[units.addresses["a1"]]])
        other.run(["ping", "-c1", "-W5", tunnels[units.addresses["m1"]]])
    finally:
        other.run("ip link del vtep1024")


def test_s03_a_task_on_each_host(units: Booted) -> None:
    """As Mesos starts it, by the plug-in and the network that were laid down."""
    tasks = [units.mesos(name).launch(f"task-{name}") for name in ("a1", "p1")]
    for one, other in (tasks, tasks[::-1]):
        assert one.fetch(other.address)[0] == 0


def test_s03_the_same_steps_again_change_nothing(units: Booted) -> None:
    before = units.etcdctl("get", "--prefix", "/calico/").stdout
    units.restart(FELIX, "a1")
    assert units.etcdctl("get", "--prefix", "/calico/").stdout == before

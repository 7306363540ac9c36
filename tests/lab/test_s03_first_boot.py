"""S3: the first boot of a VXLAN cluster, without the units."""

from __future__ import annotations

import ipaddress
import json

from tests.lab import Cluster
from tests.lab.cluster import ADDRESSES, POOL
from tests.lab.host import Host


def get(cluster: Cluster, *words: str) -> dict:
    return json.loads(cluster.calicoctl("get", *words, "-o", "json").stdout)


def tunnel_addresses(cluster: Cluster) -> dict[str, str]:
    return {n["metadata"]["name"]: n["spec"]["ipv4VXLANTunnelAddr"] for n in get(cluster, "nodes")["items"]}


def test_objects_of_the_first_boot(cluster: Cluster) -> None:
    for name, host in cluster.hosts.items():
        assert host.read("/var/lib/calico/nodename") == ADDRESSES[name]
    pools = get(cluster, "ippool")["items"]
    assert [pool["metadata"]["name"] for pool in pools] == ["default-ipv4-ippool", "default-ipv6-ippool"]
    spec = pools[0]["spec"]
    assert (spec["cidr"], spec["vxlanMode"], spec["ipipMode"]) == (POOL, "Always", "Never")
    assert spec["natOutgoing"] is True and spec["blockSize"] == 26
    profile = get(cluster, "profile", "calico")["spec"]
    assert profile == {
        "ingress": [{"action": "Allow"}],
        "egress": [{"action": "Allow"}],
        "labelsToApply": {"calico": ""},
    }
    nodes = get(cluster, "nodes")["items"]
    assert sorted(n["spec"]["bgp"]["ipv4Address"] for n in nodes) == sorted(f"{a}/24" for a in ADDRESSES.values())
    felix = get(cluster, "felixconfig", "default")["spec"]
    assert felix["vxlanEnabled"] is True
    assert felix["reportingInterval"] == "0s" and felix["logSeverityScreen"] == "Info"
    own = get(cluster, "felixconfig", f"node.{ADDRESSES['a1']}")["spec"]
    assert own["defaultEndpointToHostAction"] == "Return"
    assert get(cluster, "clusterinfo", "default")["spec"]["datastoreReady"] is True


def test_tunnel_addresses_are_different_and_inside_the_pool(cluster: Cluster) -> None:
    addresses = list(tunnel_addresses(cluster).values())
    assert len(addresses) == 3 == len(set(addresses))
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(POOL) for address in addresses)


def test_vxlan_device_and_its_entries(cluster: Cluster) -> None:
    tunnels = tunnel_addresses(cluster)
    for name, host in cluster.hosts.items():
        device = json.loads(host.run("ip -d -j link show vxlan.calico").stdout)[0]
        data = device["linkinfo"]["info_data"]
        assert (data["id"], data["port"], device["mtu"]) == (4096, 64000, 1450)
        address = json.loads(host.run("ip -j -4 addr show vxlan.calico").stdout)[0]["addr_info"][0]
        assert address["local"] == tunnels[ADDRESSES[name]] and address["prefixlen"] == 32
        others = {ADDRESSES[other] for other in cluster.hosts if other != name}
        cluster.wait(f"forwarding entries of {name}", lambda h=host, o=others: fdb_targets(h) == o)  # type: ignore[misc]
        neighbours = {
            entry["dst"] for entry in json.loads(host.run("ip -j neigh show dev vxlan.calico nud permanent").stdout)
        }
        assert neighbours == {tunnels[other] for other in others}


def fdb_targets(host: Host) -> set[str]:
    return {
        entry["dst"] for entry in json.loads(host.run("bridge -j fdb show dev vxlan.calico").stdout) if entry.get("dst")
    }


def test_tunnel_addresses_ping_each_other(cluster: Cluster) -> None:
    tunnels = tunnel_addresses(cluster)
    for name, host in cluster.hosts.items():
        for other, address in tunnels.items():
            if other != ADDRESSES[name]:
                host.run(["ping", "-c1", "-W2", address])


def test_startup_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.etcdctl("get", "--prefix", "/calico/").stdout
    cluster.hosts["a1"].run(["calico-felix", "startup"], environment=cluster.environment("a1"))
    assert cluster.etcdctl("get", "--prefix", "/calico/").stdout == before

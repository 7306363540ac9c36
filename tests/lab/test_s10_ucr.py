"""S10, S14, S17: tasks of the Mesos containerizer."""

from __future__ import annotations

import ipaddress
import json
import uuid

import pytest

from tests.lab import Cluster, TaskFailed
from tests.lab.cluster import ADDRESSES, POOL, network_conf


def endpoints(cluster: Cluster) -> list[dict]:
    return json.loads(cluster.calicoctl("get", "wep", "-o", "json").stdout)["items"]


def in_use(cluster: Cluster) -> int:
    keys = cluster.etcdctl("get", "--prefix", "--keys-only", "/calico/ipam/v2/handle/").stdout.split()
    return len([key for key in keys if "vxlan-tunnel" not in key])


def test_s10_task_is_wired_as_the_contract_says(cluster: Cluster) -> None:
    task = cluster.mesos("a1").launch("calico-ucr")
    assert ipaddress.ip_address(task.address) in ipaddress.ip_network(POOL)
    result = json.loads(task.host.read(f"/run/mesos/isolators/network/cni/{task.id}/calico/eth0/network.info"))
    assert result == {"cniVersion": "0.1.0", "dns": {}, "ip4": {"ip": f"{task.address}/32"}}
    link = json.loads(task.exec("ip -j link show eth0").stdout)[0]
    assert link["mtu"] == 1500 and "UP" in link["flags"]
    routes = {(r["dst"], r.get("gateway")) for r in json.loads(task.exec("ip -j route").stdout)}
    assert routes == {("default", "169.254.1.1"), ("169.254.1.1", None)}
    interface = f"cali{task.id[:11]}"
    task.host.run(f"ip route show {task.address} | grep -q 'dev {interface}'")
    (stored,) = endpoints(cluster)
    spec = stored["spec"]
    assert (spec["orchestrator"], spec["node"], spec["profiles"]) == ("cni", ADDRESSES["a1"], ["calico"])
    assert stored["metadata"]["namespace"] == "default"
    assert "calico" not in stored["metadata"]["labels"]


def test_s10_reachability_and_outgoing_nat(cluster: Cluster) -> None:
    server = cluster.mesos("a2").launch("server")
    client = cluster.mesos("a1").launch("client")
    assert client.fetch(server.address)[0] == 0
    fetch = f"import socket; socket.create_connection(('{server.address}', 80), 3)"
    for host in ("m1", "a1", "a2"):
        cluster.hosts[host].run(["python3", "-c", fetch])
    outside = cluster.x1
    assert outside.run(["python3", "-c", fetch], check=False).returncode != 0
    outside.start(
        ["python3", "-c", "import socket;s=socket.create_server(('',7000));c,a=s.accept();c.sendall(a[0].encode())"]
    )
    outside_address = "10.20.9.99"
    cluster.wait("the outside server", lambda: outside.run("ss -ltn | grep -q :7000", check=False).returncode == 0)
    seen = client.exec(
        [
            "python3",
            "-c",
            f"import socket;print(socket.create_connection(('{outside_address}',7000),3).recv(99).decode())",
        ]
    )
    assert seen.stdout.strip() == ADDRESSES["a1"]


def test_s10_scale_to_fifty_and_back(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    tasks = [mesos.launch(f"scale-{n}", serve=False) for n in range(50)]
    assert len({task.address for task in tasks}) == 50
    for task in tasks:
        mesos.kill(task)
    a1 = cluster.hosts["a1"]
    cluster.wait("links to be gone", lambda: "\ncali" not in a1.run("ip -br link").stdout)
    assert endpoints(cluster) == []
    assert in_use(cluster) == 0
    cluster.wait("routes to be gone", lambda: "dev cali" not in a1.run("ip route").stdout)
    chains = "nft list map inet calico from-workload"
    cluster.wait("chains to be gone", lambda: "elements" not in a1.run(chains).stdout)


def test_s14_labels_are_stored_sanitised(cluster: Cluster) -> None:
    labels = {"biz_type": "bookstore", "role": "server", "a/b": "x", "team": "blue/green"}
    cluster.mesos("a1").launch("labels", labels=labels)
    (stored,) = endpoints(cluster)
    assert stored["metadata"]["labels"] == {
        "biz_type": "bookstore",
        "role": "server",
        "a.b": "x",
        "team": "blue.green",
        "projectcalico.org/namespace": "default",
        "projectcalico.org/orchestrator": "cni",
    }


def test_s14_long_label_is_compressed_and_selectable(cluster: Cluster) -> None:
    path = "/analytics/nightly/warehouse-loaders/customer-orders/partition-writer"
    cluster.mesos("a2").launch("long", labels={"DCOS_SPACE": path})
    (stored,) = endpoints(cluster)
    value = "5d558be.ly.warehouse-loaders.customer-orders.partition-writer"
    assert stored["metadata"]["labels"]["DCOS_SPACE"] == value


def test_s17_deletion_is_idempotent(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    task = mesos.launch("twice", serve=False)
    mesos.detach(task, "calico", "eth0")
    mesos.detach(task, "calico", "eth0")
    assert endpoints(cluster) == [] and in_use(cluster) == 0


def test_s17_deletion_after_a_reboot_without_namespace_and_nodename(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    task = mesos.launch("rebooted", serve=False)
    task.host.run(f"umount {task.netns}; ip link del cali{task.id[:11]}", check=False)
    task.host.run("mv /var/lib/calico/nodename /run/nodename")
    try:
        mesos.detach(task, "calico", "eth0")
    finally:
        task.host.run("mv /run/nodename /var/lib/calico/nodename")
    assert endpoints(cluster) == [] and in_use(cluster) == 0


def test_s17_deletion_when_etcd_lost_the_endpoint(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    task = mesos.launch("lost", serve=False)
    cluster.etcdctl("del", "--prefix", "/calico/resources/v3/projectcalico.org/workloadendpoints/")
    mesos.detach(task, "calico", "eth0")
    assert in_use(cluster) == 0


def test_s17_saved_stdin_counts_although_the_configuration_changed(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    task = mesos.launch("mtu", serve=False)
    mesos.add_network(network_conf("calico", mtu=1400))
    try:
        mesos.detach(task, "calico", "eth0")
    finally:
        mesos.add_network(network_conf("calico"))
    assert endpoints(cluster) == [] and in_use(cluster) == 0


def test_unknown_network_is_a_failed_task(cluster: Cluster) -> None:
    with pytest.raises(TaskFailed, match="unknown network 'nowhere'"):
        cluster.mesos("a1").launch("bad", network="nowhere")


def test_exhausted_pool_fails_with_a_reason_and_leaves_nothing(cluster: Cluster) -> None:
    tiny = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "tiny"},
            "spec": {"cidr": "10.99.0.0/30", "blockSize": 30, "vxlanMode": "Always"}}  # fmt: skip
    cluster.calicoctl("create", "-f", "-", stdin=json.dumps(tiny))
    mesos = cluster.mesos("a1")
    conf = network_conf("tiny")
    conf["ipam"]["ipv4_pools"] = ["10.99.0.0/30"]
    mesos.add_network(conf)
    try:
        tasks = [mesos.launch(f"tiny-{n}", network="tiny", serve=False) for n in range(4)]
        with pytest.raises(TaskFailed) as failure:
            mesos.launch("one-too-many", network="tiny", serve=False)
        assert "10.99.0.0/30" in str(failure.value)
        assert len(endpoints(cluster)) == 4
        for task in tasks:
            mesos.kill(task)
    finally:
        cluster.hosts["a1"].run("rm -f /etc/cni/net.d/tiny.conf")
        cluster.calicoctl("delete", "ippool", "tiny")


def test_etcd_down_is_a_clear_failure_that_leaves_nothing(cluster: Cluster) -> None:
    mesos = cluster.mesos("a1")
    running = mesos.launch("running")
    client = cluster.mesos("a2").launch("client", serve=False)
    cluster.etcd.kill_all()
    try:
        identity = str(uuid.uuid4())
        with pytest.raises(TaskFailed) as failure:
            mesos.launch("no-etcd", serve=False, identity=identity)
        assert '"code"' in str(failure.value) and "connect" in str(failure.value).lower()
        assert f"cali{identity[:11]}" not in cluster.hosts["a1"].run("ip -br link").stdout
        assert client.fetch(running.address)[0] == 0
    finally:
        cluster.start_etcd()
    cluster.wait("a task to start again", lambda: launches(cluster))
    assert client.fetch(running.address)[0] == 0


def launches(cluster: Cluster) -> bool:
    try:
        cluster.mesos("a1").launch("again", serve=False)
    except TaskFailed:
        return False
    return True

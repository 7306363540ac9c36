"""Settings in the datastore, on a host with a real agent under a supervisor."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from libcalico.testing.machine import need
from tests.lab.cluster import ADDRESSES, BIN, Cluster


class BareCluster(Cluster):
    """Nothing is switched on in the environment, which would count more than the datastore."""

    def environment(self, name: str) -> dict[str, str]:
        switches = ("FELIX_PROMETHEUSMETRICSENABLED", "FELIX_HEALTHENABLED")
        return {key: value for key, value in super().environment(name).items() if key not in switches}


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    with BareCluster(("m1", "a1")) as cluster:
        cluster.start()
        yield cluster


def patch(lab: Cluster, **spec: Any) -> None:
    lab.calicoctl("patch", "felixconfiguration", "default", "-p", json.dumps({"spec": spec}))


def ask(lab: Cluster, command: str) -> str:
    words = [str(BIN / "calicoctl"), "node", "debug", command]
    return lab.hosts["a1"].run(words, check=False).stdout


def page(lab: Cluster, place: str) -> str:
    return lab.hosts["a1"].run(f"curl -s -m 2 http://{place}", check=False).stdout


def test_health_and_metrics_follow_the_datastore_without_a_restart(lab: Cluster) -> None:
    assert not page(lab, "127.0.0.1:9099/readiness") and not page(lab, "127.0.0.1:9091/metrics")
    patch(lab, prometheusMetricsEnabled=True, healthEnabled=True)
    lab.wait("readiness", lambda: "COMPONENT" in page(lab, "127.0.0.1:9099/readiness"))
    lab.wait("metrics", lambda: "felix_loop_lag_seconds" in page(lab, "10.20.0.21:9091/metrics"))
    patch(lab, prometheusMetricsPort=9191)
    lab.wait("metrics elsewhere", lambda: "felix_loop_lag_seconds" in page(lab, "10.20.0.21:9191/metrics"))
    patch(lab, healthEnabled=False)
    lab.wait("no readiness", lambda: not page(lab, "127.0.0.1:9099/readiness"))
    assert lab.agents["a1"].poll() is None


def test_the_severity_follows_the_datastore_without_a_restart(lab: Cluster) -> None:
    patch(lab, logSeverityScreen="Debug")
    lab.mesos("a1").launch("seen-in-the-log", serve=False)
    lab.wait("debug lines", lambda: "[DEBUG] calico_felix.follower: flush at revision" in lab.log("felix-a1"))
    patch(lab, logSeverityScreen="Info")
    lab.mesos("a1").close()
    assert lab.agents["a1"].poll() is None


def test_a_setting_that_needs_a_restart_gets_one_and_the_agent_is_back(lab: Cluster) -> None:
    agent = lab.agents["a1"]
    agent.forget_exits()
    patch(lab, disableConntrackInvalidCheck=True)
    lab.wait("the agent's end", lambda: agent.exits() == [129])
    lab.wait("its successor", lambda: lab.agent_status("a1").get("programmed_revision", 0) > 0)
    rows = [line.split() for line in ask(lab, "config").splitlines()]
    assert ["DisableConntrackInvalidCheck", "True", "datastore"] in rows
    agent.forget_exits()


def test_what_has_no_effect_stands_in_problems(lab: Cluster) -> None:
    assert ask(lab, "problems") == "nothing\n", "with what startup and calicoctl store unasked"
    patch(lab, wireguardEnabled=True, wireguardMTU=1400)
    lab.wait("the problem", lambda: "WireguardEnabled" in ask(lab, "problems"))
    assert "WireguardMTU from the datastore: not supported here: '1400' has no effect" in ask(lab, "problems")
    patch(lab, wireguardEnabled=False, wireguardMTU=None)
    lab.wait("no problem", lambda: ask(lab, "problems") == "nothing\n")
    assert lab.agents["a1"].poll() is None


def test_a_taken_port_ends_no_agent_and_is_served_when_it_is_free(lab: Cluster) -> None:
    host = lab.hosts["a1"]
    program = "import socket,time; s=socket.create_server(('0.0.0.0',9091)); print(flush=True); time.sleep(99)"
    taken = host.start([sys.executable, "-c", program])
    lab.wait("the port to be taken", lambda: ":9091 " in host.run("ss -tlnH").stdout)
    patch(lab, prometheusMetricsEnabled=True, prometheusMetricsPort=9091, healthEnabled=True, healthHost="192.0.2.1")
    lab.wait("the problem", lambda: "9091" in ask(lab, "problems") and "192.0.2.1" in ask(lab, "pending"))
    lab.stop_agent("a1")
    lab.start_agent("a1")
    lab.wait_agent("a1")
    assert "9091: Address already in use" in ask(lab, "pending")
    assert lab.mesos("a1").launch("while-it-is-taken", serve=False).address
    host.stop_process(taken, 9)
    lab.wait("metrics", lambda: "felix_loop_lag_seconds" in page(lab, "127.0.0.1:9091/metrics"))
    patch(lab, healthHost="127.0.0.1")
    lab.wait("readiness", lambda: "COMPONENT" in page(lab, "127.0.0.1:9099/readiness"))
    assert ask(lab, "pending") == "nothing\n" and lab.agents["a1"].poll() is None
    assert "Traceback" not in lab.log("felix-a1")
    lab.mesos("a1").close()


def test_a_second_agent_takes_nothing_from_the_first(lab: Cluster) -> None:
    done = lab.hosts["a1"].run(["calico-felix"], environment=lab.environment("a1"), check=False)
    assert done.returncode == 1 and "another process serves this socket" in done.stderr
    assert ask(lab, "status").startswith("{")


def test_half_requests_cost_an_attachment_nothing(lab: Cluster) -> None:
    """1,800 requests that are never finished, at a port that the agent serves: an ADD is as fast as without them."""
    patch(lab, prometheusMetricsEnabled=True, prometheusMetricsPort=9091)
    lab.wait("metrics", lambda: "felix_loop_lag_seconds" in page(lab, "127.0.0.1:9091/metrics"))
    before = len((lab.folder / "felix-a1.log").read_bytes())
    program = "\n".join(
        (
            "import resource, socket, time",
            "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
            "open_ = []",
            "while len(open_) < 1800:",
            "    try:",
            "        open_.append(socket.create_connection(('127.0.0.1', 9091), timeout=0.2))",
            "        open_[-1].sendall(b'GET /metrics HTTP/1.1\\r\\n')",
            "    except OSError:",
            "        pass",
            "time.sleep(60)",
        )
    )
    flood = lab.hosts["a1"].start([sys.executable, "-c", program])
    taken = []
    for number in range(10):
        taken.append(lab.wait("an ADD", lambda name=f"task-{number}": _launch(lab, name)))  # type: ignore[misc]
    assert sorted(taken)[len(taken) // 2] < 1.0, taken
    assert "felix_loop_lag_seconds" in page(lab, "127.0.0.1:9091/metrics")
    lab.hosts["a1"].stop_process(flood, 9)
    assert len((lab.folder / "felix-a1.log").read_bytes()) - before < 20_000
    lab.mesos("a1").close()


def _launch(lab: Cluster, name: str) -> bool:
    return bool(lab.mesos("a1").launch(name, serve=False).address)


def test_idle_clients_of_the_node_socket_cost_an_attachment_nothing(lab: Cluster) -> None:
    """More clients than a process may have descriptors by default, which all say nothing."""
    program = "\n".join(
        (
            "import resource, socket, time",
            "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
            "open_ = []",
            "for _ in range(1100):",
            "    one = socket.socket(socket.AF_UNIX)",
            "    one.connect('/run/calico/node.sock')",
            "    open_.append(one)",
            "open('/run/idle', 'w').close()",
            "time.sleep(60)",
        )
    )
    idle = lab.hosts["a1"].start([sys.executable, "-c", program])
    lab.wait("the clients", lambda: lab.hosts["a1"].run("test -e /run/idle", check=False).returncode == 0)
    taken = [lab.wait("an ADD", lambda name=f"task-{number}": _launch(lab, name)) for number in range(5)]  # type: ignore[misc]
    lab.hosts["a1"].stop_process(idle, 9)
    assert sorted(taken)[2] < 1.0, taken
    lab.mesos("a1").close()


def reports(lab: Cluster) -> str:
    """The keys of what agents report."""
    return lab.etcdctl("get", "--prefix", "--keys-only", "/calico/felix/v2/").stdout


def test_settings_act_on_the_kernel_and_on_what_is_reported(lab: Cluster) -> None:
    """All at once, for one restart; a kernel that took none of them would refuse the whole table."""
    host, agent = lab.hosts["a1"], lab.agents["a1"]
    agent.forget_exits()
    patch(
        lab, reportingInterval="1s", reportingTTL="33s", endpointReportingEnabled=True, ipForwarding="Disabled",
        ipv6Support=False, vxlanVNI=55, vxlanMTU=1333, deviceRouteProtocol=77, natPortRange="1024:2048",
        nftablesFilterDenyAction="Reject", nftablesMarkMask=0xFF00, logPrefix="seen", logActionRateLimit="5/second",
        allowVXLANPacketsFromWorkloads=True, allowIPIPPacketsFromWorkloads=True, interfacePrefix="cali,tap",
    )  # fmt: skip
    lab.wait("the agent's end", lambda: agent.exits()[-1:] == [129])
    lab.wait("its successor", lambda: lab.agent_status("a1").get("programmed_revision", 0) > 0)
    lab.wait_programmed("a1")
    host.run("sysctl -qw net.ipv4.ip_forward=0")
    task = lab.mesos("a1").launch("seen", serve=False)
    rules = [{"action": "Log"}, {"action": "Pass"}]
    spec = {"selector": "all()", "types": ["Ingress"], "ingress": rules}
    policy = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "seen"},
        "spec": spec,
    }
    lab.calicoctl("apply", "-f", "-", stdin=json.dumps(policy))
    lab.wait_programmed("a1")
    table = host.run("nft list table inet calico").stdout
    for text in (
        "masquerade to :1024-2048",
        "reject",
        'log prefix "seen: "',
        "limit rate 5/second",
        '"tap*"',
        "0x00000200",
    ):
        assert text in table, text
    link = host.run("ip -d link show vxlan.calico").stdout
    assert "vxlan id 55 " in link and "mtu 1333" in link
    assert task.address in host.run("ip route show proto 77").stdout
    interface = host.run("ip -br link | grep -o '^cali[^@]*'").stdout.split()[0]
    assert host.read(f"/proc/sys/net/ipv6/conf/{interface}/proxy_ndp").strip() == "0"
    lab.wait("the host's report", lambda: f"{ADDRESSES['a1']}/status" in reports(lab))
    lab.wait("the endpoint's report", lambda: f"{ADDRESSES['a1']}/workload/" in reports(lab))
    kv = json.loads(
        lab.etcdctl("get", f"/calico/felix/v2/no-region/host/{ADDRESSES['a1']}/status", "-w", "json").stdout
    )
    lease = f"{kv['kvs'][0]['lease']:x}"
    assert "TTL(33s)" in lab.etcdctl("lease", "timetolive", lease).stdout
    assert host.read("/proc/sys/net/ipv4/ip_forward").strip() == "0"

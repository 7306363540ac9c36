"""etcd loses what it knew, in every way there is: containers go on under their policy, and agents wait."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

from libcalico.testing.machine import need
from tests.lab import Cluster, Host
from tests.lab.agent import Agent
from tests.lab.cluster import BIN, ETCD
from tests.lab.flows import start_flow
from tests.lab.mesos import PROGRAMS
from tests.lab.policies import policy

HOSTS = ("m1", "a1", "a2")
RESOURCES = "/calico/resources/v3/projectcalico.org/"
CLUSTER_INFORMATION = f"{RESOURCES}clusterinformations/default"
UNIT = "while :; do calico-felix startup && calico-felix; sleep 0.5; done"
"""What the unit of docs/howto/install.md does."""
ENOUGH = 20
Pairs = list[tuple[str, str]]

RULES = "nft --stateless --terse list table inet calico"
"""Without what packets leave in it: counters, and a dynamic set's elements."""


class Supervised(Cluster):
    """Its agents are started again when they end, each time after `startup`."""

    def start_agent(self, name: str) -> None:
        log = self.folder / f"felix-{name}.log"
        self.agents[name] = Agent(self.hosts[name], ["sh", "-c", UNIT], self.environment(name), log)

    def whole_log(self, name: str) -> str:
        return (self.folder / f"felix-{name}.log").read_text()


@pytest.fixture(scope="module")
def lab() -> Iterator[Supervised]:
    need(os.geteuid() == 0, "root", "run as root")
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    cluster = Supervised(HOSTS)
    with cluster:
        cluster.start()
        yield cluster


def everything(lab: Cluster) -> Pairs:
    """All keys and values."""
    listing = json.loads(lab.etcdctl("get", "--prefix", "/calico/", "-w", "json").stdout).get("kvs", [])
    pairs = [(kv["key"], kv.get("value", "")) for kv in listing]
    return [(base64.b64decode(key).decode(), base64.b64decode(value).decode()) for key, value in pairs]


def delete_one_by_one(lab: Cluster, keys: list[str]) -> None:
    lines = "".join(f"{key}\n" for key in keys)
    command = "while read key; do etcdctl del $key >/dev/null; done"
    environment = {**os.environ, "ETCDCTL_API": "3"}
    lab.hosts["m1"].run(command, stdin=lines.encode(), environment=environment)


def lose_all(lab: Cluster) -> None:
    lab.etcdctl("del", "--prefix", "/calico/")


def lose_cluster_information(lab: Cluster) -> None:
    lab.etcdctl("del", CLUSTER_INFORMATION)


def lose_folder(lab: Cluster) -> None:
    lab.etcd.kill_all()
    shutil.rmtree(lab.etcd.data("m1"))
    lab.start_etcd()


def lose_in_order(lab: Cluster) -> None:
    delete_one_by_one(lab, [key for key, _ in everything(lab)])


def lose_in_reverse(lab: Cluster) -> None:
    delete_one_by_one(lab, [key for key, _ in reversed(everything(lab)) if not key.startswith(f"{RESOURCES}global")])


def lose_endpoints_first(lab: Cluster) -> None:
    lab.etcdctl("del", "--prefix", f"{RESOURCES}workloadendpoints/")
    lab.etcdctl("del", "--prefix", "/calico/ipam/")
    delete_one_by_one(lab, [CLUSTER_INFORMATION])


ENDPOINTS_LAST = (lose_all, lose_cluster_information, lose_folder, lose_in_order)
ENDPOINTS_FIRST = (lose_in_reverse, lose_endpoints_first)
"""Endpoints of other hosts are not missed: by their labels a policy lets in nobody any more, as after any deletion."""


def restore(lab: Cluster, pairs: Pairs) -> None:
    """ClusterInformation comes last: until then nothing is complete."""
    for key, value in sorted(pairs, key=lambda pair: pair[0] == CLUSTER_INFORMATION):
        environment = {**os.environ, "ETCDCTL_API": "3"}
        lab.hosts["m1"].run(["etcdctl", "put", key], stdin=value.encode(), environment=environment)


@pytest.mark.parametrize("lose", [*ENDPOINTS_LAST, *ENDPOINTS_FIRST])
def test_containers_go_on_and_agents_wait(lab: Supervised, lose: Callable[[Cluster], None]) -> None:
    allow = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]
    lab.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=allow))
    server = lab.mesos("a1").launch("server", labels={"role": "server"}, serve=False)
    near = lab.mesos("a1").launch("near", labels={"role": "good"}, serve=False)
    far = lab.mesos("a2").launch("far", labels={"role": "good"}, serve=False)
    bad = lab.mesos("a2").launch("bad", labels={"role": "bad"}, serve=False)
    for name in HOSTS:
        lab.wait_programmed(name)
    flows = {task.name: start_flow(task, server) for task in (near, far, bad)}
    ended = {name: lab.whole_log(name).count("restarting:") for name in HOSTS}
    saved = everything(lab)

    lose(lab)
    for name in HOSTS:
        lab.wait(f"{name} to end", lambda name=name: lab.whole_log(name).count("restarting:") > ended[name])  # type: ignore[misc]
    waits = "the datastore is not initialised (ClusterInformation default is missing)"
    lab.wait("agents to wait", lambda: all(waits in lab.log(f"felix-{name}") for name in HOSTS))
    counts = {name: len(flow.results()) for name, flow in flows.items()}

    def more() -> bool:
        done = {name: len(flow.results()) for name, flow in flows.items()}
        return all(done[name] > counts[name] + (ENOUGH if name == "near" else 2) for name in flows)

    lab.wait("flows to go on meanwhile", more)
    assert CLUSTER_INFORMATION not in dict(everything(lab)), "a startup has initialised a datastore that lost its data"

    restore(lab, saved)
    for name in HOSTS:
        lab.wait_programmed(name, timeout_s=60)
    late = lab.mesos("a2").launch("late", labels={"role": "good"}, serve=False)
    assert late.exec(f"ping -c1 -W2 {server.address}", check=False).returncode == 0
    for name, flow in flows.items():
        found = flow.end()
        if name != "far" or lose in ENDPOINTS_LAST:
            assert set(found) == {"lost" if name == "bad" else "answered"}, f"{name}: {found}\n{lab.dump()}"
    for name in HOSTS:
        lab.mesos(name).close()


def test_a_new_host_initialises_an_emptied_etcd(lab: Supervised) -> None:
    """What it makes is another cluster: no agent of this one follows it, and containers go on."""
    server = lab.mesos("a1").launch("server", serve=False)
    near = lab.mesos("a2").launch("near", serve=False)
    flow = start_flow(near, server)
    for name in HOSTS:
        lab.wait_programmed(name)
    saved, rules = everything(lab), lab.hosts["a1"].run(RULES).stdout
    lose_all(lab)
    new = {**lab.environment("m1"), "NODENAME": "new", "IP": "10.20.0.99", "CALICO_NODENAME_FILE": "/run/new"}
    lab.hosts["m1"].run(["calico-felix", "startup"], environment=new)
    assert CLUSTER_INFORMATION in dict(everything(lab))
    waits = "waiting: the datastore is of another cluster (clusterGUID "
    lab.wait("agents to wait", lambda: all(waits in lab.log(f"felix-{name}") for name in HOSTS), timeout_s=60)
    count = len(flow.results())
    lab.wait("flows to go on meanwhile", lambda: len(flow.results()) > count + ENOUGH)
    assert lab.hosts["a1"].run(RULES).stdout == rules

    lose_all(lab)
    restore(lab, saved)
    for name in HOSTS:
        lab.wait_programmed(name, timeout_s=60)
    found = flow.end()
    assert set(found) == {"answered"}, f"{found}\n{lab.dump()}"
    for name in HOSTS:
        lab.mesos(name).close()


def page(host: Host, port: int, path: str) -> str:
    """What the agent serves there."""
    return host.run([sys.executable, "-S", str(PROGRAMS / "fetch.py"), "127.0.0.1", str(port), path, "5"]).stdout


def test_an_etcd_that_is_gone_is_seen(lab: Supervised) -> None:
    host = lab.hosts["a1"]
    ask = [str(BIN / "calicoctl"), "node", "debug"]
    lab.wait("a1 to be connected", lambda: bool(lab.agent_status("a1").get("connected")))
    assert lab.agent_status("a1")["endpoint"] == ETCD
    lab.etcd.kill_all()
    try:
        lab.wait("a1 to see it", lambda: lab.agent_status("a1").get("connected") is False, timeout_s=5)
        status = lab.agent_status("a1")
        assert not status["in_sync"] and status["reason"]
        assert f"datastore {ETCD}: no answer for " in host.run([*ask, "problems"]).stdout
        detail = f"rules stand as of revision {status['datastore_revision']}"
        lab.wait("readiness to say it", lambda: detail in page(host, 9099, "/readiness"), timeout_s=5)
        assert "felix_datastore_age_seconds" in page(host, 9091, "/metrics")
    finally:
        lab.start_etcd()
    lab.wait("a1 to be connected again", lambda: lab.agent_status("a1").get("in_sync") is True)
    assert f"datastore {ETCD}" not in host.run([*ask, "problems"]).stdout

"""Policy stands before the first packet: tasks that send from before they have an address."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab import Cluster, Task
from tests.lab.policies import policy

STARTS = 120
AT_ONCE = 4


@pytest.fixture
def server(cluster: Cluster) -> Task:
    """A server that lets in tasks with role = good, under a policy that stands."""
    allow = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]
    cluster.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=allow))
    cluster.calicoctl("apply", "-f", "-", stdin=policy("mute", "role == 'mute'", types=["Ingress", "Egress"]))
    return cluster.mesos("a1").launch("server", labels={"role": "server"})


@pytest.mark.parametrize("role", ["mute", "stranger"])
def test_no_packet_of_a_denied_task_gets_through(cluster: Cluster, server: Task, role: str) -> None:
    """`mute` is denied by its own policy, `stranger` by the server's."""
    mesos = cluster.mesos("a1")
    open_server = cluster.mesos("a2").launch("open") if role == "mute" else server
    before = int(open_server.fetch(open_server.address, path="/count")[1])

    def start(number: int) -> None:
        prober = ("syn", open_server.address, 80, f"/run/syn-{role}-{number}")
        task = mesos.launch(f"{role}-{number}", labels={"role": role}, serve=False, prober=prober)
        time.sleep(0.05)
        mesos.kill(task)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(start, range(STARTS // 2)))
    assert mesos.host.run(f"cat /run/syn-{role}-*").stdout == ""
    assert int(open_server.fetch(open_server.address, path="/count")[1]) == before + 1


def test_the_prober_sees_what_gets_through(cluster: Cluster, server: Task) -> None:
    mesos = cluster.mesos("a1")
    mesos.launch("good", labels={"role": "good"}, serve=False, prober=("syn", server.address, 80, "/run/syn-good"))
    cluster.wait("a connection", lambda: mesos.host.read("/run/syn-good") != "")


def test_an_allowed_task_never_waits_after_add(cluster: Cluster, server: Task) -> None:
    mesos = cluster.mesos("a1")
    for number in range(25):
        task = mesos.launch(f"good-{number}", labels={"role": "good"}, serve=False)
        done = task.traffic("connect", server.address, 80, check=False)
        assert done.returncode == 0, f"start {number}: its first packet was dropped: {done.stderr}"
        mesos.kill(task)

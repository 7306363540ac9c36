"""S7: units before etcd, etcd away and at another address, etcd's data of earlier, agents killed and stopped, with
workloads that run all the time. What the scenario lets last for minutes lasts here until each side has seen it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import TaskFailed, dcos
from tests.lab.booted import FELIX, Booted
from tests.lab.conftest import FirstBoot
from tests.lab.flows import Flow, start_flow
from tests.lab.mesos import Task
from tests.lab.policies import policy

CONVERGES_S = 30.0
"""15 s in the scenario; here another test may use the other processor at the same time."""
ADD_LIMIT_S = 90.0
ENOUGH = 10
ELSEWHERE = "10.20.0.12"
ALLOW = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]


def test_s07_a_units_before_etcd(first_boot: FirstBoot) -> None:
    """60 s in the scenario. Here each unit has asked three times: systemd would have started again one that ended."""
    for name, state in first_boot.waiting.items():
        assert state["ActiveState"] == "active" and int(state["NRestarts"]) <= 1, f"{name}: {state}"
        assert dcos.health(first_boot.cluster.host(name), FELIX) == ""
    assert first_boot.converged_s < CONVERGES_S, first_boot.converged_s


@pytest.fixture
def shop(units: Booted) -> Iterator[dict[str, Flow]]:
    """Connections to a server on a1 from a1 and p1, under a policy that lets in `good` alone; checked at the end."""
    units.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=ALLOW))
    server = units.mesos("a1").launch("server", labels={"role": "server"})
    near = units.mesos("a1").launch("near", labels={"role": "good"}, serve=False)
    far = units.mesos("p1").launch("far", labels={"role": "good"}, serve=False)
    bad = units.mesos("p1").launch("bad", labels={"role": "bad"}, serve=False)
    for name in ("a1", "p1"):
        units.wait_programmed(name)
    flows = {task.name: start_flow(task, server) for task in (near, far, bad)}
    yield flows
    for name, flow in flows.items():
        assert set(flow.end()) == {"lost" if name == "bad" else "answered"}, f"{name}\n{units.dump()}"


def go_on(units: Booted, flows: dict[str, Flow]) -> None:
    """Some more connections of each kind; their results are judged at the end."""
    before = {name: len(flow.results()) for name, flow in flows.items()}

    def more() -> bool:
        return all(
            len(flow.results()) > before[name] + (2 if name == "bad" else ENOUGH) for name, flow in flows.items()
        )

    units.wait("connections to go on", more)


def server_of(units: Booted) -> Task:
    return next(task for task in units.mesos("a1").tasks.values() if task.name == "server")


def test_s07_b_etcd_away_and_back_at_another_address(units: Booted, shop: dict[str, Flow]) -> None:
    """5 min in the scenario. Here until every agent has seen it, connections went on, and an ADD has failed."""
    units.etcd.kill_all()
    for name in ("m1", "a1", "p1"):
        units.wait(f"{name} to see it", lambda name=name: units.agent_status(name).get("connected") is False)  # type: ignore[misc]
    go_on(units, shop)
    links = units.hosts["p1"].run("ip -br link").stdout
    started = time.monotonic()
    with pytest.raises(TaskFailed, match="etcd") as failure:
        units.mesos("p1").launch("no-etcd", serve=False)
    assert time.monotonic() - started < ADD_LIMIT_S and '"code"' in str(failure.value)
    assert units.hosts["p1"].run("ip -br link").stdout == links
    go_on(units, shop)
    units.hosts["m1"].run(f"ip addr add {ELSEWHERE}/24 dev eth0")
    units.etcd.move("m1", ELSEWHERE)
    for name in units.up:
        dcos.name_masters(units.host(name), ELSEWHERE)
    units.start_etcd()
    for name in ("m1", "a1", "p1"):
        units.wait(f"{name} to be back", lambda name=name: units.agent_status(name).get("in_sync") is True)  # type: ignore[misc]
    late = units.mesos("p1").launch("late", labels={"role": "good"}, serve=False)
    assert late.fetch(server_of(units).address)[0] == 0
    go_on(units, shop)


def test_s07_c_compaction_and_data_of_earlier(units: Booted, shop: dict[str, Flow]) -> None:
    units.etcd.kill_all()
    units.etcd.back_up()
    units.start_etcd()
    later = units.mesos("p1").launch("later", labels={"role": "new"}, serve=False)
    more = [*ALLOW, {"action": "Allow", "source": {"selector": "role == 'new'"}}]
    units.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=more))
    units.wait("the later policy", lambda: later.fetch(server_of(units).address, timeout_s=0.5)[0] == 0)
    revision = units.agent_status("a1")["datastore_revision"]
    units.etcdctl("compact", str(revision))
    units.etcd.kill_all()
    units.etcd.restore()
    units.start_etcd()
    for name in ("m1", "a1", "p1"):
        units.wait(
            f"{name} to have read all of it",
            lambda name=name: 0 < units.agent_status(name).get("programmed_revision", 0) < revision,  # type: ignore[misc]
        )
    assert later.fetch(server_of(units).address, timeout_s=1.0)[0] != 0, "the policy of then does not let it in"
    go_on(units, shop)


def test_s07_d_an_agent_is_killed_and_stopped(units: Booted, shop: dict[str, Flow]) -> None:
    """1 min in the scenario; here until connections went on and a task was started without an agent."""
    host = units.host("p1")
    restarts = int(units.state("p1", FELIX)["NRestarts"])
    host.run(["kill", "-9", units.state("p1", FELIX)["MainPID"]])
    units.wait("systemd to start it again", lambda: int(units.state("p1", FELIX)["NRestarts"]) == restarts + 1)
    units.wait_ready("p1")
    host.systemctl("stop", FELIX)
    assert dcos.health(host, FELIX) == "", "it ends with status 0"
    go_on(units, shop)
    prober = ("syn", server_of(units).address, 80, "/run/syn-window")
    try:
        units.mesos("p1").launch("window", labels={"role": "bad"}, serve=False, prober=prober)
    except TaskFailed as error:
        assert '"code"' in str(error)
    go_on(units, shop)
    host.systemctl("start", FELIX)
    units.wait_ready("p1")
    go_on(units, shop)
    assert host.run("cat /run/syn-window").stdout == "", "a packet got through that the policy denies"

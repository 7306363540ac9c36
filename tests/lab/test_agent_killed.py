"""kill -9 of the agent at random instants while policies and endpoints change."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import time
from typing import Any

from tests.lab import Cluster, Task
from tests.lab.policies import policy

ROUNDS = 12
STEPS = 6
PROBE_MS = 5
MOST_LOST = 50
"""In a row, a quarter of a second. Numbers count, not time: who sends or answers may have to wait for a processor."""


NUMBERED = re.compile(r'"(@?[^"/ ]+)/[0-9]+"')
"""An interval set's name in the kernel says how often it was made again (docs/adr/0030-new-sets-go-first.md)."""


def kernel_state(cluster: Cluster, host: str) -> dict[str, Any]:
    """What the agent has programmed, without counters, handles, sets' numbers and the order of what was made."""
    table: dict[str, Any] = {}
    text = cluster.hosts[host].run("nft -j list table inet calico").stdout
    listing = json.loads(NUMBERED.sub(r'"\1"', text))["nftables"]
    for ((kind, value),) in (item.items() for item in listing if "metainfo" not in item):
        value.pop("handle", None)
        if kind == "rule":
            value["expr"] = ["counter" if "counter" in one else one for one in value["expr"]]
            table.setdefault(f"rules of {value['chain']}", []).append(json.dumps(value, sort_keys=True))
        else:
            lasting = [] if "timeout" in value.get("flags", ()) else value.get("elem", [])  # else packets fill it
            value["elem"] = sorted(json.dumps(one, sort_keys=True) for one in lasting)
            table[f"{kind} {value.get('name')}"] = value
    return {"table": table, "routes": sorted(cluster.hosts[host].run("ip route").stdout.splitlines())}


def answers(task: Task) -> list[int]:
    """The numbers of its probe's datagrams that were answered."""
    lines = task.host.run(["cat", f"/run/probe-{task.name}"], check=False).stdout.splitlines(keepends=True)
    return sorted(int(line.split()[1]) for line in lines if line.endswith("\n"))


def test_kill_9_while_everything_changes(cluster: Cluster) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    print(f"SEED={seed}")
    dice = random.Random(seed)
    mesos = cluster.mesos("a2")
    allow = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]
    cluster.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=allow))
    server = mesos.launch("server", labels={"role": "server"}, serve=False)
    server.start_traffic("echo", 9000, "/run/echo")
    cluster.wait_programmed("a2")
    good = cluster.mesos("a1").launch("good", labels={"role": "good"}, serve=False)
    near = mesos.launch("near", labels={"role": "bad"}, serve=False)
    far = cluster.mesos("a1").launch("far", labels={"role": "bad"}, serve=False)
    for task in (good, near, far):
        task.start_traffic("probe", server.address, 9000, PROBE_MS, f"/run/probe-{task.name}")
    cluster.wait("the allowed flow", lambda: bool(answers(good)))
    changes = Changes(cluster, dice)
    for _ in range(ROUNDS):
        for _ in range(dice.randrange(1, STEPS)):
            changes.one()
            time.sleep(dice.random() * 0.05)
        cluster.stop_agent("a2", 9)
        if dice.random() < 0.5:
            changes.one()
        cluster.start_agent("a2")
        time.sleep(dice.random() * 0.8)
    cluster.wait_agent("a2")
    for _ in range(3 * STEPS):
        changes.one()
    cluster.wait_programmed("a2")
    by_steps = kernel_state(cluster, "a2")
    cluster.stop_agent("a2", 9)
    cluster.start_agent("a2")
    cluster.wait_agent("a2")
    cluster.wait_programmed("a2")
    assert kernel_state(cluster, "a2") == by_steps

    senders = {line.split()[0] for line in server.host.read("/run/echo").splitlines()}
    assert senders == {good.address}, f"forbidden packets got through: {senders}"
    for task in (near, far):
        assert task.host.read(f"/run/probe-{task.name}") == ""
    answered = answers(good)
    cluster.wait("the allowed flow to go on", lambda: answers(good)[-1] > answered[-1] + MOST_LOST)
    lost = max(after - before - 1 for before, after in itertools.pairwise(answers(good)))
    print(f"{lost} lost in a row, of {answered[-1]}")
    assert lost < MOST_LOST, "the allowed flow stood still"


class Changes:
    """Random changes, none of which lets the forbidden tasks reach the server."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice

    def one(self) -> None:
        """Make one."""
        self._dice.choice([self._server_policy, self._other_policy, self._network_set, self._task])()

    def _apply(self, text: str) -> None:
        self._cluster.calicoctl("apply", "-f", "-", stdin=text)

    def _server_policy(self) -> None:
        """The same meaning, other rules."""
        allow = {"action": "Allow", "source": {"selector": "role == 'good'"}}
        deny = {"action": "Deny", "source": {"selector": f"role in {{'bad', 'x{self._dice.randrange(5)}'}}"}}
        more = {"action": "Allow", "source": {"nets": [f"198.51.100.{self._dice.randrange(256)}/32"]}}
        ingress = [[allow], [deny, allow], [more, allow], [deny, more, allow]][self._dice.randrange(4)]
        order = self._dice.randrange(1, 50)
        self._apply(policy("server", "role == 'server'", types=["Ingress"], ingress=ingress, order=order))

    def _other_policy(self) -> None:
        name = f"other-{self._dice.randrange(4)}"
        if self._dice.random() < 0.3:
            self._cluster.calicoctl("delete", "globalnetworkpolicy", name, "--skip-not-exists")
            return
        selector = self._dice.choice(["role == 'bad'", "has(role)", "all()"])
        ingress = [{"action": "Allow", "source": {"selector": f"set == '{self._dice.randrange(3)}'"}}]
        self._apply(policy(name, selector, types=["Ingress"], ingress=ingress, order=60 + self._dice.randrange(40)))

    def _network_set(self) -> None:
        number = self._dice.randrange(3)
        nets = [f"203.0.113.{self._dice.randrange(256)}", f"192.0.2.{self._dice.randrange(4) * 64}/26"]
        self._apply(json.dumps({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
            "metadata": {"name": f"set-{number}", "labels": {"set": str(number)}}, "spec": {"nets": nets},
        }))  # fmt: skip

    def _task(self) -> None:
        mesos = self._cluster.mesos("a2")
        extra = [task for task in mesos.tasks.values() if task.name.startswith("extra")]
        if len(extra) > 3 or (extra and self._dice.random() < 0.5):
            mesos.kill(self._dice.choice(extra))
        else:
            mesos.launch(f"extra-{time.monotonic_ns()}", labels={"role": self._dice.choice("abc")}, serve=False)

"""etcd of three members, one of which is killed, comes back, is frozen and goes on, while tasks start all the time: no
ADD fails, and no packet gets through that a policy denies."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

from libcalico.testing.machine import need
from tests.lab import Cluster, Task, TaskFailed
from tests.lab.host import CommandFailed
from tests.lab.policies import policy

HOSTS = ("m1", "a1", "a2")
SENT_AGAIN = 2
ENOUGH = 4
"""Tasks of each kind that start in each state of etcd."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    need(os.geteuid() == 0, "root", "run as root")
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    with Cluster(HOSTS, members=HOSTS) as cluster:
        cluster.start()
        yield cluster


class Starts:
    """Tasks that start one after the other: a good one, which the server's host lets in within 20 s, however late it
    hears of it, and a stranger, which sends from before it has an address, and none of whose packets may get in."""

    def __init__(self, lab: Cluster, server: Task) -> None:
        self._mesos = lab.mesos("a1")
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.errors: list[str] = []
        self.count = 0

    def __enter__(self) -> Starts:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            try:
                self._one(number)
            except (TaskFailed, CommandFailed, AssertionError, subprocess.TimeoutExpired) as error:
                self.errors.append(f"start {number}: {error}")
                return
            self.count += 1

    def _one(self, number: int) -> None:
        good = self._mesos.launch(f"good-{number}", labels={"role": "good"}, serve=False)
        done = good.traffic("connect", self._server.address, 80, check=False)
        assert done.returncode in (0, SENT_AGAIN), f"an allowed task was not let in: {done.stderr}"
        self._mesos.kill(good)
        prober = ("syn", self._server.address, 80, f"/run/syn-{number}")
        self._mesos.kill(
            self._mesos.launch(f"stranger-{number}", labels={"role": "stranger"}, serve=False, prober=prober)
        )


def test_a_member_is_lost_and_back_while_tasks_start(lab: Cluster) -> None:
    allow = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]
    lab.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=allow))
    server = lab.mesos("a2").launch("server", labels={"role": "server"})
    lab.wait_programmed("a2")
    with Starts(lab, server) as starts:

        def go_on(state: str) -> None:
            before = starts.count
            taken = lab.wait(
                f"tasks to start while {state}",
                lambda: bool(starts.errors) or starts.count >= before + ENOUGH,
                timeout_s=120,
            )
            assert not starts.errors, f"while {state}: {starts.errors}\n{lab.dump()}"
            print(f"{ENOUGH} starts of each kind while {state}: {taken:.1f} s")

        go_on("all three run")
        for lose, restore, state in (
            (lab.etcd.kill, lab.etcd.start, "killed"),
            (lab.etcd.freeze, lab.etcd.thaw, "frozen"),
        ):
            lab.wait("a leader", lambda: lab.etcd.leader() != "")
            for name in (lab.etcd.leader(), "m1"):
                lose(name)
                go_on(f"{name} is {state}")
                restore(name)
                go_on(f"{name} is back")
    assert not starts.errors
    assert lab.mesos("a1").host.run("cat /run/syn-*").stdout == "", "a packet that the policy denies got through"
    lab.wait("every member to agree", lambda: lab.etcd.leader() != "")

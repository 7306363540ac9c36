"""Hosts booted by real systemd: units run there as on a machine, and nothing is left of a run, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.host import connect
from tests.lab.systemd import CLONE, SystemdHost

UNIT = """[Service]
ExecStart=/bin/sh -c 'echo started; exec sleep infinity'
Restart=always
RestartSec=0
"""
SCRIPT = """
import time
from tests.lab.systemd import SystemdHost
host = SystemdHost("t-killed")
host.boot()
print(host._group, host.pid, flush=True)
time.sleep(60)
"""


pytestmark = pytest.mark.usefixtures("debian")


def wait(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def groups() -> set[str]:
    """Every control group of a lab that the kernel knows."""
    command = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && ls -d /sys/fs/cgroup/calico-lab-*"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False)
    return {Path(line).name for line in done.stdout.split()}


def test_two_hosts_boot_at_once_reach_each_other_and_run_units() -> None:
    with SystemdHost("t-one") as one, SystemdHost("t-two") as two:
        connect(one, "eth0", two, "eth0")
        with ThreadPoolExecutor(2) as pool:
            print(*pool.map(SystemdHost.boot, (one, two)))
        for number, host in enumerate((one, two), 1):
            assert host.run("hostname; cat /proc/1/comm").stdout.split() == [host.name, "systemd"]
            assert host.systemctl("list-units", "--failed", "--plain", "--no-legend") == ""
            host.run(f"ip addr add 192.0.2.{number}/24 dev eth0 && echo 1 > /proc/sys/net/ipv4/ip_forward")
        one.run("ping -c1 -W5 192.0.2.2")
        one.write("/etc/systemd/system/idle.service", UNIT)
        one.systemctl("daemon-reload")
        one.systemctl("start", "idle")
        first = one.show("idle", "MainPID", "ActiveState")
        assert first["ActiveState"] == "active"
        one.run(["kill", "-9", first["MainPID"]])
        wait(
            lambda: one.show("idle", "NRestarts") == {"NRestarts": "1"} and one.journal("idle").count("started\n") == 2
        )
        assert two.show("idle", "LoadState") == {"LoadState": "not-found"}
        names = {one._group, two._group}
        assert names <= groups()
    assert not names & groups()


def test_a_killed_run_leaves_no_process_no_mount_and_no_control_group() -> None:
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=CLONE)
    assert run.stdout is not None
    group, pid = run.stdout.readline().split()
    assert group in groups()
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait(lambda: not os.path.exists(f"/proc/{pid}") and group not in groups())
    assert "/run/lab" not in Path("/proc/self/mounts").read_text()

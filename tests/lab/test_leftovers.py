"""A run that was to keep its hosts, and was killed first, leaves nothing for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.demo import STATE
from tests.lab.host import Host, cleanup_leftovers

SCRIPT = (
    "from tests.lab.host import Host; import time; print(Host('t-house', keep=True).pid, flush=True); time.sleep(60)"
)


def kept() -> list[int]:
    """The holders of a demo that stands while we test."""
    return list(json.loads(STATE.read_text())["pids"]) if STATE.exists() else []


@pytest.mark.usefixtures("root")
def test_hosts_of_a_killed_run_are_found() -> None:
    root = Path(__file__).parents[2]
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, cwd=root)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    assert pid not in cleanup_leftovers(kept()), "its run still lives"
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert os.path.exists(f"/proc/{pid}")
    assert cleanup_leftovers(kept())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.usefixtures("root")
def test_hosts_of_a_living_run_stay() -> None:
    host = Host("t-house")
    try:
        cleanup_leftovers(kept())
        assert host.run("echo here").stdout == "here\n"
    finally:
        host.close()

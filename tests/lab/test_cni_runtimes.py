"""docs/howto/cni-runtimes.md is played, block by block, with podman and containerd from Debian.

A block of commands has `host# command` lines and what they print; a block whose info string is `host:path` is a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcalico.testing.machine import need
from tests.lab.runtimes import ROOT, Runtimes, blocks, commands, is_as_printed, need_runtimes


@pytest.fixture
def runtimes() -> Iterator[Runtimes]:
    """A small cluster of its own: what runs in it ends with it."""
    need(os.geteuid() == 0, "root", "run as root")
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    need_runtimes()
    cluster = Runtimes()
    with cluster:
        cluster.start()
        yield cluster


def test_each_block_does_what_the_page_says(runtimes: Runtimes) -> None:
    wrong: list[str] = []
    played: list[str] = []
    for block in blocks():
        if ":" in block.info:
            host, _, path = block.info.split(maxsplit=1)[1].partition(":")
            runtimes.hosts[host].write(path, block.text)
            continue
        if "etcd-stopped" in block.info:
            runtimes.etcd.kill_all()
        for host, command, expected in commands(block):
            actual = runtimes.play_until(host, command, expected)
            played.append(command)
            if not is_as_printed(expected, actual):
                wrong.append("\n".join([f"{host}# {command}", *actual, "--- the page says:", *expected]))
        if "etcd-stopped" in block.info:
            runtimes.start_etcd()
            runtimes.wait_programmed("a1")
    assert len(played) > 40, "the page's blocks are found"
    assert not wrong, "\n\n".join(wrong)


KILLED_RUN = """
import time
from tests.lab.runtimes import Runtimes, blocks, commands
cluster = Runtimes()
cluster.start()
for block in blocks()[:1]:
    for host, command, _ in commands(block):
        cluster.play(host, command)
cluster.play("a1", "podman run -d --network none busybox nc -ll -p 80 -e echo")
print(cluster.hosts["a1"].pid, flush=True)
time.sleep(60)
"""


def in_namespace(kind: str, inode: str) -> list[str]:
    """The command lines of the processes in a namespace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns" / kind) == inode:
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.usefixtures("root")
def test_a_killed_run_leaves_no_container() -> None:
    need_runtimes()
    mounts = Path("/proc/self/mounts").read_text().count("/var/lib/container")
    run = subprocess.Popen([sys.executable, "-c", KILLED_RUN], stdout=subprocess.PIPE, cwd=ROOT)
    assert run.stdout is not None
    inode = os.readlink(f"/proc/{int(run.stdout.readline())}/ns/pid")
    before = in_namespace("pid", inode)
    run.kill()
    run.wait()
    assert any("conmon" in command for command in before)
    deadline = time.monotonic() + 5
    while in_namespace("pid", inode) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not in_namespace("pid", inode)
    assert Path("/proc/self/mounts").read_text().count("/var/lib/container") == mounts

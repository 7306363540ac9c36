"""The page docs/howto/cni-runtimes.md in blocks, and a lab with podman and containerd in which they are played.

A block of commands has `host# command` lines and what they print; a block whose info string is `host:path` is a file.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from libcalico.testing.machine import need
from tests.lab import Cluster
from tests.lab.cluster import BIN

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/howto/cni-runtimes.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
PROMPT = re.compile(r"^(a1|m1)# ", re.M)
VARIES = (
    (re.compile(r"\b172\.29\.\d+\.\d+"), "ADDRESS"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "SHORT-ID"),
    (re.compile(r"\bcali[0-9a-f]{11}\b"), "INTERFACE"),
    (re.compile(r"timestamp=\d+-\d+-\d+ \S+ \+0000 UTC"), "TIME"),
)
OMITTED = "…"
LIMIT_S, KILLED, SERVER_START_S = 25, -9, 5.0
PROGRAMS = ("podman", "ctr", "containerd", "crun", "iptables")
PLUGINS = ("loopback", "portmap", "tuning")
PREPARE = f"""
for folder in /opt /etc/containers /var/lib/containers /var/lib/containerd /var/lib/cni; do
  mkdir -p $folder
  [ $folder = /etc/containers ] && cp -a $folder /run/saved
  mount -t tmpfs tmpfs $folder
done
cp -a /run/saved/. /etc/containers
mkdir -p /etc/containers/containers.conf.d /run/plugins /opt/calico /run/bin /etc/cni/net.d
cd /usr/lib/cni && cp {" ".join(PLUGINS)} /run/plugins && mount --bind /run/plugins /usr/lib/cni
ln -s {BIN} /opt/calico/bin
ln -s $(command -v busybox) /run/bin/nc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
rm -f /etc/cni/net.d/*
"""
LAB_CONF = """
[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
"""
RUNC = '#!/bin/sh\nexec crun --cgroup-manager=disabled "$@"\n'
"""No control group is made, so that none is left."""


class Block(NamedTuple):
    """One fenced block of the page."""

    info: str
    text: str


def blocks() -> list[Block]:
    """The fenced blocks, in order."""
    return [Block(*found) for found in FENCE.findall(PAGE.read_text())]


def commands(block: Block) -> Iterator[tuple[str, str, list[str]]]:
    """Host, command and the lines that it prints."""
    parts = PROMPT.split(block.text)
    assert not parts[0], f"a block begins with a prompt: {block.text}"
    for host, rest in zip(parts[1::2], parts[2::2], strict=True):
        command, *printed = rest.splitlines()
        yield host, command, printed


def normal(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, name in VARIES:
        line = pattern.sub(name, line)
    return " ".join(line.split())


def is_as_printed(expected: list[str], actual: list[str]) -> bool:
    """Are these the lines of the page, in any order (ids are sorted)? One line `…` stands for any lines."""
    wanted = Counter(normal(line) for line in expected if line.strip() not in ("", OMITTED))
    found = Counter(normal(line) for line in actual if line.strip())
    return wanted <= found if any(line.strip() == OMITTED for line in expected) else wanted == found


class Runtimes(Cluster):
    """m1 with etcd, and a1 with podman and containerd."""

    def __init__(self) -> None:
        super().__init__(["m1", "a1"])

    def environment(self, name: str) -> dict[str, str]:
        """Nodes have their hosts' names."""
        return {**super().environment(name), "NODENAME": name}

    def start(self) -> None:
        """What a host with Debian's packages has before the page begins."""
        super().start()
        a1, m1 = self.hosts["a1"], self.hosts["m1"]
        a1.run("set -e\n" + PREPARE)
        a1.write("/etc/containers/containers.conf.d/lab.conf", LAB_CONF)
        a1.write("/run/bin/runc", RUNC)
        a1.run("chmod +x /run/bin/runc")
        m1.run("mkdir -p /run/bin && ln -s $(command -v busybox) /run/bin/nc")
        a1.start(["containerd"], environment=self.path(), log=(self.folder / "containerd.log").open("ab"))

    def path(self) -> dict[str, str]:
        """The environment of a shell on a host."""
        return {"PATH": f"/run/bin:{BIN}:{os.environ['PATH']}", "HOME": "/root"}

    def play(self, name: str, command: str) -> list[str]:
        """Run a command of the page; the lines that it prints."""
        words = ["timeout", "-s", "KILL", str(LIMIT_S), "sh", "-c", f"exec 2>&1; {command}"]
        done = self.hosts[name].run(words, environment=self.path(), check=False)
        if command.startswith("calicoctl") and not command.startswith("calicoctl node"):  # which changes nothing
            self.wait_programmed("a1")
        return [*done.stdout.splitlines(), *([f"killed after {LIMIT_S} s"] if done.returncode == KILLED else [])]

    def play_until(self, name: str, command: str, expected: list[str]) -> list[str]:
        """Run a command again while a server just started does not listen yet; what is denied is so at once."""
        deadline = time.monotonic() + SERVER_START_S
        actual = self.play(name, command)
        while expected == ["hello"] and "nc: can't connect" in " ".join(actual) and time.monotonic() < deadline:
            actual = self.play(name, command)
        return actual


def need_runtimes() -> None:
    """podman, containerd, the standard plug-ins, and busybox without libraries."""
    packages = "apt-get install podman crun containerd containernetworking-plugins busybox-static"
    for program in (*PROGRAMS, "busybox"):
        need(shutil.which(program) is not None, program, packages)
    for plugin in PLUGINS:
        need(Path("/usr/lib/cni", plugin).exists(), f"the plug-in {plugin}", packages)

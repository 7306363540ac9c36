"""Shared fixtures: what a test needs is probed once; when it is missing the test is skipped, in CI it fails."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMESPACES = "/run/netns"
LONGEST_START_S = 60.0
OWNED = re.compile(r"t-[a-z]+-([0-9]+)-.*")
EPHEMERAL = max(20_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it ends with the process that starts it, however that ends."""


def need(condition: bool, what: str, how: str) -> None:
    """Skip (or, in CI, fail) with a sentence that says how to get it."""
    if condition:
        return
    text = f"needs {what}: {how}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def root() -> None:
    """The right to make namespaces."""
    need(os.geteuid() == 0, "root", "run as root")


def namespace_name(area: str) -> str:
    """A name for a network namespace that says which run it belongs to."""
    return f"t-{area}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="session", autouse=True)
def sweep() -> None:
    """Remove the network namespaces of test runs that were killed."""
    names = os.listdir(NAMESPACES) if os.geteuid() == 0 and os.path.isdir(NAMESPACES) else []
    for name in names:
        owner = OWNED.fullmatch(name)
        if owner is not None and not os.path.exists(f"/proc/{owner[1]}"):
            subprocess.run(["ip", "netns", "del", name], check=False)


def free_port() -> int:
    """A TCP port that is free now, and that the kernel does not give to whoever asks for any."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.SystemRandom().randrange(10_000, EPHEMERAL)
            probe.bind(("127.0.0.1", port))
            return port


class Etcd:
    """A real etcd on loopback that can be stopped and started with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._peer = free_port(), free_port()
        self._started = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its client URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        deadline = time.monotonic() + LONGEST_START_S
        while not self._answers(deadline):  # somebody else has taken a port
            assert time.monotonic() < deadline, f"etcd does not start: see {self._folder}/etcd.log"
            if not self._started:
                self.port, self._peer = free_port(), free_port()
            time.sleep(0.05)
        self._started = True

    def _answers(self, deadline: float) -> bool:
        """Start it once; whether it answers, or has ended."""
        peer = f"http://127.0.0.1:{self._peer}"
        self._process = subprocess.Popen(
            [*DIE_WITH_US, "etcd", "--data-dir", str(self._folder / "data"), "--listen-client-urls", self.endpoint,
             "--advertise-client-urls", self.endpoint, "--listen-peer-urls", peer,
             "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
            stdout=(self._folder / "etcd.log").open("ab"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        while self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return True
            except OSError:
                pass
            assert time.monotonic() < deadline, f"etcd does not answer: see {self._folder}/etcd.log"
            time.sleep(0.05)
        return False

    def backup(self) -> None:
        """Keep a copy of the data; not while it runs."""
        shutil.copytree(self._folder / "data", self._folder / "backup")

    def restore(self) -> None:
        """The data as they were at the backup; not while it runs."""
        shutil.rmtree(self._folder / "data")
        shutil.move(self._folder / "backup", self._folder / "data")

    def kill(self) -> None:
        """SIGKILL; the data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A running etcd for one test module."""
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()

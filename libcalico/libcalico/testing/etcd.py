"""A real etcd for tests."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from libcalico.testing.machine import DIE_WITH_US, free_port

LONGEST_START_S = 60.0


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
        while not self._answers(deadline):  # another process has taken a port
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

"""etcd in the lab: one member, or three that stand for each other, on hosts that the caller names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.host import Host, innermost

TOKEN = "lab"


class Members:
    """etcd's members by their hosts' names. Their data, in `folder`, outlive them."""

    def __init__(self, hosts: Mapping[str, Host], addresses: Mapping[str, str], folder: Path) -> None:
        self._hosts = hosts
        self._addresses = {name: addresses[name] for name in hosts}
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._frozen: set[str] = set()

    def url(self, name: str) -> str:
        """A member's client URL."""
        return f"http://{self._addresses[name]}:2379"

    @property
    def endpoints(self) -> str:
        """All client URLs, as ETCD_ENDPOINTS has them."""
        return ",".join(map(self.url, self._hosts))

    def data(self, name: str) -> Path:
        """Where a member keeps its data."""
        return self._folder / f"etcd-{name}"

    def start(self, name: str) -> None:
        """Start a member, or start it again with its data; does not wait."""
        address = self._addresses[name]
        everyone = ",".join(f"{one}=http://{self._addresses[one]}:2380" for one in self._hosts)
        with (self._folder / f"etcd-{name}.log").open("ab") as log:
            self._running[name] = self._hosts[name].start(
                ["etcd", "--name", name, "--data-dir", str(self.data(name)),
                 "--listen-client-urls", f"{self.url(name)},http://127.0.0.1:2379",
                 "--advertise-client-urls", self.url(name),
                 "--listen-peer-urls", f"http://{address}:2380", "--initial-advertise-peer-urls", f"http://{address}:2380",
                 "--initial-cluster", everyone, "--initial-cluster-token", TOKEN],
                log=log,
            )  # fmt: skip

    def start_all(self) -> None:
        """Start every member that does not run."""
        for name in self._hosts:
            if name not in self._running:
                self.start(name)

    def kill(self, name: str) -> None:
        """SIGKILL; the data stay."""
        self._frozen.discard(name)
        self._hosts[name].stop_process(self._running.pop(name), signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL for each that runs."""
        for name in list(self._running):
            self.kill(name)

    def back_up(self) -> None:
        """Keep a copy of all data; not while a member runs."""
        for name in self._hosts:
            shutil.copytree(self.data(name), self.data(f"{name}-backup"))

    def restore(self) -> None:
        """The data as they were when they were backed up; not while a member runs."""
        for name in self._hosts:
            shutil.rmtree(self.data(name))
            self.data(f"{name}-backup").rename(self.data(name))

    def move(self, name: str, address: str) -> None:
        """From its next start on, a member is at another address of its host; for etcd of one member."""
        self._addresses[name] = address

    def freeze(self, name: str) -> None:
        """It answers nothing, and its connections stay open."""
        self._frozen.add(name)
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """It goes on where it was stopped."""
        self._frozen.discard(name)
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: int) -> None:
        process = self._running[name].pid
        for pid in [*innermost(process), process]:  # nsenter stops itself when its child is stopped
            os.kill(pid, number)

    def etcdctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """etcd's own client, at the members that run."""
        environment = {**os.environ, "ETCDCTL_API": "3"}
        alive = [name for name in self._running if name not in self._frozen] or list(self._hosts)
        command = ["etcdctl", "--endpoints", ",".join(map(self.url, alive)), *words]
        return self._hosts[alive[0]].run(command, environment=environment, check=check)

    def answers(self) -> bool:
        """Is there a majority that answers?"""
        return self.etcdctl("get", "/none", check=False).returncode == 0

    def leader(self) -> str:
        """The member that leads; empty while none does."""
        done = self.etcdctl("endpoint", "status", "-w", "json", check=False)
        for one in json.loads(done.stdout or "[]"):
            status = one["Status"]
            if status["header"]["member_id"] == status.get("leader"):
                return next(name for name in self._hosts if self.url(name) == one["Endpoint"])
        return ""

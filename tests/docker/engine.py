"""Docker Engine on a host of the lab: a dockerd of its own with the plug-in beside it, and one small image."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.lab.cluster import BIN, Cluster
from tests.lab.host import CommandFailed

CLIENT = "/usr/bin/docker"
"""Debian's, which speaks the engine's version of the API."""
IMAGE = "box"
APPLETS = ("sh", "sleep", "ip", "ping", "nc", "true", "cat", "wget", "httpd")
LABELS = {"CALICO_LIBNETWORK_LABEL_ENDPOINTS": "true"}
PREPARE = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/docker/plugins /etc/docker
"""
ROOT = """
mkdir -p /run/image/bin && cp /bin/busybox /run/image/bin/
for name in {applets}; do ln -sf busybox /run/image/bin/$name; done
tar -C /run/image -c . | {client} import - {image}
"""


class Engine:
    """A started engine. `docker` runs the command line against it."""

    def __init__(self, cluster: Cluster, name: str, environment: Mapping[str, str] = LABELS) -> None:
        self._cluster = cluster
        self.name = name
        self.host = cluster.hosts[name]
        self._environment = {**cluster.environment(name), **environment}
        self._root = cluster.folder / f"docker-{name}"
        self._root.mkdir()
        self.host.run(PREPARE)
        self._plugin: subprocess.Popen[bytes] | None = None
        self._engine: subprocess.Popen[bytes] | None = None
        self.start_plugin()
        self.start_engine()
        self.host.run(ROOT.format(applets=" ".join(APPLETS), image=IMAGE, client=CLIENT))

    def start_plugin(self) -> None:
        """Start the plug-in, and wait until it listens."""
        log = (self._cluster.folder / f"plugin-{self.name}.log").open("ab")
        self._plugin = self.host.start([str(BIN / "calico-libnetwork-plugin")], environment=self._environment, log=log)
        self._cluster.wait("the plug-in", lambda: self.ask("calico", "Plugin.Activate", check=False).returncode == 0)

    def stop_plugin(self, number: int = 9) -> None:
        """End the plug-in."""
        assert self._plugin is not None
        self.host.stop_process(self._plugin, number)

    def start_engine(self) -> None:
        """Start dockerd, and wait until it answers."""
        log = (self._cluster.folder / f"docker-{self.name}.log").open("ab")
        self._engine = self.host.start(
            ["dockerd", "--data-root", str(self._root), "--exec-root", "/run/docker-exec", "--pidfile",
             "/run/docker.pid", "--host", "unix:///run/docker.sock", "--storage-driver", "vfs", "--live-restore"],
            environment={**os.environ, "DOCKER_RAMDISK": "1"}, log=log,
        )  # fmt: skip
        self._cluster.wait("dockerd", lambda: self.docker("info", check=False).returncode == 0, timeout_s=60)

    def stop_engine(self, number: int = 15) -> None:
        """End dockerd; containers go on."""
        assert self._engine is not None
        self.host.run(f"kill -{number} $(cat /run/docker.pid)")
        self._engine.wait(timeout=30)
        self.host.run("rm -f /run/docker-exec/containerd/*.pid")  # the host's init leaves its dead children in sight

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Docker's command line."""
        environment = {**os.environ, "DOCKER_HOST": "unix:///run/docker.sock"}
        return self.host.run([CLIENT, *words], check=check, environment=environment, timeout_s=120)

    def run(self, name: str, network: str, *options: str, command: str = "sleep 100000") -> str:
        """Start a container; returns its address."""
        self.docker("run", "--detach", "--name", name, "--network", network, *options, IMAGE, *command.split())
        return self.address(name, network)

    def address(self, name: str, network: str) -> str:
        """A container's address in a network."""
        found = json.loads(self.docker("inspect", name).stdout)[0]["NetworkSettings"]["Networks"][network]
        return str(found["IPAddress"])

    def execute(self, name: str, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """A command in a container."""
        return self.docker("exec", name, *words, check=check)

    def pings(self, name: str, address: str) -> bool:
        """Does the container reach an address?"""
        return self.execute(name, "ping", "-c1", "-W1", address).returncode == 0

    def ask(
        self, plugin: str, method: str, body: str = "", *options: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A call as Docker makes it, by curl: the body, then the status in a line of its own."""
        socket = f"/run/docker/plugins/{plugin}.sock"
        words = [
            "curl",
            "-sS",
            "-o-",
            "-w",
            "\\n%{http_code}",
            "--unix-socket",
            socket,
            "--data-binary",
            "@-",
            *options,
        ]
        return self.host.run([*words, f"http://docker/{method}"], stdin=body.encode(), check=check)

    def call(self, plugin: str, method: str, **body: Any) -> Any:
        """The answer of a method; `CommandFailed` with the text of an error."""
        text, _, status = self.ask(plugin, method, json.dumps(body)).stdout.rpartition("\n")
        if status != "200":
            raise CommandFailed(f"{status}: {text}")
        return json.loads(text)

    def log(self) -> str:
        """The end of the plug-in's log."""
        return self._cluster.log(f"plugin-{self.name}")

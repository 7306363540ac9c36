"""A stand-in for the Mesos agent: calls CNI exactly as its containerizer does (spec/scenarios.md 2.1)."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.lab.host import Host

ROOT = "/run/mesos/isolators/network/cni"
CONF_DIR = "/etc/cni/net.d"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORT_MAPPER = "mesos-cni-port-mapper"
"""Without mappings it only calls its delegate with its own name, which is done here in its place."""
PROGRAMS = Path(__file__).parent
TRAFFIC = [sys.executable, "-S", str(PROGRAMS / "traffic.py")]


class TaskFailed(Exception):
    """A task that did not start: the plug-in's output."""


class Task:
    """A running task."""

    def __init__(self, mesos: Mesos, name: str, identity: str) -> None:
        self.mesos = mesos
        self.name = name
        self.id = identity
        self.addresses: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self.programs: list[subprocess.Popen[bytes]] = []

    @property
    def host(self) -> Host:
        """Where it runs."""
        return self.mesos.host

    @property
    def netns(self) -> str:
        """The handle of its network namespace, on its host."""
        return f"{ROOT}/{self.id}/ns"

    @property
    def address(self) -> str:
        """Its first address."""
        return next(iter(self.addresses.values()))

    def exec(
        self, command: Sequence[str] | str, check: bool = True, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the task's network namespace."""
        return self.host.run(command, netns=self.netns, check=check, timeout_s=timeout_s)

    def fetch(self, address: str, path: str = "/id", port: int = 80, timeout_s: float = 5.0) -> tuple[int, str]:
        """(exit status, body) of a request from the task: 0 is success, 28 a time-out, 7 a refusal."""
        command = [sys.executable, "-S", str(PROGRAMS / "fetch.py"), address, str(port), path, str(timeout_s)]
        done = self.exec(command, check=False, timeout_s=timeout_s + 20)
        return done.returncode, done.stdout

    def traffic(self, role: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a role of `traffic.py` to its end in the task."""
        return self.exec([*TRAFFIC, role, *map(str, words)], check=check)

    def start_traffic(self, role: str, *words: object) -> subprocess.Popen[bytes]:
        """Leave a role of `traffic.py` running until the task is killed."""
        return self.start([*TRAFFIC, role, *map(str, words)])

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Leave a command running until the task is killed."""
        process = self.host.start(command, netns=self.netns)
        self.programs.append(process)
        return process

    def listens(self, what: str) -> bool:
        """Whether a socket of the task listens, what = "udp:9000" or "tcp:80"."""
        kind, _, port = what.partition(":")
        return self.exec(f"ss -{kind[0]}lnH | grep -q ':{port} '", check=False).returncode == 0

    def serve(self, port: int = 80) -> None:
        """Start the id server."""
        command = [sys.executable, "-S", str(PROGRAMS / "id_server.py"), str(port)]
        self.start(command)
        deadline = time.monotonic() + 30
        while not self.listens(f"tcp:{port}"):
            if time.monotonic() > deadline:
                raise TaskFailed(f"{self.name}: its server did not start")
            time.sleep(0.02)


class Mesos:
    """The agent of one host. `plugins` is the colon list where plug-ins are looked for, `networks` the folder of the
    networks' configurations."""

    def __init__(self, host: Host, plugins: str, networks: str = CONF_DIR) -> None:
        self.host = host
        self.plugins = plugins
        self.networks = networks
        self.tasks: dict[str, Task] = {}

    def add_network(self, conf: Mapping[str, Any]) -> None:
        """Install a network's configuration file."""
        self.host.write(f"{self.networks}/{conf['name']}.conf", json.dumps(conf))

    def _find_conf(self, network: str) -> dict[str, Any]:
        names = self.host.run(f"ls {self.networks}", check=False).stdout.split()
        for name in names:
            conf: dict[str, Any] = json.loads(self.host.read(f"{self.networks}/{name}"))
            if conf.get("name") == network:
                mapped = conf["type"] == PORT_MAPPER
                return {**conf["delegate"], "name": network} if mapped else conf
        raise TaskFailed(f"unknown network '{network}' (known: {', '.join(names)})")

    def _environment(self, command: str, identity: str, interface: str, netns: str) -> dict[str, str]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": identity,
            "CNI_PATH": self.plugins,
            "CNI_IFNAME": interface,
            "PATH": PATH,
        }
        return {**environment, "CNI_NETNS": netns} if netns else environment

    def launch(
        self,
        name: str,
        network: str = "calico",
        labels: Mapping[str, str] | None = None,
        networks: Sequence[str] = (),
        serve: bool = True,
        identity: str = "",
        prober: Sequence[object] = (),
    ) -> Task:
        """Attach a task to its networks and start its program; raises `TaskFailed` with the plug-in's words.

        `prober`: a role of `traffic.py` and its arguments, started in the namespace before the plug-in is called."""
        task = Task(self, name, identity or str(uuid.uuid4()))
        folder = f"{ROOT}/{task.id}"
        self.host.run(f"mkdir -p {folder} && touch {folder}/ns && unshare --net={folder}/ns true")
        self.host.write(f"{folder}/name", name)
        if prober:
            task.start_traffic(str(prober[0]), *prober[1:])
        wanted = list(networks) or [network]
        with ThreadPoolExecutor(len(wanted)) as pool:
            work = [pool.submit(self._add, task, one, f"eth{n}", labels or {}) for n, one in enumerate(wanted)]
        self.tasks[task.id] = task
        errors = [error for future in work if (error := future.exception()) is not None]
        if errors:
            self.kill(task, best_effort=True)
            raise errors[0]
        self.host.run(["ip", "link", "set", "lo", "up"], netns=task.netns)
        if serve:
            task.serve()
        return task

    def _add(self, task: Task, network: str, interface: str, labels: Mapping[str, str]) -> None:
        conf = self._find_conf(network)
        info: dict[str, Any] = {"ip_addresses": [{}], "name": network}
        if labels:
            info["labels"] = {"labels": [{"key": key, "value": value} for key, value in labels.items()]}
        stdin = json.dumps({**conf, "args": {"org.apache.mesos": {"network_info": info}}})
        saved = f"{ROOT}/{task.id}/{network}"
        self.host.write(f"{saved}/network.conf", stdin)
        task.networks[network] = interface
        done = self.call(conf["type"], self._environment("ADD", task.id, interface, task.netns), stdin)
        if done.returncode:
            raise TaskFailed(f"{task.name}: exit {done.returncode}: {done.stdout}{done.stderr}")
        result = json.loads(done.stdout)
        if not isinstance(result.get("ip4"), dict) or "/" not in result["ip4"].get("ip", ""):
            raise TaskFailed(f"{task.name}: no address in {done.stdout}")
        self.host.write(f"{saved}/{interface}/network.info", done.stdout)
        task.addresses[interface] = result["ip4"]["ip"].partition("/")[0]

    def call(self, plugin: str, environment: Mapping[str, str], stdin: str) -> subprocess.CompletedProcess[str]:
        """Run a plug-in with exactly this environment."""
        for folder in self.plugins.split(":"):
            if self.host.run(["test", "-x", f"{folder}/{plugin}"], check=False).returncode == 0:
                return self.host.run([f"{folder}/{plugin}"], environment=environment, stdin=stdin.encode(), check=False)
        raise TaskFailed(f"no plug-in '{plugin}' on {self.plugins}")

    def kill(self, task: Task, best_effort: bool = False) -> None:
        """End a task: DEL with the saved stdin for each network, then the namespace goes."""
        for process in task.programs:
            if process.poll() is None:
                self.host.stop_process(process, 9)
        for network, interface in task.networks.items():
            self.detach(task, network, interface, best_effort)
        self.host.run(f"umount {task.netns} 2>/dev/null; rm -rf {shlex.quote(f'{ROOT}/{task.id}')}", check=False)
        self.tasks.pop(task.id, None)

    def detach(self, task: Task, network: str, interface: str, best_effort: bool = False) -> None:
        """One DEL, as after an agent's restart: with what was saved."""
        stdin = self.host.read(f"{ROOT}/{task.id}/{network}/network.conf")
        conf = json.loads(stdin)
        gone = self.host.run(f"mountpoint -q {task.netns}", check=False).returncode != 0
        environment = self._environment("DEL", task.id, interface, "" if gone else task.netns)
        done = self.call(conf["type"], environment, stdin)
        if done.returncode and not best_effort:
            raise TaskFailed(f"DEL of {task.name}: exit {done.returncode}: {done.stdout}{done.stderr}")

    def close(self) -> None:
        """End every task."""
        for task in list(self.tasks.values()):
            self.kill(task, best_effort=True)

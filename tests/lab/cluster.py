"""The cluster: m1 with etcd, agents a1 and a2, an outside client x1 behind a router, and our daemons on every host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.agent import Agent
from tests.lab.etcd import Members
from tests.lab.folders import make_folder, remove_dead_folders
from tests.lab.host import CommandFailed, Host, connect
from tests.lab.mesos import Mesos

ADDRESSES = {"m1": "10.20.0.11", "a1": "10.20.0.21", "a2": "10.20.0.22"}
ROUTER = "10.20.0.1"
OUTSIDE = ("10.20.9.1", "10.20.9.99")
POOL = "172.29.0.0/16"
ETCD = f"http://{ADDRESSES['m1']}:2379"
BIN = Path(sys.executable).parent
MTU = 1500


class Cluster:
    """Use as a context manager. `start` boots everything; single hosts may be used before that."""

    addresses: Mapping[str, str] = ADDRESSES
    """Of every host that there may be, by name."""
    gateways: Mapping[str, str] = {}
    """Of hosts that have another one than `ROUTER`."""

    def __init__(
        self,
        hosts: Sequence[str] = ("m1", "a1", "a2"),
        say: Callable[[str], None] | None = None,
        keep: bool = False,
        members: Sequence[str] = ("m1",),
    ) -> None:
        """`members`: the hosts on which etcd runs."""
        self._stack = ExitStack()
        self._say = say or (lambda _text: None)
        self._keep = keep
        remove_dead_folders()
        self.folder, self._lock = make_folder()
        self._stack.callback(os.close, self._lock)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.hosts: dict[str, Host] = {}
        self._mesos: dict[str, Mesos] = {}
        self.agents: dict[str, Agent] = {}
        try:
            self._build(hosts)
        except BaseException:
            self._stack.close()
            raise
        self.etcd = Members({name: self.hosts[name] for name in members}, self.addresses, self.folder)

    def _host(self, name: str) -> Host:
        host = Host(name, self._say, self._keep, inherits=(self._lock,))
        self._stack.callback(host.close)
        return host

    def _cluster_host(self, name: str) -> Host:
        return self._host(name)

    def _build(self, names: Sequence[str]) -> None:
        self.fabric, self.router, self.x1 = self._host("fabric"), self._host("r1"), self._host("x1")
        self.fabric.run(f"ip link add br0 type bridge && ip link set br0 mtu {MTU} up")
        self._plug(self.router, f"{ROUTER}/24")
        connect(self.router, "eth1", self.x1, "eth0")
        self.router.run(f"ip addr add {OUTSIDE[0]}/24 dev eth1")
        self.x1.run(f"ip addr add {OUTSIDE[1]}/24 dev eth0 && ip route add default via {OUTSIDE[0]}")
        for name in names:
            host = self.hosts[name] = self._cluster_host(name)
            self._plug(host, f"{self.addresses[name]}/24")
            host.run(["ip", "route", "add", "default", "via", self.gateways.get(name, ROUTER)])

    def _plug(self, host: Host, cidr: str) -> None:
        connect(host, "eth0", self.fabric, f"to-{host.name}")
        self.fabric.run(["ip", "link", "set", f"to-{host.name}", "master", "br0"])
        host.run(["ip", "addr", "add", cidr, "dev", "eth0"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take it all away."""
        self._stack.close()

    def start(self) -> None:
        """etcd, then every host's startup and agent, at once."""
        self.start_etcd()
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(self._boot, self.hosts))
        for name in self.hosts:
            self.wait_agent(name)

    def start_etcd(self) -> None:
        """Start, or start again, etcd, and wait until it answers."""
        self.etcd.start_all()
        self.wait("etcd to answer", self.etcd.answers, timeout_s=60)

    def etcdctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """etcd's own client."""
        return self.etcd.etcdctl(*words, check=check)

    def environment(self, name: str) -> dict[str, str]:
        """What the daemons of a host are told."""
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ETCD_ENDPOINTS": self.etcd.endpoints,
            "NODENAME": self.addresses[name],
            "IP": self.addresses[name],
            "CALICO_IPV4POOL_CIDR": POOL,
            "CALICO_IPV4POOL_VXLAN": "Always",
            "FELIX_VXLANPORT": "64000",
            "FELIX_PROMETHEUSMETRICSENABLED": "true",
            "FELIX_HEALTHENABLED": "true",
        }

    def _boot(self, name: str) -> None:
        host = self.hosts[name]
        self.prepare(name)
        host.write("/etc/calico/calicoctl.cfg", json.dumps({
            "apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {},
            "spec": {"datastoreType": "etcdv3", "etcdEndpoints": self.etcd.endpoints},
        }))  # fmt: skip
        self.mesos(name).add_network(network_conf("calico", etcd_endpoints=self.etcd.endpoints))
        self.start_agent(name)

    def prepare(self, name: str) -> None:
        """What a host's unit runs before the agent."""
        self.hosts[name].run([str(BIN / "calico-felix"), "startup"], environment=self.environment(name))

    def start_agent(self, name: str) -> None:
        """Start, or start again, a host's agent under its supervisor; one that runs goes on."""
        if name in self.agents and self.agents[name].is_up:
            self.agents[name].forget_exits()
            return
        log, command = self.folder / f"felix-{name}.log", [str(BIN / "calico-felix")]
        self.agents[name] = Agent(self.hosts[name], command, self.environment(name), log)

    def stop_agent(self, name: str, number: int = 15) -> None:
        """End a host's agent for good."""
        self.agents.pop(name).stop(number)

    def agent_status(self, name: str) -> dict[str, Any]:
        """What a host's agent says of itself; empty when it does not answer."""
        command = [str(BIN / "calicoctl"), "node", "debug", "status"]
        done = self.hosts[name].run(command, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.startswith("{") else {}

    def wait_agent(self, name: str) -> None:
        """Until a host's agent has programmed the kernel."""

        def ready() -> bool:
            if not self.agents[name].is_up:
                raise CommandFailed(f"the agent of {name} has ended:\n{self.log(f'felix-{name}')}")
            return self.agent_status(name).get("programmed_revision", 0) > 0

        self.wait(f"the agent of {name}", ready, timeout_s=60)

    def wait_programmed(self, name: str, timeout_s: float = 30.0) -> None:
        """Until a host's kernel reflects all that is in the datastore now."""
        revision = json.loads(self.etcdctl("get", "-w", "json", "/none").stdout)["header"]["revision"]
        self.wait(
            f"{name} to reflect revision {revision}",
            lambda: self.agent_status(name).get("programmed_revision", 0) >= revision,
            timeout_s,
        )

    def log(self, name: str) -> str:
        """The end of a daemon's log."""
        path = self.folder / f"{name}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def mesos(self, name: str) -> Mesos:
        """The Mesos stand-in of a host."""
        if name not in self._mesos:
            self._mesos[name] = Mesos(self.hosts[name], str(BIN))
        return self._mesos[name]

    def calicoctl(
        self, *words: str, stdin: str = "", check: bool = True, host: str = "m1"
    ) -> subprocess.CompletedProcess[str]:
        """Our command line, on a host."""
        return self.hosts[host].run([str(BIN / "calicoctl"), *words], stdin=stdin.encode(), check=check)

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 30.0, pause_s: float = 0.05) -> float:
        """Until a condition holds; returns how long it took, raises with the logs' ends when it does not."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise CommandFailed(f"waited {timeout_s:.0f} s for {what}\n{self.dump()}")
            time.sleep(pause_s)
        return time.monotonic() - started

    def dump(self) -> str:
        """Links, routes and rules of every host, and the agents' logs."""
        parts = []
        for name, host in self.hosts.items():
            for command in ("ip -br addr", "ip route", "nft list table inet calico | head -150", "ip neigh"):
                parts.append(f"--- {name}# {command}\n{host.run(command, check=False).stdout}")
            parts.append(f"--- {name} agent's log\n{self.log(f'felix-{name}')}")
        return "\n".join(parts)


def network_conf(name: str, **more: Any) -> dict[str, Any]:
    """A network's configuration as DC/OS gives it to the plug-in (spec/dcos.md 6, the delegate)."""
    return {
        "name": name, "cniVersion": "0.1.0", "type": "calico", "mtu": MTU, "etcd_endpoints": ETCD,
        "ipam": {"type": "calico-ipam"}, **more,
    }  # fmt: skip

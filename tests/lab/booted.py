"""A cluster of hosts that real systemd boots, with Calico from DC/OS's package. etcd runs on m1, beside the units."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.lab import dcos
from tests.lab.cluster import ADDRESSES, Cluster
from tests.lab.dcos import Options
from tests.lab.host import Host
from tests.lab.mesos import Mesos
from tests.lab.systemd import SystemdHost

FELIX, CONFD, BIRD, LIBNETWORK = dcos.UNITS
ROLES = {"m1": "master", "a1": "slave", "a2": "slave", "a3": "slave", "p1": "slave_public"}
CALICOCTL = f"{dcos.ROOT}/bin/calicoctl"


class Booted(Cluster):
    """Use as a context manager; `boot` boots and installs, `start_units` starts what is installed."""

    addresses = {**ADDRESSES, "a3": "10.20.0.23", "p1": "10.20.0.31"}

    def __init__(self, package: Path, hosts: Sequence[str], options: Options = Options()) -> None:  # noqa: B008
        self.package = package
        self.options = options
        super().__init__(hosts)

    def _cluster_host(self, name: str) -> Host:
        binds = {str(self.package): f"{dcos.ROOT}/packages/{self.package.name}", str(self.folder): str(self.folder)}
        host = SystemdHost(name, self._say, inherits=(self._lock,), binds=binds)
        self._stack.callback(host.close)
        return host

    @property
    def up(self) -> list[str]:
        """The hosts that are booted."""
        return [name for name in self.hosts if self.host(name).is_booted]

    def host(self, name: str) -> SystemdHost:
        """A host, as what it is here."""
        host = self.hosts[name]
        assert isinstance(host, SystemdHost)
        return host

    def boot(self, *names: str) -> None:
        """Boot these hosts, else all, and lay down the package, all at once; starts no unit of ours."""
        self._each(self._install, names or tuple(self.hosts))

    def _install(self, name: str) -> None:
        host = self.host(name)
        host.boot()
        dcos.install(host, self.package, self.addresses[name], ROLES[name], self.options)
        dcos.name_masters(host, self.addresses["m1"])

    @staticmethod
    def _each(step: Callable[[str], object], names: Sequence[str]) -> None:
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(step, names))

    def start_units(self, *names: str) -> None:
        """Start DC/OS's target on hosts, at the same instant; does not wait. Docker's plug-in stays out: no host
        has Docker."""

        def start(name: str) -> None:
            self.host(name).systemctl("mask", "--runtime", LIBNETWORK)
            self.host(name).systemctl("start", "--no-block", "dcos.target")

        self._each(start, names or self.up)

    def restart(self, unit: str, *names: str) -> None:
        """Start a unit again on hosts, else on all, at the same instant, and wait for the agents."""
        self._each(lambda name: self.host(name).systemctl("restart", unit), names or self.up)
        self.wait_ready(*names)

    def state(self, name: str, unit: str) -> dict[str, str]:
        """What systemd says of a unit."""
        return self.host(name).show(
            unit, "ActiveState", "SubState", "ConditionResult", "NRestarts", "MainPID", "Result"
        )

    def is_ready(self, name: str) -> bool:
        """Has the host's agent programmed the kernel?"""
        return int(self.agent_status(name).get("programmed_revision", 0)) > 0

    def wait_ready(self, *names: str, timeout_s: float = 90.0) -> None:
        """Until the agents of these hosts, else of all, have programmed the kernel."""
        for name in names or self.up:
            self.wait(f"the agent of {name}", lambda name=name: self.is_ready(name), timeout_s)  # type: ignore[misc]

    def agent_status(self, name: str) -> dict[str, Any]:
        """What a host's agent says of itself; empty when it does not answer."""
        done = self.hosts[name].run([CALICOCTL, "node", "debug", "status"], check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.startswith("{") else {}

    def calicoctl(
        self, *words: str, stdin: str = "", check: bool = True, host: str = "m1"
    ) -> subprocess.CompletedProcess[str]:
        """The package's calicoctl, without any environment: it is configured by its default file."""
        command = ["env", "-i", CALICOCTL, *words]
        return self.hosts[host].run(command, stdin=stdin.encode(), check=check)

    def get(self, *words: str) -> dict[str, Any]:
        """What calicoctl gets."""
        return dict(json.loads(self.calicoctl("get", *words, "-o", "json").stdout))

    def mesos(self, name: str) -> Mesos:
        """The Mesos stand-in of a host, with the network that the installer has laid down."""
        if name not in self._mesos:
            self._mesos[name] = Mesos(self.hosts[name], dcos.PLUGINS, dcos.NETWORKS)
        return self._mesos[name]

    def dump(self) -> str:
        """What the booted hosts look like, with the journals of our units."""
        command = (
            "ip -br addr; ip route; nft list table inet calico | head -100; systemctl list-units --no-pager 'dcos-*';"
            " journalctl --no-pager -n 80 -u 'dcos-calico-*' -o short-precise"
        )
        return "\n".join(f"--- {name}\n{self.hosts[name].run(command, check=False).stdout}" for name in self.up)

"""A booted host that is installed from our packages: etcd, the agent, containers, and packets that are counted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.host import Host
from tests.lab.systemd import SystemdHost

NOW, NEXT = "1.0", "1.1"
NETWORK = {"name": "calico", "cniVersion": "1.0.0", "type": "calico", "ipam": {"type": "calico-ipam"}}
ETCD = "http://127.0.0.1:2379"
LIMIT_S = 30.0
COUNTED = re.compile(r"(\d+) packets transmitted, (\d+) received")
POLICY = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec:
  selector: role == 'closed'
  types: [Ingress]
"""
"""Nothing comes in."""


def wait(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Until it holds; fails with `what`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Counted(NamedTuple):
    """Packets of one flow."""

    sent: int
    answered: int


class Ping:
    """A packet each 10 ms from a container to an address, until it is stopped."""

    def __init__(self, host: Host, source: str, address: str) -> None:
        self._process = subprocess.Popen(
            [*host.enter(f"/run/netns/{source}"), "ping", "-q", "-i", "0.01", "-W", "1", address],
            stdout=subprocess.PIPE,
        )
        self._host = host

    def stop(self) -> Counted:
        """How many packets there were."""
        self._host.stop_process(self._process, signal.SIGINT)
        assert self._process.stdout is not None
        text = self._process.stdout.read().decode()
        found = COUNTED.search(text)
        assert found, text
        return Counted(int(found[1]), int(found[2]))


class DebHost(SystemdHost):
    """The host. Its address is 10.7.0.1/24, on a cable that leads nowhere."""

    def start_etcd(self) -> None:
        """An etcd of its own."""
        self.run(
            "ip link add uplink type veth peer name lost && ip addr add 10.7.0.1/24 dev uplink && ip link set uplink up"
        )
        command = f"etcd --data-dir /root/etcd --listen-client-urls {ETCD} --advertise-client-urls {ETCD}"
        self.run(f"systemd-run --quiet --unit=etcd-of-test {command}")
        wait(lambda: not self.run(f"etcdctl --endpoints {ETCD} get x", check=False).returncode, "etcd answers")

    def install(self, debs: Path) -> str:
        """dpkg's words."""
        done = self.run(f"DEBIAN_FRONTEND=noninteractive dpkg -i {debs}/*.deb 2>&1", timeout_s=120)
        return done.stdout

    def configure(self) -> None:
        """What a person writes into the files of /etc/calico."""
        self.append("/etc/calico/calico.env", f"ETCD_ENDPOINTS={ETCD}\nNODENAME=a1\n")
        self.append("/etc/calico/felix.env", "IP=10.7.0.1/24\nCALICO_IPV4POOL_CIDR=172.29.0.0/16\n")

    def append(self, path: str, text: str) -> None:
        """Add to a file."""
        self.run(["sh", "-c", f"cat >> {path}"], stdin=text.encode())

    def start_units(self, *units: str) -> float:
        """Enable and start them; returns the seconds until systemd calls them ready."""
        started = time.monotonic()
        self.systemctl("enable", "--now", "--quiet", *units)
        return time.monotonic() - started

    def cni(self, command: str, name: str, role: str = "") -> str:
        """Call the plug-in as a runtime does; returns the address that ADD gave."""
        network = {**NETWORK, "etcd_endpoints": ETCD, "args": {"cni": {"labels": [{"key": "role", "value": role}]}}}
        variables = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": f"/run/netns/{name}", "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni", "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        done = self.run(["/usr/lib/cni/calico"], environment=variables, stdin=json.dumps(network).encode())
        return str(json.loads(done.stdout)["ips"][0]["address"]).partition("/")[0] if command == "ADD" else ""

    def container(self, name: str, role: str) -> str:
        """A namespace with an interface of Calico's; returns its address."""
        self.run(["ip", "netns", "add", name])
        return self.cni("ADD", name, role)

    def calicoctl(self, *words: str, stdin: str = "") -> str:
        """The packaged command."""
        variables = {"ETCD_ENDPOINTS": ETCD, "PATH": "/usr/bin:/bin"}
        return self.run(["calicoctl", *words], environment=variables, stdin=stdin.encode()).stdout

    def main_pid(self, unit: str) -> int:
        """Of a service; 0 when it does not run."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def states(self, units: Sequence[str]) -> list[tuple[str, str]]:
        """(enabled, active) of each."""
        shown = (self.show(unit, "UnitFileState", "ActiveState") for unit in units)
        return [(one["UnitFileState"], one["ActiveState"]) for one in shown]

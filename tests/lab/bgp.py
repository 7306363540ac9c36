"""BGP on the hosts of the lab: `dcos-calico-confd` and BIRD on each, and BIRD alone on the router outside."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

from libcalico.testing.bird import find_bird
from tests.lab.cluster import ADDRESSES, ROUTER, Cluster
from tests.lab.host import Host, innermost

FILE, SOCKET = "/etc/calico/confd/config/bird.cfg", "/var/run/calico/bird.ctl"
OUTSIDE_AS = 65001
ROUTER_FILE = f"""
router id {ROUTER};
protocol device {{ }}
template bgp host {{ local as {OUTSIDE_AS}; ipv4 {{ import all; export none; }}; connect retry time 1; }}
"""


class Bgp:
    """BGP on some hosts; use as a context manager."""

    def __init__(self, cluster: Cluster, hosts: tuple[str, ...] = ("m1", "a1", "a2")) -> None:
        self._cluster = cluster
        self._confds: dict[str, subprocess.Popen[bytes]] = {}
        self.birds: dict[str, subprocess.Popen[bytes]] = {}
        find_bird()
        for name in hosts:
            environment = cluster.environment(name)
            command = [sys.executable, "-m", "calico_bird.main"]
            log = (cluster.folder / f"confd-{name}.log").open("ab")
            self._confds[name] = cluster.hosts[name].start(command, environment=environment, log=log)
        for name in hosts:
            cluster.wait(f"BIRD's file on {name}", lambda name=name: self._has_file(name))  # type: ignore[misc]
            self.start_bird(name)

    def _has_file(self, name: str) -> bool:
        return self._cluster.hosts[name].run(["test", "-s", FILE], check=False).returncode == 0

    def start_bird(self, name: str) -> None:
        """Start, or start again, BIRD on a host, under the name that DC/OS gives it."""
        self.birds[name] = _start(self._cluster.hosts[name], FILE)

    def stop_bird(self, name: str, number: int = 15) -> None:
        """End it for good."""
        self._cluster.hosts[name].stop_process(self.birds.pop(name), number)

    def signal_bird(self, name: str, number: int) -> None:
        """Stop a host's BIRD where it is, or let it go on; nsenter, which waits for it, stops with it."""
        process = self.birds[name].pid
        for pid in [*innermost(process), process]:
            os.kill(pid, number)

    def start_router(self, *peers: tuple[str, int]) -> None:
        """The router outside has sessions with these hosts, which are in these autonomous systems."""
        sessions = "".join(f"protocol bgp from host {{ neighbor {ADDRESSES[one]} as {asn}; }}\n" for one, asn in peers)
        self._cluster.router.write("/run/calico/router.cfg", ROUTER_FILE + sessions)
        self.birds["router"] = _start(self._cluster.router, "/run/calico/router.cfg")

    def __enter__(self) -> Bgp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, process in self._confds.items():
            self._cluster.hosts[name].stop_process(process, 9)
        for name, process in self.birds.items():
            host = self._cluster.router if name == "router" else self._cluster.hosts[name]
            host.stop_process(process, 9)


def _start(host: Host, file: str) -> subprocess.Popen[bytes]:
    return host.start(["bash", "-c", f"exec -a bird {find_bird()} -f -c {file} -s {SOCKET}"])

"""One cluster of hosts with DC/OS's package and a host with Debian's packages, all booted by systemd: tasks reach each
other through VXLAN, and a policy of one is enforced on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab.booted import Booted
from tests.lab.cluster import network_conf
from tests.lab.dcos import PORT
from tests.lab.host import Host
from tests.lab.mesos import Mesos
from tests.lab.policies import policy
from tests.packaging import dcos_package
from tests.packaging.deb_host import NOW, DebHost

pytestmark = pytest.mark.usefixtures("debian")
FELIX_ENV = f"IP=10.20.0.41\nFELIX_VXLANPORT={PORT}\nFELIX_VXLANVNI=4096\n"
"""What the other hosts' environment says of VXLAN, which is every host's own setting."""


class Mixed(Booted):
    """d1 has Debian's packages."""

    addresses = {**Booted.addresses, "d1": "10.20.0.41"}

    def _cluster_host(self, name: str) -> Host:
        if name != "d1":
            return super()._cluster_host(name)
        host = DebHost(name, self._say, inherits=(self._lock,))
        self._stack.callback(host.close)
        return host

    def install_debs(self, folder: Path) -> None:
        """Boot d1, install, configure, start."""
        host = self.host("d1")
        assert isinstance(host, DebHost)
        host.boot()
        host.install(folder)
        host.append(
            "/etc/calico/calico.env", f"ETCD_ENDPOINTS={self.etcd.endpoints}\nNODENAME={self.addresses['d1']}\n"
        )
        host.append("/etc/calico/felix.env", FELIX_ENV)
        host.start_units("calico-felix")
        self._mesos["d1"] = Mesos(host, "/usr/lib/cni", "/etc/cni/net.d")
        self._mesos["d1"].add_network(network_conf("calico", etcd_endpoints=self.etcd.endpoints))


@pytest.fixture
def mixed(debs: Mapping[str, Path]) -> Iterator[Mixed]:
    archive = dcos_package.archive()
    with Mixed(archive.with_name(archive.name.removesuffix(".tar.xz")), ("m1", "a1", "d1")) as cluster:
        cluster.boot("m1", "a1")
        cluster.start_etcd()
        cluster.start_units("m1", "a1")
        cluster.wait_ready("m1", "a1")
        cluster.install_debs(debs[NOW])
        yield cluster


def test_hosts_of_both_packages_are_one_cluster(mixed: Mixed) -> None:
    nodes = {node["metadata"]["name"]: node["spec"]["ipv4VXLANTunnelAddr"] for node in mixed.get("nodes")["items"]}
    assert set(nodes) == {mixed.addresses[name] for name in ("m1", "a1", "d1")}
    server = mixed.mesos("d1").launch("server", labels={"role": "server"})
    good = mixed.mesos("a1").launch("good", labels={"role": "good"})
    bad = mixed.mesos("a1").launch("bad", labels={"role": "bad"}, serve=False)
    for client in (good, bad):
        mixed.wait(f"{client.name} to be answered", lambda c=client: c.fetch(server.address, timeout_s=1)[0] == 0)  # type: ignore[misc]
    assert server.fetch(good.address)[0] == 0
    allow = [{"action": "Allow", "source": {"selector": "role == 'good'"}}]
    mixed.calicoctl("apply", "-f", "-", stdin=policy("server", "role == 'server'", types=["Ingress"], ingress=allow))
    mixed.wait("the policy on d1", lambda: bad.fetch(server.address, timeout_s=1)[0] == 28)
    assert good.fetch(server.address)[0] == 0

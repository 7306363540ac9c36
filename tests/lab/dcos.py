"""A stand-in for DC/OS's installer: what it lays down on a host around the package `calico` (spec/dcos.md 1, 2, 6),
and what of DC/OS the package calls. The environment is as hostile as DC/OS's (spec/dcos.md 1.1): Python modules that
end whoever imports them, and libraries that no loader takes, on the paths that every unit inherits."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.lab.systemd import SystemdHost
from tests.packaging import pkgpanda

ROOT = "/opt/mesosphere"
PLUGINS = f"{ROOT}/active/calico/cni"
NETWORKS = f"{ROOT}/etc/dcos/network/cni"
UNITS = ("dcos-calico-felix", "dcos-calico-confd", "dcos-calico-bird", "dcos-calico-libnetwork-plugin")
LIBNETWORK = UNITS[3]
PORT = 64000
"""UDP, of our VXLAN device and of DC/OS's own."""
MASTERS = "master.dcos.thisdcos.directory"
"""The name of all masters' addresses: here it stands in /etc/hosts."""
HOSTILE = f"""
mkdir -p {ROOT}/lib/python3.6/site-packages/kazoo {ROOT}/bin {ROOT}/etc {ROOT}/active /etc/mesosphere/roles
for name in json kazoo/__init__ asyncio logging re; do
  echo 'raise SystemExit("a module of another Python")' > {ROOT}/lib/python3.6/site-packages/$name.py
done
for name in ssl.so.3 crypto.so.3 ssl.so.1.1 stdc++.so.6 nftables.so.1 python3.11.so.1.0; do
  echo 'no library' > {ROOT}/lib/lib$name
done
"""
ENVIRONMENT = {**pkgpanda.ENVIRONMENT, "PYTHONHOME": f"{ROOT}/lib"}
BOOTSTRAP = "#!/bin/sh\nmkdir -p /var/lib/dcos && echo lab > /var/lib/dcos/cluster-id\n"


@dataclass(frozen=True)
class Options:
    """The installer's parameters, and `ipip`, which DC/OS has not: False is BGP without encapsulation."""

    cidr: str = "172.29.0.0/16"
    enabled: bool = True
    vxlan: bool = True
    ipip: bool = True

    def node_env(self) -> str:
        """calico-node.env, as the installer writes it: its lines and their order are DC/OS's."""
        common = {
            "NO_DEFAULT_POOLS": "false",
            "CALICO_IPV4POOL_CIDR": self.cidr,
            "CALICO_IPV4POOL_NAT_OUTGOING": "true",
            "FELIX_IGNORELOOSERPF": "true",
            "FELIX_LOGFILEPATH": "none",
            "FELIX_PROMETHEUSMETRICSENABLED": "true",
            "FELIX_PROMETHEUSMETRICSPORT": "62091",
        }
        vxlan = {
            "CALICO_IPV4POOL_IPIP": "never", "CALICO_IPV4POOL_VXLAN": "always", "CALICO_NETWORKING_BACKEND": "vxlan",
            "FELIX_VXLANMTU": "1450", "FELIX_VXLANPORT": str(PORT), "FELIX_VXLANVNI": "4096",
        }  # fmt: skip
        bgp = {
            "FELIX_IPINIPMTU": "1480", "CALICO_IPV4POOL_IPIP": "always" if self.ipip else "never",
            "CALICO_IPV4POOL_VXLAN": "never", "CALICO_NETWORKING_BACKEND": "bird",
        }  # fmt: skip
        return "".join(f"{key}={value}\n" for key, value in {**common, **(vxlan if self.vxlan else bgp)}.items())


def install(host: SystemdHost, package: Path, address: str, role: str, options: Options) -> None:
    """Lay all of it down on a host that is booted, as the installer does; starts nothing.

    `package`: the package's tree, which the host sees below `/opt/mesosphere/packages`. `role`: master, slave or
    slave_public."""
    host.run(HOSTILE)
    host.write(f"{ROOT}/environment", "".join(f"{key}={value}\n" for key, value in ENVIRONMENT.items()))
    host.run(["touch", f"/etc/mesosphere/roles/{role}"])
    for name, text in (("detect_ip", f"#!/bin/sh\necho {address}\n"), ("bootstrap", BOOTSTRAP)):
        host.write(f"{ROOT}/bin/{name}", text)
        host.run(["chmod", "755", f"{ROOT}/bin/{name}"])
    if options.enabled:
        configure(host, options)
    pkgpanda.link(host.root, role, package)
    host.write("/etc/systemd/system/dcos.target", "[Unit]\nDescription=The DC/OS services\n")
    host.systemctl("daemon-reload")


def configure(host: SystemdHost, options: Options) -> None:
    """Write the files of the installer's parameters (spec/dcos.md 6)."""
    etcd = f"http://{MASTERS}:2379"
    host.write(f"{ROOT}/etc/calico/calico_enabled", "")
    if not options.vxlan:
        host.write(f"{ROOT}/etc/calico/bird_enabled", "")
    host.write(f"{ROOT}/etc/calico/calico-node.env", options.node_env())
    host.write(f"{ROOT}/etc/calico/calico-node-datastore.env", f"ETCD_ENDPOINTS={etcd}\n")
    spec = f"spec:\n  datastoreType: etcdv3\n  etcdEndpoints: {etcd}\n"
    head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\n"
    host.write(f"{ROOT}/etc/calico/calicoctl.cfg", head + spec)
    delegate = {
        "cniVersion": "0.1.0", "type": "calico", "mtu": 1500, "etcd_endpoints": etcd, "ipam": {"type": "calico-ipam"},
    }  # fmt: skip
    mapper = {"name": "calico", "type": "mesos-cni-port-mapper", "excludeDevices": ["cali+"], "chain": "M-CALICO"}
    host.write(f"{NETWORKS}/calico.conf", json.dumps({**mapper, "delegate": delegate}))


def name_masters(host: SystemdHost, *addresses: str) -> None:
    """What the masters' name leads to from now on."""
    lines = "".join(f"{address} {MASTERS}\n" for address in addresses)
    text = f"127.0.0.1 localhost\n{lines}"
    host.run(f"printf %s {shlex.quote(text)} > /etc/hosts")


def health(host: SystemdHost, unit: str) -> str:
    """Why DC/OS's diagnostics call a unit unhealthy (spec/dcos.md 8.3); empty when they do not."""
    names = ("LoadState", "ActiveState", "SubState", "ExecMainStatus")
    load, active, sub, status = (host.show(unit, *names)[name] for name in names)
    if load != "loaded":
        return f"it is {load}"
    if active not in ("active", "inactive", "activating"):
        return f"it is {active}"
    if sub == "auto-restart":
        return "it is started again and again"
    return "" if status == "0" else f"its process has ended with status {status}"

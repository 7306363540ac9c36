"""What DC/OS's installer writes for the `calico_*` parameters, byte for byte (spec/dcos.md 6). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

ENDPOINTS = "http://master.dcos.thisdcos.directory:2379"
FOLDER = "/opt/mesosphere/etc/calico"
CNI_FOLDER = "/opt/mesosphere/etc/dcos/network/cni"
PLUGIN_FOLDERS = (
    "/opt/mesosphere/active/cni/", "/opt/mesosphere/active/dcos-cni/", "/opt/mesosphere/active/mesos/libexec/mesos",
)  # fmt: skip
OUR_PLUGIN_FOLDER = "/opt/mesosphere/active/calico/cni"
METRICS_PORT = 62091


def render(values: Mapping[str, str]) -> dict[str, str]:
    """{path: content} of `Checked.values`; nothing at all when Calico is off."""
    if values["calico_enabled"] != "true":
        return {}
    files = {
        f"{FOLDER}/calico_enabled": "",
        f"{FOLDER}/calico-node-datastore.env": f"ETCD_ENDPOINTS={ENDPOINTS}\n",
        f"{FOLDER}/calico-node.env": "".join(f"{name}={text}\n" for name, text in _node(values).items()),
        f"{FOLDER}/calicoctl.cfg": _calicoctl(),
        f"{CNI_FOLDER}/calico.conf": json.dumps(_cni(values), indent=2) + "\n",
    }
    if values["calico_vxlan_enabled"] == "false":
        files[f"{FOLDER}/bird_enabled"] = ""
    return dict(sorted(files.items()))


def mesos_environment(values: Mapping[str, str]) -> dict[str, str]:
    """The variables of the Mesos agent that lead it to the CNI plug-in."""
    ours = (OUR_PLUGIN_FOLDER,) if values["calico_enabled"] == "true" else ()
    return {
        "MESOS_NETWORK_CNI_CONFIG_DIR": CNI_FOLDER,
        "MESOS_NETWORK_CNI_PLUGINS_DIR": ":".join((*PLUGIN_FOLDERS, *ours)),
    }


def _node(values: Mapping[str, str]) -> dict[str, str]:
    """The lines of calico-node.env, in their order."""
    common = {
        "NO_DEFAULT_POOLS": "false",
        "CALICO_IPV4POOL_CIDR": values["calico_network_cidr"],
        "CALICO_IPV4POOL_NAT_OUTGOING": "true",
        "FELIX_IGNORELOOSERPF": "true",
        "FELIX_LOGFILEPATH": "none",
        "FELIX_PROMETHEUSMETRICSENABLED": "true",
        "FELIX_PROMETHEUSMETRICSPORT": str(METRICS_PORT),
    }
    if values["calico_vxlan_enabled"] == "false":
        return common | {
            "FELIX_IPINIPMTU": values["calico_ipinip_mtu"],
            "CALICO_IPV4POOL_IPIP": "always",
            "CALICO_IPV4POOL_VXLAN": "never",
            "CALICO_NETWORKING_BACKEND": "bird",
        }
    return common | {
        "CALICO_IPV4POOL_IPIP": "never",
        "CALICO_IPV4POOL_VXLAN": "always",
        "CALICO_NETWORKING_BACKEND": "vxlan",
        "FELIX_VXLANMTU": values["calico_vxlan_mtu"],
        "FELIX_VXLANPORT": values["calico_vxlan_port"],
        "FELIX_VXLANVNI": values["calico_vxlan_vni"],
    }


def _calicoctl() -> str:
    lines = (
        "apiVersion: projectcalico.org/v3",
        "kind: CalicoAPIConfig",
        "metadata:",
        "spec:",
        "  datastoreType: etcdv3",
        f"  etcdEndpoints: {ENDPOINTS}",
    )
    return "".join(f"{line}\n" for line in lines)


def _cni(values: Mapping[str, str]) -> dict[str, object]:
    return {
        "name": "calico",
        "type": "mesos-cni-port-mapper",
        "excludeDevices": ["cali+"],
        "chain": "M-CALICO",
        "delegate": {
            "cniVersion": "0.1.0",
            "type": "calico",
            "mtu": int(values["calico_veth_mtu"]),
            "etcd_endpoints": ENDPOINTS,
            "ipam": {"type": "calico-ipam"},
        },
    }

"""S5: what later boots, and nodes that join, do to what an operator has changed."""

from __future__ import annotations

import json

from tests.lab.booted import FELIX, Booted
from tests.lab.conftest import FirstBoot
from tests.lab.dcos import ROOT

CLOSED = {
    "egress": [{"action": "Allow"}],
    "ingress": [{"action": "Allow", "source": {"selector": "has(calico)"}}],
    "labelsToApply": {"calico": ""},
}
OPEN = {**CLOSED, "ingress": [{"action": "Allow"}]}
OLD = ("m1", "a1", "p1")


def join_as_new(units: Booted) -> None:
    """a3 joins: at the first call it is booted, later it forgets that it was a node; does not wait for its agent."""
    if "a3" in units.up:
        host = units.host("a3")
        host.systemctl("stop", FELIX)
        host.run("rm /var/lib/calico/nodename")
    else:
        units.boot("a3")
    units.start_units("a3")


def test_s05_ab_the_default_profile(units: Booted) -> None:
    profile = {
        "apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "calico"}, "spec": CLOSED,
    }  # fmt: skip
    units.calicoctl("apply", "-f", "-", stdin=json.dumps(profile))
    join_as_new(units)
    units.restart(FELIX, *OLD)
    units.wait_ready("a3")
    assert units.get("profile", "calico")["spec"] == CLOSED, "an operator's profile is never replaced"
    units.calicoctl("delete", "profile", "calico")
    units.restart(FELIX, *OLD)
    assert units.calicoctl("get", "profile", "calico", check=False).returncode == 1, "nodes that were there leave it"
    join_as_new(units)
    units.wait_ready("a3")
    assert units.get("profile", "calico")["spec"] == OPEN, "a new node brings it back"


def test_s05_c_another_network_changes_no_pool(units: Booted) -> None:
    host, file = units.host("a1"), f"{ROOT}/etc/calico/calico-node.env"
    before = units.get("ippool", "default-ipv4-ippool")["spec"]
    host.run(
        f"cp {file} /run/kept.env && sed -i 's|^CALICO_IPV4POOL_CIDR=.*|CALICO_IPV4POOL_CIDR=172.30.0.0/16|' {file}"
    )
    try:
        units.restart(FELIX, "a1")
    finally:
        host.run(f"cp /run/kept.env {file}")
    assert units.get("ippool", "default-ipv4-ippool")["spec"] == before
    warned = [line for line in host.journal(FELIX).splitlines() if "[WARNING]" in line and "172.30.0.0/16" in line]
    assert warned and "default-ipv4-ippool" in warned[-1]


def test_s05_d_nodes_that_start_at_one_instant(first_boot: FirstBoot) -> None:
    """Three did, on an empty etcd: no unit failed, and there is one pool of each family."""
    units = first_boot.cluster
    for name in OLD:
        assert "Failed with result" not in units.host(name).journal(FELIX)
    cidrs = [pool["spec"]["cidr"] for pool in units.get("ippool")["items"]]
    assert sorted(":" in cidr for cidr in cidrs) == [False, True], cidrs


def test_s05_e_an_address_that_another_node_has(units: Booted) -> None:
    host, taken = units.host("m1"), units.addresses["a1"]
    environment = {
        "PATH": "/usr/bin:/bin", "NODENAME": "impostor", "IP": taken, "NO_DEFAULT_POOLS": "true",
        "CALICO_NODENAME_FILE": "/run/impostor", "ETCD_ENDPOINTS": units.etcd.endpoints,
    }  # fmt: skip
    command = [f"{ROOT}/bin/calico-node", "-startup"]
    done = host.run(command, environment=environment, check=False)
    assert done.returncode == 1 and f"Calico node '{taken}' is already using" in done.stdout
    host.run("test ! -e /run/impostor")
    try:
        host.run(command, environment={**environment, "DISABLE_NODE_IP_CHECK": "true"})
        assert host.read("/run/impostor") == "impostor"
    finally:
        units.calicoctl("delete", "node", "impostor")

"""S36: diagnostics of hosts with real agents: everything is there, no secret is, and a dead or frozen etcd or a dead
agent holds nothing up."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.lab.cluster import BIN, Cluster

SECRETS = {
    "etcd password": "pl4nted-etcd-pass", "bgp password": "pl4nted-bgp-pass",
    "key": "UGw0bnRlZEtleUxpbmVPbmVPZkFLZXk0Mg==",
    "token": "pl4nted-acs-token", "environment": "pl4nted-in-environ", "argument": "pl4nted-argument",
    "object": "pl4nted-in-object", "annotation": "pl4nted-annotation",
}  # fmt: skip
PLANTED = (
    "/etc/calico/secrets", "/etc/calico/confd", "/etc/calico/client.key", "/etc/cni/net.d/20-x.conf",
    "/etc/calico/calico-node.env", "/var/log/calico/felix.log",
)  # fmt: skip
LONGEST_S = 45.0
DC_OS = ("node", "ipPool", "profile", "workloadEndpoint", "networkPolicy", "globalNetworkPolicy")


def archive(cluster: Cluster, host: str, *words: str) -> tuple[int, dict[str, str], float]:
    """Exit status, the archive's files as text, and how long the command took, in seconds."""
    begun_s = time.monotonic()
    done = cluster.hosts[host].run([str(BIN / "calicoctl"), *words], check=False, timeout_s=90)
    took_s = time.monotonic() - begun_s
    path = next(line for line in done.stdout.splitlines() if line.startswith("Diags saved to ")).split()[-1]
    raw = Path(f"/proc/{cluster.hosts[host].pid}/root{path}").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        texts = {one.name: opened.extractfile(one).read().decode("utf-8", "replace") for one in opened}  # type: ignore[union-attr]
    cluster.hosts[host].run(["rm", "-r", str(Path(path).parent)])
    return done.returncode, {name.removeprefix("diagnostics/"): text for name, text in texts.items()}, took_s


def plant(cluster: Cluster) -> subprocess.Popen[bytes]:
    """Secrets where a host and etcd may hold them."""
    host = cluster.hosts["a1"]
    host.write("/etc/calico/calico-node.env", f"ETCD_PASSWORD={SECRETS['etcd password']}\nNODENAME=x\n")
    host.write("/etc/calico/secrets/peers/password", SECRETS["bgp password"])
    host.write("/etc/calico/confd/config/bird.cfg", f'protocol bgp x {{ password "{SECRETS["bgp password"]}"; }}\n')
    key = f"-----BEGIN PRIVATE KEY-----\n{SECRETS['key']}\n-----END PRIVATE KEY-----\n"
    host.write("/etc/calico/client.key", key)
    host.write("/etc/cni/net.d/20-x.conf", f'{{"name": "x", "token": "{SECRETS["token"]}"}}\n')
    coded = base64.b64encode(SECRETS["bgp password"].encode()).decode()
    host.write(
        "/var/log/calico/felix.log", f"tried {SECRETS['etcd password']} and {coded}\n{key}x {SECRETS['token']}\n"
    )
    note = json.dumps({"token": SECRETS["annotation"]})
    spec = {"peerIP": "10.9.9.9", "asNumber": 1, "extensions": {"password": SECRETS["object"]}}
    metadata = {"name": "p", "annotations": {"note": note}}
    peer = json.dumps({"kind": "BGPPeer", "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec})
    cluster.etcdctl("put", "/calico/resources/v3/projectcalico.org/bgppeers/p", peer)
    cluster.etcdctl("put", "/calico/of-nobody", SECRETS["object"])
    host.write("/run/calico/calico-x", "sleep 300; true\n")
    command = ["sh", "/run/calico/calico-x", "--password", SECRETS["argument"]]
    return host.start(command, environment={"PATH": "/usr/bin:/bin", "CALICO_API_TOKEN": SECRETS["environment"]})


def assert_clean(texts: dict[str, str]) -> None:
    """None of the secrets, plain or in base64 at any place of a longer text."""
    for what, secret in SECRETS.items():
        forms = [secret, secret.encode().hex()]
        for before in range(3):
            coded = base64.b64encode(b"\0" * before + secret.encode()).decode()
            forms.append(coded[4:-4])
        for name, text in texts.items():
            assert not [form for form in forms if form in text], f"{what} in {name}"


def test_s36_node_and_cluster_diags_without_a_secret(cluster: Cluster) -> None:
    planted = plant(cluster)
    try:
        cluster.wait_programmed("a1")
        code, texts, took_s = archive(cluster, "a1", "node", "diags")
        assert code == 0 and took_s < LONGEST_S
        assert_clean(texts)
        assert "table inet calico" in texts["nft_ruleset"] and "default via" in texts["ipv4_route"]
        assert "vxlan.calico" in texts["fdb"] and '"in_sync": true' in texts["agent_status"]
        assert (
            "CALICO_API_TOKEN=<secret>" in texts["environment"]
            and "tried <secret>" in texts["logs/var/log/calico/felix.log"]
        )
        page = texts["index.md"]
        assert "BIRD does not run, although this host has a configuration for it" in page
        assert "| `nft_ruleset` |" in page and "`bird_protocols`" in page.partition("not whole")[2]
        code, texts, took_s = archive(cluster, "m1", "cluster", "diags")
        assert code == 0 and took_s < LONGEST_S
        assert_clean({name: text for name, text in texts.items() if name != "unknown_keys"})
        assert "name: p" in texts["resources/BGPPeer.yaml"] and "10.20.0.22" in texts["resources/Node.yaml"]
        assert "1 keys below /calico are of no kind that we know: /calico/of-nobody" in texts["index.md"]
        assert "IPAM" in texts["ipam_check"] and "serves; version" in texts["etcd"]
    finally:
        cluster.hosts["a1"].stop_process(planted, 9)
        cluster.etcdctl("del", "/calico/resources/v3/projectcalico.org/bgppeers/p")
        cluster.etcdctl("del", "/calico/of-nobody")
        cluster.hosts["a1"].run(["rm", "-rf", *PLANTED])


@pytest.mark.parametrize("state", ["frozen", "dead"])
def test_s36_with_etcd_away_and_the_agent_dead(cluster: Cluster, state: str) -> None:
    cluster.stop_agent("a2", 9)
    try:
        if state == "frozen":
            cluster.etcd.freeze("m1")
        else:
            cluster.etcd.kill("m1")
        code, texts, took_s = archive(cluster, "a2", "node", "diags")
        assert code == 0 and took_s < LONGEST_S
        assert "the agent (calico-felix) does not run" in texts["index.md"]
        assert "the etcd member at http://10.20.0.11:2379 cannot be used" in texts["index.md"]
        code, texts, took_s = archive(cluster, "m1", "cluster", "diags")
        assert code == 1 and took_s < LONGEST_S
        assert "the datastore does not answer" in texts["index.md"]
        for kind in DC_OS if state == "dead" else DC_OS[:1]:
            begun_s = time.monotonic()
            done = cluster.calicoctl("get", kind, "-o", "yaml", check=False, host="a2")
            assert done.returncode == 1 and done.stderr and time.monotonic() - begun_s < LONGEST_S
    finally:
        if state == "frozen":
            cluster.etcd.thaw("m1")
        else:
            cluster.start_etcd()


def test_s36_the_commands_of_the_dcos_bundle(cluster: Cluster) -> None:
    """With no policy at all every list is there and empty, and no command fails."""
    cluster.mesos("a1").launch("seen-in-the-bundle", serve=False)
    for kind in DC_OS:
        done = cluster.calicoctl("get", kind, "-o", "yaml", host="a1")
        assert "List" in done.stdout
    assert "items: []" in cluster.calicoctl("get", "networkPolicy", "-o", "yaml", host="a1").stdout
    assert "node: 10.20.0.21" in cluster.calicoctl("get", "workloadEndpoint", "-o", "yaml", host="a1").stdout
    assert "Calico process is running." in cluster.calicoctl("node", "status", host="a1").stdout

"""Docker networks on real engines: addresses, profiles, policy, labels (spec/scenarios.md S11, S15, S24, S26, S32)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker.engine import Engine
from tests.lab.cluster import Cluster

Engines = tuple[Engine, Engine]
POOL = """
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: web-pool}
spec: {cidr: 10.1.0.0/16, vxlanMode: Always, natOutgoing: true}
"""
PROFILE = """
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: web-profile}
spec:
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
  labelsToApply: {calico: ""}
"""
JAIL = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: jail}
spec: {selector: role == 'jailed', types: [Egress], egress: [{action: Deny}]}
"""


@pytest.fixture(scope="module")
def shop(engines: Engines) -> Iterator[Engines]:
    """Two networks without a subnet on both engines (S26)."""
    for engine in engines:
        for name in ("frontend-net", "database-net"):
            engine.docker("network", "create", "--driver=calico", "--ipam-driver=calico", name)
    yield engines
    for engine in engines:
        remove_containers(engine)
        for name in ("frontend-net", "database-net"):
            engine.docker("network", "rm", name)


def remove_containers(engine: Engine) -> None:
    if names := engine.docker("ps", "-aq").stdout.split():
        engine.docker("rm", "-f", *names)


@pytest.fixture(autouse=True)
def no_container(engines: Engines) -> Iterator[None]:
    yield
    for engine in engines:
        remove_containers(engine)


def objects(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    found = cluster.calicoctl("get", kind, "-A" if kind == "workloadendpoint" else "-a", "-o", "json", check=False)
    if found.returncode:
        found = cluster.calicoctl("get", kind, "-o", "json")
    return list(json.loads(found.stdout)["items"])


def endpoints(cluster: Cluster) -> list[dict[str, Any]]:
    return objects(cluster, "workloadendpoint")


def test_s26_networks_without_subnet(cluster: Cluster, shop: Engines) -> None:
    one, two = shop
    listed = one.docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").stdout.splitlines()
    assert {"frontend-net calico local", "database-net calico local"} <= set(listed)
    near, far = one.run("f1", "frontend-net"), two.run("f2", "frontend-net")
    other = two.run("d1", "database-net")
    assert all(address.startswith("172.29.") for address in (near, far, other))
    profiles = {item["metadata"]["name"]: item["spec"] for item in objects(cluster, "profile")}
    for name in ("frontend-net", "database-net"):
        assert profiles[name] == {
            "ingress": [{"action": "Allow", "source": {"selector": f"has({name})"}, "destination": {}}],
            "egress": [{"action": "Allow", "source": {}, "destination": {}}],
            "labelsToApply": {name: ""},
        } or profiles[name]["labelsToApply"] == {name: ""}
    assert one.pings("f1", far) and two.pings("f2", near)
    assert not one.pings("f1", other) and not two.pings("d1", near)


def test_s11_what_a_container_and_the_datastore_see(cluster: Cluster, shop: Engines) -> None:
    one = shop[0]
    address = one.run("c1", "frontend-net")
    links = one.execute("c1", "ip", "addr").stdout
    assert f"inet {address}/32 " in links and "cali0" in links and "mtu 1450" in links
    routes = one.execute("c1", "ip", "route").stdout.split("\n")
    assert [line.strip() for line in routes[:2]] == [
        "default via 169.254.1.1 dev cali0",
        "169.254.1.1 dev cali0 scope link",
    ]
    (endpoint,) = endpoints(cluster)
    spec = endpoint["spec"]
    assert (spec["orchestrator"], spec["workload"], spec["node"]) == ("libnetwork", "libnetwork", "10.20.0.21")
    assert (spec["profiles"], spec["ipNetworks"]) == (["frontend-net"], [f"{address}/32"])
    assert spec["mac"] in links and spec["interfaceName"] == f"cali{spec['endpoint'][:11]}"
    one.docker("rm", "-f", "c1")
    assert endpoints(cluster) == []
    assert "found 0 problems" in cluster.calicoctl("ipam", "check").stdout


def test_s15_labels_reach_the_endpoint_before_its_first_packet(cluster: Cluster, shop: Engines) -> None:
    """The network's profile lets all out; the policy for the label does not. Nothing may pass before it."""
    one, two = shop
    cluster.calicoctl("apply", "-f", "-", stdin=JAIL)
    target = two.run("target", "frontend-net")
    rule = f"ip daddr {target} icmp type echo-request counter"
    two.host.run(f"nft 'add table ip probe; add chain ip probe seen {{ type filter hook prerouting priority -300; }};"
                 f" add rule ip probe seen {rule}'")  # fmt: skip
    try:
        label = "org.projectcalico.label.role"
        for number in range(5):
            words = ("--label", f"{label}=jailed", "--label", f"{label}!=bad")
            one.run(f"jailed{number}", "frontend-net", *words, command=f"ping -c3 -i0.2 -W1 {target}")
        one.docker("wait", *(f"jailed{number}" for number in range(5)))
        assert "packets 0 " in two.host.run(["nft", "list", "chain", "ip", "probe", "seen"]).stdout
        one.run("free", "frontend-net", "--label", f"{label}=free")
        assert one.pings("free", target)
        stored = {json.dumps(item["metadata"]["labels"]): item for item in endpoints(cluster)}
        assert any('"role": "free"' in labels for labels in stored)
        assert not any("annotations" in item["metadata"] for item in stored.values())
        assert "role!" in one.log() and "is left out" in one.log()
    finally:
        two.host.run(["nft", "delete", "table", "ip", "probe"])
        cluster.calicoctl("delete", "globalnetworkpolicy", "jail")


def test_s32_ten_containers_on_one_port(shop: Engines) -> None:
    one = shop[0]
    listening = one.host.run(["ss", "-ltn"]).stdout
    addresses = [one.run(f"w{number}", "frontend-net", command="httpd -f -p 80 -h /bin") for number in range(10)]
    one.run("client", "frontend-net")
    for address in addresses:
        assert one.execute("client", "wget", "-q", "-O-", f"http://{address}/true").returncode == 0
    assert len(set(addresses)) == 10 and one.host.run(["ss", "-ltn"]).stdout == listening


@pytest.fixture
def web(cluster: Cluster) -> Iterator[None]:
    for text in (POOL, PROFILE):
        assert "Successfully created 1" in cluster.calicoctl("create", "-f", "-", stdin=text).stdout
    yield
    cluster.calicoctl("delete", "ippool", "web-pool")
    cluster.calicoctl("delete", "profile", "web-profile")


def test_s24_pool_profile_and_network(cluster: Cluster, web: None, engines: Engines) -> None:
    one, two = engines
    create = ("network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam", "--opt",
              "org.projectcalico.profile=web-profile")  # fmt: skip
    ids = [engine.docker(*create, "--subnet=10.1.0.0/16", "web-net").stdout.strip() for engine in engines]
    assert len(set(ids)) == 2
    wrong = one.docker(*create, "--subnet=10.2.0.0/16", "wrong-net", check=False)
    assert "The requested subnet must match the CIDR of a configured Calico IP Pool." in wrong.stderr
    near, far = one.run("w1", "web-net"), two.run("w2", "web-net")
    assert near.startswith("10.1.") and far.startswith("10.1.")
    assert one.pings("w1", far) and two.pings("w2", near)
    assert {item["spec"]["profiles"][0] for item in endpoints(cluster)} == {"web-profile"}
    fixed = one.run("w3", "web-net", "--ip", "10.1.200.7", "--mac-address", "0a:00:00:00:00:07")
    assert fixed == "10.1.200.7" and "0a:00:00:00:00:07" in one.execute("w3", "ip", "link").stdout
    assert two.pings("w2", fixed)
    taken = two.docker("run", "--network", "web-net", "--ip", "10.1.200.7", "box", "true", check=False)
    assert "IP assignment error" in taken.stderr and "10.1.200.7" in taken.stderr
    for engine in engines:
        remove_containers(engine)
    notes = pool_annotations(cluster)
    assert notes["org.projectcalico.label.network.ID"] in ids
    for engine in engines:
        engine.docker("network", "rm", "web-net")
    assert pool_annotations(cluster) == {}
    assert not any(number in key for key in records(cluster) for number in ids)
    assert "found 0 problems" in cluster.calicoctl("ipam", "check").stdout


def records(cluster: Cluster) -> list[str]:
    return cluster.etcdctl("get", "--prefix", "--keys-only", "/calico/libnetwork/").stdout.split()


def pool_annotations(cluster: Cluster) -> dict[str, str]:
    found = json.loads(cluster.calicoctl("get", "ippool", "web-pool", "-o", "json").stdout)["metadata"]
    notes = found.get("annotations", {})
    return {name: value for name, value in notes.items() if name.startswith("org.projectcalico.label.")}


def test_a_second_network_of_a_container(cluster: Cluster, web: None, shop: Engines) -> None:
    """Each with a pool of its own, as a container in two networks needs it."""
    one, two = shop
    create = ("network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam")
    networks = {"main-net": "172.29.0.0/16", "web-net": "10.1.0.0/16"}
    for engine in shop:
        for name, subnet in networks.items():
            engine.docker(*create, "--opt", f"org.projectcalico.profile={name}", f"--subnet={subnet}", name)
    one.run("both", "main-net")
    front, web_only = two.run("front", "main-net"), two.run("web", "web-net")
    assert one.pings("both", front) and not one.pings("both", web_only)
    one.docker("network", "connect", "web-net", "both")
    second = one.address("both", "web-net")
    assert second in one.execute("both", "ip", "addr").stdout
    assert one.pings("both", front) and one.pings("both", web_only) and two.pings("web", second)
    for _ in range(3):
        one.docker("restart", "-t0", "both")
        assert one.pings("both", front) and one.pings("both", web_only)
    second = one.address("both", "web-net")
    one.docker("network", "disconnect", "web-net", "both")
    assert second not in one.execute("both", "ip", "addr").stdout and not two.pings("web", second)
    for engine in shop:
        remove_containers(engine)
        engine.docker("network", "rm", *networks)
    assert endpoints(cluster) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--opt", "color=red"), "Unknown option 'color'"),
        (("--opt", "org.projectcalico.profile=No Such"), "cannot be a profile's name"),
        (("--internal",), "cannot be internal"),
        (("--gateway", "172.29.0.1", "--subnet", "172.29.0.0/16"), "does not support specifying a gateway"),
        (("--subnet", "172.29.0.0/16", "--ip-range", "172.29.1.0/24"), "does not support sub pool"),
        (("--ipam-opt", "a=b"), "Arbitrary options are not supported"),
        (("--subnet", "172.30.0.0/16"), "must match the CIDR of a configured Calico IP Pool"),
        (("--ipam-driver", "default"), "Non-Calico IPAM driver is used"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(
    cluster: Cluster, engines: Engines, options: tuple[str, ...], words: str
) -> None:
    driver = () if "--ipam-driver" in options else ("--ipam-driver", "calico-ipam")
    before = records(cluster)
    refused = engines[0].docker("network", "create", "--driver", "calico", *driver, *options, "no-net", check=False)
    assert refused.returncode == 1 and words in refused.stderr, refused.stderr
    assert records(cluster) == before


def test_what_stands_when_plugin_and_engine_die(cluster: Cluster, shop: Engines) -> None:
    one, two = shop
    address, peer = one.run("stays", "frontend-net", "--restart", "always"), two.run("peer", "frontend-net")
    one.stop_plugin()
    assert two.pings("peer", address)
    one.stop_engine(9)
    assert two.pings("peer", address)
    one.start_plugin()
    one.start_engine()
    assert one.pings("stays", peer)
    assert one.run("later", "frontend-net") != address
    one.docker("rm", "-f", "stays", "later")
    two.docker("rm", "-f", "peer")
    assert endpoints(cluster) == []
    assert "found 0 problems" in cluster.calicoctl("ipam", "check").stdout


def test_a_new_plugin_opens_what_the_former_left_closed(cluster: Cluster, shop: Engines) -> None:
    one, two = shop
    address = one.run("shut", "frontend-net", "--label", "org.projectcalico.label.role=web")
    two.run("peer", "frontend-net")
    assert two.pings("peer", address)
    (endpoint,) = (item for item in endpoints(cluster) if item["spec"]["ipNetworks"] == [f"{address}/32"])
    one.stop_plugin()
    words = (
        "patch",
        "workloadendpoint",
        endpoint["metadata"]["name"],
        "--namespace",
        endpoint["metadata"]["namespace"],
    )
    cluster.calicoctl(
        *words, "--patch", json.dumps({"metadata": {"annotations": {"projectcalico.org/closed": "true"}}})
    )
    cluster.wait("the endpoint to be closed", lambda: not two.pings("peer", address))
    one.start_plugin()
    cluster.wait("the endpoint to be open", lambda: two.pings("peer", address))


def test_without_an_agent_a_start_fails_with_what_to_do_and_leaves_nothing(cluster: Cluster, shop: Engines) -> None:
    one = shop[0]
    cluster.stop_agent("a1")
    refused = one.docker("run", "--network", "frontend-net", "box", "true", check=False)
    assert "is dcos-calico-felix running?" in refused.stderr, refused.stderr
    cluster.start_agent("a1")
    cluster.wait_agent("a1")
    remove_containers(one)
    assert one.run("works", "frontend-net")
    one.docker("rm", "-f", "works")
    assert endpoints(cluster) == []
    assert re.search("found 0 problems", cluster.calicoctl("ipam", "check").stdout)

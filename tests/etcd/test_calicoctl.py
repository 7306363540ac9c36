"""`calicoctl` as people run it: a process, a real etcd, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcalico.client.blocking import Client
from libcalico.testing.etcd import Etcd

MANY = 3000
SHELL = 'calicoctl() { %s -m calicoctl.main "$@"; }; %s; exit ${PIPESTATUS[0]}'


class Cluster:
    """An etcd of its own, and calicoctl on it."""

    def __init__(self, server: Etcd, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": server.endpoint}
        self.client = Client(endpoints=server.endpoint)

    def shell(self, command: str, stdin: str = "") -> tuple[int, str, str]:
        """Status of the first program of a pipe, and both outputs."""
        done = subprocess.run(
            ["bash", "-c", SHELL % (sys.executable, command)],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def cluster(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(etcd, tmp_path_factory.mktemp("calicoctl"))
    with made.client:
        yield made


@pytest.fixture(scope="module")
def many(cluster: Cluster) -> Cluster:
    """More sets than a pipe holds."""
    documents = [
        {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": f"s{number}"},
         "spec": {"nets": ["192.0.2.1/32"]}}
        for number in range(MANY)
    ]  # fmt: skip
    status, out, err = cluster.shell("calicoctl apply -f -", "\n---\n".join(map(json.dumps, documents)))
    assert (status, err) == (0, "")
    assert out == f"Successfully applied {MANY} 'GlobalNetworkSet' resource(s)\n"
    return cluster


@pytest.mark.parametrize("output", ["ps", "wide", "yaml", "json", "custom-columns=NAME"])
def test_a_reader_that_has_enough_ends_get_silently(many: Cluster, output: str) -> None:
    status, out, err = many.shell(f"calicoctl get globalnetworksets -o {output} | head -n 1")
    fits_into_a_pipe = output not in ("yaml", "json")
    assert (status in ((0, 141) if fits_into_a_pipe else (141,)), out.count("\n"), err) == (True, 1, "")


@pytest.mark.parametrize(
    "words",
    ["get globalnetworksets", "ipam show", "ipam check", "version", "label globalnetworkset s1 a=b --overwrite"],
)
@pytest.mark.parametrize(
    ("where", "reason"), [(">/dev/full", "no space left on device"), (">&-", "bad file descriptor")]
)
def test_output_that_cannot_be_written_is_one_line(many: Cluster, words: str, where: str, reason: str) -> None:
    refused = (1, "", f"write: {reason} (standard output is incomplete)\n")
    assert many.shell(f"calicoctl {words} {where}") == refused


def test_a_closed_input_changes_nothing(many: Cluster) -> None:
    status, out, err = many.shell("calicoctl apply -f - <&-")
    assert (status, out, err) == (
        1,
        "",
        "failed to execute command: cannot read standard input: bad file descriptor\n",
    )


def test_what_nothing_holds_is_found_and_freed(cluster: Cluster) -> None:
    """The how-to of docs/howto/addresses.md: two reports, and only what leaked in both goes."""
    client = cluster.client
    client.ensure_initialized()
    client.create({"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.61.0.0/24", "blockSize": 28}})
    client.create({"kind": "Node", "metadata": {"name": "a1"}})
    for number in range(5):
        client.ipam.assign_ip(f"10.61.0.{number}", f"net.c{number}", {"node": "a1"}, host="a1")
    client.create(
        {"kind": "WorkloadEndpoint", "metadata": {"namespace": "default"},
         "spec": {"node": "a1", "orchestrator": "cni", "containerID": "c0", "endpoint": "eth0",
                  "interfaceName": "calic0", "ipNetworks": ["10.61.0.0/32"]}}
    )  # fmt: skip
    status, out, err = cluster.shell("calicoctl ipam check --show-problem-ips -o first.json")
    assert (status, err) == (0, "")
    assert "Found 4 IPs that are allocated in IPAM but not actually in use.\n" in out
    assert "  10.61.0.3 leaked; attrs Main:net.c3 Extra:node=a1\n" in out
    client.ipam.release_by_handle("net.c1", host="a1")
    client.ipam.assign_ip("10.61.0.1", "net.new", {"node": "a1"}, host="a1")
    assert cluster.shell("calicoctl ipam check -o second.json")[0] == 0
    words = "ipam release --from-report=first.json --from-report=second.json"
    refused = "data store is not locked. Either lock the data store, or re-run with --force\n"
    assert cluster.shell(f"calicoctl {words}") == (1, "", refused)
    status, out, err = cluster.shell(f"calicoctl {words} --force")
    assert (status, err) == (0, "")
    assert "Releasing 3 old IPs...\nReleased 3 IPs successfully\n" in out
    held = {one.address: one.handle for one in client.ipam.check().allocations}
    assert held == {"10.61.0.0": "net.c0", "10.61.0.1": "net.new"}
    assert set(client.ipam.check().handles) == {"net.c0", "net.new"}
    assert cluster.shell("calicoctl ipam release --ip=10.61.0.1")[:2] == (
        0,
        "Successfully released IP address 10.61.0.1\n",
    )
    assert cluster.shell("calicoctl ipam check")[1].endswith("Check complete; found 0 problems.\n")


NOT_LOADED = ("grpc", "google.protobuf", "asyncio")
NOT_FOR_READING = ("yaml", "logging", "libcalico.model.validation", "typing_extensions")
PROBE = """
import sys
from calicoctl import start
start.prepare()
from calicoctl.main import main
status = main(sys.argv[1:])
print([name for name in {names} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("get nodes", (*NOT_LOADED, *NOT_FOR_READING)),
        ("version", (*NOT_LOADED, *NOT_FOR_READING)),
        ("get globalnetworksets small -o yaml", NOT_LOADED),
        ("apply -f in.yaml", NOT_LOADED),
        ("replace -f in.yaml", NOT_LOADED),
        ("label globalnetworkset small a=b --overwrite", NOT_LOADED),
        ("patch globalnetworkset small -p {}", NOT_LOADED),
        ("delete -f in.yaml", NOT_LOADED),
        ("create -f in.yaml", NOT_LOADED),
    ],
)
def test_a_command_loads_what_it_needs(cluster: Cluster, line: str, names: tuple[str, ...]) -> None:
    """What is not loaded takes longer to load than the command to run (docs/adr/0040)."""
    kind = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n"
    (cluster.folder / "in.yaml").write_text(f"{kind}metadata: {{name: small}}\nspec: {{nets: [10.0.0.0/8]}}\n")
    cluster.client.ensure_initialized()
    if not line.startswith("create"):
        cluster.client.apply({"kind": "GlobalNetworkSet", "metadata": {"name": "small"}, "spec": {}})
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("{names}", repr(names)), *line.split()],
        cwd=cluster.folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n"), done.stderr

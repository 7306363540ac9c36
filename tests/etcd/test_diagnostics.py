"""`calicoctl cluster diags` and `node diags` with a real etcd that is well, frozen and dead: no secret, and in time."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from libcalico.testing.etcd import Etcd

SECRETS = ("pl4nted-in-an-object", "pl4nted-annotation", "pl4nted-in-environ", "pl4nted-in-a-file")
LONGEST_S = 45.0
RESOURCES = "/calico/resources/v3/projectcalico.org/"


def put(etcd: Etcd, key: str, value: str) -> None:
    command = ["etcdctl", "--endpoints", etcd.endpoint, "put", key, value]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})


def diags(etcd: Etcd, folder: Path, command: str) -> tuple[int, dict[str, str]]:
    """Exit status, and the archive's files as text."""
    environment = {
        "PATH": os.environ["PATH"], "ETCD_ENDPOINTS": etcd.endpoint, "TMPDIR": str(folder), "X_TOKEN": SECRETS[2],
        "CALICO_NODE_SOCKET": str(folder / "no-agent"),
    }  # fmt: skip
    words = [sys.executable, "-m", "calicoctl.main", command, "diags"]
    words += ["--log-dir", str(folder / "log")] if command == "node" else []
    begun_s = time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert time.monotonic() - begun_s < LONGEST_S
    line = next(one for one in done.stdout.splitlines() if one.startswith("Diags saved to "))
    with tarfile.open(line.split()[-1]) as opened:
        texts = {one.name: opened.extractfile(one).read().decode("utf-8", "replace") for one in opened}  # type: ignore[union-attr]
    for name, text in [*texts.items(), ("stdout", done.stdout), ("stderr", done.stderr)]:
        assert not [form for secret in SECRETS for form in coded(secret) if form in text], name
    return done.returncode, {name.removeprefix("diagnostics/"): text for name, text in texts.items()}


def coded(secret: str) -> list[str]:
    """A secret plain, in hexadecimal, and inside base64."""
    parts = [base64.b64encode(b"\0" * before + secret.encode()).decode()[4:-4] for before in range(3)]
    return [secret, secret.encode().hex(), *parts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    log = f"password={SECRETS[3]}\ntried {SECRETS[2]} and {base64.b64encode(SECRETS[2].encode()).decode()}\n"
    (tmp_path / "log" / "felix.log").write_text(log)
    return tmp_path


def test_diagnostics_of_a_cluster_and_a_host(etcd: Etcd, folder: Path, root: None) -> None:
    metadata = {"name": "p", "annotations": {"note": json.dumps({"token": SECRETS[1]})}}
    put(etcd, f"{RESOURCES}bgppeers/p", json.dumps({
        "kind": "BGPPeer", "apiVersion": "projectcalico.org/v3", "metadata": metadata,
        "spec": {"peerIP": "10.9.9.9", "asNumber": 1, "node": f"password={SECRETS[0]}"},
    }))  # fmt: skip
    put(etcd, f"{RESOURCES}nodes/n", '{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"}}')
    put(etcd, f"{RESOURCES}profiles/x", SECRETS[0])
    put(etcd, "/calico/of-nobody", SECRETS[0])
    code, texts = diags(etcd, folder, "cluster")
    page = texts["index.md"]
    assert code == 0, page
    assert "peerIP: 10.9.9.9" in texts["resources/BGPPeer.yaml"] and "serves; version" in texts["etcd"]
    for line in (
        "- the node n has no address: no host has routes to its workloads (see `resources/Node.yaml`)",
        "- 1 keys below /calico are of no kind that we know: /calico/of-nobody (see `unknown_keys`)",
        f"- a stored object cannot be read, and counts as absent: {RESOURCES}profiles/x (see `unknown_keys`)",
        "- there is no IP pool in use: no container gets an address (see `resources/IPPool.yaml`)",
    ):
        assert line in page
    code, texts = diags(etcd, folder, "node")
    assert code == 0 and "tried <secret> and <secret>" in texts[f"logs{folder}/log/felix.log"]
    assert "the agent (calico-felix) does not run" in texts["index.md"]
    _without_etcd(etcd, folder)


def _without_etcd(etcd: Etcd, folder: Path) -> None:
    """Frozen, then dead."""
    (process,) = _processes(etcd)
    os.kill(process, signal.SIGSTOP)
    try:
        _are_in_time(etcd, folder, "no answer")
    finally:
        os.kill(process, signal.SIGCONT)
    etcd.kill()
    _are_in_time(etcd, folder, "connection refused")


def _are_in_time(etcd: Etcd, folder: Path, reason: str) -> None:
    code, texts = diags(etcd, folder, "cluster")
    assert code == 1 and "the datastore does not answer" in texts["index.md"]
    code, texts = diags(etcd, folder, "node")
    assert code == 0 and f"the etcd member at {etcd.endpoint} cannot be used: {reason}" in texts["index.md"]


def _processes(etcd: Etcd) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if words[0].endswith(b"etcd") and etcd.endpoint.encode() in words:
            found.append(int(path.parent.name))
    return found

"""`calicoctl` from start to exit, as a process, on an etcd of its own: beside a Python that does nothing.

    python -m tests.scale.bench_calicoctl

Compiled modules are on disk, as an installation has them. Each round runs every command once, so that what else the
machine does meets all of them alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from libcalico.client.blocking import Client
from libcalico.testing.etcd import Etcd
from tests.scale.report import report

ROUNDS = 30
BARE = "python -c pass"
NODES = 10
POLICY = """apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, 443]}}]
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    program = [shutil.which("calicoctl", path=str(Path(sys.executable).parent)) or "calicoctl"]
    (folder / "web.yaml").write_text(POLICY)
    spec = f"{{etcdEndpoints: '{os.environ['ETCD_ENDPOINTS']}'}}"
    (folder / "calicoctl.cfg").write_text(f"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec: {spec}\n")
    return {
        BARE: [sys.executable, "-c", "pass"],
        "python -c 'import msgspec'": [sys.executable, "-c", "import msgspec"],
        "get nodes": [*program, "get", "nodes"],
        "get nodes, settings in a file": [*program, "get", "nodes", "-c", str(folder / "calicoctl.cfg")],
        "get pools -o yaml": [*program, "get", "pools", "-o", "yaml"],
        "apply of one policy": [*program, "apply", "-f", str(folder / "web.yaml")],
        "version": [*program, "version"],
        "ipam show": [*program, "ipam", "show"],
    }


def run_ms(command: list[str]) -> float:
    """Milliseconds from start to exit."""
    begun_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - begun_s)


def main() -> None:
    """One line a command."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        etcd = Etcd(folder)
        etcd.start()
        try:
            os.environ["ETCD_ENDPOINTS"] = etcd.endpoint
            with Client() as client:
                client.ensure_initialized("v3.32.1")
                client.create({"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.1.0.0/16"}})
                for number in range(NODES):
                    client.create({"kind": "Node", "metadata": {"name": f"a{number}"}})
            wanted = commands(folder)
            took: dict[str, list[float]] = {words: [] for words in wanted}
            for number in range(ROUNDS + 1):
                for words, command in wanted.items():
                    ms = run_ms(command)
                    if number:  # the first round writes what is compiled
                        took[words].append(ms)
        finally:
            etcd.kill()
    bare_ms = statistics.median(took[BARE])
    for words, each_ms in took.items():
        ratio = round(statistics.median(each_ms) / bare_ms, 2)
        report(words, "ms", each_ms, least=round(min(each_ms), 1), to_bare_python=ratio)


if __name__ == "__main__":
    main()

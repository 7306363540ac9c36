"""Plays packet verdicts on the real kernel with the real agent: `calico_felix.main` and an etcd on a private host.

One agent serves all scenarios that have its settings: the datastore changes beneath it, and probes are sent when the
kernel reflects the change. `formats/verdicts.py` starts it and reads one JSON line a scenario from its stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from libcalico.client.initialise import ensure_initialized
from libcalico.clock import SystemClock
from libcalico.conventions import NODE_SOCKET
from libcalico.datastore.contract import Delete, Put
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.model.felix_fields import parameter_name
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.testing.etcd import Etcd
from libcalico.testing.machine import DIE_WITH_US
from tests.compat.private_host import MEMORY, enter_private_host, sh
from tests.compat.verdict_lab import ROUND_TAGS, Round, Servers, build_network, ends_of, rounds
from tests.compat.verdict_probes import Probe, stored_key, verdict_of

RESTART_CODE = 129
IN_SYNC_S = 30.0
STOP_S = 20.0
OPERATIONS_AT_ONCE = 100
DESCRIPTORS = 8192


def environment_of(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Settings in a FelixConfiguration's spelling, as variables for the agent."""
    return {f"FELIX_{parameter_name(name).upper()}": _text(value) for name, value in (settings or {}).items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "none"
    if isinstance(value, dict):  # a failsafe port
        return ":".join(str(value[name]).lower() for name in ("protocol", "net", "port") if value.get(name))
    return str(value).lower() if isinstance(value, bool) else str(value)


class Agent:
    """The agent's process, started again when it asks for it."""

    def __init__(self, folder: Path, endpoint: str, host: str) -> None:
        self._folder = folder
        self._base = {
            "PATH": os.environ["PATH"], "ETCD_ENDPOINTS": endpoint, "FELIX_FELIXHOSTNAME": host,
            "FELIX_LOGSEVERITYSCREEN": "warning",
            **{name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "CALICO_NO_NATIVE"))},
        }  # fmt: skip
        self._settings: dict[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def use(self, settings: dict[str, str]) -> None:
        """Run with these settings; a running agent that has them goes on."""
        if settings != self._settings:
            self.stop()
            self._settings = settings
            self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [*DIE_WITH_US, sys.executable, "-m", "calico_felix.main"],
            env={**self._base, **(self._settings or {})},
            stdout=(self._folder / "felix.log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        """SIGTERM, and if that does not help SIGKILL; what is programmed stays."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def wait_programmed(self, revision: int) -> None:
        """Until the kernel reflects this revision of the datastore."""
        deadline = time.monotonic() + IN_SYNC_S
        status: dict[str, Any] = {}
        while status.get("programmed_revision", 0) < revision or not status.get("in_sync"):
            if self._process is not None and self._process.poll() is not None:
                self._settings = self._settings if self._process.returncode == RESTART_CODE else None
                assert self._settings is not None, f"the agent has ended: {self.last_words()}"
                self._start()
            assert time.monotonic() < deadline, f"revision {revision} is not programmed: {status} {self.last_words()}"
            time.sleep(0.005)
            status = ask_status()

    def last_words(self) -> str:
        """The end of its log."""
        return (self._folder / "felix.log").read_text(errors="replace")[-2000:]


def ask_status() -> dict[str, Any]:
    """What the agent has programmed; nothing while it does not answer."""
    try:
        with grpc.insecure_channel(f"unix:{NODE_SOCKET}") as channel:
            reply = stubs.NodeStub(channel).Status(pb.StatusRequest(), timeout=5)
    except grpc.RpcError:
        return {}
    return {"programmed_revision": reply.programmed_revision, "in_sync": reply.follows}


class Player:
    """The host h1 with its agent, for one topology."""

    def __init__(self, topology: dict[str, Any], probes: list[Probe], folder: Path) -> None:
        self._ends = ends_of(topology)
        build_network(topology, self._ends)
        self._servers = Servers(self._ends, probes)
        self._etcd = Etcd(folder)
        self._etcd.start()
        self._runner = asyncio.Runner()
        self._store = self._runner.run(self._open())
        self._standing: dict[str, bytes] = self._runner.run(self._read())
        self._base = dict(self._standing)
        self._base |= {stored_key(one): json.dumps(one).encode() for one in topology["resources"]}
        self._revision = 0
        self._agent = Agent(folder, self._etcd.endpoint, topology["host"])
        self._rounds = 0

    async def _open(self) -> EtcdDatastore:
        store = EtcdDatastore(EtcdConfig((self._etcd.endpoint,)))
        await ensure_initialized(store, SystemClock())
        return store

    async def _read(self) -> dict[str, bytes]:
        return {kv.key.decode(): kv.value for kv in (await self._store.range(b"/calico/")).kvs}

    def play(self, scenario: dict[str, Any]) -> list[str]:
        """Every probe with a wrong verdict."""
        wanted = dict(self._base)
        wanted |= {stored_key(one): json.dumps(one).encode() for one in scenario["resources"]}
        revision = self._runner.run(self._change_to(wanted))
        self._agent.use(environment_of(scenario.get("felix")))
        self._agent.wait_programmed(revision)
        allowed: set[int] = set()
        right = {n for n, probe in enumerate(scenario["probes"]) if verdict_of(probe)}
        for group in rounds(scenario["probes"]):
            sh("conntrack", "-F")
            self._rounds += 1
            round_ = Round(self._servers, self._ends, group, self._rounds * ROUND_TAGS)
            allowed |= round_.run(right & group.keys())
        return [
            f"probe {number} {json.dumps(probe)}: {'allowed' if number in allowed else 'denied'}"
            for number, probe in enumerate(scenario["probes"])
            if (number in allowed) != verdict_of(probe)
        ]

    async def _change_to(self, wanted: dict[str, bytes]) -> int:
        """Make the datastore hold these keys, if possible in one transaction; the revision at which it does."""
        changes: list[Put | Delete] = [Delete(key.encode()) for key in self._standing.keys() - wanted.keys()]
        changes += [Put(k.encode(), v) for k, v in wanted.items() if self._standing.get(k) != v]
        for start in range(0, len(changes), OPERATIONS_AT_ONCE):
            result = await self._store.txn([], changes[start : start + OPERATIONS_AT_ONCE])
            self._revision = result.revision
        self._standing = wanted
        return self._revision

    def close(self) -> None:
        """End agent and etcd."""
        self._agent.stop()
        self._runner.run(self._store.close())
        self._runner.close()
        self._etcd.kill()


def main() -> int:
    """`verdict_player TOPOLOGY`: play the scenarios that stdin has, one JSON line each, as they come."""
    topology = json.loads(Path(sys.argv[1]).read_text())
    scenarios = [json.loads(line) for line in sys.stdin]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(DESCRIPTORS, hard)), hard))
    enter_private_host()
    probes = [probe for scenario in scenarios for probe in scenario["probes"]]
    folder = MEMORY if os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="t-verdicts-", dir=folder) as path:
        player = Player(topology, probes, Path(path))
        try:
            for scenario in scenarios:
                try:
                    found = player.play(scenario)
                except Exception:
                    found = [f"crashed: {traceback.format_exc()}"]
                print(json.dumps({"name": scenario["name"], "differences": found}), flush=True)
        finally:
            player.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

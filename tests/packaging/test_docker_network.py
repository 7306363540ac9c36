"""create-calico-docker-network.py (spec/dcos.md 3.6): daemon.json, the lock, one network for all or each its own."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from calico_dcos import boot_lock, daemon_json, docker_network
from calico_dcos.boot_lock import BootLock, LockError
from calico_dcos.daemon_json import Refused, store_options, update
from calico_dcos.docker_network import Failed, Host, bring
from libcalico.testing.clock import ManualClock
from tests.packaging.zookeeper import ZooKeeper

SUBNET = "172.29.0.0/16"
CREATED_BY = f"{boot_lock.PREFIX}/created_by"


WAIT = """
import signal, sys
signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1], "w").close())
print(flush=True)
while True:
    signal.pause()
"""
"""Docker's process: it says in a file that it was asked to read daemon.json."""


class Engine(BaseHTTPRequestHandler):
    """Docker Engine, or a plug-in of it, as far as the script asks."""

    protocol_version = "HTTP/1.0"
    server: Any

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server.state
        if self.path == "/info":
            self.answer(200, {"ServerVersion": state.version, "ClusterStore": state.store()})
        elif self.path.startswith("/networks/"):
            found = state.networks.get(self.path.rpartition("/")[2])
            self.answer(200 if found else 404, found or {"message": "network calico not found"})
        else:
            self.answer(200, {"Scope": "global"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.state.created.append(body)
        self.server.state.networks[body["Name"]] = body
        self.answer(201, {"Id": "1"})

    def answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Docker:
    """A daemon of some version on a host: it reads daemon.json at SIGHUP, as a process of its own says in a file."""

    def __init__(self, folder: Path, version: str, networks: dict[str, Any]) -> None:
        self.version, self.networks, self.created = version, networks, list[dict[str, Any]]()
        self.folder = folder
        (folder / "plugins").mkdir(parents=True)
        self.file = folder / "daemon.json"
        self.process = subprocess.Popen(["python3", "-c", WAIT, str(folder / "reloaded")], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        (folder / "docker.pid").write_text(str(self.process.pid))
        detect = folder / "detect_ip"
        detect.write_text("#!/bin/sh\necho 10.20.0.21\n")
        detect.chmod(0o755)
        self.servers = [
            self.listen(name) for name in ("docker.sock", "plugins/calico.sock", "plugins/calico-ipam.sock")
        ]

    def listen(self, name: str) -> socketserver.BaseServer:
        server = socketserver.ThreadingUnixStreamServer(str(self.folder / name), Engine)
        server.state = self  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def store(self) -> str:
        is_read = (self.folder / "reloaded").exists() and int(self.version.split(".")[0]) < 23
        return json.loads(self.file.read_text()).get("cluster-store", "") if is_read else ""

    def host(self, zookeeper: str = "", **more: str) -> Host:
        environment = {"CALICO_IPV4POOL_CIDR": SUBNET, "ETCD_ENDPOINTS": "http://etcd:2379", **more}
        return Host(
            environment, self.folder / "plugins", str(self.folder / "docker.sock"), self.file,
            self.folder / "docker.pid", self.folder / "flag",
            str(self.folder / "detect_ip"), zookeeper, self.folder.name, ManualClock(),
        )  # fmt: skip

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def shared() -> dict[str, Any]:
    """Networks that all engines with one cluster store see."""
    return {}


@pytest.fixture
def docker(tmp_path: Path, shared: dict[str, Any]) -> Iterator[Docker]:
    found = Docker(tmp_path / "a1", "20.10.24", shared)
    yield found
    found.stop()


@pytest.fixture
def zookeeper() -> Iterator[ZooKeeper]:
    with ZooKeeper() as server:
        yield server


async def test_one_agent_makes_the_network_and_the_others_find_it(
    docker: Docker, zookeeper: ZooKeeper, tmp_path: Path, shared: dict[str, Any]
) -> None:
    docker.file.write_text('{"debug": true, "hosts": []}')
    docker.file.chmod(0o600)
    assert "made the network calico" in await bring(docker.host(zookeeper.hosts))
    assert docker.created == [
        {
            "Name": "calico", "CheckDuplicate": True, "Driver": "calico",
            "Options": {"org.projectcalico.profile": "calico"},
            "IPAM": {"Driver": "calico-ipam", "Config": [{"Subnet": SUBNET}]},
        }
    ]  # fmt: skip
    assert zookeeper.get(CREATED_BY) == b"a1"
    text = docker.file.read_text()
    assert list(json.loads(text)) == ["debug", "hosts", "cluster-store", "cluster-advertise"]
    assert json.loads(text)["cluster-advertise"] == "10.20.0.21:62376" and "\n\t" in text
    assert stat.S_IMODE(docker.file.stat().st_mode) == 0o600
    other = Docker(tmp_path / "a2", "20.10.24", shared)
    try:
        assert await bring(other.host(zookeeper.hosts)) == "the network calico is there"
        assert other.created == [] and zookeeper.get(CREATED_BY) == b"a1"
    finally:
        other.stop()
    before = docker.file.stat().st_mtime_ns
    assert await bring(docker.host(zookeeper.hosts)) == "the network calico is there"
    assert docker.file.stat().st_mtime_ns == before


async def test_a_network_that_was_removed_by_hand_stays_removed(docker: Docker, zookeeper: ZooKeeper) -> None:
    lock = BootLock(zookeeper.hosts, "", "")
    with lock.held("a7"):
        lock.set_created_by("a7")
    with pytest.raises(Failed, match="made by a7 and is not there"):
        await bring(docker.host(zookeeper.hosts))
    assert docker.created == []


async def test_a_lock_that_another_agent_keeps(
    docker: Docker, zookeeper: ZooKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_lock, "LOCK_S", 0.3)
    with BootLock(zookeeper.hosts, "", "").held("a7"):
        with pytest.raises(LockError, match="held by another agent"):
            await bring(docker.host(zookeeper.hosts))
        assert docker.created == []
    assert "made the network" in await bring(docker.host(zookeeper.hosts))


def test_the_lock_is_one_agents_at_a_time(zookeeper: ZooKeeper) -> None:
    inside, most = [], []

    def take(name: str) -> None:
        with BootLock(zookeeper.hosts, "", "").held(name):
            inside.append(name)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.remove(name)

    threads = [threading.Thread(target=take, args=(f"a{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 8


def test_no_zookeeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_lock, "SESSION_S", 0.5)
    with pytest.raises(LockError, match="does not answer"), BootLock("127.0.0.1:1", "", "").held("a1"):
        raise AssertionError


async def test_from_docker_23_on_each_agent_has_its_own(tmp_path: Path) -> None:
    docker = Docker(tmp_path / "a1", "28.2.2", {})
    try:
        assert "of this host" in await bring(docker.host())
        assert len(docker.created) == 1 and not docker.file.exists()
        assert await bring(docker.host()) == "the network calico is there"
        docker.networks["calico"] = {"Driver": "bridge", "IPAM": {"Config": [{"Subnet": SUBNET}]}}
        assert "left the network calico alone: its driver is bridge" in await bring(docker.host())
    finally:
        docker.stop()


async def test_bad_settings_are_named(docker: Docker) -> None:
    for more, word in (
        ({"CALICO_LIBNETWORK_SCOPE": "swarm"}, "must be one of auto, global, local"),
        ({"CALICO_IPV4POOL_CIDR": ""}, "CALICO_IPV4POOL_CIDR is not set"),
    ):
        with pytest.raises(Failed, match=word):
            await bring(docker.host(**more))
    with pytest.raises(Refused, match="ETCD_CLUSTER_STORE_OPTS is not set"):
        await bring(docker.host(ETCD_ENDPOINTS="https://etcd:2379"))
    docker.file.write_text("{bad")
    with pytest.raises(Refused, match="is not JSON"):
        await bring(docker.host())
    assert docker.file.read_text() == "{bad"


async def test_a_plug_in_that_does_not_come(tmp_path: Path) -> None:
    host = Host({"CALICO_IPV4POOL_CIDR": SUBNET}, tmp_path, clock=ManualClock())
    with pytest.raises(Failed, match=r"calico\.sock does not answer, for 30 s"):
        await bring(host)


def test_tls_of_the_cluster_store(tmp_path: Path) -> None:
    options, files = tmp_path / "opts.json", {key: str(tmp_path / key) for key in daemon_json.CERTIFICATES}
    options.write_text(json.dumps(files))
    with pytest.raises(Refused, match=r"kv\.cacertfile must name a file that is there"):
        store_options("https://etcd:2379", str(options))
    for path in files.values():
        Path(path).touch()
    assert store_options("https://etcd:2379", str(options)) == files
    file = tmp_path / "real/daemon.json"
    link = tmp_path / "daemon.json"
    link.symlink_to(file)
    assert update(link, "10.20.0.21", files) and not update(link, "10.20.0.21", files)
    assert link.is_symlink() and json.loads(file.read_text())["cluster-store-opts"] == files
    assert stat.S_IMODE(file.stat().st_mode) == 0o644 and os.listdir(file.parent) == ["daemon.json"]
    assert update(link, "10.20.0.21", None) and "cluster-store-opts" not in file.read_text()


async def test_a_running_store_of_another_address_needs_a_restart(
    docker: Docker, zookeeper: ZooKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP does not change a store that is in use: the daemon is restarted, by the holder of the lock."""
    commands: list[tuple[str, ...]] = []
    stores = ["etcd://elsewhere:2379"]
    monkeypatch.setattr(docker, "store", lambda: stores[-1])
    real = docker_network._run

    async def run(program: str, *arguments: str) -> str:
        if program != "systemctl":
            return await real(program, *arguments)
        commands.append(arguments)
        stores.append(daemon_json.STORE)
        return ""

    monkeypatch.setattr(docker_network, "_run", run)
    assert "made the network" in await bring(docker.host(zookeeper.hosts))
    assert commands == [("restart", "docker")]

"""`create-calico-docker-network.py`: after the plug-in has started, Docker has the network `calico` (spec/dcos.md 3.6).

A, wait for the plug-in's sockets. B, where Docker has a cluster store (before 23): daemon.json names etcd. C, one
agent of the cluster makes the network, under a lock in ZooKeeper, and it is seen by all. From Docker 23 on (or with
CALICO_LIBNETWORK_SCOPE=local) every agent makes its own, and there is neither cluster store nor lock.

Any failure fails the unit, which systemd starts again: every step may be repeated, and leaves alone what is right."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from calico_dcos import daemon_json, engine
from calico_dcos.boot_lock import HOSTS, BootLock, LockError
from libcalico.clock import Clock, SystemClock
from libcalico.errors import CalicoError
from libcalico.kernel import process

NETWORK = "calico"
SCOPES = ("auto", "global", "local")
PLUGIN_CALLS = {"calico.sock": "NetworkDriver.GetCapabilities", "calico-ipam.sock": "IpamDriver.GetCapabilities"}
WAIT_S, PAUSE_S = 30.0, 5.0
NO_STORE = "docker info shows no cluster store: restart docker on this agent"
LOOKS, LOOKS_IF_MADE = 5, 120
"""How often, a second apart, the network is looked for: longer where another agent has made it."""


class Failed(Exception):
    """The network is not there; the text says what failed and what to do."""


class Host(NamedTuple):
    """What of this host is used; tests have their own."""

    environment: Mapping[str, str]
    plugins: Path = Path("/run/docker/plugins")
    docker: str = engine.SOCKET
    daemon_file: Path = Path("/etc/docker/daemon.json")
    pid_file: Path = Path("/var/run/docker.pid")
    restart_flag: Path = Path("/run/dcos/calico-docker-restart")
    detect_ip: str = "/opt/mesosphere/bin/detect_ip"
    zookeeper: str = HOSTS
    name: str = socket.gethostname()
    clock: Clock = SystemClock()


async def bring(host: Host) -> str:
    """Steps A to C; returns what was done. Raises `Failed`, `Refused`, `LockError`, `EngineError`."""
    scope = host.environment.get("CALICO_LIBNETWORK_SCOPE", "").strip().lower() or "auto"
    subnet = host.environment.get("CALICO_IPV4POOL_CIDR", "")
    if scope not in SCOPES:
        raise Failed(f"CALICO_LIBNETWORK_SCOPE is {scope!r}: must be one of {', '.join(SCOPES)}")
    if not subnet:
        raise Failed("CALICO_IPV4POOL_CIDR is not set: it is the network's subnet")
    for name, call in PLUGIN_CALLS.items():
        path = str(host.plugins / name)
        await _until(host, partial(engine.plugin_answers, path, call), f"{path} does not answer")
    is_local = scope == "local" or engine.is_local(await _engine_info(host))
    if scope == "global" and is_local:
        raise Failed("CALICO_LIBNETWORK_SCOPE is global, and Docker from 23 on has no cluster store: set auto or local")
    if is_local:
        return await _make_own(host, subnet)
    await _use_cluster_store(host)
    lock = BootLock(
        host.zookeeper, host.environment.get("CALICO_ZK_USER", ""), host.environment.get("CALICO_ZK_SECRET", "")
    )
    with lock.held(host.name):
        await _restart_for_store(host)
        return await _make_shared(host, subnet, lock)


async def _make_shared(host: Host, subnet: str, lock: BootLock) -> str:
    """Step C, by the holder of the lock."""
    maker = lock.created_by()
    if await _look(host, LOOKS_IF_MADE if maker else LOOKS):
        return f"the network {NETWORK} is there"
    if maker:
        raise Failed(
            f"the network {NETWORK} was made by {maker} and is not there: if it was removed on purpose, remove "
            "/cluster/boot/calico-libnetwork-plugin/created_by in ZooKeeper, and it is made again"
        )
    engine.create_network(host.docker, NETWORK, subnet)
    if not await _look(host, LOOKS):
        raise Failed(f"the network {NETWORK} was made and is not there: does docker info show the cluster store?")
    lock.set_created_by(host.name)
    return f"made the network {NETWORK}, subnet {subnet}, for all agents"


async def _restart_for_store(host: Host) -> None:
    """An engine with another cluster store keeps it until it is restarted: one agent at a time, so under the lock."""
    if engine.info(host.docker).get("ClusterStore") == daemon_json.STORE:
        return
    await _run("systemctl", "restart", "docker")
    await _until(host, lambda: _has_store(host), NO_STORE)


async def _make_own(host: Host, subnet: str) -> str:
    """The network of this engine alone; one of another driver or subnet is its maker's affair, and said."""
    found = engine.network(host.docker, NETWORK)
    if found is None:
        engine.create_network(host.docker, NETWORK, subnet)
        if await _look(host, LOOKS):
            return f"made the network {NETWORK}, subnet {subnet}, of this host"
        raise Failed(f"the network {NETWORK} was made and is not there")
    subnets = [one.get("Subnet") for one in (found.get("IPAM") or {}).get("Config") or ()]
    if found.get("Driver") != "calico" or subnet not in subnets:
        return f"left the network {NETWORK} alone: its driver is {found.get('Driver')}, its subnets {subnets}"
    return f"the network {NETWORK} is there"


async def _use_cluster_store(host: Host) -> None:
    """Step B: daemon.json, and a daemon that has read it."""
    environment = host.environment
    options = daemon_json.store_options(
        environment.get("ETCD_ENDPOINTS", ""), environment.get("ETCD_CLUSTER_STORE_OPTS", "")
    )
    address = (await _run(host.detect_ip)).strip()
    daemon_json.update(host.daemon_file, address, options)
    if host.restart_flag.exists():
        await _run("systemctl", "stop", "docker")
        host.restart_flag.unlink(missing_ok=True)
    if not _reload(host.pid_file):
        await _run("systemctl", "reset-failed", "docker.service")
        await _run("systemctl", "start", "docker")
    await _until(host, lambda: _has_store(host), NO_STORE)


def _has_store(host: Host) -> bool:
    try:
        return bool(engine.info(host.docker).get("ClusterStore"))
    except (OSError, engine.EngineError):
        return False


def _reload(pid_file: Path) -> bool:
    """SIGHUP to the daemon; false if there is none."""
    try:
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


async def _engine_info(host: Host) -> Mapping[str, object]:
    """What the engine says of itself; one that is down is started."""
    try:
        return engine.info(host.docker)
    except OSError:
        await _run("systemctl", "start", "docker")
    await _until(host, lambda: engine.ask(host.docker, "GET", "/_ping")[0] == 200, "docker does not answer")
    return engine.info(host.docker)


async def _look(host: Host, times: int) -> bool:
    for turn in range(times):
        if engine.network(host.docker, NETWORK) is not None:
            return True
        if turn + 1 < times:
            await host.clock.sleep(1.0)
    return False


async def _until(host: Host, holds: Callable[[], bool], otherwise: str) -> None:
    """Try every five seconds, for thirty at most. Raises `Failed`."""
    end = host.clock.monotonic_s() + WAIT_S
    while True:
        try:
            if holds():
                return
        except OSError as error:
            otherwise = f"{otherwise.partition(' (')[0]} ({error})"
        if host.clock.monotonic_s() + PAUSE_S > end:
            raise Failed(f"{otherwise}, for {WAIT_S:.0f} s")
        await host.clock.sleep(PAUSE_S)


async def _run(program: str, *arguments: str) -> str:
    """Standard output of a program of this host. Raises `Failed`."""
    path = program if "/" in program else shutil.which(program)
    if path is None:
        raise Failed(f"{program} is not in PATH")
    try:
        done = await process.run(path, os.environ, b"", 60.0, arguments)
    except (TimeoutError, CalicoError) as error:
        raise Failed(f"{path} {' '.join(arguments)}: {error or 'takes more than 60 s'}") from None
    if done.exit_code:
        raise Failed(f"{path} {' '.join(arguments)}: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    return done.stdout.decode("utf-8", "replace")


def main() -> int:
    """Returns the exit status."""
    try:
        done = asyncio.run(bring(Host(os.environ)))
    except (Failed, LockError, daemon_json.Refused, engine.EngineError, OSError) as error:
        print(f"create-calico-docker-network: {error}", file=sys.stderr)
        return 1
    print(f"create-calico-docker-network: {done}")
    return 0

"""The agent: start with 10,000 remote endpoints, a policy's way from etcd to the packet, CPU at 50 updates a second."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from calico_native import netns
from libcalico.datastore.contract import Put
from libcalico.obs import debug
from tests.netns.cni_host import NODE, Host, build_plugins
from tests.scale.bench_cni import start_agent
from tests.scale.report import report

REMOTE, POLICIES = 10_000, 100
PORT = 9000
TOGGLES = 40
WIRED = "projectcalico.org/orchestrator == 'cni'"
LOCAL, UPDATES_A_SECOND, SECONDS = 100, 50, 10
PUTS_AT_ONCE = 100


def endpoint(node: str, name: str, address: str, labels: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Key and value of a workload endpoint."""
    full = f"{node.replace('-', '--')}-cni-{name}-eth0"
    return f"/calico/resources/v3/projectcalico.org/workloadendpoints/default/{full}", {
        "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": full, "namespace": "default", "labels": labels},
        "spec": {"orchestrator": "cni", "node": node, "containerID": name, "endpoint": "eth0",
                 "interfaceName": f"cali{name}", "ipNetworks": [f"{address}/32"], "profiles": ["calico"]},
    }  # fmt: skip


def policy(name: str, selector: str, source: str, action: str = "Allow") -> tuple[str, dict[str, Any]]:
    """Key and value of a global policy."""
    rule = {"action": action, "source": {"selector": source}}
    return f"/calico/resources/v3/projectcalico.org/globalnetworkpolicies/{name}", {
        "kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"selector": selector, "types": ["Ingress"], "ingress": [rule]},
    }  # fmt: skip


async def put_all(host: Host, pairs: list[tuple[str, dict[str, Any]]]) -> None:
    """Store many objects."""
    for start in range(0, len(pairs), PUTS_AT_ONCE):
        part = pairs[start : start + PUTS_AT_ONCE]
        await host.store.txn((), tuple(Put(key.encode(), json.dumps(value).encode()) for key, value in part))


async def programmed(host: Host, revision: int) -> dict[str, Any]:
    """Wait until the kernel reflects a revision; the agent's status then."""
    path = str(host.directory / "debug.sock")
    while True:
        try:
            status = json.loads(await asyncio.to_thread(debug.ask, path, "status"))
            if status["programmed_revision"] >= revision:
                return dict(status)
        except (OSError, ValueError):
            pass
        await asyncio.sleep(0.02)


def cpu_s(agent: subprocess.Popen[str]) -> float:
    """User and system time of the agent, which `ip netns exec` has become (proc_pid_stat(5))."""
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(agent: subprocess.Popen[str]) -> float:
    """Resident memory (proc_pid_statm(5))."""
    return int(Path(f"/proc/{agent.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def start(host: Host) -> subprocess.Popen[str]:
    """Start with many remote endpoints; leaves the agent running."""
    pairs = [
        endpoint(
            f"node-{n // 100}", f"r{n}", f"10.{100 + n // 65536}.{n // 256 % 256}.{n % 256}", {"app": f"a{n % 100}"}
        )
        for n in range(REMOTE)
    ]
    pairs += [policy(f"p{n}", f"app == 'a{n}'", f"app == 'a{(n + 1) % POLICIES}'") for n in range(POLICIES)]
    pairs += [endpoint(NODE, f"l{n}", f"10.99.0.{n}", {"app": f"a{n % POLICIES}"}) for n in range(50)]
    await put_all(host, pairs)
    revision = (await host.store.range(b"/none")).revision
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        agent = start_agent(host, True)
        await programmed(host, revision)
        taken.append(time.perf_counter() - started)
        memory, cpu = memory_mib(agent), cpu_s(agent)
        if len(taken) < 3:
            agent.terminate()
            agent.wait()
    report("agent start to last rule", "s", taken, remote_endpoints=REMOTE, policies=POLICIES, reference_s=1.3)
    report("agent start, CPU", "s", [cpu], reference_s=1.6)
    report("agent, resident memory after start", "MiB", [memory], reference_mib=123)
    return agent


async def to_the_packet(host: Host) -> None:
    """Toggle one policy between two local workloads; a new flow every 0.2 ms tells when it acts."""
    boxes = {name: host.box() for name in ("server", "client")}
    address = {}
    for name, box in boxes.items():
        answer = await host.ok("ADD", box, f"bench{name}")
        address[name] = answer["ip4"]["ip"].partition("/")[0]
    server = socket.socket(fileno=netns.open_socket(boxes["server"], socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("", PORT))
    server.setblocking(False)
    taken: dict[str, list[float]] = {"Allow": [], "Deny": []}
    for number in range(TOGGLES):
        action = ("Deny", "Allow")[number % 2]
        key, value = policy("toggle", WIRED, WIRED, action)
        probe = asyncio.create_task(asyncio.to_thread(watch_flows, boxes["client"], address["server"], server))
        await asyncio.sleep(0.03)
        started = time.perf_counter()
        revision = await host.store.put(key.encode(), json.dumps(value).encode())
        arrivals = await probe
        await programmed(host, revision)
        if number < 2:
            continue
        if action == "Allow":
            taken[action].append(min(moment for moment in arrivals if moment > started) - started)
        else:
            taken[action].append(max([*arrivals, started]) - started)
    for action, values in taken.items():
        ms = [value * 1000 for value in values]
        report("policy in etcd to the packet", "ms", ms, action=action, reference_ms=80)
    server.close()


def watch_flows(box: str, address: str, server: socket.socket, seconds: float = 0.15) -> list[float]:
    """Send the first packet of a new flow again and again; when packets arrived."""
    arrivals = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        with socket.socket(fileno=netns.open_socket(box, socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.sendto(b"x", (address, PORT))
        time.sleep(0.0002)
        try:
            while server.recv(10):
                arrivals.append(time.perf_counter())
        except BlockingIOError:
            pass
    return arrivals


async def steady(host: Host, agent: subprocess.Popen[str]) -> None:
    """CPU of the agent while labels of endpoints change."""
    await asyncio.sleep(1)
    before, began = cpu_s(agent), time.perf_counter()
    number = 0
    while time.perf_counter() - began < SECONDS:
        name = number % LOCAL
        key, value = endpoint(NODE, f"l{name}", f"10.99.0.{name}", {"app": f"a{number % POLICIES}", "n": str(number)})
        await host.store.put(key.encode(), json.dumps(value).encode())
        number += 1
        await asyncio.sleep(max(0.0, began + number / UPDATES_A_SECOND - time.perf_counter()))
    used = (cpu_s(agent) - before) / (time.perf_counter() - began) * 100
    report(
        "agent at 50 endpoint updates/s, CPU", "% of a core", [used],
        local_endpoints=LOCAL, policies=POLICIES, reference_percent=170,
    )  # fmt: skip
    report("agent, resident memory", "MiB", [memory_mib(agent)], reference_mib=213)


async def measure() -> None:
    """All of it, on one host."""
    directory = Path(tempfile.mkdtemp(prefix="t-agent-bench-"))
    missing = build_plugins(directory)
    if missing or os.geteuid() != 0 or shutil.which("etcd") is None:
        sys.exit(missing or "needs root and etcd")
    host, agent = Host(directory, directory), None
    try:
        await host.start()
        agent = await start(host)
        await to_the_packet(host)
        await steady(host, agent)
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait()
        await host.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(measure())

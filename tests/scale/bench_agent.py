"""The agent: start with many remote endpoints, a policy's way from etcd to the packet, CPU at 50 updates/s, at rest.

python -m tests.scale.bench_agent [start] [packet] [steady] [rest] [many]: all but the last when none is named. `many`
is the start with 100,000 remote endpoints.
"""

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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from calico_native import netns
from libcalico.datastore.contract import Put
from tests import node_door
from tests.netns.cni_host import NODE, Host, build_plugins
from tests.scale.bench_cni import start_agent
from tests.scale.report import report

REMOTE, POLICIES = 10_000, 100
MANY = 100_000
PEERS, STEADY_REMOTE, STEADY_POLICIES = 3, 5_000, 200
PORT = 9000
TOGGLES = 40
WIRED = "projectcalico.org/orchestrator == 'cni'"
LOCAL, UPDATES_A_SECOND, SECONDS = 100, 50, 10
SETTLED_S, REST_S, RESTS = 20, 30, 4
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


def policy(name: str, selector: str, *sources: str, action: str = "Allow") -> tuple[str, dict[str, Any]]:
    """Key and value of a global policy with a rule for each source."""
    rules = [{"action": action, "source": {"selector": source}} for source in sources]
    return f"/calico/resources/v3/projectcalico.org/globalnetworkpolicies/{name}", {
        "kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"selector": selector, "types": ["Ingress"], "ingress": rules},
    }  # fmt: skip


def remote(count: int, kinds: int) -> list[tuple[str, dict[str, Any]]]:
    """Endpoints of other hosts, 100 each."""
    return [remote_endpoint(n, {"app": f"a{n % kinds}"}) for n in range(count)]


def remote_endpoint(number: int, labels: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """One of them."""
    address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    return endpoint(f"node-{number // 100}", f"r{number}", address, labels)


async def put_all(host: Host, pairs: list[tuple[str, dict[str, Any]]]) -> None:
    """Store many objects."""
    for start in range(0, len(pairs), PUTS_AT_ONCE):
        part = pairs[start : start + PUTS_AT_ONCE]
        await host.store.txn((), tuple(Put(key.encode(), json.dumps(value).encode()) for key, value in part))


async def programmed(host: Host, revision: int) -> dict[str, Any]:
    """Wait until the kernel reflects a revision; the agent's status then."""
    while True:
        status = await node_door.status(host.socket)
        if status.get("programmed_revision", 0) >= revision:
            return status
        await asyncio.sleep(0.02)


def cpu_s(agent: subprocess.Popen[str]) -> float:
    """User and system time of the agent, which `ip netns exec` has become (proc_pid_stat(5))."""
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(agent: subprocess.Popen[str]) -> float:
    """Resident memory (proc_pid_statm(5))."""
    return int(Path(f"/proc/{agent.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def start(host: Host, count: int) -> subprocess.Popen[str]:
    """Start with many remote endpoints; leaves the agent running."""
    pairs = remote(count, POLICIES)
    pairs += [policy(f"p{n}", f"app == 'a{n}'", f"app == 'a{(n + 1) % POLICIES}'") for n in range(POLICIES)]
    pairs += [endpoint(NODE, f"l{n}", f"10.99.0.{n}", {"app": f"a{n % POLICIES}"}) for n in range(50)]
    await put_all(host, pairs)
    revision = (await host.store.range(b"/none")).revision
    taken, cpu = [], []
    for _ in range(3):
        started = time.perf_counter()
        agent = start_agent(host, True)
        await programmed(host, revision)
        taken.append(time.perf_counter() - started)
        cpu.append(cpu_s(agent))
        memory = memory_mib(agent)
        if len(taken) < 3:
            agent.terminate()
            agent.wait()
    report("agent start to last rule", "s", taken, remote_endpoints=count, policies=POLICIES)
    report("agent start, CPU", "s", cpu, remote_endpoints=count)
    report("agent, resident memory after start", "MiB", [memory], remote_endpoints=count)
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
        key, value = policy("toggle", WIRED, WIRED, action=action)
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


async def steady(host: Host) -> subprocess.Popen[str]:
    """CPU of the agent while labels of local and remote endpoints change; leaves the agent running."""
    pairs = remote(STEADY_REMOTE, STEADY_POLICIES)
    pairs += [endpoint(NODE, f"l{n}", f"10.99.0.{n}", {"app": f"a{n % STEADY_POLICIES}"}) for n in range(LOCAL)]
    for n in range(STEADY_POLICIES):
        peers = [f"app == 'a{(n + peer) % STEADY_POLICIES}'" for peer in range(1, PEERS + 1)]
        pairs.append(policy(f"p{n}", f"app == 'a{n}'", *peers))
    await put_all(host, pairs)
    revision = (await host.store.range(b"/none")).revision
    agent = start_agent(host, True)
    await programmed(host, revision)
    for whose in ("remote", "local"):
        await asyncio.sleep(1)
        used = await _updates(host, agent, whose)
        report(
            f"agent at 50 updates/s of {whose} endpoints, CPU", "% of a core", [used],
            remote_endpoints=STEADY_REMOTE, local_endpoints=LOCAL, policies=STEADY_POLICIES, peers=PEERS,
        )  # fmt: skip
    report("agent, resident memory", "MiB", [memory_mib(agent)])
    return agent


async def _updates(host: Host, agent: subprocess.Popen[str], whose: str) -> float:
    """Per cent of a core that the agent uses while labels of endpoints change."""
    before, began, number = cpu_s(agent), time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        labels = {"app": f"a{number * 7 % STEADY_POLICIES}", "n": str(number)}
        if whose == "local":
            key, value = endpoint(NODE, f"l{number % LOCAL}", f"10.99.0.{number % LOCAL}", labels)
        else:
            key, value = remote_endpoint(number * 31 % STEADY_REMOTE, labels)
        await host.store.put(key.encode(), json.dumps(value).encode())
        number += 1
        await asyncio.sleep(max(0.0, began + number / UPDATES_A_SECOND - time.perf_counter()))
    return (cpu_s(agent) - before) / (time.perf_counter() - began) * 100


async def rest(host: Host) -> subprocess.Popen[str]:
    """CPU and wake-ups of an agent whose 100 local endpoints have interfaces, and for which nothing changes."""
    batch = [f"link add calil{n} type veth peer name w{n}\nlink set calil{n} up" for n in range(LOCAL)]
    subprocess.run(["ip", "-n", host.name, "-batch", "-"], input="\n".join(batch), text=True, check=True)
    pairs = remote(STEADY_REMOTE, STEADY_POLICIES)
    pairs += [endpoint(NODE, f"l{n}", f"10.99.0.{n}", {"app": f"a{n % STEADY_POLICIES}"}) for n in range(LOCAL)]
    pairs += [policy(f"p{n}", f"app == 'a{n}'", f"app == 'a{n + 1}'") for n in range(STEADY_POLICIES)]
    await put_all(host, pairs)
    agent = start_agent(host, True)
    await programmed(host, (await host.store.range(b"/none")).revision)
    await asyncio.sleep(SETTLED_S)
    await _at_rest(agent, legacy=False)
    for words in ("-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN", "-P FORWARD DROP"):
        subprocess.run(["ip", "netns", "exec", host.name, "iptables-legacy", *words.split()], check=True)
    await asyncio.sleep(SETTLED_S)
    await _at_rest(agent, legacy=True)
    return agent


async def _at_rest(agent: subprocess.Popen[str], legacy: bool) -> None:
    """`legacy`: a program like Docker keeps rules in iptables' legacy tables."""
    used, woken = list[float](), list[float]()
    for _ in range(RESTS):
        before, wakes, began = run_s(agent), wake_ups(agent), time.perf_counter()
        await asyncio.sleep(REST_S)
        passed_s = time.perf_counter() - began
        used.append((run_s(agent) - before) / passed_s * 100)
        woken.append((wake_ups(agent) - wakes) / passed_s)
    report("agent at rest, CPU", "% of a core", used, local_endpoints=LOCAL, legacy_tables=legacy, reference_percent=8)
    report("agent at rest, wake-ups of all threads", "1/s", woken, local_endpoints=LOCAL, legacy_tables=legacy)


def run_s(agent: subprocess.Popen[str]) -> float:
    """Time on a CPU, in seconds: of all threads (Documentation/scheduler/sched-stats.rst, finer than ticks), and of the
    programs that it ran (proc_pid_stat(5))."""
    tasks = Path(f"/proc/{agent.pid}/task").glob("*/schedstat")
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    children = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9 + children


def wake_ups(agent: subprocess.Popen[str]) -> int:
    """How often threads have waited and gone on (proc_pid_status(5))."""
    lines = [line for task in Path(f"/proc/{agent.pid}/task").glob("*/status") for line in task.read_text().split("\n")]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


async def measure(parts: set[str]) -> None:
    """Each part on a host of its own."""
    if parts & {"start", "packet"}:
        await on_a_host(lambda host: start(host, REMOTE), to_the_packet if "packet" in parts else None)
    if "steady" in parts:
        await on_a_host(steady)
    if "rest" in parts:
        await on_a_host(rest)
    if "many" in parts:
        await on_a_host(lambda host: start(host, MANY))


async def on_a_host(
    run: Callable[[Host], Awaitable[subprocess.Popen[str]]], then: Callable[[Host], Awaitable[None]] | None = None
) -> None:
    """Run what starts an agent on a new host, and what needs one that runs."""
    directory = Path(tempfile.mkdtemp(prefix="t-agent-bench-"))
    missing = build_plugins(directory)
    if missing or os.geteuid() != 0 or shutil.which("etcd") is None:
        sys.exit(missing or "needs root and etcd")
    host, agent = Host(directory, directory), None
    try:
        await host.start()
        agent = await run(host)
        if then is not None:
            await then(host)
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait()
        await host.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(measure(set(sys.argv[1:]) or {"start", "packet", "steady", "rest"}))

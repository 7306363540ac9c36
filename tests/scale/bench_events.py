"""The agent under a flood of the kernel's events: python -m tests.scale.bench_events

Another process adds and deletes an IPv4 address of a workload's interface as fast as it can; with each deletion the
kernel may have forgotten routes and neighbours, of which it reports nothing. The host has 2,000 routes of others, which
are read along. As root, with etcd.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from libcalico.kernel import nlmsg, objects
from libcalico.kernel.nlsocket import Request
from libcalico.kernel.objects import Address, Route
from libcalico.kernel.rtnl import Rtnl
from tests.netns.cni_host import NODE, Host, build_plugins
from tests.scale.bench_agent import cpu_s, endpoint, programmed, put_all
from tests.scale.bench_cni import start_agent
from tests.scale.report import report

SECONDS, ROUTES, PAIRS_AT_ONCE = 5.0, 2_000, 50
INTERFACE = "cali0flood"
CREATE = nlmsg.NLM_F_CREATE | nlmsg.NLM_F_REPLACE


def flood(netns: str, rate: float) -> int:
    """Add and delete for `SECONDS`, at most `rate` events a second; how many events that were."""
    with Rtnl(netns) as rtnl:
        body = objects.encode_address(Address(rtnl.index(INTERFACE), "198.51.100.1/32"))
        pair = [Request(objects.RTM_NEWADDR, CREATE, body), Request(objects.RTM_DELADDR, 0, body)]
        began, events = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < SECONDS:
            if events > passed * rate:
                time.sleep(0.001)
                continue
            rtnl.batch("flood", pair * PAIRS_AT_ONCE)
            events += 2 * PAIRS_AT_ONCE
    return events


async def measure() -> None:
    """Without events, and at two rates."""
    directory = Path(tempfile.mkdtemp(prefix="t-events-bench-"))
    missing = build_plugins(directory)
    if missing or os.geteuid() != 0 or shutil.which("etcd") is None:
        sys.exit(missing or "needs root and etcd")
    host, agent = Host(directory, directory), None
    try:
        await host.start()
        await put_all(host, [endpoint(NODE, "l0", "10.99.0.1", {})])
        path = f"/run/netns/{host.name}"
        subprocess.run(["ip", "-n", host.name, "link", "add", INTERFACE, "up", "type", "bridge"], check=True)
        with Rtnl(path) as rtnl:
            rtnl.apply_routes(
                [],
                [
                    Route(f"10.98.{n // 256}.{n % 256}/32", type=objects.RTN_BLACKHOLE, protocol=99)
                    for n in range(ROUTES)
                ],
            )
        agent = start_agent(host, True)
        await programmed(host, (await host.store.range(b"/none")).revision)
        await asyncio.sleep(2)
        for rate in (100, 1_000, 10_000):
            before, began = cpu_s(agent), time.perf_counter()
            events = await asyncio.to_thread(flood, path, rate)
            seconds = time.perf_counter() - began
            used = (cpu_s(agent) - before) / seconds * 100
            report("agent under a flood of events, CPU", "% of a core", [used], events_a_second=round(events / seconds))
            await asyncio.sleep(20)
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait()
        await host.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(measure())

"""What calls of the node API get of this host."""

from __future__ import annotations

import asyncio
from typing import cast

from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.host_services import FALLBACKS_END_S, AgentHost
from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.ipam.service import IpamService
from libcalico.workload.locks import HOLD_TIMEOUT_S, hold_netns

LONG_S = HOLD_TIMEOUT_S / 2
"""Who has to wait for a container, waits for longer."""


class Host:
    """An agent's services without a kernel."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.client = AsyncClient(MemoryDatastore(), clock)
        self.ipam = IpamService(self.client.datastore, "here", clock)
        self.follower = Follower("here", self.ipam, clock, lambda _values: "")
        self.services = AgentHost(self.client, self.ipam, self.follower, cast(Dataplane, None), clock)


def test_until_the_watch_has_reported_everything_calls_ask_the_datastore() -> None:
    """One that follows takes what it does not know for absent: a DEL while the agent starts would lose an address."""
    host = Host()
    assert host.services.open_ipam(host.client, "here") is not host.ipam
    host.follower.graph.in_sync = True
    assert host.services.open_ipam(host.client, "here") is host.ipam
    assert host.services.open_ipam(host.client, "elsewhere") is not host.ipam


async def test_an_agent_that_has_just_started_waits_for_who_found_none() -> None:
    services = Host().services
    here = "/proc/self/ns/net"
    async with hold_netns(here):
        held = services.hold_netns(here, "c1")
        entered = asyncio.ensure_future(held.__aenter__())
        assert not (await asyncio.wait({entered}, timeout=0.05))[0]
    await entered
    async with asyncio.timeout(LONG_S), services.hold_netns("/nowhere", ""):
        await held.__aexit__(None, None, None)
    services.since_s -= FALLBACKS_END_S
    async with hold_netns(here), asyncio.timeout(LONG_S), services.hold_netns(here, "c1"):
        pass

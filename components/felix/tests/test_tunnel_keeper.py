"""Tunnel addresses while the agent runs: which changes call for them, and what happens while they cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from calico_felix.follower import Follower
from calico_felix.tunnel_keeper import TunnelKeeper
from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Syncer
from libcalico.ipam.service import IpamService
from libcalico.model import IPPool, IPPoolSpec, Metadata, Node

LONG_S = 20.0


class Kernel:
    """A dataplane that takes everything."""

    links = ()

    def on_flush(self, _flush: object) -> None:
        pass

    def note_revision(self, _revision: int) -> None:
        pass

    def forget_revisions(self) -> None:
        pass


class World:
    """An agent's follower and keeper on a datastore."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.store = MemoryDatastore()
        self.client = AsyncClient(self.store, clock)
        self.ipam = IpamService(self.store, "here", clock)
        self.follower = Follower("here", self.ipam, clock, lambda _values: "")
        self.keeper = TunnelKeeper(self.client, self.ipam, self.follower)

    async def pool(self, mode: str, size: int = 26) -> None:
        spec = IPPoolSpec(cidr="10.1.0.0/26", block_size=size, ipip_mode=mode)
        await self.client.apply(IPPool(metadata=Metadata(name="p"), spec=spec))

    async def address(self) -> str:
        routing = (await self.client.get(Node, "here")).spec.bgp
        return routing.ipv4_ipip_tunnel_addr if routing is not None else ""


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    await world.client.ensure_initialized()
    await world.client.create(Node(metadata=Metadata(name="here")))
    world.follower.attach(Kernel())
    tasks = [
        asyncio.ensure_future(world.follower.follow(Syncer(world.store, ("/calico/",), world.client.clock).run())),
        asyncio.ensure_future(world.follower.flush_changes()),
        asyncio.ensure_future(world.keeper.run()),
    ]
    try:
        yield world
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(world: World, condition: Callable[[str], bool]) -> str:
    async with asyncio.timeout(LONG_S):
        while not condition(address := await world.address()):
            await asyncio.sleep(0.02)
    return address


async def test_pools_at_run_time() -> None:
    async with running() as world:
        await world.pool("Always")
        address = await until(world, bool)
        assert await world.ipam.ips_by_handle("ipip-tunnel-addr-here") == (address,)
        await world.client.apply(Node(metadata=Metadata(name="here")))
        address = await until(world, bool)
        async with asyncio.timeout(LONG_S):
            while await world.ipam.ips_by_handle("ipip-tunnel-addr-here") != (address,):
                await asyncio.sleep(0.02)
        await world.pool("Never")
        await until(world, lambda now: not now)
        assert not world.keeper.problems()


async def test_what_is_wrong_is_a_problem_until_it_is_mended() -> None:
    async with running() as world:
        await world.pool("Never")
        await world.ipam.auto_assign(num4=64, handle="others")
        await world.pool("Always")
        async with asyncio.timeout(LONG_S):
            while not world.keeper.problems():
                await asyncio.sleep(0.02)
        assert "no address for ipipTunnelAddress: " in world.keeper.problems()[0]
        await world.ipam.release_by_handle("others")
        await until(world, bool)
        async with asyncio.timeout(LONG_S):
            while world.keeper.problems():
                await asyncio.sleep(0.02)

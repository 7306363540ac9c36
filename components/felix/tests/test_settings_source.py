"""What the agent waits for before it starts its work, and which changes of settings it takes over as it runs."""

from __future__ import annotations

import asyncio

import pytest

from calico_felix.parameters import PARAMETERS
from calico_felix.settings_source import SettingsSource
from libcalico.client.objects import AsyncClient
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, DatastoreError
from libcalico.model.keys import ResourceKey, key_path
from libcalico.obs.health import Health
from libcalico.testing.clock import ManualClock

INFORMATION = key_path(ResourceKey("ClusterInformation", "default")).encode()
OWN = key_path(ResourceKey("FelixConfiguration", "node.here")).encode()


class Away(MemoryDatastore):
    """Refuses everything until it is `there`."""

    there = False

    async def get(self, *args: object, **more: object) -> object:  # type: ignore[override]
        if not self.there:
            raise DatastoreError("connection refused")
        return await super().get(*args, **more)  # type: ignore[arg-type]


class World:
    """An agent that waits for its settings."""

    def __init__(self, datastore: MemoryDatastore) -> None:
        self.datastore = datastore
        self.clock = ManualClock()
        self.health = Health(self.clock)
        self.configuration = Configuration(PARAMETERS)
        client = AsyncClient(datastore, self.clock)
        self.source = SettingsSource("here", self.configuration, client, self.health, self.clock)
        self.changes = 0
        self.source.on_change = self._on_change
        self.loading = asyncio.ensure_future(self.source.load())

    def _on_change(self, _configuration: Configuration) -> None:
        self.changes += 1

    async def waits_for(self, reason: str) -> None:
        async with asyncio.timeout(10):
            while reason not in self.source.waiting_for:
                await asyncio.sleep(0)
        assert reason in self.health.ready()[1] and not self.changes

    async def put(self, key: bytes, text: str) -> None:
        await self.datastore.put(key, text.encode())


async def test_it_waits_until_the_datastore_is_there_initialised_unlocked_and_its_settings_can_be_used() -> None:
    world = World(datastore := Away())
    await world.waits_for("waiting for the datastore: ")
    datastore.there = True
    await world.waits_for("waiting: the datastore is not initialised (ClusterInformation default is missing)")
    await world.put(INFORMATION, '{"spec":{"datastoreReady":false}}')
    await world.waits_for("waiting: the datastore is locked (datastoreReady is false)")
    await world.put(OWN, '{"spec":{"interfacePrefix":"x/y"}}')
    await world.put(INFORMATION, '{"spec":{"datastoreReady":true}}')
    await world.waits_for("waiting for settings that can be used: ")
    assert not world.health.ready()[0]
    await world.put(OWN, '{"spec":{"vxlanPort":4444}}')
    async with asyncio.timeout(10):
        await world.loading
    assert world.configuration["VXLANPort"] == 4444 and world.changes == 1
    assert set(world.clock.sleeps) == {1.0}


async def test_a_change_is_taken_over_where_that_is_possible() -> None:
    world = World(MemoryDatastore())
    await world.put(INFORMATION, '{"spec":{"datastoreReady":true}}')
    async with asyncio.timeout(10):
        await world.loading
    assert world.source.reload({"healthEnabled": "true"}) == "" and world.configuration["HealthEnabled"] is True
    assert world.source.reload({"healthEnabled": "true", "vxlanPort": "4444"}) == "settings have changed: VXLANPort"
    with pytest.raises(BadData, match="InterfacePrefix"):
        world.source.reload({"interfacePrefix": "x/y"})
    assert world.changes == 3

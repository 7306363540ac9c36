"""The agent's wiring, as far as it can be seen without a kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from calico_felix.daemon import FALLBACKS_END_S, Daemon, Sources
from calico_felix.dataplane.loop import Dataplane
from calico_felix.parameters import PARAMETERS
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Status
from libcalico.workload.cni.hold import HOLD_TIMEOUT_S, hold_netns

LONG_S = HOLD_TIMEOUT_S / 2
"""Who has to wait for a container, waits for longer."""


async def test_until_the_watch_has_told_everything_calls_ask_the_datastore() -> None:
    """A fed service takes what it was not told for absent: a DEL while the agent starts would lose its address."""
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore()))
    assert daemon._open_ipam(daemon.client, "here") is not daemon.ipam
    daemon.graph.in_sync = True
    assert daemon._open_ipam(daemon.client, "here") is daemon.ipam
    assert daemon._open_ipam(daemon.client, "elsewhere") is not daemon.ipam


async def test_an_agent_that_has_just_started_waits_for_who_found_none() -> None:
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore()))
    here = "/proc/self/ns/net"
    async with hold_netns(here):
        held = daemon._hold_netns(here)
        entered = asyncio.ensure_future(held.__aenter__())
        assert not (await asyncio.wait({entered}, timeout=0.05))[0]
    await entered
    async with asyncio.timeout(LONG_S), daemon._hold_netns("/nowhere"):
        await held.__aexit__(None, None, None)
    daemon._serving_s -= FALLBACKS_END_S
    async with hold_netns(here), asyncio.timeout(LONG_S), daemon._hold_netns(here):
        pass


async def test_a_node_that_nobody_stored_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore()))
    daemon._on_in_sync()
    assert "node here is not in the datastore" in caplog.text


async def test_a_restored_datastore_begins_with_its_own_revisions() -> None:
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore()))
    daemon.dataplane = cast(Dataplane, SimpleNamespace(programmed_revision=0))

    async def told(*batches: Batch) -> None:
        async def run() -> AsyncIterator[Batch]:
            for batch in batches:
                yield batch

        daemon.syncer.run = run  # type: ignore[method-assign]
        await daemon._follow_datastore()

    await told(Batch((), Status.IN_SYNC, 50))
    daemon.graph.flush(daemon.revision)
    daemon.dataplane.programmed_revision = 50
    await told(Batch((), Status.IN_SYNC, 60))
    assert (daemon.revision, daemon.dataplane.programmed_revision) == (60, 50)
    await told(Batch((), Status.RESYNC, 60), Batch((), Status.IN_SYNC, 7, snapshot=True))
    assert (daemon.revision, daemon.graph.revision, daemon.dataplane.programmed_revision) == (7, 7, 0)

"""The agent's wiring, as far as it can be seen without a kernel."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from calico_felix.daemon import FALLBACKS_END_S, Daemon, RestartNeeded, Sources
from calico_felix.dataplane.loop import Dataplane
from calico_felix.parameters import PARAMETERS
from libcalico.calc.messages import Flush
from libcalico.cni.locks import HOLD_TIMEOUT_S, hold_netns
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.model.keys import ResourceKey, key_path
from libcalico.obs import debug

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
        held = daemon._hold_netns(here, "c1")
        entered = asyncio.ensure_future(held.__aenter__())
        assert not (await asyncio.wait({entered}, timeout=0.05))[0]
    await entered
    async with asyncio.timeout(LONG_S), daemon._hold_netns("/nowhere", ""):
        await held.__aexit__(None, None, None)
    daemon._serving_s -= FALLBACKS_END_S
    async with hold_netns(here), asyncio.timeout(LONG_S), daemon._hold_netns(here, "c1"):
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


async def test_an_agent_that_waits_says_for_what(tmp_path: Path) -> None:
    path = str(tmp_path / "debug.sock")
    configuration = Configuration(PARAMETERS)
    configuration.load_environment({"FELIX_DEBUGSOCKET": path}, "FELIX_")
    configuration.resolve()
    daemon = Daemon(Sources("here", configuration, MemoryDatastore()))
    work = asyncio.ensure_future(daemon._run_all())

    async def ask(command: str) -> str:
        return await asyncio.to_thread(debug.ask, path, command)

    async with asyncio.timeout(LONG_S):
        while not daemon._waiting_for:
            await asyncio.sleep(0.01)
    reason = "waiting: the datastore is not initialised (ClusterInformation default is missing)"
    assert await ask("problems") == f"{reason}\n"
    status = json.loads(await ask("status"))
    assert (status["in_sync"], status["connected"], status["reason"]) == (False, False, reason)
    assert status["programmed_revision"] == 0
    assert "PARAMETER" in await ask("config")
    for command in ("pending", "show endpoints", "table", "resync"):
        assert (await ask(command)).startswith("error: nothing is programmed by this agent yet")
    work.cancel()
    await asyncio.wait({work})
    assert not os.path.exists(path)


CLUSTER_INFORMATION = key_path(ResourceKey("ClusterInformation", "default")).encode()


class Kernel:
    """A dataplane that only remembers."""

    def __init__(self) -> None:
        self.flushes: list[Flush] = []
        self.links = {"calia"}
        self.programmed_revision = 0

    def on_flush(self, flush: Flush) -> None:
        self.flushes.append(flush)

    def note_revision(self, revision: int) -> None:
        """Nothing to do."""


def started(*values: tuple[bytes, str], ready: str = '{"spec":{"datastoreReady":true}}') -> tuple[Daemon, Kernel]:
    """An agent that has taken in a snapshot."""
    daemon, kernel = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore())), Kernel()
    daemon.dataplane = cast(Dataplane, kernel)
    daemon._families = frozenset()
    take_in(daemon, (CLUSTER_INFORMATION, ready), *values)
    return daemon, kernel


def take_in(daemon: Daemon, *values: tuple[bytes, str]) -> None:
    """Updates; empty text is a deletion."""
    updates = tuple(Update(key, value.encode() or None, 1) for key, value in values)
    daemon._take_in(Batch(updates, Status.IN_SYNC, 1), ("/none",))


def flush(daemon: Daemon) -> None:
    assert daemon.dataplane is not None
    daemon._flush(daemon.dataplane)


@pytest.mark.parametrize("ready", ["", '{"spec":{"datastoreReady":false}}'])
def test_a_datastore_that_is_not_ready_changes_nothing(ready: str) -> None:
    daemon, kernel = started(ready=ready)
    with pytest.raises(RestartNeeded, match=r"locked|not initialised any more"):
        flush(daemon)
    daemon, kernel = started()
    flush(daemon)
    take_in(daemon, (key_path(ResourceKey("Tier", "default")).encode(), '{"spec":{}}'), (CLUSTER_INFORMATION, ready))
    with pytest.raises(RestartNeeded, match=r"locked|not initialised any more"):
        flush(daemon)
    assert len(kernel.flushes) == 1


def test_an_unreadable_cluster_information_leaves_the_former_one_in_force() -> None:
    daemon, _ = started()
    flush(daemon)
    take_in(daemon, (CLUSTER_INFORMATION, "["))
    flush(daemon)
    assert "ClusterInformation(default)" in daemon.graph.problems


def test_no_restart_while_a_loss_waits_to_be_believed() -> None:
    """The agent that starts would find the object gone, and could not know what it was."""
    tier = key_path(ResourceKey("Tier", "t")).encode()
    pool = key_path(ResourceKey("IPPool", "p")).encode()
    daemon, kernel = started((tier, '{"spec":{"order":1}}'))
    flush(daemon)
    take_in(daemon, (tier, ""), (pool, '{"spec":{"cidr":"10.0.0.0/16","vxlanMode":"Always"}}'))
    flush(daemon)
    assert len(kernel.flushes) == 2
    take_in(daemon, (tier, '{"spec":{"order":1}}'))
    with pytest.raises(RestartNeeded, match="encapsulation"):
        flush(daemon)


def test_a_profile_that_is_about_to_go_is_not_there_for_a_new_container() -> None:
    key = ResourceKey("Profile", "p")
    endpoint = ResourceKey("WorkloadEndpoint", "here-cni-a-eth0", "default")
    spec = '{"spec":{"node":"here","interfaceName":"calia","ipNetworks":["10.0.0.1/32"],"profiles":["p"]}}'
    profile = key_path(key).encode()
    daemon, _ = started((profile, '{"spec":{}}'), (key_path(endpoint).encode(), spec))
    flush(daemon)
    assert daemon._has_profile("p")
    take_in(daemon, (profile, ""))
    assert daemon.graph.policies.has_profile("p") and not daemon._has_profile("p")


def test_what_goes_all_at_once_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    paths = [key_path(ResourceKey("GlobalNetworkPolicy", name)).encode() for name in "abc"]
    daemon, _ = started(*((path, '{"spec":{"selector":"all()"}}') for path in paths))
    flush(daemon)
    assert any("node here is not in the datastore" in line for line in daemon._problems())
    take_in(daemon, *((path, "") for path in paths))
    flush(daemon)
    text = "policy: all objects of this kind (3) are gone from the datastore at once"
    assert text in caplog.text and text in daemon._problems()

"""The agent's wiring, as far as it can be seen without a kernel."""

from __future__ import annotations

from calico_felix.daemon import Daemon, Sources
from calico_felix.parameters import PARAMETERS
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore


async def test_until_the_watch_has_told_everything_calls_ask_the_datastore() -> None:
    """A fed service takes what it was not told for absent: a DEL while the agent starts would lose its address."""
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore()))
    assert daemon._open_ipam(daemon.client, "here") is not daemon.ipam
    daemon.graph.in_sync = True
    assert daemon._open_ipam(daemon.client, "here") is daemon.ipam
    assert daemon._open_ipam(daemon.client, "elsewhere") is not daemon.ipam

"""What the agent says of a datastore that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from calico_felix.contact import QUIET_S, Contact
from calico_felix.daemon import Daemon, Sources
from calico_felix.dataplane.loop import Dataplane
from calico_felix.parameters import PARAMETERS
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Syncer
from libcalico.errors import DatastoreError
from libcalico.obs.supervisor import Supervisor
from libcalico.testing.clock import ManualClock


def contact_of(datastore: MemoryDatastore, clock: ManualClock) -> tuple[Contact, Syncer]:
    syncer = Syncer(datastore, ("/calico/",), clock)
    return Contact(datastore, syncer, clock), syncer


async def follow(syncer: Syncer) -> None:
    """Until it has seen the first whole state."""
    async with contextlib.aclosing(syncer.run()) as batches:  # type: ignore[type-var]
        async for batch in batches:
            if batch.status.value == "in-sync":
                return


async def test_a_datastore_that_answers() -> None:
    contact, syncer = contact_of(MemoryDatastore(), ManualClock(100.0))
    assert contact.is_lost
    await follow(syncer)
    assert contact.facts() == {"connected": True, "endpoint": "memory", "reason": ""}
    assert contact.figures() == {"felix_datastore_age_seconds": 0.0}
    assert contact.detail(7) == "in sync" and not contact.problems(7)


async def test_one_that_falls_silent() -> None:
    clock = ManualClock(100.0)
    contact, syncer = contact_of(MemoryDatastore(), clock)
    await follow(syncer)
    clock.at_s += QUIET_S + 5
    assert contact.facts()["connected"] is False and contact.facts()["reason"] == "it is silent"
    assert contact.detail(19) == "no answer for 25 s, rules stand as of revision 19"
    assert contact.problems(19) == [
        "datastore memory: no answer for 25 s, rules stand as of revision 19 (it is silent)"
    ]


class Gone(MemoryDatastore):
    """Refuses everything."""

    async def range(self, *_args: object, **_more: object) -> object:  # type: ignore[override]
        raise DatastoreError("connection refused\x1b[31m" + "x" * 1000)


async def test_one_that_refuses_is_lost_at_once_and_says_why() -> None:
    contact, syncer = contact_of(Gone(), ManualClock(100.0))
    task = asyncio.ensure_future(follow(syncer))
    await asyncio.sleep(0.05)
    task.cancel()
    reason = contact.facts()["reason"]
    assert reason.startswith("connection refused\\x1b[31mxxx") and len(reason) < 250


async def test_the_agent_tells_it_in_every_place() -> None:
    daemon = Daemon(Sources("here", Configuration(PARAMETERS), MemoryDatastore(), Supervisor()))
    daemon.report.dataplane = cast(Dataplane, object())
    facts = daemon.report.facts()
    assert facts["connected"] is False and facts["follows"] is False
    assert any(line.startswith("datastore memory: no answer for ") for line in daemon.report.problems())

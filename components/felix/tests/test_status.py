"""What the agent stores of itself and of its endpoints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from calico_felix.dataplane.loop import Dataplane
from calico_felix.dataplane.owners import Owners
from calico_felix.status import StatusReporter
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore


async def test_a_status_that_is_no_text_goes_like_any_other_of_an_endpoint_that_is_gone() -> None:
    store = MemoryDatastore()
    area = b"/calico/felix/v2/no-region/host/here/workload/"
    for key in (area + b"cni/default%2fa/endpoint/eth0", area + b"\xff"):
        await store.put(key, b"\xfe")
    dataplane: Any = SimpleNamespace(ruleset=SimpleNamespace(owners=Owners()))
    reporter = StatusReporter("here", store, cast(Dataplane, dataplane), SystemClock())
    await reporter._write_changes(await reporter._read_stored())
    assert (await store.range(area)).kvs == ()

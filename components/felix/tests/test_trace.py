"""What a person sees who follows one object."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import cast

from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.trace import LONGEST_WAIT_S, Trace
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey, key_path
from libcalico.testing.clock import ManualClock

KEY = ResourceKey("Profile", "p")
PATH = key_path(KEY).encode()
OTHER = key_path(ResourceKey("Profile", "q")).encode()


def take_in(follower: Follower, path: bytes, value: bytes | None, revision: int) -> None:
    follower.take_in(Batch((Update(path, value, revision),), Status.IN_SYNC, revision), ("/none",))


async def test_a_trace_follows_its_object_to_the_kernel_and_no_other() -> None:
    clock = ManualClock()
    follower = Follower("here", IpamService(MemoryDatastore(), "here", clock), clock, lambda _values: "")
    dataplane = SimpleNamespace(programmed_revision=7)
    trace = Trace("Profile(p)", follower, cast(Dataplane, dataplane), clock)
    async with contextlib.aclosing(trace.run()) as lines:  # type: ignore[type-var]
        assert await anext(lines) == "Profile(p): no problem; waiting for changes"
        take_in(follower, OTHER, b"{}", 6)
        take_in(follower, PATH, b"{}", 7)
        assert await anext(lines) == "revision 7: stored, 2 octets"
        assert await anext(lines) == "revision 7: the kernel reflects it after 0.0 ms; no problem"
        take_in(follower, PATH, b"[", 8)
        take_in(follower, PATH, None, 9)
        assert await anext(lines) == "revision 8: stored, 1 octets"
        assert (await anext(lines)).startswith(f"revision 8: not in the kernel after {LONGEST_WAIT_S:.0f} s; ")
        assert await anext(lines) == "revision 9: deleted"
    assert follower.listeners == []

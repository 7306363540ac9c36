"""CalicoNodeStatus: users ask for the status of this node by such an object, the agent fills it (spec/node-startup.md
10.1).

It is filled when it is new, when what it asks for has changed, when its status is not what the agent wrote last (a
user's `apply` takes it away), and after each of its periods. What cannot be learnt is not written; equal status is not
written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

import msgspec

from calico_felix.bird_status import collect
from libcalico.clock import Clock, rfc3339
from libcalico.datastore.contract import Compare, Datastore, Put, Target
from libcalico.datastore.syncer import Batch, Update
from libcalico.errors import BadData, CalicoError
from libcalico.model import codec
from libcalico.model.bgp import CalicoNodeStatus, CalicoNodeStatusSpec, CalicoNodeStatusStatus
from libcalico.model.keys import ResourceKey, list_prefix, parse_key

log = logging.getLogger(__name__)

KIND = "CalicoNodeStatus"
PREFIX = list_prefix(KIND).encode()
RETRY_S = 10.0
"""After a failure, and the shortest time between two answers to one object."""

Collect = Callable[[Collection[str]], Awaitable[CalicoNodeStatusStatus]]


class _Request:
    """One object of this node, as it was last read; `due_s` None: nothing is to be done until it changes."""

    def __init__(self, spec: CalicoNodeStatusSpec) -> None:
        self.spec = spec
        self.value = b""
        self.revision = 0
        self.stored = CalicoNodeStatusStatus()
        self.answered_s: float | None = None
        self.due_s: float | None = None


class NodeStatusReporter:
    """Answers the CalicoNodeStatus objects of one node."""

    def __init__(self, node: str, datastore: Datastore, clock: Clock, collect: Collect = collect) -> None:
        self._node = node
        self._datastore = datastore
        self._clock = clock
        self._collect = collect
        self._requests: dict[bytes, _Request] = {}
        self._changed = asyncio.Event()
        self._failure = ""

    def on_batch(self, batch: Batch) -> None:
        """A piece of the datastore's stream."""
        for update in batch.updates:
            self.on_update(update)

    def on_update(self, update: Update) -> None:
        """A key of the datastore has a new value, or none; of any kind."""
        if not update.key.startswith(PREFIX):
            return
        found = None if update.value is None else _read(update.key, update.value)
        if found is None or found.spec.node != self._node:
            self._requests.pop(update.key, None)
            return
        assert update.value is not None
        request = self._requests.get(update.key)
        if request is None:
            request = self._requests[update.key] = _Request(found.spec)
            request.due_s = self._clock.monotonic_s()
        elif found.spec != request.spec:
            request.due_s = self._clock.monotonic_s()
        elif found.status != request.stored:
            request.due_s = max(self._clock.monotonic_s(), (request.answered_s or 0.0) + RETRY_S)
        request.spec, request.stored = found.spec, found.status
        request.value, request.revision = update.value, update.revision
        self._changed.set()

    async def run(self) -> None:
        """Answer whatever is due, for ever."""
        while True:
            self._changed.clear()
            await self.answer_due()
            due = [one.due_s for one in self._requests.values() if one.due_s is not None]
            pause_s = max(0.0, min(due) - self._clock.monotonic_s()) if due else None
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def answer_due(self) -> None:
        """Answer each object that is due now."""
        now_s = self._clock.monotonic_s()
        for key, request in list(self._requests.items()):
            if request.due_s is not None and request.due_s <= now_s:
                period_s = request.spec.update_period_seconds or 0
                request.answered_s = now_s
                request.due_s = now_s + period_s if period_s else None
                try:
                    await self._answer(key, request)
                    self._failure = ""
                except CalicoError as error:
                    request.due_s = now_s + max(RETRY_S, period_s)
                    self._report_failure(key, str(error))

    def _report_failure(self, key: bytes, reason: str) -> None:
        if reason != self._failure:
            log.warning("%s(%s) is not filled: %s", KIND, key.removeprefix(PREFIX).decode("utf-8", "replace"), reason)
        self._failure = reason

    async def _answer(self, key: bytes, request: _Request) -> None:
        found = await self._collect(request.spec.classes or ())
        if msgspec.structs.replace(found, last_updated=request.stored.last_updated) == request.stored:
            return
        status = msgspec.structs.replace(found, last_updated=rfc3339(self._clock.now()))
        stored = _read(key, request.value)
        assert stored is not None, "it was read before"
        value = codec.encode(msgspec.structs.replace(stored, status=status))
        unchanged = Compare(key, Target.MOD_REVISION, request.revision)
        done = await self._datastore.txn([unchanged], [Put(key, value)])
        if done.succeeded:
            request.stored = status  # what comes back along the watch is no change of a user's
        else:
            request.due_s = self._clock.monotonic_s() + RETRY_S


def _read(key: bytes, value: bytes) -> CalicoNodeStatus | None:
    """None for what cannot be read: the writer of such an object gets no answer."""
    parsed = parse_key(key)
    try:
        found = codec.decode(parsed, value) if isinstance(parsed, ResourceKey) else None
    except BadData:
        return None
    return found if isinstance(found, CalicoNodeStatus) else None

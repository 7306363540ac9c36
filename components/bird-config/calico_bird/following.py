"""Where the state comes from: the agent's stream while it serves, a datastore session of our own while it does not.

```
            agent in sync, and not behind            agent lost, and not back within GRACE_S
   none ───────────────────────────────► agent ◄──────────────────────────────────────────► datastore
     └──────────────── nobody listens, or GRACE_S ──────────────────────────────────────────────┘
```

Each source keeps what it says in a `View` of its own, and only a view that is whole is ever taken over, as its
difference from what was known: a source that ends in the middle of anything changes nothing, and a switch between two
sources that agree is no change. What is known stays known while there is no source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from libcalico.clock import Clock, SystemClock
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import EtcdConfig
from libcalico.datastore.syncer import Batch, Status, Syncer, Update
from libcalico.errors import Unavailable
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import API_VERSION, HEARTBEAT_S, open_channel
from libcalico.text import shown

log = logging.getLogger(__name__)

NONE, AGENT, DATASTORE = "none", "agent", "datastore"
GRACE_S = 2.0
"""An agent that is started again is back by then."""
RETRY_S = 1.0
SILENCE_S = 3 * HEARTBEAT_S

Changes = Mapping[bytes, bytes | None]
"""New values by key; None: it is deleted."""
Source = Callable[[], AsyncIterator[Batch]]
"""A new session: the whole state, then changes. The agent's ends with `Unavailable`, our own never."""


class View:
    """What one session of a source has said. `values` is a state of the datastore once the view is `whole`;
    `changed_revision` is that of its last change."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.whole = False
        self.changed_revision = self.revision = 0
        self._pending: dict[bytes, bytes | None] = {}

    def take_in(self, batch: Batch) -> dict[bytes, bytes | None] | None:
        """The changes that are complete with this batch; None while they are not."""
        for update in batch.updates:
            self._pending[update.key] = update.value
        if batch.status is not Status.IN_SYNC:
            return None
        changes, self._pending = self._pending, {}
        for key, value in changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self.revision = batch.revision
        if changes or not self.whole or self.changed_revision > batch.revision:
            self.changed_revision = batch.revision
        self.whole = True
        return changes


class Following:
    """The two sources, and who serves: `source` is NONE, AGENT or DATASTORE; `reason` says why it is not the agent.

    `take` is called with what is different; the first time, with the whole state."""

    def __init__(self, agent: Source, own: Source, take: Callable[[Changes], None], clock: Clock | None = None) -> None:
        self.source = NONE
        self.reason = "it has not answered yet"
        self.switches = 0
        self._sources = {AGENT: agent, DATASTORE: own}
        self._take = take
        self._clock = clock or SystemClock()
        self._view = View()
        self._serves, self._lost, self._tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._lost.set()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_agent())
            group.create_task(self._follow_own())

    async def _follow_agent(self) -> None:
        while True:
            try:
                await self._follow(AGENT)
            except Unavailable as error:
                if self.reason != str(error):
                    log.info("%s", error)
                self.reason = str(error)
            if self.source == AGENT:
                self.source = NONE
            self._serves.clear()
            self._lost.set()
            self._tried.set()
            await self._clock.sleep(RETRY_S)

    async def _follow_own(self) -> None:
        while True:
            await self._until_needed()
            await self._follow_until_served()

    async def _follow_until_served(self) -> None:
        """Our own session, until the agent serves. Nothing must hold the task afterwards: it holds the connection."""
        async with asyncio.TaskGroup() as group:
            session = group.create_task(self._follow(DATASTORE))
            await self._serves.wait()
            session.cancel()

    async def _until_needed(self) -> None:
        """Until the agent has not served for `GRACE_S`; before anything is known, until it is found away."""
        while True:
            await self._lost.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await (self._serves if self._view.whole else self._tried).wait()
            if not self._serves.is_set():
                return

    async def _follow(self, name: str) -> None:
        """One session of a source."""
        view = View()
        async with contextlib.aclosing(self._sources[name]()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                changes = view.take_in(batch)
                if changes is None:
                    continue
                if self._view is not view:
                    self._offer(name, view)
                elif changes:
                    self._take(changes)

    def _offer(self, name: str, view: View) -> None:
        """Take a view over, unless the agent serves, or lags behind what our own session has seen."""
        if self.source == AGENT or (self.source == DATASTORE and view.revision < self._view.changed_revision):
            return
        known, first = self._view.values, not self._view.whole
        changes: dict[bytes, bytes | None] = {key: None for key in known if key not in view.values}
        changes |= {key: value for key, value in view.values.items() if known.get(key) != value}
        self._view, self.source = view, name
        self.switches += 1
        if name == AGENT:
            self.reason = ""
            self._lost.clear()
            self._serves.set()
        log.info("the %s serves, at revision %d: %d changes", name, view.revision, len(changes))
        if changes or first:
            self._take(changes)


async def agent_session(path: str, node: str) -> AsyncIterator[Batch]:
    """The stream of the agent at a socket. Raises `Unavailable` when it ends or is silent for `SILENCE_S`."""
    request = pb.WatchRoutingRequest(api_version=API_VERSION, node=node)
    async with open_channel(path) as channel:
        call = stubs.NodeStub(channel).WatchRouting(request)
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    part = await call.read()
                if not isinstance(part, pb.RoutingPart):
                    raise Unavailable(f"the agent at {path} ended its stream")
                yield _batch(part)
        except TimeoutError:
            raise Unavailable(f"the agent at {path} was silent for {SILENCE_S:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"the agent at {path} does not serve: {shown(error.details())}") from None
        finally:
            call.cancel()


def _batch(part: Any) -> Batch:
    updates = tuple(Update(one.key, None if one.gone else one.value, part.revision) for one in part.changes)
    return Batch(updates, Status.IN_SYNC if part.whole else Status.RESYNC, part.revision)


async def own_session(config: EtcdConfig, prefixes: Sequence[str]) -> AsyncIterator[Batch]:
    """A session of our own, with a connection that ends with it. Its errors are retried and logged, never raised."""
    datastore = EtcdDatastore(config)
    try:
        async with contextlib.aclosing(Syncer(datastore, prefixes).run()) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch
    finally:
        await datastore.close()

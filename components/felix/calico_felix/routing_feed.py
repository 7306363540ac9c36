"""What BIRD's configuration depends on, for the daemon that writes it: `Node.WatchRouting` (rpc/node.proto).

The stored bytes of a few kinds are kept as the agent's watch brings them, deletions at once: what a reader does with a
deletion is its own affair. Each reader has the set of keys that it has not been sent, so one that does not read costs
no more than that, and finds the newest values when it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from libcalico.datastore.syncer import Batch, Status
from libcalico.model.keys import routing_prefixes
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc.channel import HEARTBEAT_S

LARGEST_PART = 1 << 20
"""Octets of keys and values in one message, but for a single value that is larger."""


class _Reader:
    """`unsent`: keys in the order in which they changed."""

    def __init__(self, keys: dict[bytes, None]) -> None:
        self.unsent = keys
        self.news = asyncio.Event()


class RoutingFeed:
    """The state, and who reads it. `whole`: it is the datastore's, at `revision`."""

    def __init__(self, node: str) -> None:
        self.values: dict[bytes, bytes] = {}
        self.whole = False
        self.revision = 0
        self._prefixes = tuple(prefix.encode() for prefix in routing_prefixes(node))
        self._readers: list[_Reader] = []
        self._closed = False

    def on_batch(self, batch: Batch) -> None:
        """The agent's watch has brought this."""
        changed: dict[bytes, None] = {}
        for update in batch.updates:
            if update.key.startswith(self._prefixes):
                changed[update.key] = None
                if update.value is None:
                    self.values.pop(update.key, None)
                else:
                    self.values[update.key] = update.value
        was, self.whole = self.whole, batch.status is Status.IN_SYNC
        if self.whole:
            self.revision = batch.revision
        for reader in self._readers:
            reader.unsent |= changed
            if (self.whole and changed) or was is not self.whole:
                reader.news.set()

    def close(self) -> None:
        """End every reader's stream."""
        self._closed = True
        for reader in self._readers:
            reader.news.set()

    async def watch(self) -> AsyncIterator[Any]:
        """Messages of the stream: the whole state, then what changes, an empty one when nothing does."""
        reader = _Reader(dict.fromkeys(self.values))
        self._readers.append(reader)
        try:
            while not self._closed:
                reader.news.clear()
                for part in self._parts(reader):
                    yield part
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await reader.news.wait()
        finally:
            self._readers.remove(reader)

    def _parts(self, reader: _Reader) -> Iterator[Any]:
        """What the reader has not been sent, as of now, the last part marked; an empty one while a snapshot is read."""
        if not self.whole:
            yield pb.RoutingPart()
            return
        values = [(key, self.values.get(key)) for key in reader.unsent]
        reader.unsent, revision = {}, self.revision
        part, size = pb.RoutingPart(), 0
        for key, value in values:
            octets = len(key) + len(value or b"")
            if size and size + octets > LARGEST_PART:
                yield part
                part, size = pb.RoutingPart(), 0
            part.changes.add(key=key, value=value or b"", gone=value is None)
            size += octets
        part.whole, part.revision = True, revision
        yield part

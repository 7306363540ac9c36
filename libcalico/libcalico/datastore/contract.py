"""The datastore contract: a revisioned key-value store with transactions and watches (the shape of etcd v3).

Two implementations, `etcd` and `memory`, pass the same test-suite. Everything above this module speaks
bytes keys and values; the room `client` puts v3 objects on top. Source: spec/datastore.md sections 3-5 and the
etcd v3 API (KV.Range, KV.Txn, Watch.Watch, Lease).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol


class KeyValue(NamedTuple):
    """One stored pair. `version` counts the writes since the key was created (1 = just created)."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


class RangeResult(NamedTuple):
    """Pairs in key order, read at `revision`; `more` says that `limit` cut the answer."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool


class Target(enum.Enum):
    """What a comparison looks at; VERSION 0 and MOD_REVISION 0 mean that the key does not exist."""

    VERSION = "version"
    MOD_REVISION = "mod_revision"
    VALUE = "value"


class Compare(NamedTuple):
    """`key`'s target must equal `value` for the transaction's success branch to run."""

    key: bytes
    target: Target
    value: int | bytes


class Get(NamedTuple):
    """Read one key, or with `prefix` all keys that start with it; with `keys_only` their values come empty."""

    key: bytes
    prefix: bool = False
    keys_only: bool = False


class Put(NamedTuple):
    """Write one key; `lease` 0 = for ever."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Delete one key, or with `prefix` all keys that start with it; the answer holds the former pairs."""

    key: bytes
    prefix: bool = False


Operation = Get | Put | Delete


class TxnResult(NamedTuple):
    """`responses` has one tuple of pairs for each operation of the branch that ran (empty for a Put)."""

    succeeded: bool
    responses: tuple[tuple[KeyValue, ...], ...]
    revision: int


class Event(NamedTuple):
    """One change; `value` None is a deletion."""

    key: bytes
    value: bytes | None
    mod_revision: int


class WatchBatch(NamedTuple):
    """Events in order. An empty batch is a progress notification: everything up to `revision` was delivered."""

    events: tuple[Event, ...]
    revision: int


class Compacted(Exception):
    """The watch's start revision is gone: only a new snapshot helps. Part of control flow, never shown to users."""

    def __init__(self, compact_revision: int) -> None:
        self.compact_revision = compact_revision
        super().__init__(f"required revision has been compacted (compact revision {compact_revision})")


class Datastore(Protocol):
    """What the project asks of a datastore. Every call may raise `libcalico.errors.DatastoreError`."""

    @property
    def endpoint(self) -> str:
        """Where it is reached, or was last tried: for people."""
        ...

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key, now or at `revision`."""
        ...

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix` in byte order, from `start` (inclusive) on, at most `limit` (0 = all)."""
        ...

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition; returns the new revision."""
        ...

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """All compares hold -> run `success`, else `failure`; atomic either way."""
        ...

    def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes below `prefix` from `start_revision` (inclusive) on, with progress notifications.

        Raises `Compacted` when `start_revision` is gone and `DatastoreError` when the connection is lost;
        the iterator is over then."""
        ...

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease of `ttl_s` seconds; keys put under it vanish when it ends."""
        ...

    async def close(self) -> None:
        """Give back the connection; the object is dead afterwards."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`: etcd's `range_end`. A NUL byte means "to the very end"."""
    for place in range(len(prefix) - 1, -1, -1):
        if prefix[place] < 0xFF:
            return prefix[:place] + bytes([prefix[place] + 1])
    return b"\0"

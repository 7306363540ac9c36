"""One read-plan-write cycle of IPAM on a datastore (spec/ipam.md 15).

A plan is a plain function that looks at a `View` and puts its writes there. What it needs but is not in the cache
makes it raise `Need`; it is read and the plan runs again, so that the warm case costs no read at all. Everything a
plan wrote is committed in one transaction that compares the revision of every key it rewrites; when a foreign writer
was faster, the transaction hands back the current values and the plans run again. Many callers' plans share one
transaction (group commit).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from libcalico.datastore.contract import Compare, Datastore, Delete, Get, KeyValue, Put, Target
from libcalico.errors import CalicoError, ResourceUpdateConflict

TRIES = 100
LARGEST_GROUP = 30
LARGEST_TRANSACTION = 120
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05

Plan = Callable[["View"], Any]


class Need(Exception):
    """A plan looked at keys that are not in the cache. Control flow; never leaves this module."""

    def __init__(self, *wanted: tuple[str, bool]) -> None:
        self.wanted = wanted
        super().__init__(wanted)


class Stored(NamedTuple):
    """A value as last seen; `value` None with its revision 0 means that the key does not exist."""

    value: bytes | None
    revision: int


ABSENT = Stored(None, 0)


class Cache:
    """What is known of the datastore. In a service that is fed by a watch it stays true by itself."""

    def __init__(self) -> None:
        self.values: dict[str, Stored] = {}
        self.prefixes: set[str] = set()
        self.fed: tuple[str, ...] = ()

    def observe(self, path: str, value: bytes | None, revision: int) -> None:
        """Take in a change; an older one than what is known is dropped."""
        known = self.values.get(path)
        if known is None or revision > known.revision:
            self.values[path] = Stored(value, revision)

    def forget(self) -> None:
        """Drop everything that no watch keeps true."""
        self.values = {path: stored for path, stored in self.values.items() if self.fed and path.startswith(self.fed)}
        self.prefixes = set(self.fed)

    def covers(self, path: str) -> bool:
        """Is the absence of this key known?"""
        return path.startswith(tuple(self.prefixes)) if self.prefixes else False

    def below(self, prefix: str) -> dict[str, Stored]:
        """Existing keys below a prefix, in order."""
        found = ((path, stored) for path, stored in self.values.items() if path.startswith(prefix))
        return dict(sorted((path, stored) for path, stored in found if stored.value is not None))


class View:
    """What a plan sees: the cache with the writes of this transaction on top."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.writes: dict[str, bytes | None] = {}
        self.looked: set[str] = set()

    def get(self, path: str, optimistic: bool = False) -> bytes | None:
        """A key's value. `optimistic`: take one that is not known as absent; the commit will find out."""
        if path in self.writes:
            return self.writes[path]
        stored = self._cache.values.get(path)
        if stored is None:
            if not optimistic and not self._cache.covers(path):
                raise Need((path, False))
            return None
        self.looked.add(path)
        return stored.value

    def need(self, *wanted: tuple[str, bool]) -> None:
        """Make sure that all these keys (or, with True, prefixes) are known, with one read for all that are not."""
        missing = [(path, prefix) for path, prefix in wanted if not self._knows(path, prefix)]
        if missing:
            raise Need(*missing)

    def _knows(self, path: str, prefix: bool) -> bool:
        if prefix:
            return any(path.startswith(known) for known in self._cache.prefixes)
        return path in self.writes or path in self._cache.values or self._cache.covers(path)

    def below(self, prefix: str) -> dict[str, bytes]:
        """Existing keys below a prefix, in order, with this transaction's writes."""
        self.need((prefix, True))
        found = {path: stored.value for path, stored in self._cache.below(prefix).items() if stored.value is not None}
        for path, value in self.writes.items():
            if path.startswith(prefix):
                if value is None:
                    found.pop(path, None)
                else:
                    found[path] = value
        return dict(sorted(found.items()))

    def put(self, path: str, value: bytes) -> None:
        """Write a key when the transaction commits."""
        self.writes[path] = value

    def delete(self, path: str) -> None:
        """Delete a key when the transaction commits."""
        self.writes[path] = None


class _Waiting(NamedTuple):
    plan: Plan
    done: asyncio.Future[Any]


class Transactions:
    """Runs plans. `run` may be called by many tasks at once: those that wait are committed together."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self.cache = Cache()
        self._lock = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def run(self, plan: Plan) -> Any:
        """The plan's result once its writes are committed; raises what the plan raises."""
        mine = _Waiting(plan, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            async with self._lock:
                if not mine.done.done():
                    await self._run_group()
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            raise
        return mine.done.result()

    async def _run_group(self) -> None:
        group, self._waiting = self._waiting[:LARGEST_GROUP], self._waiting[LARGEST_GROUP:]
        try:
            await self._commit(group)
        except BaseException as error:
            for waiting in group:
                if not waiting.done.done():
                    if isinstance(error, asyncio.CancelledError):
                        self._waiting.append(waiting)
                    else:
                        waiting.done.set_exception(error)
            if not isinstance(error, CalicoError):
                raise

    async def _commit(self, group: list[_Waiting]) -> None:
        if not self.cache.fed:
            self.cache.forget()
        fresh = not self.cache.fed
        for attempt in range(TRIES):
            view, results = await self._plan(group)
            if not view.writes and not fresh:
                await self._refresh(view.looked)
                fresh = True
                continue
            if not view.writes or await self._write(view):
                for waiting, result in zip(group, results, strict=True):
                    _settle(waiting.done, result)
                return
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
            await asyncio.sleep(random.uniform(0, pause))
        raise ResourceUpdateConflict(f"IPAM gave up after {TRIES} conflicts with other writers")

    async def _plan(self, group: list[_Waiting]) -> tuple[View, list[Any]]:
        while True:
            view = View(self.cache)
            results: list[Any] = []
            try:
                for waiting in group:
                    before = dict(view.writes)
                    try:
                        results.append(waiting.plan(view))
                    except CalicoError as error:
                        view.writes = before
                        results.append(error)
                return view, results
            except Need as need:
                await self._read(need.wanted)

    async def _read(self, wanted: tuple[tuple[str, bool], ...]) -> None:
        answer = await self._datastore.txn([], [Get(path.encode(), prefix) for path, prefix in wanted])
        for (path, prefix), kvs in zip(wanted, answer.responses, strict=True):
            self._take_in(kvs)
            if prefix:
                self.cache.prefixes.add(path)
            elif not kvs:
                self.cache.values[path] = ABSENT

    async def _refresh(self, paths: set[str]) -> None:
        for start in range(0, len(paths), LARGEST_TRANSACTION):
            part = sorted(paths)[start : start + LARGEST_TRANSACTION]
            answer = await self._datastore.txn([], [Get(path.encode()) for path in part])
            for path, kvs in zip(part, answer.responses, strict=True):
                if kvs:
                    self._take_in(kvs)
                else:
                    self.cache.observe(path, None, answer.revision)

    async def _write(self, view: View) -> bool:
        paths = list(view.writes)
        if len(paths) > LARGEST_TRANSACTION:
            raise CalicoError(f"one request would change {len(paths)} keys, at most {LARGEST_TRANSACTION} are possible")
        compares = [self._compare(path) for path in paths]
        success = [
            Delete(path.encode()) if value is None else Put(path.encode(), value) for path, value in view.writes.items()
        ]
        answer = await self._datastore.txn(compares, success, [Get(path.encode()) for path in paths])
        for path, kvs in zip(paths, answer.responses, strict=True):
            if answer.succeeded:
                self.cache.values[path] = Stored(view.writes[path], answer.revision)
            elif kvs:
                self._take_in(kvs)
            else:
                self.cache.values[path] = Stored(None, answer.revision)
        return answer.succeeded

    def _compare(self, path: str) -> Compare:
        stored = self.cache.values.get(path, ABSENT)
        if stored.value is None:
            return Compare(path.encode(), Target.VERSION, 0)
        return Compare(path.encode(), Target.MOD_REVISION, stored.revision)

    def _take_in(self, kvs: tuple[KeyValue, ...]) -> None:
        for kv in kvs:
            self.cache.values[kv.key.decode()] = Stored(kv.value, kv.mod_revision)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)

"""One read-plan-write cycle of IPAM on a datastore (spec/ipam.md 15).

A plan is a plain function that looks at a `View` and puts its writes there. What it needs but is not in the cache
makes it raise `Need`; it is read and the plan runs again, so that the warm case costs no read at all. Everything a
plan wrote is committed in one transaction that compares the revision of every key it rewrites; when a foreign writer
was faster, the transaction hands back the current values and the plans run again. Many callers' plans share one
transaction (group commit).
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from libcalico.datastore.contract import Compare, Datastore, Delete, Get, KeyValue, Put, Target
from libcalico.errors import CalicoError, ResourceAlreadyExists, ResourceUpdateConflict
from libcalico.reconcile import Backoff

TRIES = 100
LARGEST_GROUP = 64
LARGEST_TRANSACTION = 120
CONFLICT_PAUSE = Backoff(0.001, 0.05, spread=True)
WRITTEN_VALUES = 4096

T = TypeVar("T")
Plan = Callable[["View"], T]
"""Reads a view and writes to it; it may run several times for one commit, and has no other effect."""


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
    """What is known of the datastore: what a watch keeps true, and what this service wrote itself.

    What was merely read is dropped after each commit, because nothing reports when it changes. Paths are also kept in
    order, so that a prefix is found without looking at every key."""

    def __init__(self) -> None:
        self.values: dict[str, Stored] = {}
        self.prefixes: set[str] = set()
        self.followed: tuple[str, ...] = ()
        self._order: list[str] = []
        self._read: set[str] = set()
        self._written: dict[str, None] = {}

    def observe(self, path: str, value: bytes | None, revision: int, certain: bool = False) -> None:
        """Take in a change; an older one than what is known is dropped.

        Not if it is `certain`, read in a snapshot or by a commit that failed: it replaces what is known even if its
        revision is lower (a datastore that was restored from a backup). If a newer change had overtaken it, the next
        commit will find out."""
        known = self.values.get(path)
        if known is not None and revision <= known.revision and not certain:
            return
        if known is None:
            bisect.insort(self._order, path)
            if not self.is_followed(path):
                self._read.add(path)
        self.values[path] = Stored(value, revision)

    def wrote(self, path: str, value: bytes | None, revision: int) -> None:
        """Our own write was committed: its value is remembered for a while, also of a key that is not followed."""
        self.observe(path, value, revision)
        if self.is_followed(path):
            return
        self._written.pop(path, None)
        if value is None:
            self._read.add(path)
        else:
            self._read.discard(path)
            self._written[path] = None

    def trim(self) -> None:
        """Drop what was only read, and the oldest of what was written, in a service that follows."""
        surplus = len(self._written) - WRITTEN_VALUES
        for path in [*self._read, *list(self._written)[: max(0, surplus)]]:
            self._drop(path)
        self._read.clear()
        self.prefixes = set(self.followed)

    def forget(self) -> None:
        """Drop everything that no watch keeps true."""
        for path in [path for path in self._order if not self.is_followed(path)]:
            self._drop(path)
        self._read.clear()
        self.prefixes = set(self.followed)

    def _drop(self, path: str) -> None:
        if self.values.pop(path, None) is not None:
            del self._order[bisect.bisect_left(self._order, path)]
        self._written.pop(path, None)

    def is_followed(self, path: str) -> bool:
        """Does a watch keep this key true?"""
        return bool(self.followed) and path.startswith(self.followed)

    def covers(self, path: str) -> bool:
        """Is the absence of this key known?"""
        return path.startswith(tuple(self.prefixes)) if self.prefixes else False

    def below(self, prefix: str) -> dict[str, bytes]:
        """Existing keys below a prefix, in order."""
        found = {}
        for place in range(bisect.bisect_left(self._order, prefix), len(self._order)):
            path = self._order[place]
            if not path.startswith(prefix):
                break
            value = self.values[path].value
            if value is not None:
                found[path] = value
        return found


class View:
    """What a plan sees: the cache with the writes of this transaction on top."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.writes: dict[str, bytes | None] = {}
        self.read_keys: set[str] = set()
        self.created: set[str] = set()
        self.dropped: dict[str, int] = {}
        self.relied: set[str] = set()
        self.revision = 0
        """The datastore's revision at which the writes were committed, 0 until then."""

    def get(self, path: str, optimistic: bool = False) -> bytes | None:
        """A key's value. `optimistic`: take one that is not known as absent; the commit will find out."""
        if path in self.writes:
            return self.writes[path]
        stored = self._cache.values.get(path)
        if stored is None:
            if not optimistic and not self._cache.covers(path):
                raise Need((path, False))
            return None
        self.read_keys.add(path)
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
        found = self._cache.below(prefix)
        changes = {path: value for path, value in self.writes.items() if path.startswith(prefix)}
        if not changes:
            return found
        merged = {**found, **changes}
        return {path: value for path, value in sorted(merged.items()) if value is not None}

    def put(self, path: str, value: bytes) -> None:
        """Write a key when the transaction commits."""
        self.writes[path] = value

    def delete(self, path: str) -> None:
        """Delete a key when the transaction commits."""
        self.writes[path] = None

    def create(self, path: str, value: bytes) -> None:
        """Write a key that must not exist (for keys that are not IPAM's: they are never taken from the cache).

        Raises `ResourceAlreadyExists`, if need be in the run after the commit that found out."""
        stored = self._cache.values.get(path, ABSENT)
        if stored.value is not None or path in self.writes:
            raise ResourceAlreadyExists(path)
        self.created.add(path)
        self.writes[path] = value

    def drop(self, path: str, revision: int = 0) -> None:
        """Delete a key (for keys that are not IPAM's): as it is, or only if it is still the one of this revision."""
        stored = self._cache.values.get(path)
        if revision and stored is not None and stored.revision != revision:
            return
        self.dropped[path] = revision
        self.writes[path] = None

    def rely(self, path: str) -> None:
        """What is known of this key must be true when the transaction commits, though it is not written."""
        self.relied.add(path)

    def state(self) -> tuple[dict[str, bytes | None], set[str], dict[str, int], set[str]]:
        """Copies of what the plans so far have asked for, for `go_back`."""
        return dict(self.writes), set(self.created), dict(self.dropped), set(self.relied)

    def go_back(self, state: tuple[dict[str, bytes | None], set[str], dict[str, int], set[str]]) -> None:
        """Forget what a plan has asked for since then."""
        self.writes, self.created, self.dropped, self.relied = state


class _Waiting(NamedTuple):
    plan: Plan[Any]
    done: asyncio.Future[Any]


class Transactions:
    """Runs plans. `run` may be called by many tasks at once: those that wait are committed together."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self.cache = Cache()
        self._lock = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def run(self, plan: Plan[T]) -> T:
        """The plan's result once its writes are committed; raises what the plan raises.

        A caller that is cancelled takes its plan back when no commit of it has begun; it never ends the commit of
        the others, which would leave open whether their writes were done."""
        mine = _Waiting(plan, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            await asyncio.shield(self._flush(mine))
            result: T = await mine.done
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
            mine.done.cancel()
        return result

    async def _flush(self, mine: _Waiting) -> None:
        async with self._lock:
            while mine in self._waiting:
                await self._run_group()

    async def _run_group(self) -> None:
        group, self._waiting = self._waiting[:LARGEST_GROUP], self._waiting[LARGEST_GROUP:]
        try:
            done = await self._commit(group)
        except BaseException as error:
            for waiting in group:
                _settle(waiting.done, error)
            if not isinstance(error, CalicoError):
                raise
        else:
            self._waiting = [*(one for one in group[done:] if not one.done.done()), *self._waiting]
        finally:
            self.cache.trim()

    async def _commit(self, group: list[_Waiting]) -> int:
        """Commit the first of these plans, as many as fit into one transaction; returns how many those were."""
        followed = bool(self.cache.followed)
        if not followed:
            self.cache.forget()
        fresh = not followed
        for attempt in range(TRIES):
            view, results = await self._plan(group)
            if not view.writes and not fresh:
                await self._refresh(view.read_keys)
                fresh = True
                continue
            if not view.writes or await self._write(view, again=attempt > 0):
                for waiting, result in zip(group, results, strict=False):
                    _settle(waiting.done, result)
                return len(results)
            await asyncio.sleep(CONFLICT_PAUSE.pause_s(attempt + 1))
        raise ResourceUpdateConflict(f"IPAM gave up after {TRIES} conflicts with other writers")

    async def _plan(self, group: list[_Waiting]) -> tuple[View, list[Any]]:
        while True:
            view = View(self.cache)
            results: list[Any] = []
            try:
                for waiting in group:
                    before = view.state()
                    try:
                        results.append(waiting.plan(view))
                    except CalicoError as error:
                        view.go_back(before)
                        results.append(error)
                    if len(view.writes) + len(view.relied) > LARGEST_TRANSACTION:
                        wanted = len(view.writes) + len(view.relied)
                        view.go_back(before)
                        if view.writes:
                            results.pop()
                            break
                        results[-1] = CalicoError(
                            f"one request would change {wanted} keys, at most {LARGEST_TRANSACTION} are possible"
                        )
                return view, results
            except Need as need:
                await self._read(need.wanted)

    async def _read(self, wanted: tuple[tuple[str, bool], ...]) -> None:
        for start in range(0, len(wanted), LARGEST_TRANSACTION):
            part = wanted[start : start + LARGEST_TRANSACTION]
            answer = await self._datastore.txn([], [Get(path.encode(), prefix) for path, prefix in part])
            for (path, prefix), kvs in zip(part, answer.responses, strict=True):
                certain = not self.cache.is_followed(path)
                self._take_in(kvs, certain)
                if prefix:
                    self.cache.prefixes.add(path)
                elif not kvs:
                    self.cache.observe(path, None, answer.revision, certain)

    async def _refresh(self, paths: set[str]) -> None:
        await self._read(tuple((path, False) for path in sorted(paths)))

    async def _write(self, view: View, again: bool) -> bool:
        """False when another writer was faster; what is stored now is then known. `again`: it is not the first time."""
        paths = [*view.writes, *(view.relied - set(view.writes))]
        compares = [
            self._compare(path, path in view.created, view.dropped.get(path, 0))
            for path in paths
            if view.dropped.get(path, 1)
        ]
        success = [
            Delete(path.encode()) if value is None else Put(path.encode(), value) for path, value in view.writes.items()
        ]
        answer = await self._datastore.txn(compares, success, [Get(path.encode()) for path in paths])
        if answer.succeeded:
            view.revision = answer.revision
        elif again and not self.cache.followed:
            self.cache.forget()  # it may all be out of date, except what this very answer says
        for path, kvs in zip(paths, answer.responses, strict=False):
            if answer.succeeded:
                if path in view.created or path in view.dropped:
                    continue
                self.cache.wrote(path, view.writes[path], answer.revision)
            elif kvs:
                self._take_in(kvs, certain=True)
            else:
                self.cache.observe(path, None, answer.revision, certain=True)
        return answer.succeeded

    def _compare(self, path: str, created: bool, revision: int) -> Compare:
        if revision:
            return Compare(path.encode(), Target.MOD_REVISION, revision)
        stored = ABSENT if created else self.cache.values.get(path, ABSENT)
        if stored.value is None:
            return Compare(path.encode(), Target.VERSION, 0)
        return Compare(path.encode(), Target.MOD_REVISION, stored.revision)

    def _take_in(self, kvs: tuple[KeyValue, ...], certain: bool) -> None:
        for kv in kvs:
            with contextlib.suppress(UnicodeDecodeError):  # no key of ours
                self.cache.observe(kv.key.decode(), kv.value, kv.mod_revision, certain)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)

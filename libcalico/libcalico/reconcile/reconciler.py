"""Bring what there is to what there should be: one generic loop body for routes, neighbours, FDB entries, settings.

A manager owns a `Reconciler` and its `Driver`. It sets desired state whenever it likes (no I/O), and `apply` does
the work: read again when asked to, delete what is too much, write what is missing. A key that fails is retried after
a back-off that doubles, alone: its siblings go on. `next_try_s` says when to call `apply` again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from libcalico.errors import CalicoError
from libcalico.reconcile.backoff import Backoff
from libcalico.reconcile.delta import Delta

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

BACKOFF = Backoff(0.1, 30.0)
READ_AGAIN_S = 1.0


class Driver(Protocol[K, V]):
    """How one kind of object is read and written."""

    async def read(self) -> Mapping[K, V]:
        """Every object that is ours to manage (what is not listed is never deleted)."""
        ...

    async def apply(self, deletes: Mapping[K, V], updates: Mapping[K, V]) -> Mapping[K, Exception]:
        """Delete (values are the actual ones), then write; the error of each key that failed."""
        ...


class Failure(NamedTuple):
    """A key that could not be programmed."""

    error: str
    attempts: int
    next_try_s: float


class Status(NamedTuple):
    """`pending` keys differ still; `failures` says why; `error` is that of reading, if it failed."""

    pending: int
    failures: Mapping[Hashable, Failure]
    error: str = ""

    @property
    def in_sync(self) -> bool:
        """Nothing is left to do."""
        return not self.pending and not self.error


class Reconciler(Generic[K, V]):
    """Desired state of one kind of object, and the way to get there."""

    def __init__(
        self,
        name: str,
        driver: Driver[K, V],
        *,
        grace_s: float = 0.0,
        refresh_interval_s: float = 0.0,
        on_failure: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """`grace_s`: leave an unexpected object alone that long after it was first seen (its owner may be at work).
        `refresh_interval_s`: read everything again that often (0 = only when `refresh` is called)."""
        self.name = name
        self.delta: Delta[K, V] = Delta()
        self._driver = driver
        self._grace_s = grace_s
        self._interval_s = refresh_interval_s
        self._on_failure = on_failure
        self._stale = True
        self._read_at_s = 0.0
        self._error = ""
        self._failures: dict[K, Failure] = {}
        self._spared: dict[K, float] = {}
        self._known: set[K] = set()
        self._forgotten: set[K] = set()

    def set(self, key: K, value: V) -> None:
        """`key` should have `value`; a changed one is tried at once."""
        if self.delta.desired.get(key) != value:
            self._failures.pop(key, None)
        self.delta.set_desired(key, value)
        self._known.add(key)

    def delete(self, key: K) -> None:
        """`key` should not be there."""
        if key in self.delta.desired:
            self._failures.pop(key, None)
        self.delta.delete_desired(key)

    def refresh(self) -> None:
        """Read everything again at the next `apply`."""
        self._stale = True

    def forget(self, key: K) -> None:
        """The object is gone or has changed, or may have: write it again, also if it is being written just now."""
        self._failures.pop(key, None)
        self._forgotten.add(key)
        self.delta.delete_actual(key)

    def retry_all(self) -> None:
        """Forget every back-off."""
        self._failures.clear()

    def retry(self, key: K) -> None:
        """Forget the back-off of a key: something changed that may help (its interface came up)."""
        self._failures.pop(key, None)

    def status(self) -> Status:
        """Where we are."""
        return Status(len(self.delta), dict(self._failures.items()), self._error)

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until `apply` has something to do, None = nothing until the next change."""
        if self._stale or any(self._due(key, now_s) for key, _value in self.delta.updates()):
            return 0.0 if not self._error else READ_AGAIN_S
        times = [failure.next_try_s for failure in self._failures.values()]
        times += [since + self._grace_s for since in self._spared.values()]
        if self._interval_s:
            times.append(self._read_at_s + self._interval_s)
        return max(0.0, min(times) - now_s) if times else None

    async def apply(self, now_s: float) -> Status:
        """Do what can be done now."""
        if self._interval_s and now_s >= self._read_at_s + self._interval_s:
            self._stale = True
        self._forgotten.clear()
        if self._stale:
            self._stale = False  # again, if `refresh` is called meanwhile
            try:
                self.delta.replace_actual(await self._driver.read())
                self._forget_again()
            except CalicoError as error:
                self._stale, self._error = True, str(error)
                self._report("read", error)
                return self.status()
            self._error, self._read_at_s = "", now_s
        deletes, updates = self._select(now_s)
        if deletes or updates:
            self._account(deletes, updates, await self._driver.apply(deletes, updates), now_s)
            self._forget_again()
        return self.status()

    def _forget_again(self) -> None:
        """What was forgotten while the kernel was at work: its answer is older."""
        for key in self._forgotten:
            self.delta.delete_actual(key)

    def _select(self, now_s: float) -> tuple[dict[K, V], dict[K, V]]:
        updates = {key: value for key, value in self.delta.updates() if self._due(key, now_s)}
        deletes: dict[K, V] = {}
        strangers: dict[K, float] = {}
        for key, value in self.delta.deletes():
            if self._grace_s and key not in self._known:
                strangers[key] = self._spared.get(key, now_s)
                if now_s < strangers[key] + self._grace_s:
                    continue
            if self._due(key, now_s):
                deletes[key] = value
        self._spared = {key: since for key, since in strangers.items() if key not in deletes}
        return deletes, updates

    def _due(self, key: K, now_s: float) -> bool:
        failure = self._failures.get(key)
        return failure is None or now_s >= failure.next_try_s

    def _account(
        self, deletes: Mapping[K, V], updates: Mapping[K, V], errors: Mapping[K, Exception], now_s: float
    ) -> None:
        for key in deletes:
            if key not in errors:
                self.delta.delete_actual(key)
                self._failures.pop(key, None)
                self._known.discard(key)
        for key, value in updates.items():
            if key not in errors:
                self.delta.set_actual(key, value)
                self._failures.pop(key, None)
        for key, error in errors.items():
            attempts = self._failures[key].attempts + 1 if key in self._failures else 1
            self._failures[key] = Failure(str(error), attempts, now_s + BACKOFF.pause_s(attempts))
            self._report(str(key), error)

    def _report(self, what: str, error: Exception) -> None:
        if self._on_failure is not None:
            self._on_failure(f"{self.name} {what}", error)

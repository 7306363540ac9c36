"""What goes to the dataplane next: one pending item per object, the newest wins.

An object that was never sent and is gone again leaves no trace; one that is the same as what was sent is dropped.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Pending(Generic[K, V]):
    """Pending changes of one kind of object, and what was sent before."""

    def __init__(self) -> None:
        self.sent: dict[K, V] = {}
        self._pending: dict[K, V | None] = {}

    def put(self, key: K, value: V) -> None:
        """The object is now this."""
        self._pending[key] = value

    def remove(self, key: K) -> None:
        """The object is gone."""
        self._pending[key] = None

    def current(self, key: K) -> V | None:
        """What the receiver will know after the next flush."""
        return self._pending[key] if key in self._pending else self.sent.get(key)

    def flush(self) -> dict[K, V | None]:
        """The real changes since the last flush."""
        changes: dict[K, V | None] = {}
        for key, value in self._pending.items():
            if value is None:
                if self.sent.pop(key, None) is not None:
                    changes[key] = None
            elif self.sent.get(key) != value:
                self.sent[key] = value
                changes[key] = value
        self._pending.clear()
        return changes

"""What there should be, what there is, and the difference, kept up to date change by change.

Pure. Costs are proportional to what changed, never to how much there is, except for `replace_actual`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Delta(Generic[K, V]):
    """Two maps and the keys in which they differ. Values are compared by equality; None is no value."""

    def __init__(self) -> None:
        self._desired: dict[K, V] = {}
        self._actual: dict[K, V] = {}
        self._updates: dict[K, None] = {}
        self._deletes: dict[K, None] = {}

    @property
    def desired(self) -> Mapping[K, V]:
        """What there should be."""
        return self._desired

    @property
    def actual(self) -> Mapping[K, V]:
        """What there is, as far as we know."""
        return self._actual

    def __len__(self) -> int:
        """How many keys differ."""
        return len(self._updates) + len(self._deletes)

    def set_desired(self, key: K, value: V) -> None:
        """`key` should have `value`."""
        self._desired[key] = value
        self._mark(key)

    def delete_desired(self, key: K) -> None:
        """`key` should not be there."""
        self._desired.pop(key, None)
        self._mark(key)

    def set_actual(self, key: K, value: V) -> None:
        """`key` was seen, or made, with `value`."""
        self._actual[key] = value
        self._mark(key)

    def delete_actual(self, key: K) -> None:
        """`key` is not there."""
        self._actual.pop(key, None)
        self._mark(key)

    def replace_actual(self, found: Mapping[K, V]) -> None:
        """Exactly this is there: the result of reading everything again."""
        self._actual = dict(found)
        self._updates = {key: None for key, value in self._desired.items() if self._actual.get(key) != value}
        self._deletes = {key: None for key in self._actual if key not in self._desired}

    def updates(self) -> Iterator[tuple[K, V]]:
        """What is missing or different, in the order in which it was asked for."""
        return ((key, self._desired[key]) for key in self._updates)

    def deletes(self) -> Iterator[tuple[K, V]]:
        """What is there and should not be, with its actual value."""
        return ((key, self._actual[key]) for key in self._deletes)

    def _mark(self, key: K) -> None:
        wanted, found = self._desired.get(key), self._actual.get(key)
        if wanted is None and found is not None:
            self._updates.pop(key, None)
            self._deletes[key] = None
        elif wanted != found:
            self._deletes.pop(key, None)
            self._updates[key] = None
        else:
            self._updates.pop(key, None)
            self._deletes.pop(key, None)

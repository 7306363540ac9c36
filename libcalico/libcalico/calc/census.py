"""How many objects of each kind there are, to name a kind that is gone all at once: few delete that way on purpose."""

from __future__ import annotations

from collections.abc import Mapping

FEW = 2
"""One object that goes is a deletion; of pools there is often but one."""
ALONE = ("IPPool",)


class Census:
    """The counts as of the last flush. `vanished`: kinds that went at once and are still without any object."""

    def __init__(self) -> None:
        self._counts: Mapping[str, int] = {}
        self.vanished: dict[str, str] = {}

    def take(self, counts: Mapping[str, int]) -> list[str]:
        """Compare with the last counts; returns the kinds that have gone since then."""
        gone = []
        for kind, count in counts.items():
            former = self._counts.get(kind, 0)
            if count:
                self.vanished.pop(kind, None)
            elif former >= (1 if kind in ALONE else FEW):
                gone.append(kind)
                self.vanished[kind] = f"all objects of this kind ({former}) are gone from the datastore at once"
        self._counts = counts
        return gone

"""How long to wait before the next try, wherever something is tried again."""

from __future__ import annotations

import random
from typing import NamedTuple


class Backoff(NamedTuple):
    """Pauses in seconds: `first_s` after the first failure, each `growth` times the one before, at most `last_s`.

    With `spread` a pause is any part of that, at random: writers who failed together do not meet again."""

    first_s: float
    last_s: float
    growth: float = 2.0
    spread: bool = False

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row (1 or more), in seconds."""
        longest = self.first_s
        for _ in range(failures - 1):
            if longest >= self.last_s:
                break
            longest *= self.growth
        longest = min(longest, self.last_s)
        return random.uniform(0, longest) if self.spread else longest

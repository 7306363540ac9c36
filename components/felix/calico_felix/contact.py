"""Is the datastore there? What `status`, `problems`, health and metrics say about it, from one place."""

from __future__ import annotations

from typing import Any

from libcalico.clock import Clock
from libcalico.datastore.contract import Datastore
from libcalico.datastore.syncer import Syncer
from libcalico.text import shown

QUIET_S = 20.0
"""A connected datastore is asked for news every 5 s (`etcd.PROGRESS_INTERVAL_S`): after 4 times that it is silent."""


class Contact:
    """The watch's view of the datastore."""

    def __init__(self, datastore: Datastore, syncer: Syncer, clock: Clock) -> None:
        self._datastore = datastore
        self._syncer = syncer
        self._clock = clock

    @property
    def age_s(self) -> float:
        """How long ago the datastore was last heard."""
        return self._clock.monotonic_s() - self._syncer.last_heard_s

    @property
    def is_lost(self) -> bool:
        """It does not answer: what it says may be another thing by now."""
        return not self._syncer.connected or self.age_s > QUIET_S

    @property
    def endpoint(self) -> str:
        """Where the datastore is, or is looked for."""
        return self._datastore.endpoint

    def figures(self) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return {"felix_datastore_age_seconds": self.age_s}

    def facts(self) -> dict[str, Any]:
        """For `status`."""
        return {
            "connected": not self.is_lost,
            "endpoint": self._datastore.endpoint,
            "reason": self._reason() if self.is_lost else "",
        }

    def detail(self, revision: int) -> str:
        """For health. The agent goes on without a datastore: this is no reason to be not ready."""
        return f"no answer for {self.age_s:.0f} s, rules stand as of revision {revision}" if self.is_lost else "in sync"

    def problems(self, revision: int) -> list[str]:
        """For `problems`."""
        if not self.is_lost:
            return []
        return [f"datastore {self._datastore.endpoint}: {self.detail(revision)} ({self._reason()})"]

    def _reason(self) -> str:
        return shown(self._syncer.reason or "it is silent")

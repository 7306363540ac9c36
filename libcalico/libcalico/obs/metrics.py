"""`/metrics` in Prometheus' text format: a daemon's figures, and what prometheus_client says of every process.

Each daemon has one registry of its own, so that tests do not share it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from libcalico.obs.figures import Figures, exposition

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What `/metrics` answers."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """All of it as text."""
        return exposition(self._figures.read()).encode() + generate_latest(self._registry)

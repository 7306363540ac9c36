"""What the agent says of itself as a whole: the facts of `status`, and `problems`, gathered from its parts."""

from __future__ import annotations

from typing import Any

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.forwarding import Forwarding
from calico_felix.serving import Serving
from calico_felix.settings_source import SettingsSource
from libcalico.cni.finisher import Finisher
from libcalico.config import Configuration
from libcalico.obs.figures import Figures, status_of


class Report:
    """The parts, and what they say together. `dataplane` and `finisher` are None until the agent has its settings."""

    def __init__(
        self, configuration: Configuration, settings: SettingsSource, contact: Contact, follower: Follower,
        forwarding: Forwarding, figures: Figures, serving: Serving,
    ) -> None:  # fmt: skip
        self.configuration = configuration
        self.follower = follower
        self.figures = figures
        self.serving = serving
        self._settings = settings
        self._contact = contact
        self._forwarding = forwarding
        self.dataplane: Dataplane | None = None
        self.finisher: Finisher | None = None

    def status(self) -> dict[str, Any]:
        """Facts, then figures."""
        graph, waits = self.follower.graph, self.dataplane is None
        return {
            "node": graph.host,
            "in_sync": graph.in_sync and not self._contact.is_lost,
            **self._contact.facts(),
            **({"reason": self._waits(), "programmed_revision": 0} if waits else {}),
            **status_of(self.figures.read()),
        }

    def problems(self) -> list[str]:
        """Of the datastore, the host, objects that cannot be used, settings, and ports that cannot be had."""
        graph = self.follower.graph
        objects = [f"{name}: {text}" for found in (graph.problems, graph.unsupported) for name, text in found.items()]
        return [*self._own_problems(), *objects, *self.configuration.warnings, *self.serving.problems()]

    def _own_problems(self) -> list[str]:
        if self.dataplane is None:
            return [self._waits()]
        return [
            *self._contact.problems(self.follower.revision),
            *self._forwarding.problems(),
            *self.serving.sockets.problems(),
            *self.follower.losses(),
            *(self.finisher.problems() if self.finisher is not None else ()),
            *self.follower.unmet(),
        ]

    def _waits(self) -> str:
        return self._settings.waiting_for or f"waiting for the datastore at {self._contact.endpoint}"

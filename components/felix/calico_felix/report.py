"""What the agent says of itself as a whole, gathered from its parts: facts, problems, and what is on its way."""

from __future__ import annotations

from typing import Any

from calico_felix.contact import Contact
from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from calico_felix.forwarding import Forwarding
from calico_felix.serving import Serving
from calico_felix.settings_source import SettingsSource
from calico_felix.tunnel_keeper import TunnelKeeper
from libcalico.cni.finisher import Finisher
from libcalico.config import Configuration
from libcalico.obs.figures import Figures


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
        self.tunnels: TunnelKeeper | None = None

    def facts(self) -> dict[str, Any]:
        """What `StatusReply` (rpc/node.proto) says of the datastore, by its fields' names."""
        waits = {"reason": self._waits()} if self.dataplane is None else {}
        follows = self.follower.graph.in_sync and not self._contact.is_lost
        return {"follows": follows, **self._contact.facts(), **waits}

    def dirty(self) -> list[str]:
        """What has changed and is not in the kernel yet."""
        dataplane = self.dataplane
        if dataplane is None:
            return []
        lines = self.follower.losses()
        if dataplane.programmed_revision < self.follower.revision:
            lines.append(f"revision {self.follower.revision}: the kernel reflects {dataplane.programmed_revision}")
        for key, endpoint in dataplane.ruleset.owners.endpoints.items():
            programmed = dataplane.readiness.programmed.get(key, 0)
            if programmed < endpoint.revision:
                lines.append(f"{key}: revision {endpoint.revision}, the kernel enforces {programmed or 'none'}")
        delta = dataplane.routes.delta
        lines += [f"route {key}" for key, route in delta.desired.items() if delta.actual.get(key) != route]
        return lines

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
            *(self.tunnels.problems() if self.tunnels is not None else ()),
            *self.follower.unmet(),
        ]

    def _waits(self) -> str:
        return self._settings.waiting_for or f"waiting for the datastore at {self._contact.endpoint}"

"""The agent's settings: read from the datastore when it starts, and again whenever a FelixConfiguration changes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from calico_felix.foreign import datastore_names
from libcalico.calc.settings import CLUSTER, NODE_PREFIX, Settings
from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock
from libcalico.config import Configuration
from libcalico.errors import BadData, CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.model.resources import ClusterInformation, FelixConfiguration, Node
from libcalico.obs import logs
from libcalico.obs.health import Health

log = logging.getLogger(__name__)

CONNECT_RETRY_S = 1.0


class RestartNeeded(CalicoError):
    """Something changed that a running agent cannot take over: end, and be started again."""


class SettingsSource:
    """Environment and file are in `configuration` already; this adds what the datastore says, and puts it in force."""

    def __init__(
        self, host: str, configuration: Configuration, client: AsyncClient, health: Health, clock: Clock,
        objection: Callable[[str], str] = lambda _guid: "",
    ) -> None:  # fmt: skip
        """`objection`: why a datastore with a clusterGUID is not this host's."""
        self._host = host
        self._objection = objection
        self._configuration = configuration
        self._client = client
        self._health = health
        self._clock = clock
        self.waiting_for = ""
        """Why the agent has not started its work yet."""
        self.on_change: Callable[[Configuration], None] = lambda _configuration: None

    async def load(self) -> None:
        """Wait for the datastore and take the settings from it."""
        while True:
            try:
                await self._wait_ready()
                self._resolve(await self._read())
                return
            except (DatastoreError, BadData) as error:
                away = isinstance(error, DatastoreError)
                reason = "waiting for the datastore" if away else "waiting for settings that can be used"
                await self._pause(f"{reason}: {error}", ready=away)

    def reload(self, values: dict[str, str]) -> str:
        """The datastore says other things now. Returns why the agent must start again; empty when it need not.

        Raises `BadData` for values that would stop an agent that starts: then the former settings stay in force."""
        changed = self._configuration.needs_restart(self._resolve(values))
        return f"settings have changed: {', '.join(sorted(changed))}" if changed else ""

    async def _wait_ready(self) -> None:
        while True:
            try:
                found = await self._client.get(ClusterInformation, "default")
                reason = self._objection(found.spec.cluster_guid)
                if not reason and found.spec.datastore_ready:
                    return
                reason = reason or "the datastore is locked (datastoreReady is false)"
            except ResourceDoesNotExist:
                reason = "the datastore is not initialised (ClusterInformation default is missing)"
            await self._pause(f"waiting: {reason}", ready=True)

    async def _pause(self, reason: str, ready: bool) -> None:
        """Before the next try to start. `ready`: nothing is wrong, there is just nothing to do yet."""
        if reason != self.waiting_for:
            log.log(logging.WARNING if ready else logging.ERROR, "%s", reason)
        self.waiting_for = reason
        self._health.report("datastore", ready=ready, detail=reason)
        await self._clock.sleep(CONNECT_RETRY_S)

    async def _read(self) -> dict[str, str]:
        settings = Settings(self._host)
        for found in (await self._client.list(FelixConfiguration)).items:
            settings.update(found.metadata.name, found)
        with contextlib.suppress(ResourceDoesNotExist):
            settings.labels = (await self._client.get(Node, self._host)).metadata.labels
        for name in (CLUSTER, NODE_PREFIX + self._host):  # which count for certain: a damaged one must be reported
            with contextlib.suppress(ResourceDoesNotExist):
                settings.update(name, await self._client.get(FelixConfiguration, name))
        return settings.merged()

    def _resolve(self, values: dict[str, str]) -> set[str]:
        """Put them in force; returns the names of the parameters that are different now."""
        self._configuration.load_datastore(datastore_names(values))
        changed = self._configuration.resolve()
        for warning in self._configuration.news():
            log.warning("%s", warning)
        logs.set_severity(self._configuration["LogSeverityScreen"])
        self.on_change(self._configuration)
        return changed

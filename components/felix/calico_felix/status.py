"""What the agent writes back to etcd: a heartbeat under a lease, and its endpoints' state (spec/datastore.md 7)."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from calico_felix.dataplane.loop import Dataplane
from libcalico.clock import Clock, rfc3339
from libcalico.datastore.contract import Datastore, Delete
from libcalico.errors import DatastoreError
from libcalico.model.keys import (
    FELIX_STATUS,
    HostStatusKey,
    LastReportedStatusKey,
    ResourceKey,
    WorkloadStatusKey,
    key_path,
    split_workload_endpoint_name,
)

log = logging.getLogger(__name__)

ENDPOINT_INTERVAL_S = 1.0


class StatusReporter:
    """Two loops; an etcd that is away costs a log line and a later try, never the agent."""

    def __init__(self, host: str, datastore: Datastore, dataplane: Dataplane, clock: Clock) -> None:
        self._host = host
        self._datastore = datastore
        self._dataplane = dataplane
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._first = True

    async def report_host(self, interval_s: float, ttl_s: float) -> None:
        """The heartbeat, for ever."""
        while True:
            try:
                await self._put_host_status(int(ttl_s))
                self._first = False
            except DatastoreError as error:
                log.warning("cannot report status: %s", error)
            await asyncio.sleep(interval_s)

    async def _put_host_status(self, ttl_s: int) -> None:
        uptime_s = self._clock.monotonic_s() - self._started_s
        value = msgspec.json.encode(
            {"time": rfc3339(self._clock.now()), "uptime": round(uptime_s, 3), "first_update": self._first}
        )
        lease = await self._datastore.grant_lease(ttl_s)
        await self._datastore.put(key_path(HostStatusKey(self._host)).encode(), value, lease)
        await self._datastore.put(key_path(LastReportedStatusKey(self._host)).encode(), value)

    async def report_endpoints(self) -> None:
        """Each endpoint's state, whenever it changes; what is stored of endpoints that are gone is deleted first."""
        stored: dict[str, str] = {}
        known = False
        while True:
            try:
                if not known:
                    stored, known = await self._read_stored(), True
                await self._write_changes(stored)
            except DatastoreError as error:
                log.warning("cannot report endpoints: %s", error)
                known = False
            await asyncio.sleep(ENDPOINT_INTERVAL_S)

    async def _read_stored(self) -> dict[str, str]:
        found = await self._datastore.range(f"{FELIX_STATUS}{self._host}/workload/".encode())
        return {kv.key.decode("utf-8", "surrogateescape"): kv.value.decode("utf-8", "replace") for kv in found.kvs}

    async def _write_changes(self, stored: dict[str, str]) -> None:
        wanted = {}
        for key, endpoint in self._dataplane.ruleset.owners.endpoints.items():
            path = status_path(self._host, key)
            if path:
                state = "up" if not self._dataplane.endpoint_problem(endpoint) else "down"
                wanted[path] = f'{{"status":"{state}"}}'
        for path in [path for path in stored if path not in wanted]:
            await self._datastore.txn([], [Delete(path.encode("utf-8", "surrogateescape"))])
            del stored[path]
        for path, value in wanted.items():
            if stored.get(path) != value:
                await self._datastore.put(path.encode(), value.encode())
                stored[path] = value


def status_path(host: str, key: ResourceKey) -> str:
    """Where the state of a workload endpoint is stored; empty for a name that is not an endpoint's."""
    parts = split_workload_endpoint_name(key.name)
    if parts is None:
        return ""
    _, orchestrator, workload, endpoint = parts
    return key_path(WorkloadStatusKey(host, orchestrator, f"{key.namespace}/{workload}", endpoint))

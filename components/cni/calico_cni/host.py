"""The world of one call without an agent: a datastore connection of its own, the kernel, no policy engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from libcalico.client.objects import AsyncClient
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import CALICO, EtcdConfig, etcd_config, first_of, from_network, from_variables
from libcalico.errors import BadData
from libcalico.kernel.conntrack import Conntrack
from libcalico.workload.attach import Attacher
from libcalico.workload.guard import ensure_guard
from libcalico.workload.host import EtcdMembers, PlainHost
from libcalico.workload.locks import Locks, hold_netns


def etcd_settings(etcd: EtcdMembers, environment: Mapping[str, str]) -> EtcdConfig:
    """How to reach etcd: `CALICO_` variables, then the network's configuration, then plain variables.

    Raises `BadData`, also for a clean-up: where a setting is damaged, the next source may name another cluster."""
    if etcd.problem:
        raise BadData(etcd.problem)
    variables = from_variables(environment, CALICO), from_variables(environment)
    return etcd_config(first_of(variables[0], from_network(etcd.values), variables[1]))


def _end_flows(addresses: Sequence[str]) -> None:
    """Those that a former owner of an address had: no agent was there to see it go."""
    with Conntrack() as conntrack:
        conntrack.delete_flows(addresses)


class FallbackHost(PlainHost):
    """The guard keeps every new endpoint closed until an agent programs its policy; other processes may be at work in
    the same container."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(Attacher(workers=1), locks=Locks(hold_netns))
        self._environment = environment
        self._opened: list[EtcdDatastore] = []

    async def connect(self, etcd: EtcdMembers) -> AsyncClient:
        """A connection of this call's own."""
        datastore = EtcdDatastore(etcd_settings(etcd, self._environment))
        self._opened.append(datastore)
        return AsyncClient(datastore)

    async def protect(self, addresses: Sequence[str]) -> None:
        """Put the guard in place, end what was open to these addresses."""
        await asyncio.to_thread(ensure_guard)
        await asyncio.to_thread(_end_flows, addresses)

    async def close(self) -> None:
        """End the connections."""
        self.attacher.close()
        for datastore in self._opened:
            await datastore.close()


@asynccontextmanager
async def open_host(environment: Mapping[str, str]) -> AsyncIterator[FallbackHost]:
    """The host for one call; the connection is made when the call asks for it."""
    host = FallbackHost(environment)
    try:
        yield host
    finally:
        await host.close()

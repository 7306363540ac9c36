"""The world of one call without an agent: a datastore connection of its own, the kernel, no policy engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from libcalico.client.objects import AsyncClient
from libcalico.cni.conf import NetConf
from libcalico.cni.locks import hold_netns
from libcalico.cni.services import Services
from libcalico.cni.unfinished import Unfinished
from libcalico.conventions import STATE_DIRECTORY
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import CALICO, EtcdConfig, etcd_config, first_of, from_network, from_variables
from libcalico.errors import BadData
from libcalico.kernel.conntrack import Conntrack
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import Attacher
from libcalico.workload.guard import ensure_guard


def etcd_settings(conf: NetConf, environment: Mapping[str, str]) -> EtcdConfig:
    """How to reach etcd: `CALICO_` variables, then the network's configuration, then plain variables.

    Raises `BadData`, also for a clean-up: where a setting is damaged, the next source may name another cluster."""
    if conf.etcd_problem:
        raise BadData(conf.etcd_problem)
    variables = from_variables(environment, CALICO), from_variables(environment)
    return etcd_config(first_of(variables[0], from_network(conf.etcd), variables[1]))


def _end_flows(addresses: Sequence[str]) -> None:
    """Those that a former owner of an address had: no agent was there to see it go."""
    with Conntrack() as conntrack:
        conntrack.delete_flows(addresses)


@asynccontextmanager
async def open_services(environment: Mapping[str, str]) -> AsyncIterator[Services]:
    """Services for one call; the connection is made when the call asks for it."""
    opened: list[EtcdDatastore] = []
    attacher = Attacher(workers=1)

    async def connect(conf: NetConf) -> AsyncClient:
        datastore = EtcdDatastore(etcd_settings(conf, environment))
        opened.append(datastore)
        return AsyncClient(datastore)

    async def go_on(key: ResourceKey, revision: int, timeout_s: float) -> None:
        """No agent: the guard keeps the endpoint closed, nothing is worth waiting for."""

    async def protect(addresses: Sequence[str]) -> None:
        await asyncio.to_thread(ensure_guard)
        await asyncio.to_thread(_end_flows, addresses)

    try:
        unfinished = Unfinished(environment.get("CALICO_STATE_DIRECTORY") or STATE_DIRECTORY)
        yield Services(attacher, connect, go_on, protect=protect, hold_netns=hold_netns, unfinished=unfinished)
    finally:
        attacher.close()
        for datastore in opened:
            await datastore.close()

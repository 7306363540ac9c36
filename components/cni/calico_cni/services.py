"""The world of one call without an agent: a datastore connection of its own, the kernel, no policy engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from libcalico import client_config
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.resources import AsyncClient
from libcalico.kernel.conntrack import Conntrack
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import Attacher
from libcalico.workload.cni.conf import NetConf
from libcalico.workload.cni.hold import hold_netns
from libcalico.workload.cni.services import Services
from libcalico.workload.guard import ensure_guard

# conf member -> (name in a client configuration, variable)
_MEMBERS = {
    "datastore_type": ("datastoreType", "DATASTORE_TYPE"),
    "etcd_endpoints": ("etcdEndpoints", "ETCD_ENDPOINTS"),
    "etcd_discovery_srv": ("etcdDiscoverySrv", "ETCD_DISCOVERY_SRV"),
    "etcd_key_file": ("etcdKeyFile", "ETCD_KEY_FILE"),
    "etcd_cert_file": ("etcdCertFile", "ETCD_CERT_FILE"),
    "etcd_ca_cert_file": ("etcdCACertFile", "ETCD_CA_CERT_FILE"),
}


def datastore_settings(conf: NetConf, environment: Mapping[str, str]) -> dict[str, str]:
    """How to reach the datastore: the network's configuration before the environment (`CALICO_` names first)."""
    settings: dict[str, str] = {}
    for member, (name, variable) in _MEMBERS.items():
        value = conf.etcd[member] or environment.get(f"CALICO_{variable}") or environment.get(variable)
        if value:
            settings[name] = value
    if "etcdEndpoints" not in settings and "etcdDiscoverySrv" not in settings and conf.etcd["etcd_authority"]:
        settings["etcdEndpoints"] = f"{conf.etcd['etcd_scheme'] or 'http'}://{conf.etcd['etcd_authority']}"
    return settings


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
        datastore = EtcdDatastore(client_config.from_settings(datastore_settings(conf, environment)))
        opened.append(datastore)
        return AsyncClient(datastore)

    async def go_on(key: ResourceKey, revision: int, timeout_s: float) -> None:
        """No agent: the guard keeps the endpoint closed, nothing is worth waiting for."""

    async def protect(addresses: Sequence[str]) -> None:
        await asyncio.to_thread(ensure_guard)
        await asyncio.to_thread(_end_flows, addresses)

    try:
        yield Services(attacher, connect, go_on, protect=protect, hold_netns=hold_netns)
    finally:
        attacher.close()
        for datastore in opened:
            await datastore.close()

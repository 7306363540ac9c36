"""What `calico-node` does once or in a loop beside the agent, each with a datastore session of its own
(spec/node-startup.md 3-6)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from calico_felix.configuration import load_configuration
from calico_felix.startup import names
from calico_felix.startup.addresses import ensure_node
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.sequence import run_startup
from calico_felix.startup.tunnels import ensure_tunnel_addresses
from calico_felix.startup.variables import NODE_VARIABLES, STARTUP_VARIABLES, Variables
from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock, rfc3339
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import EtcdConfig, etcd_config, from_environment
from libcalico.datastore.syncer import Syncer
from libcalico.errors import BadData, CalicoError, DatastoreError
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey, key_path, list_prefix

log = logging.getLogger(__name__)


def _etcd(environment: Mapping[str, str]) -> EtcdConfig:
    try:
        return etcd_config(from_environment(environment))
    except BadData as error:
        notes = getattr(error, "__notes__", ())
        raise BadData(": ".join(["ERROR: Error loading datastore config", str(error), *notes])) from None


@contextlib.asynccontextmanager
async def _session(environment: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
    datastore = EtcdDatastore(_etcd(environment))
    try:
        yield AsyncClient(datastore)
    except DatastoreError as error:
        raise CalicoError(f"ERROR: Error accessing the Calico datastore: {error}") from None
    finally:
        await datastore.close()


async def start_up(environment: Mapping[str, str]) -> None:
    """`-startup`: prepare this host. Raises `CalicoError`."""
    name, source = names.find_node_name(environment)
    names.check_new_name(name, source)
    ipv6 = load_configuration(environment)["IPv6Support"]
    try:
        await run_startup(EtcdDatastore, _etcd(environment), name, environment, ipv6=ipv6, whole=False)
    except DatastoreError as error:
        raise CalicoError(f"ERROR: Error accessing the Calico datastore: {error}") from None


async def allocate_tunnel_addresses(environment: Mapping[str, str]) -> None:
    """`-allocate-tunnel-addrs`: once. Raises `CalicoError`."""
    name, _ = names.find_node_name(environment)
    async with _session(environment) as client:
        changed = await ensure_tunnel_addresses(client, IpamService(client.datastore, name), name)
    log.info("the tunnel addresses of node %s %s", name, "have changed" if changed else "are as they should be")


async def keep_tunnel_addresses(environment: Mapping[str, str]) -> None:
    """`-allocate-tunnel-addrs-daemon`: the same whenever pools or this Node have changed, until an error ends it. The
    agent does so too: this is for a host on which upstream's agent runs. Raises `CalicoError`."""
    name, _ = names.find_node_name(environment)
    followed = (list_prefix("IPPool"), key_path(ResourceKey("Node", name)))
    async with _session(environment) as client:
        ipam = IpamService(client.datastore, name)
        async for batch in Syncer(client.datastore, followed, SystemClock()).run():
            if batch.updates or batch.snapshot:
                await ensure_tunnel_addresses(client, ipam, name)


async def monitor_addresses(environment: Mapping[str, str]) -> None:
    """`-monitor-addresses`: look for this host's addresses again and again, and keep its Node right. Raises
    `CalicoError`, also when the Node is gone: start-up stores it."""
    name, _ = names.find_node_name(environment)
    variables = Variables(environment, NODE_VARIABLES)
    network = HostNetwork()
    async with _session(environment) as client:
        while True:
            await ensure_node(client, name, variables, network, create=False)
            await client.clock.sleep(variables["AUTODETECT_POLL_INTERVAL"])


def shut_down(environment: Mapping[str, str]) -> None:
    """`-shutdown`: write the time; the Node and its addresses stay. Raises `BadData`."""
    path = Path(Variables(environment, STARTUP_VARIABLES)["CALICO_SHUTDOWN_TIMESTAMP_FILE"])
    names.write_whole(path, rfc3339(SystemClock().now()))

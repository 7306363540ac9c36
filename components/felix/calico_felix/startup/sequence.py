"""The steps of start-up in their order (spec/node-startup.md 3).

`calico-node -startup` is `prepare` and the nodename file, which opens the CNI plug-in's gate. `calico-felix startup`
makes the default profile and the tunnel addresses in between, as DC/OS's start script does with other programs
(spec/dcos.md 3.1). Everything is created only when it is missing; running it again writes nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from calico_felix.startup import names
from calico_felix.startup.addresses import ensure_node
from calico_felix.startup.defaults import ensure_profile, ensure_settings
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.pools import ensure_pools
from calico_felix.startup.tunnels import ensure_tunnel_addresses
from calico_felix.startup.variables import NODE_VARIABLES, STARTUP_VARIABLES, Variables
from libcalico.client.objects import AsyncClient
from libcalico.conventions import STATE_DIRECTORY
from libcalico.datastore.contract import Datastore
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import ConnectionUnauthorized, DatastoreError, ResourceDoesNotExist
from libcalico.files import read_regular
from libcalico.ipam.service import IpamService
from libcalico.model.resources import ClusterInformation, Node

log = logging.getLogger(__name__)

LOG_DIRECTORY = "/var/log/calico"
DIRECTORIES = ("/var/run/calico", STATE_DIRECTORY, LOG_DIRECTORY, "/etc/calico")
PROBE = "foo"
LARGEST_TIMESTAMP = 4096
"""The Node that is asked for to see whether the datastore answers, as upstream does."""
POLL_S = 1.0
LOST = (
    "the datastore is not initialised (ClusterInformation default is missing), but this host was prepared before (%s is"
    " there): waiting until etcd's data is restored. If it is lost for good, remove that file on one host and"
    " clusterguid beside it on all: start-up begins with an empty datastore, and containers that run are cut off"
)


class Startup:
    """The steps for one host. `ipv6`: the agent's setting IPv6Support."""

    def __init__(
        self,
        client: AsyncClient,
        host: str,
        environment: Mapping[str, str],
        *,
        ipv6: bool = True,
        network: HostNetwork | None = None,
    ) -> None:
        self._client = client
        self._host = host
        self._environment = environment
        self._network = network or HostNetwork()
        self._variables = Variables(environment, (*NODE_VARIABLES, *STARTUP_VARIABLES))
        self._ipv6 = ipv6 and self._network.has_ipv6()
        self.nodename_file = Path(self._variables["CALICO_NODENAME_FILE"])

    async def run(self) -> None:
        """`calico-node -startup`. Raises `CalicoError`, which names what to do."""
        await self.prepare()
        self.finish()

    async def run_whole(self) -> None:
        """`calico-felix startup`: with the default profile on a new node, and the tunnel addresses."""
        is_new = not self.nodename_file.exists()
        await self.prepare()
        if is_new:
            await ensure_profile(self._client)
        await ensure_tunnel_addresses(self._client, IpamService(self._client.datastore, self._host), self._host)
        self.finish()

    async def prepare(self) -> None:
        """All that is stored in the datastore."""
        self._make_directories()
        names.check_writable(self.nodename_file)
        if self._variables["WAIT_FOR_DATASTORE"]:
            await self.wait_datastore()
        await self.wait_initialized()
        await self._client.ensure_initialized(cluster_type=self._variables["CLUSTER_TYPE"])
        await ensure_node(self._client, self._host, self._variables, self._network)
        none = self._variables["NO_DEFAULT_POOLS"]
        made = await ensure_pools(self._client, self._environment, self._network, none=none, ipv6=self._ipv6)
        await ensure_settings(self._client, self._host, made)

    def finish(self) -> None:
        """The host is prepared: programs find its name in the file, whose age says since when."""
        shutdown_file = Path(self._variables["CALICO_SHUTDOWN_TIMESTAMP_FILE"])
        try:
            found = read_regular(shutdown_file, LARGEST_TIMESTAMP).decode("utf-8", "replace").strip()
            log.info("this node was shut down at %s", found)
            shutdown_file.unlink()
        except OSError:
            pass  # it was not shut down by `-shutdown`
        names.write_whole(self.nodename_file, self._host)

    def _make_directories(self) -> None:
        for directory in DIRECTORIES:
            if directory == LOG_DIRECTORY and self._variables["CALICO_DISABLE_FILE_LOGGING"]:
                continue
            if not os.path.isdir(directory):
                try:
                    os.makedirs(directory, mode=0o755, exist_ok=True)
                    log.info("the folder %s was missing: it is made", directory)
                except OSError as error:
                    log.warning("the folder %s cannot be made: %s", directory, error.strerror)

    async def wait_datastore(self) -> None:
        """Until the datastore answers. Raises `ConnectionUnauthorized` when it refuses us: time does not mend that."""
        waits = False
        while True:
            try:
                await self._client.get(Node, PROBE)
            except ConnectionUnauthorized:
                raise
            except DatastoreError as error:
                if not waits:
                    log.warning("waiting for the datastore: %s", error)
                waits = True
                await self._client.clock.sleep(POLL_S)
                continue
            except ResourceDoesNotExist:
                pass
            return

    async def wait_initialized(self) -> None:
        """On a host that was prepared before, a datastore without ClusterInformation has lost its data: agents that
        found it initialised again, and empty, would take every container of the cluster for gone."""
        waits = False
        while self.nodename_file.exists() and not await self._is_initialized():
            if not waits:
                log.warning(LOST, self.nodename_file)
            waits = True
            await self._client.clock.sleep(POLL_S)

    async def _is_initialized(self) -> bool:
        try:
            await self._client.get(ClusterInformation, "default")
        except ResourceDoesNotExist:
            return False
        return True


async def run_startup(
    connect: Callable[[EtcdConfig], Datastore],
    etcd: EtcdConfig,
    host: str,
    environment: Mapping[str, str],
    *,
    ipv6: bool = True,
    whole: bool = True,
) -> int:
    """Prepare this host; returns the exit status. `whole`: with profile and tunnel addresses."""
    datastore = connect(etcd)
    try:
        startup = Startup(AsyncClient(datastore), host, environment, ipv6=ipv6)
        await (startup.run_whole() if whole else startup.run())
    finally:
        await datastore.close()
    log.info("Using node name: %s", host)
    return 0

"""This host's tunnel addresses while the agent runs: a pool that is made or changed at run time gives or takes one.

The work is `startup.tunnels.ensure_tunnel_addresses`, the same that `calico-node -allocate-tunnel-addrs` does once. The
device follows when the Node shows the address (`dataplane.vxlan`)."""

from __future__ import annotations

import asyncio
import logging

from calico_felix.follower import Follower
from calico_felix.startup.tunnels import ensure_tunnel_addresses
from libcalico.client.objects import AsyncClient
from libcalico.datastore.syncer import Batch
from libcalico.errors import CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey, key_path, list_prefix
from libcalico.reconcile import Backoff

log = logging.getLogger(__name__)

SETTLE_S = 0.25
"""A pool whose deletion is not believed yet still counts: what it gave stays until then."""
RETRY = Backoff(1.0, 60.0, spread=True)
POOLS = list_prefix("IPPool").encode()


class TunnelKeeper:
    """Runs when a pool or this host's Node has changed, once the agent is in sync."""

    def __init__(self, client: AsyncClient, ipam: IpamService, follower: Follower) -> None:
        self._client = client
        self._ipam = ipam
        self._follower = follower
        self._node = key_path(ResourceKey("Node", follower.graph.host)).encode()
        self._news = asyncio.Event()
        self._problem = ""
        follower.listeners.append(self.on_batch)

    def on_batch(self, batch: Batch) -> None:
        """The agent's watch has brought this."""
        if batch.snapshot or any(one.key == self._node or one.key.startswith(POOLS) for one in batch.updates):
            self._news.set()

    def problems(self) -> list[str]:
        """Why an address is missing."""
        return [self._problem] if self._problem else []

    async def run(self) -> None:
        """For ever."""
        failures = 0
        while True:
            await self._news.wait()
            if not self._follower.graph.in_sync or self._follower.departures:
                await self._client.clock.sleep(SETTLE_S)
                continue
            self._news.clear()
            failures = 0 if await self._succeeds() else failures + 1
            if failures:
                self._news.set()
                await self._client.clock.sleep(RETRY.pause_s(failures))

    async def _succeeds(self) -> bool:
        try:
            await ensure_tunnel_addresses(self._client, self._ipam, self._follower.graph.host)
        except ResourceDoesNotExist:
            pass  # no Node, so there is nothing to show an address: that is a problem of its own, and an update ends it
        except DatastoreError as error:
            log.debug("tunnel addresses: %s", error)  # that the datastore is away is a problem of its own
            return False
        except CalicoError as error:
            if str(error) != self._problem:
                log.warning("tunnel addresses: %s", error)
            self._problem = str(error)
            return False
        self._problem = ""
        return True

"""What those who attach workloads get of the agent: its datastore session, the kernel, and what it knows already."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey
from libcalico.net import parse_cidr
from libcalico.workload.attach import Attacher
from libcalico.workload.host import EtcdMembers
from libcalico.workload.locks import Locks, hold_netns

FALLBACKS_END_S = 120.0


class AgentHost:
    """The agent's `libcalico.workload.host.Host`: each answer from what it knows spares a request to the datastore."""

    def __init__(
        self, client: AsyncClient, ipam: IpamService, follower: Follower, dataplane: Dataplane, clock: Clock
    ) -> None:
        self.attacher = Attacher()
        self.clock = clock
        self.own_node = follower.graph.host
        self.locks = Locks(self.hold_netns)
        self._client = client
        self._ipam = ipam
        self._follower = follower
        self._dataplane = dataplane
        self.since_s = clock.monotonic_s()
        """When calls were first taken."""

    def close(self) -> None:
        """End the worker threads."""
        self.attacher.close()

    async def connect(self, etcd: EtcdMembers) -> AsyncClient:
        """The agent's own client, whatever a network's configuration says."""
        return self._client

    def open_ipam(self, client: AsyncClient, node: str) -> IpamService:
        """The one that the watch feeds, once it has all: before, what it does not know would count as absent."""
        follows = node == self.own_node and self._follower.graph.in_sync
        return self._ipam if follows else IpamService(client.datastore, node, self.clock)

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Until the kernel enforces the endpoint's policy as of the revision; raises `TimeoutError`."""
        await self._dataplane.wait_programmed(key, revision, timeout_s)

    async def protect(self, addresses: Sequence[str]) -> None:
        """The agent's table closes an interface that it does not know; flows of former owners have ended after this."""
        await self._dataplane.connections.end_inherited(addresses)

    def datastore_ready(self) -> bool | None:
        """None while ClusterInformation is not there."""
        return self._follower.graph.datastore_ready

    def has_profile(self, name: str) -> bool:
        """It is stored, and its deletion is not waiting to be believed."""
        return self._follower.has_profile(name)

    def is_unused(self, interface: str) -> bool:
        """Known only when in sync."""
        return self._follower.graph.in_sync and self._dataplane.is_unused(interface)

    def is_held(self, interface: str, own: ResourceKey) -> bool | None:
        """Known only when in sync."""
        return self._dataplane.is_held(interface, own) if self._follower.graph.in_sync else None

    def users_of(self, address: str) -> Collection[ResourceKey] | None:
        """Known only when in sync."""
        if not self._follower.graph.in_sync:
            return None
        wanted = parse_cidr(address)
        stored = self._dataplane.ruleset.owners.endpoints
        return [key for key, endpoint in stored.items() if wanted in endpoint.nets]

    def hold_netns(self, path: str, container: str) -> contextlib.AbstractAsyncContextManager[object]:
        """A plug-in that found no agent may still be at work in a container, for as long as its own time-outs last."""
        is_young = self.clock.monotonic_s() - self.since_s < FALLBACKS_END_S
        return hold_netns(path, container) if is_young else contextlib.nullcontext()

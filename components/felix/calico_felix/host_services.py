"""What calls of the node API need of this host: the agent's own datastore, IPAM, kernel and knowledge."""

from __future__ import annotations

import contextlib

from calico_felix.dataplane.loop import Dataplane
from calico_felix.follower import Follower
from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock
from libcalico.cni.locks import hold_netns
from libcalico.cni.services import Services
from libcalico.cni.unfinished import Unfinished
from libcalico.ipam.service import IpamService
from libcalico.workload.attach import Attacher

FALLBACKS_END_S = 120.0


class HostServices:
    """Answers from what the agent knows already; each answer that it spares is a request to the datastore."""

    def __init__(self, client: AsyncClient, ipam: IpamService, follower: Follower, clock: Clock) -> None:
        self._client = client
        self._ipam = ipam
        self._follower = follower
        self._clock = clock
        self.since_s = clock.monotonic_s()
        """When calls were first taken."""

    def services(self, attacher: Attacher, dataplane: Dataplane, unfinished: Unfinished) -> Services:
        """For CNI's handlers."""
        graph = self._follower.graph
        return Services(
            attacher,
            self._connect,
            dataplane.wait_programmed,
            open_ipam=self.open_ipam,
            clock=self._clock,
            own_node=graph.host,
            protect=dataplane.flows.end_inherited,
            hold_netns=self.hold_netns,
            unfinished=unfinished,
            datastore_ready=lambda: graph.datastore_ready,
            has_profile=self._follower.has_profile,
            is_unused=lambda name: graph.in_sync and dataplane.is_unused(name),
            is_held=lambda name, own: dataplane.is_held(name, own) if graph.in_sync else None,
        )

    async def _connect(self, _conf: object) -> AsyncClient:
        return self._client

    def open_ipam(self, client: AsyncClient, node: str) -> IpamService:
        """The one that the watch feeds, once it has all: before, what it does not know would count as absent."""
        fed = node == self._follower.graph.host and self._follower.graph.in_sync
        return self._ipam if fed else IpamService(client.datastore, node, self._clock)

    def hold_netns(self, path: str, container: str) -> contextlib.AbstractAsyncContextManager[None]:
        """A plug-in that found no agent may still be at work in a container, for as long as its own time-outs last."""
        is_young = self._clock.monotonic_s() - self.since_s < FALLBACKS_END_S
        return hold_netns(path, container) if is_young else contextlib.nullcontext()

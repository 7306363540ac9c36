"""What attaching a workload needs of the process that does it: the datastore, the kernel, IPAM, the policy engine.

`Host` says it. The agent has an implementation over its own view of the datastore (`calico_felix.host_services`), a
plug-in that found no agent one for a single call (`calico_cni.host`); `PlainHost` is what both begin with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock, SystemClock
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import Attacher
from libcalico.workload.locks import Locks


class EtcdMembers(NamedTuple):
    """What a caller's own configuration says of etcd: members by name (`etcd_endpoints`, say). `problem`: what is wrong
    with one of them, "" = nothing."""

    values: Mapping[str, str] = {}
    problem: str = ""


class Host(Protocol):
    """The world of an attachment. Methods that answer None or False know nothing: the datastore is asked instead."""

    attacher: Attacher
    clock: Clock
    own_node: str
    """The name that the process gives to this node, "" = configurations and files say it."""
    locks: Locks

    async def connect(self, etcd: EtcdMembers) -> AsyncClient:
        """The datastore's client. The agent has one already, whatever a caller's configuration says."""
        ...

    def open_ipam(self, client: AsyncClient, node: str) -> IpamService:
        """IPAM as seen from a node."""
        ...

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Return when the kernel enforces the policy of an endpoint as stored at `revision`, or later.

        Raises `TimeoutError` after `timeout_s`, or an error of `libcalico.errors` with the reason."""
        ...

    async def protect(self, addresses: Sequence[str]) -> None:
        """Return when an interface with these addresses may be made: until its policy is programmed it is closed, and
        it gets no packets of flows that a former owner of an address had."""
        ...

    def datastore_ready(self) -> bool | None:
        """The cluster's datastore says that it is ready."""
        ...

    def has_profile(self, name: str) -> bool:
        """A profile of this name is stored."""
        ...

    def is_unused(self, interface: str) -> bool:
        """No interface of the host and no endpoint of this node has this name."""
        ...

    def is_held(self, interface: str, own: ResourceKey) -> bool | None:
        """An endpoint of this node other than `own` has this host interface."""
        ...

    def users_of(self, address: str) -> Collection[ResourceKey] | None:
        """The endpoints of this node that have the address."""
        ...


class PlainHost:
    """A host that knows nothing beforehand, polices nothing and shares its containers with nobody."""

    def __init__(
        self, attacher: Attacher, *, own_node: str = "", clock: Clock | None = None, locks: Locks | None = None
    ) -> None:
        self.attacher = attacher
        self.own_node = own_node
        self.clock: Clock = clock or SystemClock()
        self.locks = locks or Locks()

    def open_ipam(self, client: AsyncClient, node: str) -> IpamService:
        """A service of its own, which reads what it needs."""
        return IpamService(client.datastore, node, self.clock)

    async def wait_programmed(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Nobody programs policy here, so nothing is worth waiting for."""

    async def protect(self, addresses: Sequence[str]) -> None:
        """Nothing is policed."""

    def datastore_ready(self) -> bool | None:
        """Not known."""
        return None

    def has_profile(self, name: str) -> bool:
        """Not known."""
        return False

    def is_unused(self, interface: str) -> bool:
        """Not known."""
        return False

    def is_held(self, interface: str, own: ResourceKey) -> bool | None:
        """Not known."""
        return None

    def users_of(self, address: str) -> Collection[ResourceKey] | None:
        """Not known."""
        return None

"""What a CNI call needs of the world: the agent gives its own, the fallback makes some for one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Protocol

from libcalico.clock import Clock, SystemClock
from libcalico.datastore.resources import AsyncClient
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import Attacher
from libcalico.workload.cni.conf import NetConf
from libcalico.workload.cni.request import Call

VERSION = "0.1.0"


class WaitProgrammed(Protocol):
    """Wait until the kernel enforces the policy of an endpoint as stored at `revision` (or later), at most `timeout_s`.

    Raises `TimeoutError`, or an error of `libcalico.errors` with the reason."""

    async def __call__(self, key: ResourceKey, revision: int, timeout_s: float) -> None:
        """Return when it is so."""
        ...


class Services:
    """The datastore, IPAM, the kernel and the policy engine, as one call after the other uses them.

    `connect(conf)` gives the datastore client (the agent returns its own whatever the configuration says);
    `open_ipam(client, node)` the IPAM service of a node; `wait_programmed` is the agent's promise.
    `own_node` is what the agent calls this host ("" = only the configuration and the files say). `protect` is awaited
    before an interface is made: from then on it must be closed until its policy is programmed. `hold_netns(path)`
    keeps other processes off a container for the length of a block, where there may be some. `datastore_ready`,
    `has_profile` and `is_unused` (no interface and no endpoint of this node has that name) spare a request each when
    the agent's own view of the datastore knows (None, False: ask)."""

    def __init__(
        self,
        attacher: Attacher,
        connect: Callable[[NetConf], Awaitable[AsyncClient]],
        wait_programmed: WaitProgrammed,
        *,
        open_ipam: Callable[[AsyncClient, str], IpamService] | None = None,
        clock: Clock | None = None,
        own_node: str = "",
        protect: Callable[[], Awaitable[object]] | None = None,
        hold_netns: Callable[[str], AbstractAsyncContextManager[object]] = nullcontext,
        datastore_ready: Callable[[], bool | None] = lambda: None,
        has_profile: Callable[[str], bool] = lambda _name: False,
        is_unused: Callable[[str], bool] = lambda _interface: False,
    ) -> None:
        self.attacher = attacher
        self.connect = connect
        self.wait_programmed = wait_programmed
        self.clock: Clock = clock or SystemClock()
        self.open_ipam = open_ipam or (lambda client, node: IpamService(client.datastore, node, self.clock))
        self.own_node = own_node
        self.protect = protect or _no_need
        self.hold_netns = hold_netns
        self.datastore_ready = datastore_ready
        self.has_profile = has_profile
        self.is_unused = is_unused
        self._background: set[asyncio.Task[None]] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._reserved: dict[str, str] = {}

    @asynccontextmanager
    async def one_at_a_time(self, call: Call) -> AsyncIterator[None]:
        """Calls about the same interface of the same container wait for each other."""
        name = f"{call.container_id}/{call.interface}"
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock, self.hold_netns(call.netns):
                yield
        finally:
            _, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that goes on when its caller is gone."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def reserve(self, host_interface: str, owner: str) -> bool:
        """Take a host interface's name until `unreserve`; False when a call for another endpoint holds it."""
        return self._reserved.setdefault(host_interface, owner) == owner

    def unreserve(self, host_interface: str, owner: str) -> None:
        """Give the name back."""
        if self._reserved.get(host_interface) == owner:
            del self._reserved[host_interface]


async def _no_need() -> None:
    """The agent's own table drops what it does not know."""

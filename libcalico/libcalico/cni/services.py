"""What a CNI call needs of the world: the agent gives its own, the fallback makes some for one call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from libcalico.client.objects import AsyncClient
from libcalico.clock import Clock, SystemClock
from libcalico.cni.conf import NetConf
from libcalico.cni.request import Call
from libcalico.cni.unfinished import Unfinished
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey
from libcalico.workload.attach import Attacher

VERSION = "0.1.0"
LINGER_S = 20.0
"""A call whose time is over, or whose caller has gone, has so long to end the step that it is at, and its undo."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


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
    `own_node` is what the agent calls this host ("" = only the configuration and the files say). `protect(addresses)`
    is awaited before an interface with these is made: from then on it must be closed until its policy is programmed,
    and get no packets of flows that a former owner of an address had. `hold_netns(path, container)` keeps other
    processes off a container for the length of a block, where there may be some. `unfinished` keeps DELs that failed
    until the agent finishes them (None: nobody would). `datastore_ready`, `has_profile`, `is_unused` (no
    interface and no endpoint of this node has that name) and `is_held` (an endpoint of this node other than the given
    one has it) spare a request each when the agent's own view of the datastore knows (None, False: ask)."""

    def __init__(
        self,
        attacher: Attacher,
        connect: Callable[[NetConf], Awaitable[AsyncClient]],
        wait_programmed: WaitProgrammed,
        *,
        open_ipam: Callable[[AsyncClient, str], IpamService] | None = None,
        clock: Clock | None = None,
        own_node: str = "",
        protect: Callable[[Sequence[str]], Awaitable[object]] | None = None,
        hold_netns: Callable[[str, str], AbstractAsyncContextManager[object]] = lambda _path, _name: nullcontext(),
        unfinished: Unfinished | None = None,
        datastore_ready: Callable[[], bool | None] = lambda: None,
        has_profile: Callable[[str], bool] = lambda _name: False,
        is_unused: Callable[[str], bool] = lambda _interface: False,
        is_held: Callable[[str, ResourceKey], bool | None] = lambda _interface, _own: None,
    ) -> None:
        self.attacher = attacher
        self.connect = connect
        self.wait_programmed = wait_programmed
        self.clock: Clock = clock or SystemClock()
        self.open_ipam = open_ipam or (lambda client, node: IpamService(client.datastore, node, self.clock))
        self.own_node = own_node
        self.protect = protect or _no_need
        self.hold_netns = hold_netns
        self.unfinished = unfinished
        self.datastore_ready = datastore_ready
        self.has_profile = has_profile
        self.is_unused = is_unused
        self.is_held = is_held
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        self._reserved: dict[str, str] = {}
        self._unfinished: set[asyncio.Future[Any]] = set()

    async def one_at_a_time(
        self, call: Call, work: Callable[[], Coroutine[Any, Any, T]], when_gone: Callable[[], object] = lambda: None
    ) -> T:
        """Do a call's work, alone at its container (at its addresses, when it is one of `calico-ipam`, for which one of
        `calico` may be waiting).

        A caller that goes away meanwhile (is cancelled, however often) does not break it off half-way: `when_gone`
        tells the work, which ends in its own way before anybody else may come to the container. The caller waits for
        that end, but no longer than `LINGER_S`: a step that hangs must not hang its caller."""
        task = asyncio.ensure_future(self._alone(call, work, when_gone))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await _wait_patiently(task, LINGER_S)
            raise

    @property
    def is_busy(self) -> bool:
        """Work goes on of which the caller has gone."""
        return bool(self._unfinished)

    async def _alone(
        self, call: Call, work: Callable[[], Coroutine[Any, Any, T]], when_gone: Callable[[], object]
    ) -> T:
        name = (call.program, call.container_id)
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock, self.hold_netns(call.netns if call.program == "calico" else "", " ".join(name)):
                return await _to_the_end(work(), when_gone)
        finally:
            _, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)

    def reserve(self, host_interface: str, owner: str) -> bool:
        """Take a host interface's name until `unreserve`; False when a call for another endpoint holds it."""
        return self._reserved.setdefault(host_interface, owner) == owner

    def unreserve(self, host_interface: str, owner: str) -> None:
        """Give the name back."""
        if self._reserved.get(host_interface) == owner:
            del self._reserved[host_interface]


async def _to_the_end(work: Coroutine[Any, Any, T], when_gone: Callable[[], object]) -> T:
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            when_gone()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("a call whose caller has gone: %s", error)
        raise


async def _wait_patiently(task: asyncio.Future[Any], limit_s: float) -> None:
    """Until the task has ended or the time is over, whoever cancels meanwhile."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limit_s
    while not task.done() and loop.time() < until_s:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=until_s - loop.time())
    if not task.done():
        _log.error("a call goes on %g s after its caller has gone", limit_s)


async def _no_need(_addresses: Sequence[str]) -> None:
    """For services that police nothing."""

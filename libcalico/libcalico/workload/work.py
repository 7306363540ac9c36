"""One attachment that is being worked on: what is wanted, with what it is done, and how to take back what was done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, TypeVar

from libcalico.client.objects import AsyncClient
from libcalico.errors import CalicoError
from libcalico.ipam.service import IpamService
from libcalico.kernel.errors import KernelError
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import endpoint
from libcalico.workload.errors import CallerGone
from libcalico.workload.host import Host
from libcalico.workload.request import Attachment, Identity

T = TypeVar("T")

CALL_TIMEOUT_S = 60.0
"""Then a call goes no further; the step that it is at, and the undo of an ADD, may take 30 s more."""

_log = logging.getLogger(__name__)


class Gone:
    """Whether the caller has gone, which breaks off what may be broken off."""

    def __init__(self) -> None:
        self._is_set = False
        self._task: asyncio.Task[Any] | None = None

    def set(self) -> None:
        """The caller has gone."""
        self._is_set = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def is_set(self) -> bool:
        """It has."""
        return self._is_set

    def breaks(self, task: asyncio.Task[Any] | None) -> None:
        """Until further notice this task is cancelled when the caller goes, at once if it has gone already."""
        self._task = task
        if task is not None and self._is_set:
            self.set()


@dataclass
class Work:
    """`notes` are lines for the caller, whatever becomes of the work. `node_names()` are the names that this node has
    or had, the likeliest first, for taking away what is known under one of them."""

    attachment: Attachment
    host: Host
    client: AsyncClient
    ipam: IpamService
    notes: list[str] = field(default_factory=list)
    node_names: Callable[[], Sequence[str]] = tuple
    gone: Gone = field(default_factory=Gone)
    """Set when the caller has gone: nobody will hear the answer."""
    checked: WorkloadEndpoint | None = None
    """The endpoint as it was checked, with some address and host interface."""

    @property
    def identity(self) -> Identity:
        """Which attachment it is."""
        return self.attachment.identity

    async def alone(self, work: Callable[[], Coroutine[Any, Any, T]], *, ends_with_caller: bool = False) -> T:
        """Do it alone at its container. `ends_with_caller`: when the caller goes it ends early and undoes what it
        did; otherwise it goes on to its end."""
        on_gone = self.gone.set if ends_with_caller else _go_on
        return await self.host.locks.one_at_a_time(self.identity.container, self.attachment.netns_path, work, on_gone)

    def check_wanted(self) -> None:
        """`CallerGone` when the caller has gone."""
        if self.gone.is_set():
            raise CallerGone

    async def unless_gone(self, wait: Coroutine[Any, Any, T]) -> T:
        """The outcome of something that may be broken off, and is when the caller goes (`CallerGone`)."""
        task = asyncio.current_task()
        assert task is not None
        self.gone.breaks(task)
        try:
            return await wait
        except asyncio.CancelledError:
            if self.gone.is_set():
                task.uncancel()
            self.check_wanted()
            raise
        finally:
            self.gone.breaks(None)

    def of_node(self, name: str) -> Work:
        """The same under another name of this node."""
        identity = self.identity._replace(node=name)
        ipam = self.ipam if name == self.identity.node else self.host.open_ipam(self.client, name)
        return replace(self, attachment=self.attachment._replace(identity=identity), ipam=ipam, checked=None)

    async def is_held(self, host_interface: str) -> bool:
        """Another endpoint of this node has a host interface of this name."""
        known = self.host.is_held(host_interface, self.identity.key)
        return known if known is not None else await endpoint.is_name_held(self.client, self.identity, host_interface)

    @contextmanager
    def reserved(self, host_interface: str) -> Iterator[bool]:
        """The name of the host interface is ours meanwhile; False when another call has it."""
        locks, owner = self.host.locks, self.identity.text
        try:
            yield locks.reserve(host_interface, owner)
        finally:
            locks.unreserve(host_interface, owner)

    def has_namespace(self) -> bool:
        """There is a network namespace at the attachment's path."""
        path = self.attachment.netns_path
        if not path:
            return False
        try:
            self.host.attacher.check_netns(path)
        except KernelError:
            return False
        return True


class Undo:
    """What has been done and how to take it back: backwards at the end of the block, unless `keep` was called."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Undo:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def done(self, what: str, take_back: Callable[[], Awaitable[object]]) -> None:
        """Something has just been done; `what` names its undo. `CallerGone` when no more is to be done."""
        self.unsure(what, take_back)
        self._work.check_wanted()

    def unsure(self, what: str, take_back: Callable[[], Awaitable[object]]) -> None:
        """Something may have been done: an answer was lost."""

        async def step() -> None:
            try:
                await take_back()
            except (CalicoError, TimeoutError) as error:
                _log.warning("undo of ADD %s: %s: %s", self._work.identity.text, what, error)
                self._work.notes.append(f"undo: {what}: {error}")

        self._stack.push_async_callback(step)

    def keep(self) -> None:
        """All is done: nothing is taken back."""
        self._stack.pop_all()


def _go_on() -> None:
    """The work ends in its own time."""

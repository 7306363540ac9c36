"""What a command asks of the datastore, one call after the other (spec/calicoctl.md 2).

`libcalico.Client` does the same for scripts on an event loop in a thread of its own, over gRPC: both take longer to
load than most commands run. Here the asynchronous client runs on a datastore that never waits for a loop, so that each
call is carried out at once (docs/adr/0040). Only address management wants a loop, for its own locks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from calicoctl import start
from calicoctl.failures import failed_by
from libcalico.client.reading import AsyncReader
from libcalico.clock import SystemClock
from libcalico.errors import Bug, CalicoError
from libcalico.model import codec, list_prefix

if TYPE_CHECKING:
    from libcalico.client.ipam import Ipam
    from libcalico.client.objects import AsyncClient
    from libcalico.client.reading import ResourceList
    from libcalico.datastore.contract import Datastore
    from libcalico.datastore.settings import EtcdConfig
    from libcalico.model import Resource
    from libcalico.model.resources import ClusterInformation

CLIENT_VERSION = "v3.32.1"
WITH_ADDRESSES = ("IPPool", "Node")
"""Kinds that take addresses with them when they are deleted: that is done on an event loop."""

T = TypeVar("T")


class BlockingClock(SystemClock):
    """The machine's clock for a caller without an event loop."""

    async def sleep(self, pause_s: float) -> None:
        """Block for `pause_s` seconds."""
        time.sleep(pause_s)  # noqa: ASYNC251  (there is no loop to hold up)


class Session:
    """A connection to the cluster's datastore, used as a context manager. Every call may raise the errors of
    `libcalico.errors`; each blocks until the datastore has answered."""

    def __init__(self, datastore: Datastore, where: str) -> None:
        self.where = where
        """Which cluster this is: the URLs, and the setting that names them."""
        self._datastore = datastore
        self._reader = AsyncReader(datastore)
        self._show: Callable[[str], None] | None = None

    @cached_property
    def _client(self) -> AsyncClient:
        """What writes; validation is loaded only with it."""
        from libcalico.client.objects import AsyncClient

        client = AsyncClient(self._datastore, BlockingClock())
        if self._show is not None:
            client.warn = self._show
        return client

    def get(self, kind: type[Resource] | str, name: str, namespace: str = "") -> Any:
        """One object."""
        return at_once(self._reader.get(kind, name, namespace))

    def list_at_revision(self, kind: str, namespace: str = "") -> ResourceList[Resource]:
        """All objects of a kind, or of one namespace, with the datastore revision that they were read at."""
        return at_once(self._reader.list(kind, namespace))

    def spec_member(self, kind: str, name: str, member: str) -> Any:
        """A member of the spec of an object of any kind; None when it is not there or cannot be read."""
        stored = at_once(self._datastore.get(f"{list_prefix(kind)}{name}".encode()))
        return None if stored is None else codec.spec_member(stored.value, member)

    def key_names(self, prefix: str, most: int) -> Iterator[bytes]:
        """The names of the keys that begin so, whatever they are of, at most so many."""
        found = at_once(self._datastore.range(prefix.encode(), limit=most, keys_only=True))
        return (pair.key for pair in found.kvs)

    def values(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Names and values of the keys that begin so, as text."""
        found = at_once(self._datastore.range(prefix.encode()))
        return ((pair.key.decode("utf-8", "replace"), pair.value.decode("utf-8", "replace")) for pair in found.kvs)

    def create(self, resource: Resource) -> Any:
        """Store a new object."""
        return at_once(self._client.create(resource))

    def update(self, resource: Resource, under: str = "") -> Any:
        """Write over the version that the object was read as, `under` the name that it was read by (empty: its own)."""
        return at_once(self._client.update(resource, under))

    def apply(self, resource: Resource) -> Any:
        """Create, or replace what is there."""
        return at_once(self._client.apply(resource))

    def replace(self, resource: Resource) -> Any:
        """Replace what is there."""
        return at_once(self._client.replace(resource))

    def delete(self, kind: str, name: str, namespace: str = "", resource_version: str = "") -> Any:
        """Delete and return an object."""
        work = self._client.delete(kind, name, namespace, resource_version)
        if kind not in WITH_ADDRESSES:
            return at_once(work)
        start.load_logging()
        import asyncio

        return asyncio.run(work)

    def ensure_initialized(self) -> ClusterInformation:
        """Make sure that ClusterInformation and the fixed tiers are there; returns the former."""
        return at_once(self._client.ensure_initialized())

    def show_warnings(self, show: Callable[[str], None]) -> None:
        """What to do with what a caller should know although a call succeeded; else it is logged."""
        self._show = show

    @property
    def ipam(self) -> Ipam:
        """Address management."""
        start.load_logging()
        import asyncio

        from libcalico.client.ipam import Ipam

        return Ipam(self._client, asyncio.run)

    def close(self) -> None:
        """Give back the connection."""
        at_once(self._datastore.close())

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never waits for an event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        done: T = end.value
        return done
    work.close()
    raise Bug(f"{work} waits for an event loop")


def open_datastore(config: EtcdConfig) -> Datastore:
    """etcd; gRPC is loaded only where its HTTP gateway does not do."""
    from libcalico.datastore.gateway import GatewayDatastore

    return GatewayDatastore(config, before_grpc=start.load_logging)


def connect(arguments: dict[str, Any]) -> Session:
    """A session as the options and the environment say; a failure is printed on stdout, as upstream does."""
    from libcalico.client import connection

    try:
        config = connection.load(arguments["--config"], os.environ, start.log_warning)
        return Session(open_datastore(config), f"{', '.join(config.endpoints)} ({config.source})")
    except connection.UnreadableConfig as error:
        raise failed_by(error, str(error), to_stdout=True) from None
    except CalicoError as error:
        raise failed_by(error, f"Failed to create Calico API client: {error}", to_stdout=True) from None

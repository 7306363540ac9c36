"""`libcalico.Client`: plain calls for scripts, over the asyncio client that services use.

from libcalico import Client

with Client() as calico:
    for pool in calico.list("IPPool"):
        print(pool.metadata.name, pool.spec.cidr)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from libcalico.client import connection
from libcalico.client.objects import AsyncClient, ResourceList
from libcalico.datastore.contract import Datastore
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import Found, etcd_config
from libcalico.errors import BadData, CalicoError
from libcalico.ipam import audit
from libcalico.ipam.audit import Audit
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.ipam.store import LOAD_BALANCER
from libcalico.model import KINDS, Resource, from_input, kind_of_word, list_prefix
from libcalico.model.base import API_VERSION
from libcalico.model.resources import STRUCTS

T = TypeVar("T")


class Client:
    """A connection to the cluster's datastore, used as a context manager.

    With no arguments it is configured like `calicoctl`: `/etc/calico/calicoctl.cfg`, else the environment.
    Objects are given as structs of `libcalico.model` or as JSON-shaped dictionaries. Every call may raise the errors
    of `libcalico.errors`; each blocks until etcd has answered."""

    def __init__(
        self,
        endpoints: str = "",
        config_file: str = connection.DEFAULT_FILE,
        environment: Mapping[str, str] | None = None,
        datastore: Datastore | None = None,
    ) -> None:
        self.where = "the datastore that was given"
        """Which cluster this is: the URLs, and the setting that names them."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_open = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="libcalico-client", daemon=True)
        self._thread.start()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            self._async = self._run(self._connect(endpoints, config_file, environment, datastore))
            undo.pop_all()
        self.ipam = Ipam(self)

    async def _connect(
        self, endpoints: str, config_file: str, environment: Mapping[str, str] | None, datastore: Datastore | None
    ) -> AsyncClient:
        if datastore is None:
            if endpoints:
                config = etcd_config({"etcdEndpoints": Found(endpoints, "endpoints")})
            else:
                config = connection.load(config_file, os.environ if environment is None else environment)
            self.where = f"{', '.join(config.endpoints)} ({config.source})"
            datastore = EtcdDatastore(config)
        return AsyncClient(datastore)

    def get(self, kind: str, name: str, namespace: str = "") -> Any:
        """One object."""
        return self._run(self._async.get(*_identified("get", kind, name, namespace)))

    def list(self, kind: str, namespace: str = "") -> tuple[Any, ...]:
        """All objects of a kind, or of one namespace."""
        return self.list_at_revision(kind, namespace).items

    def list_at_revision(self, kind: str, namespace: str = "") -> ResourceList:
        """The same, with the datastore revision that they were read at."""
        return self._run(self._async.list(_known(kind), namespace))

    def raw_spec(self, kind: str, name: str) -> dict[str, Any]:
        """The spec of an object of any kind, JSON-shaped; empty when it is not there or cannot be read."""
        if kind not in KINDS:
            raise _unknown(kind, KINDS)
        stored = self._run(self._async.datastore.get(f"{list_prefix(kind)}{name}".encode()))
        try:
            return dict(msgspec.json.decode(stored.value)["spec"]) if stored is not None else {}
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError):
            return {}

    def create(self, resource: Resource | dict[str, Any]) -> Any:
        """Store a new object."""
        return self._run(self._async.create(_typed(resource)))

    def update(self, resource: Resource | dict[str, Any], under: str = "") -> Any:
        """Write over the version that the object was read as, `under` the name that it was read by (empty: its own)."""
        return self._run(self._async.update(_typed(resource), under))

    def apply(self, resource: Resource | dict[str, Any]) -> Any:
        """Create, or replace what is there."""
        return self._run(self._async.apply(_typed(resource)))

    def replace(self, resource: Resource | dict[str, Any]) -> Any:
        """Replace what is there."""
        return self._run(self._async.replace(_typed(resource)))

    def delete(self, kind: str, name: str, namespace: str = "", resource_version: str = "") -> Any:
        """Delete and return an object."""
        return self._run(self._async.delete(*_identified("delete", kind, name, namespace), resource_version))

    def ensure_initialized(self, version: str = "", cluster_type: str = "") -> None:
        """Make sure that ClusterInformation and the fixed tiers are there."""
        self._run(self._async.ensure_initialized(version, cluster_type))

    def show_warnings(self, show: Callable[[str], None]) -> None:
        """What to do with what a caller should know although a call succeeded; else it is logged."""
        self._async.warn = show

    def close(self) -> None:
        """Give back the connection; may be called twice. Calls of other threads that are under way fail."""
        if self._process != os.getpid():
            return
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
            self._stop()

    async def _shut_down(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._async.datastore.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._process != os.getpid():
            work.close()
            raise CalicoError("the client is another process's: make a new one after a fork")
        with self._lock:
            if not self._is_open:
                work.close()
                raise CalicoError("the client is closed: make a new one")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise CalicoError("the client was closed during the call: whether it was done is unknown") from None
        finally:
            future.cancel()  # of one that is done it changes nothing; a caller that is interrupted wants it no more

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Ipam:
    """Address management by plain calls: the operations of `libcalico.ipam.service.IpamService`.

    Those that take addresses for a host, or blocks from it, must be told which: `host="..."`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def check(self) -> Audit:
        """What is allocated and what is used, read at one revision (`calicoctl ipam check`)."""
        return self._client._run(audit.take(self._client._async.datastore, self._client._async.clock))

    def unreadable_blocks(self) -> tuple[str, ...]:
        """The keys of stored blocks that cannot be read, and that no other call shows."""
        return self._client._run(audit.unreadable_blocks(self._client._async.datastore))

    def drop_handle(self, handle: str, revision: int) -> bool:
        """Delete a handle's key if it is still the one of this revision; its addresses stay in use."""
        return self._client._run(audit.drop_handle(self._client._async.datastore, handle, revision))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"address management has no operation '{name}': there are {', '.join(OPERATIONS)}")


def _plain_call(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(operation)

    @functools.wraps(operation)
    def call(self: Ipam, *arguments: Any, **options: Any) -> Any:
        host = "" if "host" in signature.parameters else options.pop("host", "")
        client = self._client
        service = IpamService(client._async.datastore, host, client._async.clock)
        bound = signature.bind(service, *arguments, **options)
        _check(name, signature, bound.arguments)
        return client._run(operation(*bound.args, **bound.kwargs))

    return call


def _check(name: str, signature: inspect.Signature, given: dict[str, Any]) -> None:
    """Refuse what a script easily gets wrong; one address or range may stand where several are taken."""
    for several in ("addresses", "handles", "only", "kept", "pools4", "pools6"):
        if isinstance(given.get(several), (str, Release)):
            given[several] = [given[several]]
    for count in ("num4", "num6"):
        value = given.get(count, 0)
        if not isinstance(value, int) or value < 0:
            raise BadData(f"{name}: {count} = {value!r}: it must be a number of addresses, 0 or more")
    if "host" in signature.parameters and not given.get("host") and given.get("use") != LOAD_BALANCER:
        raise BadData(f"{name}: name the host that it is for: host='...'")


OPERATIONS = {
    name: operation
    for name, operation in vars(IpamService).items()
    if inspect.iscoroutinefunction(operation) and not name.startswith("_")
}
for _name, _operation in OPERATIONS.items():
    setattr(Ipam, _name, _plain_call(_name, _operation))


def _known(kind: str) -> str:
    if not isinstance(kind, str) or kind not in STRUCTS:
        raise _unknown(kind, STRUCTS)
    return kind


def _identified(operation: str, kind: str, name: str, namespace: str) -> tuple[str, str, str]:
    if KINDS[_known(kind)].namespaced and not namespace:
        raise BadData(
            f"{operation}: a {kind} is in a namespace: name it: {operation}({kind!r}, {name!r}, namespace='default')"
        )
    return kind, name, namespace


def _unknown(kind: str, known: Mapping[str, object]) -> BadData:
    meant = kind_of_word(kind) if isinstance(kind, str) else None
    instead = f": write '{meant}'" if meant in known else f": the kinds are {', '.join(sorted(known))}"
    return BadData(f"there is no kind {kind!r}{instead}")


def _typed(resource: Resource | dict[str, Any]) -> Resource:
    if isinstance(resource, dict):
        if not resource.get("kind"):
            raise BadData(f"an object needs its kind: add 'kind', one of {', '.join(sorted(STRUCTS))}")
        _known(resource["kind"])
        return from_input({"apiVersion": API_VERSION, **resource})
    if type(resource).__name__ not in STRUCTS:
        raise BadData(
            f"{resource!r} is no object: give a struct of libcalico.model or a dictionary with kind, metadata and spec"
        )
    return resource

"""`libcalico.Client`: plain calls for scripts, over the asyncio client that services use.

from libcalico import Client
from libcalico.model import IPPool

with Client() as calico:
    for pool in calico.list(IPPool):
        print(pool.metadata.name, pool.spec.cidr)
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TypeVar, cast, overload

from libcalico.client import connection
from libcalico.client.ipam import Ipam
from libcalico.client.objects import AsyncClient
from libcalico.client.reading import R, ResourceList, kind_name, no_kind
from libcalico.datastore.contract import Datastore
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import Found, etcd_config
from libcalico.errors import BadData, CalicoError
from libcalico.model import KINDS, Resource, from_input, kind_of_word
from libcalico.model.base import API_VERSION
from libcalico.model.resources import STRUCTS, ClusterInformation

T = TypeVar("T")


class Client:
    """A connection to the cluster's datastore, used as a context manager.

    With no arguments it is configured like `calicoctl`: `/etc/calico/calicoctl.cfg`, else the environment.
    A kind is given as its struct, `IPPool`, and what comes back is then known to be one; as text (`"IPPool"`, or a word
    of the command line, `"pools"`) it is any `Resource`. Objects are given as structs of `libcalico.model` or as
    JSON-shaped dictionaries. Every call blocks until etcd has answered, and may raise `DatastoreError` (after 10 s if
    no endpoint is reached), `ConnectionUnauthorized` and `BadData` for arguments that name nothing
    (spec/resources.md 1.4, spec/datastore.md 10)."""

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
        self.ipam = Ipam(self._async, self._run)

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

    @overload
    def get(self, kind: type[R], name: str, namespace: str = "") -> R: ...
    @overload
    def get(self, kind: str, name: str, namespace: str = "") -> Resource: ...
    def get(self, kind: type[R] | str, name: str, namespace: str = "") -> R | Resource:
        """One object. Raises `ResourceDoesNotExist`, or `ParsingDatastoreEntry` for a damaged one."""
        return self._run(self._async.get(*_identified("get", kind, name, namespace)))

    @overload
    def list(self, kind: type[R], namespace: str = "") -> builtins.list[R]: ...
    @overload
    def list(self, kind: str, namespace: str = "") -> builtins.list[Resource]: ...
    def list(self, kind: type[R] | str, namespace: str = "") -> builtins.list[R] | builtins.list[Resource]:
        """All objects of a kind, or of one namespace, in key order; tiers by their order. Damaged ones are left out."""
        return [*self.list_at_revision(kind, namespace).items]

    @overload
    def list_at_revision(self, kind: type[R], namespace: str = "") -> ResourceList[R]: ...
    @overload
    def list_at_revision(self, kind: str, namespace: str = "") -> ResourceList[Resource]: ...
    def list_at_revision(self, kind: type[R] | str, namespace: str = "") -> ResourceList[R] | ResourceList[Resource]:
        """The same, with the datastore revision that they were read at, and the keys of damaged ones."""
        return self._run(self._async.list(_struct(kind), namespace))

    @overload
    def create(self, resource: R) -> R: ...
    @overload
    def create(self, resource: Mapping[str, object]) -> Resource: ...
    def create(self, resource: R | Mapping[str, object]) -> R | Resource:
        """Store a new object; returns it as stored.

        Raises `ResourceAlreadyExists`, `ValidationError`, or `ResourceDoesNotExist` for a policy's tier."""
        return self._run(self._async.create(_typed(resource)))

    @overload
    def update(self, resource: R, under: str = "") -> R: ...
    @overload
    def update(self, resource: Mapping[str, object], under: str = "") -> Resource: ...
    def update(self, resource: R | Mapping[str, object], under: str = "") -> R | Resource:
        """Write over the version that the object was read as, `under` the name that it was read by (empty: its own).

        Raises `ResourceUpdateConflict` if it was changed since, `ResourceDoesNotExist`, `ValidationError`."""
        return self._run(self._async.update(_typed(resource), under))

    @overload
    def apply(self, resource: R) -> R: ...
    @overload
    def apply(self, resource: Mapping[str, object]) -> Resource: ...
    def apply(self, resource: R | Mapping[str, object]) -> R | Resource:
        """Create, or replace what is there; with a resource version only if it is still that one.

        Raises `ValidationError`, `ResourceUpdateConflict`, or `ResourceDoesNotExist` for a policy's tier."""
        return self._run(self._async.apply(_typed(resource)))

    @overload
    def replace(self, resource: R) -> R: ...
    @overload
    def replace(self, resource: Mapping[str, object]) -> Resource: ...
    def replace(self, resource: R | Mapping[str, object]) -> R | Resource:
        """Replace what is there; raises what `apply` raises, and `ResourceDoesNotExist`."""
        return self._run(self._async.replace(_typed(resource)))

    @overload
    def delete(self, kind: type[R], name: str, namespace: str = "", resource_version: str = "") -> R | None: ...
    @overload
    def delete(self, kind: str, name: str, namespace: str = "", resource_version: str = "") -> Resource | None: ...
    def delete(
        self, kind: type[R] | str, name: str, namespace: str = "", resource_version: str = ""
    ) -> R | Resource | None:
        """Delete and return an object (None: a damaged one); with a resource version only if it is still that one.

        Raises `ResourceDoesNotExist`, `ResourceUpdateConflict`, or `OperationNotSupported` for what must stay."""
        return self._run(self._async.delete(*_identified("delete", kind, name, namespace), resource_version))

    def ensure_initialized(self, version: str = "", cluster_type: str = "") -> ClusterInformation:
        """Make sure that ClusterInformation and the fixed tiers are there (spec/datastore.md 6); returns the former."""
        return self._run(self._async.ensure_initialized(version, cluster_type))

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

    def _run(self, work: Coroutine[object, object, T]) -> T:
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


def _struct(kind: type[R] | str) -> type[R]:
    return cast("type[R]", STRUCTS[kind_name(kind)])


def _identified(operation: str, kind: type[R] | str, name: str, namespace: str) -> tuple[type[R], str, str]:
    """The kind as a struct, and what identifies an object of it; raises `BadData` without a namespace that it needs."""
    struct = _struct(kind)
    known = struct.__name__
    if KINDS[known].namespaced and not namespace:
        raise BadData(
            f"{operation}: a {known} is in a namespace: name it: {operation}({known!r}, {name!r}, namespace='default')"
        )
    return struct, name, namespace


def _typed(resource: R | Mapping[str, object]) -> R:
    """The object as a struct; raises `BadData` for what is none."""
    if isinstance(resource, dict):
        kind = resource.get("kind")
        if not kind:
            raise BadData(f"an object needs its kind: add 'kind', one of {', '.join(sorted(STRUCTS))}")
        if not isinstance(kind, str) or kind not in STRUCTS:
            meant = kind_of_word(kind) if isinstance(kind, str) else None
            raise BadData(f"there is no kind {kind!r}: write {meant!r}") if meant in STRUCTS else no_kind(kind)
        return cast("R", from_input({"apiVersion": API_VERSION, **resource}))
    if type(resource).__name__ not in STRUCTS:
        raise BadData(
            f"{resource!r} is no object: give a struct of libcalico.model or a dictionary with kind, metadata and spec"
        )
    return cast("R", resource)

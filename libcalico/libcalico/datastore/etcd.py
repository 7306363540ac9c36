"""The datastore on etcd v3, over gRPC. The only module that knows etcd.

Several endpoints are tried in turn: a read moves on to the next when one is unreachable; a write does so only when
it certainly was never sent. Every request has a deadline. Watches ask for progress every few seconds and treat
silence as a lost connection, so that a dead peer is noticed. Source: the etcd v3 API, spec/datastore.md 3, 9.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from libcalico.datastore.contract import (
    Compacted,
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Operation,
    Put,
    RangeResult,
    Target,
    TxnResult,
    WatchBatch,
)
from libcalico.errors import BadData, ConnectionUnauthorized, DatastoreError
from libcalico.rpc.etcd import etcd_pb2 as pb
from libcalico.rpc.etcd import etcd_pb2_grpc as stubs

REQUEST_TIMEOUT_S = 10.0
PROGRESS_INTERVAL_S = 10.0
SILENCE_LIMIT_S = 30.0
LARGEST_MESSAGE = 256 * 1024 * 1024
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_TARGETS = {
    Target.VERSION: (pb.Compare.VERSION, "version"),
    Target.MOD_REVISION: (pb.Compare.MOD, "mod_revision"),
    Target.VALUE: (pb.Compare.VALUE, "value"),
}
_NEVER_SENT = "failed to connect"
_STALE_TOKEN = "invalid auth token"  # etcd refused before it did anything: ask for a new one, and try again

_NEEDS_LEADER = ("hasleader", "true")
"""A member that is cut off from the others ends the watch, instead of telling that nothing changes (etcd's
clientv3.WithRequireLeader)."""


class EtcdConfig(NamedTuple):
    """How to reach etcd. `endpoints` are URLs; certificates are PEM bytes; `metadata` goes with every call."""

    endpoints: tuple[str, ...]
    username: str = ""
    password: str = ""
    ca_certificate: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    metadata: tuple[tuple[str, str], ...] = ()


def read_pem(path: str) -> bytes:
    """A certificate or key file; raises `BadData` naming it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadData(f"open {path}: {(error.strerror or str(error)).lower()}") from None


class EtcdDatastore:
    """One client. Connections open on first use, so that making one never fails for lack of a server."""

    def __init__(self, config: EtcdConfig) -> None:
        if not config.endpoints:
            raise BadData("no etcd endpoints specified")
        self._config = config
        self._channels = [_open_channel(endpoint, config) for endpoint in config.endpoints]
        self._current = 0
        self._token = ""

    @property
    def endpoint(self) -> str:
        """The URL of the member that is asked now."""
        return self._config.endpoints[self._current]

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key, now or at `revision`."""
        request = pb.RangeRequest(key=key, revision=revision)
        answer = await self._read(lambda channel: stubs.KVStub(channel).Range, request)
        return _pair(answer.kvs[0]) if answer.kvs else None

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix`, in order."""
        request = pb.RangeRequest(
            key=max(prefix, start), range_end=prefix_end(prefix), limit=limit, revision=revision, keys_only=keys_only
        )
        answer = await self._read(lambda channel: stubs.KVStub(channel).Range, request)
        return RangeResult(tuple(_pair(kv) for kv in answer.kvs), answer.header.revision, answer.more)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        answer = await self._write(lambda channel: stubs.KVStub(channel).Put, request)
        return int(answer.header.revision)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """One etcd transaction; at most 128 operations in each branch (etcd's default limit)."""
        request = pb.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            success=[_operation(operation) for operation in success],
            failure=[_operation(operation) for operation in failure],
        )
        answer = await self._write(lambda channel: stubs.KVStub(channel).Txn, request)
        responses = tuple(_response(response) for response in answer.responses)
        return TxnResult(answer.succeeded, responses, answer.header.revision)

    async def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes from `start_revision` on; ends by raising `Compacted` or `DatastoreError`."""
        call = None
        create = pb.WatchCreateRequest(
            key=prefix, range_end=prefix_end(prefix), start_revision=start_revision, progress_notify=True, fragment=True
        )
        try:
            await self._authenticate()
            call = stubs.WatchStub(self._channels[self._current]).Watch(metadata=(*self._metadata(), _NEEDS_LEADER))
            await call.write(pb.WatchRequest(create_request=create))
            async for batch in _watch_batches(call, start_revision):
                yield batch
        except grpc.aio.AioRpcError as error:
            self._rotate()
            raise _map_error(error) from None
        except DatastoreError:
            self._rotate()
            raise
        finally:
            if call is not None:
                call.cancel()

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease of `ttl_s` seconds."""
        request = pb.LeaseGrantRequest(TTL=ttl_s)
        return int((await self._write(lambda channel: stubs.LeaseStub(channel).LeaseGrant, request)).ID)

    async def compact(self, revision: int) -> None:
        """Let etcd forget all history before `revision`."""
        request = pb.CompactionRequest(revision=revision, physical=True)
        await self._write(lambda channel: stubs.KVStub(channel).Compact, request)

    async def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            await channel.close(None)

    async def _read(self, method: Callable[[Any], Any], request: Any) -> Any:
        return await self._call(method, request, retry_all=True)

    async def _write(self, method: Callable[[Any], Any], request: Any) -> Any:
        return await self._call(method, request, retry_all=False)

    async def _call(self, method: Callable[[Any], Any], request: Any, retry_all: bool) -> Any:
        renewed = False
        for attempt in range(len(self._channels) + 1):
            last = attempt >= len(self._channels) - 1
            try:
                await self._authenticate()
                call: Awaitable[Any] = method(self._channels[self._current])(
                    request, timeout=REQUEST_TIMEOUT_S, metadata=self._metadata()
                )
                return await call
            except grpc.aio.AioRpcError as error:
                if self._token and not renewed and _STALE_TOKEN in (error.details() or ""):
                    renewed, self._token = True, ""
                    continue
                unreachable = error.code() == grpc.StatusCode.UNAVAILABLE
                if unreachable or error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._rotate()
                never_sent = _NEVER_SENT in (error.details() or "")
                if last or not unreachable or not (retry_all or never_sent):
                    raise _map_error(error) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _authenticate(self) -> None:
        """Fetch a token if one is needed; a transport error is the caller's to map."""
        if self._token or not (self._config.username and self._config.password):
            return
        request = pb.AuthenticateRequest(name=self._config.username, password=self._config.password)
        answer = await stubs.AuthStub(self._channels[self._current]).Authenticate(
            request, timeout=REQUEST_TIMEOUT_S, metadata=self._config.metadata
        )
        self._token = answer.token

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (*self._config.metadata, ("token", self._token)) if self._token else self._config.metadata

    def _rotate(self) -> None:
        self._current = (self._current + 1) % len(self._channels)
        self._token = ""


async def _watch_batches(call: Any, start_revision: int) -> AsyncIterator[WatchBatch]:
    """Responses as batches. Asks for progress when it is quiet; silence for too long is an error."""
    quiet_s = 0.0
    fragments: list[Event] = []
    reading = asyncio.ensure_future(call.read())
    try:
        while True:
            done, _ = await asyncio.wait({reading}, timeout=PROGRESS_INTERVAL_S)
            if not done:
                quiet_s += PROGRESS_INTERVAL_S
                if quiet_s >= SILENCE_LIMIT_S:
                    raise DatastoreError(f"watch: no answer from etcd for {quiet_s:.0f} s")
                await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
                continue
            quiet_s = 0.0
            response = reading.result()
            if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise DatastoreError("watch: etcd closed the stream")
            reading = asyncio.ensure_future(call.read())
            if response.compact_revision:
                raise Compacted(response.compact_revision)
            if response.created and response.header.revision < start_revision - 1:
                raise Compacted(0)  # etcd lost its data or was restored: our revision is of another history
            if response.canceled:
                raise DatastoreError(f"watch: canceled by etcd: {response.cancel_reason}")
            fragments.extend(_event(event) for event in response.events)
            if not response.fragment and not (response.created and not fragments):
                yield WatchBatch(tuple(fragments), response.header.revision)
                fragments = []
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await reading


def _open_channel(endpoint: str, config: EtcdConfig) -> grpc.aio.Channel:
    scheme, separator, address = endpoint.partition("://")
    if not separator:
        scheme, address = "http", endpoint
    address = address.rstrip("/")
    if scheme not in ("http", "https") or not address:
        raise BadData(f"etcd endpoint {endpoint!r} is not a URL such as http://10.0.0.1:2379")
    if scheme == "http":
        return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(config.ca_certificate, config.key, config.certificate)
    return grpc.aio.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)


def _map_error(error: grpc.aio.AioRpcError) -> Exception:
    details = error.details() or error.code().name
    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return ConnectionUnauthorized(details)
    if "required revision has been compacted" in details:
        return Compacted(0)
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DatastoreError("context deadline exceeded")
    return DatastoreError(details)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`: etcd's `range_end`. A NUL byte means "to the very end"."""
    for place in range(len(prefix) - 1, -1, -1):
        if prefix[place] < 0xFF:
            return prefix[:place] + bytes([prefix[place] + 1])
    return b"\0"


def _pair(kv: Any) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


def _event(event: Any) -> Event:
    return Event(event.kv.key, None if event.type == pb.Event.DELETE else event.kv.value, event.kv.mod_revision)


def _compare(compare: Compare) -> Any:
    target, member = _TARGETS[compare.target]
    message = pb.Compare(result=pb.Compare.EQUAL, target=target, key=compare.key)
    setattr(message, member, compare.value)
    return message


def _operation(operation: Operation) -> Any:
    if isinstance(operation, Put):
        put = pb.PutRequest(key=operation.key, value=operation.value, lease=operation.lease)
        return pb.RequestOp(request_put=put)
    end = prefix_end(operation.key) if operation.prefix else b""
    if isinstance(operation, Delete):
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=operation.key, range_end=end, prev_kv=True))
    assert isinstance(operation, Get)
    return pb.RequestOp(request_range=pb.RangeRequest(key=operation.key, range_end=end))


def _response(response: Any) -> tuple[KeyValue, ...]:
    kind = response.WhichOneof("response")
    if kind == "response_range":
        return tuple(_pair(kv) for kv in response.response_range.kvs)
    if kind == "response_delete_range":
        return tuple(_pair(kv) for kv in response.response_delete_range.prev_kvs)
    return ()

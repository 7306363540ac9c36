"""The datastore on etcd v3, over gRPC. The only module that knows etcd's requests.

* A request is made when a member is connected (`members`); connecting goes on for `CONNECT_TIMEOUT_S`.
* A read that is not answered in a moment is made at another member as well; the first answer counts.
* A write that may have been sent is not repeated, but for one kind: a transaction that writes a key whose revision it
  compares can be carried out once only, however often it is asked for. It is asked for again, under the same
  conditions; if those do not hold any more, the key's history says whether it was carried out (docs/adr/0012).
* A token that etcd does not know any more is renewed once; where authentication is off, there is none.
* Watches ask for progress every few seconds, treat silence as a lost connection, and go where requests go.

Source: the etcd v3 API, spec/datastore.md 3, 9.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

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
    prefix_end,
)
from libcalico.datastore.login import Login, is_void
from libcalico.datastore.members import CONNECT_TIMEOUT_S, Member, Members
from libcalico.datastore.once import NOT_DONE, Guard, guard_of
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import BadData, ConnectionUnauthorized, DatastoreError
from libcalico.rpc import grpc
from libcalico.rpc.etcd import etcd_pb2 as pb
from libcalico.rpc.etcd import etcd_pb2_grpc as stubs

__all__ = ["EtcdConfig", "EtcdDatastore"]

REQUEST_TIMEOUT_S = 10.0
PATIENCE_S = 0.7
"""Without an answer for so long, another member is asked as well; from then on it grows."""
RETRY_PAUSE_S = 0.1
WATCH_OPENS_S = 2.0
PROGRESS_INTERVAL_S = 5.0
SILENCE_LIMIT_S = 10.0
"""Of a watch. A member that is frozen keeps its connections: for so long a quiet host learns nothing new."""
_TARGETS = {
    Target.VERSION: (pb.Compare.VERSION, "version"),
    Target.MOD_REVISION: (pb.Compare.MOD, "mod_revision"),
    Target.VALUE: (pb.Compare.VALUE, "value"),
}
_LOST = ("stream removed", "rst_stream")
"""What gRPC says, beside UNAVAILABLE, when the connection broke under a request."""

_NEEDS_LEADER = ("hasleader", "true")
"""A member that is cut off from the others ends the watch, instead of saying that nothing changes (etcd's
clientv3.WithRequireLeader)."""

Method = Callable[[Any], Any]


class _Reply(NamedTuple):
    """etcd's answer, and how often the request was made."""

    message: Any
    attempts: int


class EtcdDatastore:
    """One client. Connections open on first use, so that making one never fails for lack of a server."""

    def __init__(self, config: EtcdConfig) -> None:
        if not config.endpoints:
            raise BadData("no etcd endpoints specified")
        self._config = config
        self.members = Members(config)
        self._login = Login(config)

    @property
    def endpoint(self) -> str:
        """The URL of the member that is asked now."""
        return self.members.current.url

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key, now or at `revision`."""
        request = pb.RangeRequest(key=key, revision=revision)
        answer = (await self._ask(_range, request, repeat=True)).message
        return _pair(answer.kvs[0]) if answer.kvs else None

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix`, in order."""
        request = pb.RangeRequest(
            key=max(prefix, start), range_end=prefix_end(prefix), limit=limit, revision=revision, keys_only=keys_only
        )
        answer = (await self._ask(_range, request, repeat=True)).message
        return RangeResult(tuple(_pair(kv) for kv in answer.kvs), answer.header.revision, answer.more)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        answer = (await self._ask(lambda channel: stubs.KVStub(channel).Put, request, repeat=False)).message
        return int(answer.header.revision)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """One etcd transaction; at most 128 operations in each branch (etcd's default limit)."""
        return await self._txn(compares, success, failure, attempts_before=0)

    async def txn_again(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """One that has a guard (`once.guard_of`), and that was asked for on another connection without an answer."""
        return await self._txn(compares, success, failure, attempts_before=1)

    async def _txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation],
        attempts_before: int,
    ) -> TxnResult:
        request = pb.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            success=[_operation(operation) for operation in success],
            failure=[_operation(operation) for operation in failure],
        )
        guard = guard_of(compares, success)
        reads_only = all(isinstance(operation, Get) for operation in (*success, *failure))
        reply = await self._ask(
            lambda channel: stubs.KVStub(channel).Txn, request, repeat=reads_only or guard is not None
        )
        answer = reply.message
        if guard is not None and attempts_before + reply.attempts > 1 and not answer.succeeded:
            revision = await self._revision_of(guard, success)
            if revision:
                return TxnResult(True, ((),) * len(success), revision)
        responses = tuple(_response(response) for response in answer.responses)
        return TxnResult(answer.succeeded, responses, answer.header.revision)

    async def _revision_of(self, guard: Guard, success: Sequence[Operation]) -> int:
        """The revision at which these operations were carried out after the guard's revision, 0 if they were not."""
        put, since = guard
        try:
            kv = await self.get(put.key)
            while kv is not None and kv.mod_revision > since:
                if kv.value == put.value and await self._all_done(success, kv.mod_revision):
                    return kv.mod_revision
                kv = await self.get(put.key, kv.mod_revision - 1)
        except Compacted:
            raise DatastoreError("etcd gave no answer to a write, and has forgotten whether it was done") from None
        return 0

    async def _all_done(self, success: Sequence[Operation], revision: int) -> bool:
        for operation in success:
            kv = await self.get(operation.key, revision)
            if isinstance(operation, Put):
                if kv is None or (kv.mod_revision, kv.value) != (revision, operation.value):
                    return False
            elif kv is not None:
                return False
        return True

    async def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes from `start_revision` on; ends by raising `Compacted` or `DatastoreError`."""
        create = pb.WatchCreateRequest(
            key=prefix, range_end=prefix_end(prefix), start_revision=start_revision, progress_notify=True, fragment=True
        )
        call = None
        member = await self.members.connected(_now_s() + CONNECT_TIMEOUT_S)
        try:
            call, created = await self._open_watch(member, create)
            if created.header.revision < start_revision - 1:
                raise Compacted(0)  # etcd lost its data or was restored: our revision is of another history
            async for batch in _watch_batches(call, member):
                yield batch
        except grpc.aio.AioRpcError as error:
            self.members.move_on(member)
            raise self._map_error(error, member) from None
        except DatastoreError:
            self.members.move_on(member)
            raise
        finally:
            if call is not None:
                call.cancel()

    async def _open_watch(self, member: Member, create: Any) -> tuple[Any, Any]:
        """The stream of a watch, and etcd's first answer to it."""
        void = None
        while True:
            token = await self._login.token(member, void)
            call = stubs.WatchStub(member.channel).Watch(metadata=(*self._login.metadata(token), _NEEDS_LEADER))
            try:
                async with asyncio.timeout(WATCH_OPENS_S if len(self.members) > 1 else REQUEST_TIMEOUT_S):
                    await call.write(pb.WatchRequest(create_request=create))
                    created = await call.read()
            except TimeoutError:
                call.cancel()
                raise DatastoreError(f"watch: no answer from etcd at {member.url}") from None
            if created is grpc.aio.EOF:  # type: ignore[attr-defined]
                raise DatastoreError("watch: etcd closed the stream")
            if not created.canceled:
                return call, created
            call.cancel()
            if created.compact_revision:
                raise Compacted(created.compact_revision)
            if void is not None or token is None or not is_void(created.cancel_reason, watch=True):
                raise DatastoreError(f"watch: canceled by etcd: {created.cancel_reason}")
            void = token

    async def grant_lease(self, ttl_s: int) -> int:
        """A lease of `ttl_s` seconds."""
        request = pb.LeaseGrantRequest(TTL=ttl_s)
        reply = await self._ask(lambda channel: stubs.LeaseStub(channel).LeaseGrant, request, repeat=False)
        return int(reply.message.ID)

    async def compact(self, revision: int) -> None:
        """Let etcd forget all history before `revision`."""
        request = pb.CompactionRequest(revision=revision, physical=True)
        await self._ask(lambda channel: stubs.KVStub(channel).Compact, request, repeat=False)

    async def close(self) -> None:
        """Close every connection."""
        await self.members.close()

    async def _ask(self, method: Method, request: Any, *, repeat: bool) -> _Reply:
        """One request, made again at the next member: when it certainly was not done, or when `repeat` does no harm."""
        member = await self.members.connected(_now_s() + CONNECT_TIMEOUT_S)
        ends_s = _now_s() + REQUEST_TIMEOUT_S
        asked: dict[asyncio.Future[Any], Member] = {}
        attempts = 0
        try:
            while True:
                attempts += 1
                if not (isinstance(request, pb.RangeRequest) and member in asked.values()):
                    asked[asyncio.ensure_future(self._send(member, method, request, ends_s - _now_s()))] = member
                patience_s = PATIENCE_S * attempts if repeat and len(self.members) > 1 else None
                done, _ = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    answered = asked.pop(task)
                    message = self._message(task, answered, repeat, ends_s)
                    if message is not None:
                        if self.members.current in asked.values():
                            self.members.prefer(answered)
                        return _Reply(message, attempts)
                if done:
                    await asyncio.sleep(RETRY_PAUSE_S)
                member = await self.members.connected(ends_s, after=member)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _message(self, task: asyncio.Future[Any], member: Member, repeat: bool, ends_s: float) -> Any:
        """The answer, None when the request may be made again; raises what else came of it."""
        if task.cancelled():
            raise DatastoreError(f"the connection to etcd at {member.url} was closed")
        error = task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, grpc.aio.AioRpcError):
            raise error
        details = (error.details() or "").lower()
        lost = error.code() is grpc.StatusCode.UNAVAILABLE or any(text in details for text in _LOST)
        may_repeat = any(text in details for text in NOT_DONE) or (repeat and lost)
        if may_repeat and _now_s() < ends_s - RETRY_PAUSE_S:
            self.members.move_on(member)
            return None
        raise self._map_error(error, member)

    async def _send(self, member: Member, method: Method, request: Any, timeout_s: float) -> Any:
        """The request once; a second time with a new token if etcd refuses the one that it got."""
        token = await self._login.token(member)
        try:
            metadata = self._login.metadata(token)
            return await method(member.channel)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if token is None or not is_void(error.details() or ""):
                raise
        metadata = self._login.metadata(await self._login.token(member, void=token))
        return await method(member.channel)(request, timeout=timeout_s, metadata=metadata)

    def _map_error(self, error: grpc.aio.AioRpcError, member: Member) -> Exception:
        details = error.details() or error.code().name
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return ConnectionUnauthorized(details)
        if "user name is empty" in details:
            return ConnectionUnauthorized(f"{details}: etcd at {member.url} wants ETCD_USERNAME and ETCD_PASSWORD")
        if "required revision has been compacted" in details:
            return Compacted(0)
        where = f"etcd at {member.url}" + (f" ({self._config.source})" if self._config.source else "")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DatastoreError(f"context deadline exceeded: {where} gave no answer in {REQUEST_TIMEOUT_S:.0f} s")
        if error.code() is grpc.StatusCode.UNAVAILABLE and not details.startswith("etcdserver:"):
            return DatastoreError(f"the connection to {where} was lost: {details[:200]}")
        return DatastoreError(details)


async def _watch_batches(call: Any, member: Member) -> AsyncIterator[WatchBatch]:
    """Responses as batches. Asks for progress when it is quiet; silence for too long is an error."""
    quiet_s = 0.0
    fragments: list[Event] = []
    reading = asyncio.ensure_future(call.read())
    left = asyncio.ensure_future(member.left.wait())
    try:
        while True:
            await asyncio.wait({reading, left}, timeout=PROGRESS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                if left.done():
                    raise DatastoreError(f"watch: etcd at {member.url} does not answer requests: another one is asked")
                quiet_s += PROGRESS_INTERVAL_S
                if quiet_s >= SILENCE_LIMIT_S:
                    raise DatastoreError(f"watch: no answer from etcd at {member.url} for {quiet_s:.0f} s")
                await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
                continue
            quiet_s = 0.0
            response = _response_of(reading)
            reading = asyncio.ensure_future(call.read())
            fragments.extend(_event(event) for event in response.events)
            if not response.fragment:
                yield WatchBatch(tuple(fragments), response.header.revision)
                fragments = []
    finally:
        left.cancel()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await reading


def _response_of(reading: asyncio.Future[Any]) -> Any:
    """What was read, unless it ends the watch."""
    if reading.cancelled():
        raise DatastoreError("watch: the connection was closed")
    response = reading.result()
    if response is grpc.aio.EOF:  # type: ignore[attr-defined]
        raise DatastoreError("watch: etcd closed the stream")
    if response.compact_revision:
        raise Compacted(response.compact_revision)
    if response.canceled:
        raise DatastoreError(f"watch: canceled by etcd: {response.cancel_reason}")
    return response


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _range(channel: Any) -> Any:
    return stubs.KVStub(channel).Range


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
    get = pb.RangeRequest(key=operation.key, range_end=end, keys_only=operation.keys_only)
    return pb.RequestOp(request_range=get)


def _response(response: Any) -> tuple[KeyValue, ...]:
    kind = response.WhichOneof("response")
    if kind == "response_range":
        return tuple(_pair(kv) for kv in response.response_range.kvs)
    if kind == "response_delete_range":
        return tuple(_pair(kv) for kv in response.response_delete_range.prev_kvs)
    return ()

"""The datastore on etcd's HTTP gateway: for a program that asks a few things and ends, such as calicoctl.

Loading gRPC, protobuf and asyncio takes four times as long as all else that `calicoctl get` does. etcd serves the same
requests as JSON over HTTP/1.1 (`/v3/kv/range`, `/v3/kv/txn`), so a few reads and writes need none of them
(docs/adr/0040). The contract is asynchronous, this implementation never waits for an event loop: its coroutines end
at their first `send(None)`. Calls block the thread.

Only what is plain goes this way. Whatever is not is left to the client over gRPC, which decides, repeats, and words the
errors: a server without a gateway, a user by the name of a certificate, metadata for every request (a proxy that
speaks gRPC only), a token that is not accepted, answers that etcd does not give, watches, leases, long lists. That is
done at once and silently, and only when the request certainly changed nothing, or may be made again: a transaction
that writes a key whose revision it compares (docs/adr/0012).

Source: etcd's gRPC gateway (api/etcdserverpb/rpc.proto, its HTTP annotations), spec/datastore.md 3, 9.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from libcalico.datastore import certificates
from libcalico.datastore.contract import (
    Compare,
    Delete,
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
from libcalico.datastore.http_line import (
    Answer,
    Line,
    Lost,
    NotConnected,
    NothingListens,
    Silent,
    endpoint_of,
    now_s,
    open_line,
)
from libcalico.datastore.once import NOT_DONE, guard_of
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import BadData, DatastoreError, Unreachable

if TYPE_CHECKING:
    import ssl

    from libcalico.datastore.etcd import EtcdDatastore
    from libcalico.datastore.looped import LoopedDatastore

CONNECT_S = 1.0
"""For one attempt to connect; where etcd lives and that takes longer, gRPC goes on for ten seconds."""
SILENCE_S = 3.0
"""Where nothing listens, or nothing answers, for so long, that is the answer; etcd may be starting."""
PAUSE_S = 0.1
PROBE_S = 1.0
PATIENCE_S = 0.7
"""Without an answer for so long, other endpoints are asked as well, if there are any (`etcd.PATIENCE_S`)."""
REQUEST_TIMEOUT_S = 10.0
LONG_LIST = 2000
"""Pairs; longer lists come faster over gRPC."""

RANGE, PUT, TXN, AUTHENTICATE = "/v3/kv/range", "/v3/kv/put", "/v3/kv/txn", "/v3/auth/authenticate"
TARGETS = {
    Target.VERSION: ("VERSION", "version"),
    Target.MOD_REVISION: ("MOD", "mod_revision"),
    Target.VALUE: ("VALUE", "value"),
}
OK = 200
UNDECIDED = (1, 2, 4, 13, 14)
"""gRPC's codes CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE: the request may have been carried out."""
AUTHENTICATION_IS_OFF = "authentication is not enabled"

T = TypeVar("T")


class _Pair(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0


class _Header(msgspec.Struct):
    revision: int


class _Done(msgspec.Struct):
    """What every answer has."""

    header: _Header


class _Range(_Done):
    kvs: list[_Pair] = []
    more: bool = False


class _Deleted(msgspec.Struct):
    prev_kvs: list[_Pair] = []


class _Response(msgspec.Struct):
    response_range: _Range | None = None
    response_delete_range: _Deleted | None = None


class _Txn(_Done):
    succeeded: bool = False
    responses: list[_Response] = []


class _Login(msgspec.Struct):
    token: str


class _Refusal(msgspec.Struct):
    """An error: gRPC's code and etcd's text."""

    code: int
    message: str = ""
    error: str = ""

    @property
    def text(self) -> str:
        """What etcd says; etcd 3.3 has it in `error` only."""
        return self.message or self.error


class _Elsewhere(Exception):
    """The request certainly changed nothing: it is gRPC's to make it."""


class _Broken(Exception):
    """There was no answer to a request that may have been carried out."""


class GatewayDatastore:
    """One client. The connection opens on first use, so that making one never fails for lack of a server.
    `before_grpc` is called before gRPC is loaded, if it is.

    Raises `BadData` for certificates that cannot be used."""

    def __init__(self, config: EtcdConfig, before_grpc: Callable[[], None] = lambda: None) -> None:
        if not config.endpoints:
            raise BadData("no etcd endpoints specified")
        self._config = config
        self._before_grpc = before_grpc
        self._endpoints = [endpoint_of(url) for url in config.endpoints]
        self._tls = certificates.read_tls(config.certificates)
        self._context: ssl.SSLContext | None = None
        if any(endpoint.is_tls for endpoint in self._endpoints):
            self._tls = certificates.with_system_store(self._tls)
            self._context = certificates.http_context(self._tls)
        self._line: Line | None = None
        self._token: str | None = None if config.username else ""
        self._has_answered = False
        self._grpc: LoopedDatastore | None = None

    @property
    def endpoint(self) -> str:
        """The URL that is asked now."""
        if self._grpc is not None:
            return self._grpc.endpoint
        return self._line.endpoint.url if self._line is not None else self._config.endpoints[0]

    def over_grpc(self) -> EtcdDatastore:
        """What it changes over to: the same etcd, for a program with an event loop."""
        from libcalico.datastore.etcd import EtcdDatastore

        return EtcdDatastore(self._config)

    def _change_over(self) -> LoopedDatastore:
        """From now on gRPC."""
        if self._grpc is None:
            self._before_grpc()
            from libcalico.datastore.looped import LoopedDatastore

            self._grpc = LoopedDatastore(self.over_grpc)
            self._hang_up()
        return self._grpc

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """One key, now or at `revision`."""
        try:
            answer = self._ask(RANGE, {"key": key, "revision": revision}, _Range)
            return _pair(answer.kvs[0]) if answer.kvs else None
        except _Elsewhere:
            return await self._change_over().get(key, revision)

    async def range(
        self, prefix: bytes, *, start: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """Keys that begin with `prefix`, in order."""
        request = {
            "key": max(prefix, start),
            "range_end": prefix_end(prefix),
            "limit": limit or LONG_LIST,
            "revision": revision,
            "keys_only": keys_only,
        }
        try:
            answer = self._ask(RANGE, request, _Range)
            if limit or not answer.more:
                return RangeResult(tuple(map(_pair, answer.kvs)), answer.header.revision, answer.more)
        except _Elsewhere:
            pass
        grpc = self._change_over()
        return await grpc.range(prefix, start=start, limit=limit, revision=revision, keys_only=keys_only)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Write without a condition."""
        request = {"key": key, "value": value, "lease": lease}
        try:
            return self._ask_once(PUT, request, _Done, may_repeat=False).header.revision
        except _Broken as error:
            raise DatastoreError(str(error)) from None
        except _Elsewhere:
            return await self._change_over().put(key, value, lease)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """One transaction. If its answer was lost, it is made again where that cannot carry it out twice."""
        request = {
            "compare": [_compare(compare) for compare in compares],
            "success": [_operation(operation) for operation in success],
            "failure": [_operation(operation) for operation in failure],
        }
        reads_only = all(isinstance(operation, Get) for operation in (*success, *failure))
        guard = guard_of(compares, success)
        try:
            if reads_only:
                answer = self._ask(TXN, request, _Txn)
            else:
                answer = self._ask_once(TXN, request, _Txn, may_repeat=guard is not None)
            return TxnResult(answer.succeeded, tuple(map(_pairs, answer.responses)), answer.header.revision)
        except _Broken as error:
            if guard is None:
                raise DatastoreError(str(error)) from None
            grpc = self._change_over()
            return await grpc.txn_again(compares, success, failure)
        except _Elsewhere:
            return await self._change_over().txn(compares, success, failure)

    def watch(self, prefix: bytes, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Over gRPC; the caller has an event loop."""
        return self._change_over().watch(prefix, start_revision)

    async def grant_lease(self, ttl_s: int) -> int:
        """Over gRPC."""
        return await self._change_over().grant_lease(ttl_s)

    async def close(self) -> None:
        """Close every connection."""
        self._hang_up()
        if self._grpc is not None:
            await self._grpc.close()

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _ask(self, path: str, message: dict[str, Any], shape: type[T]) -> T:
        """The answer to a request that changes nothing; raises `_Elsewhere`."""
        try:
            return self._decoded(self._send(path, message, may_repeat=True), shape)
        except _Broken:
            if not self._has_answered:
                self._give_up_if_none_lives(now_s() - SILENCE_S)
            raise _Elsewhere from None

    def _ask_once(self, path: str, message: dict[str, Any], shape: type[T], may_repeat: bool) -> T:
        """The answer to a write; raises `_Broken` when it may have been carried out, or `_Elsewhere`.

        Only a server is asked that has answered something harmless as etcd does."""
        if not self._has_answered:
            self._ask(RANGE, {"key": b"/calico/", "keys_only": True}, _Range)
        return self._decoded(self._send(path, message, may_repeat), shape)

    def _send(self, path: str, message: dict[str, Any], may_repeat: bool) -> Answer:
        if self._grpc is not None or self._config.metadata:
            raise _Elsewhere
        if self._token is None:
            self._token = self._authenticated()
        return self._answer(path, message, may_repeat)

    def _authenticated(self) -> str:
        """The user's token, "" where authentication is off."""
        user = {"name": self._config.username, "password": self._config.password}
        answer = self._answer(AUTHENTICATE, user, may_repeat=True)
        try:
            if answer.status == OK:
                return _decode(answer.body, _Login).token
            if AUTHENTICATION_IS_OFF in _decode(answer.body, _Refusal).text:
                return ""
        except msgspec.MsgspecError:
            raise _Broken("what answered the login is not etcd") from None
        raise _Elsewhere

    def _answer(self, path: str, message: dict[str, Any], may_repeat: bool) -> Answer:
        """What was answered, waited for as long as over gRPC, but in vain only as long as etcd is alive."""
        line = self._opened()
        begun_s = now_s()
        asks_others = len(self._endpoints) > 1 and may_repeat
        try:
            try:
                patience_s = PATIENCE_S if asks_others else SILENCE_S
                return line.ask(path, msgspec.json.encode(message), begun_s + patience_s, self._token or "")
            except Silent:
                if asks_others or not self._has_answered:
                    self._give_up_if_none_lives(begun_s)
                if asks_others:
                    raise Lost("no answer") from None
                return line.answer(begun_s + REQUEST_TIMEOUT_S)
        except Silent:
            line.close()
            text = f"context deadline exceeded: {self._where(line)} gave no answer in {REQUEST_TIMEOUT_S:.0f} s"
            raise DatastoreError(text) from None
        except Lost as error:
            line.close()
            raise _Broken(f"the connection to {self._where(line)} was lost: {error}") from None

    def _where(self, line: Line) -> str:
        return f"etcd at {line.endpoint.url}" + (f" ({self._config.source})" if self._config.source else "")

    def _opened(self) -> Line:
        """The connection; raises `Unreachable`, or `_Elsewhere` when it takes long."""
        if self._line is not None and not self._line.has_ended():
            return self._line
        self._hang_up()
        begun_s = now_s()
        while True:
            try:
                self._line = open_line(self._endpoints, self._context, CONNECT_S)
                return self._line
            except (NothingListens, NotConnected):
                self._give_up_if_none_lives(begun_s)
            time.sleep(PAUSE_S)

    def _give_up_if_none_lives(self, begun_s: float) -> None:
        """Raises `_Elsewhere` if an endpoint speaks with clients of etcd, `Unreachable` if none does for a while."""
        from libcalico.datastore import diagnosis

        routes = [diagnosis.Route(url, self._tls, self._config.certificates) for url in self._config.endpoints]
        reasons = diagnosis.explain_all(routes, PROBE_S)
        if diagnosis.ANSWERS in reasons:
            raise _Elsewhere
        if now_s() - begun_s >= SILENCE_S:
            raise Unreachable(diagnosis.sentence(routes, reasons, self._config.source))

    def _decoded(self, answer: Answer, shape: type[T]) -> T:
        """etcd's answer; raises `_Elsewhere` if it refuses the request, `_Broken` if there is no knowing."""
        try:
            if answer.status == OK:
                done = _decode(answer.body, shape)
                self._has_answered = True
                return done
            refusal = _decode(answer.body, _Refusal)
        except msgspec.MsgspecError:
            raise _Broken(f"what {self.endpoint} answers is not etcd's: {answer.body[:80]!r}") from None
        if refusal.code in UNDECIDED and not any(text in refusal.text for text in NOT_DONE):
            raise _Broken(refusal.text)
        raise _Elsewhere


@functools.cache
def _decoder(shape: type[T]) -> msgspec.json.Decoder[T]:
    """64-bit numbers are texts in the JSON of protocol buffers, bytes are base64."""
    return msgspec.json.Decoder(shape, strict=False)


def _decode(body: bytes, shape: type[T]) -> T:
    done: T = _decoder(shape).decode(body)  # type: ignore[arg-type]
    return done


def _pair(kv: _Pair) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


def _pairs(response: _Response) -> tuple[KeyValue, ...]:
    if response.response_range is not None:
        return tuple(map(_pair, response.response_range.kvs))
    if response.response_delete_range is not None:
        return tuple(map(_pair, response.response_delete_range.prev_kvs))
    return ()


def _compare(compare: Compare) -> dict[str, Any]:
    target, member = TARGETS[compare.target]
    return {"key": compare.key, "target": target, "result": "EQUAL", member: compare.value}


def _operation(operation: Operation) -> dict[str, Any]:
    if isinstance(operation, Put):
        return {"request_put": {"key": operation.key, "value": operation.value, "lease": operation.lease}}
    request: dict[str, Any] = {"key": operation.key}
    if operation.prefix:
        request["range_end"] = prefix_end(operation.key)
    if isinstance(operation, Delete):
        return {"request_delete_range": {**request, "prev_kv": True}}
    return {"request_range": {**request, "keys_only": operation.keys_only}}

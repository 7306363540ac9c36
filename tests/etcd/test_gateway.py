"""etcd over its HTTP gateway does what every datastore does, and leaves to gRPC what is not plain."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import Any, TypeVar

import pytest

from libcalico.datastore.contract import Compare, Datastore, Get, Put, Target
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.gateway import GatewayDatastore
from libcalico.datastore.settings import EtcdConfig, etcd_config, first_of, from_variables
from libcalico.errors import DatastoreError, Unreachable
from libcalico.testing.certificates import Certificates
from libcalico.testing.datastore_contract import CHECKS
from libcalico.testing.etcd import Etcd
from libcalico.testing.machine import free_port
from tests.etcd.servers import USER, Server, running, tls_server

CALICO = b"/calico/gateway/"
ROOT = {"ETCD_USERNAME": "root", "ETCD_PASSWORD": "r"}
"""Of `ask_for_users`; may do everything, as the contract's checks want it."""
ROOT_AND_CLIENT = (
    "user add root:r",
    "user grant-role root root",
    "user add client:c",
    "user grant-role client root",
)
LEFT_TO_GRPC = (
    "one_key_twice_in_a_transaction_is_refused",
    "watch_from_the_past_and_on",
    "watch_of_a_compacted_revision",
)
T = TypeVar("T")


class Compacting(GatewayDatastore):
    """Can let etcd forget its history, as a check wants it."""

    async def compact(self, revision: int) -> None:
        """Over gRPC: the contract has no such call."""
        etcd = self.over_grpc()
        await etcd.compact(revision)
        await etcd.close()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never waits for a loop."""
    try:
        work.send(None)
    except StopIteration as end:
        done: T = end.value
        return done
    raise AssertionError("it waits")


def settled(**variables: str) -> EtcdConfig:
    """The settings of these variables."""
    return etcd_config(first_of(from_variables(variables)))


@pytest.fixture(scope="module", params=["plain", "TLS", "a user"])
def reached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdConfig]:
    """An etcd, and how it is reached."""
    folder = tmp_path_factory.mktemp("etcd")
    if request.param == "TLS":
        certificates = Certificates(folder)
        server = tls_server(folder, certificates)
        variables = certificates.variables()
    else:
        server, variables = Server(folder), ROOT if request.param == "a user" else {}
    with running(server):
        if request.param == "a user":
            server.ask_for_users()
        yield settled(ETCD_ENDPOINTS=server.url, **variables)


@pytest.mark.parametrize("over", ["gateway", "gRPC"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(
    reached: EtcdConfig, check: Callable[[Datastore, bytes], Awaitable[None]], over: str
) -> None:
    store: Datastore = Compacting(reached) if over == "gateway" else EtcdDatastore(reached)
    try:
        await check(store, CALICO + f"{over}/{check.__name__}/".encode())
        assert over == "gRPC" or check.__name__ in LEFT_TO_GRPC or is_spoken(store)
    finally:
        await store.close()


def is_spoken(store: Datastore) -> bool:
    """Did it not change over to gRPC?"""
    assert isinstance(store, GatewayDatastore)
    return store._grpc is None


@contextlib.contextmanager
def answering(*answers: bytes, closes: bool = True) -> Iterator[str]:
    """The URL of a server that gives one of these answers for each connection, the last one for ever."""
    listener = create_server(("127.0.0.1", 0))
    served: list[socket] = []

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            served.append(connection)
            connection.recv(65536)
            connection.sendall(answers[min(number, len(answers) - 1)])
            number += 1
            if closes:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(2)
        listener.close()
        for connection in served:
            connection.close()


def page(status: str, body: bytes) -> bytes:
    """An HTTP answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_nothing_waits_for_a_loop(etcd: Etcd) -> None:
    store = GatewayDatastore(EtcdConfig((etcd.endpoint,)))
    key = CALICO + b"a"
    done = at_once(store.txn([Compare(key, Target.VERSION, 0)], [Put(key, b"1")], [Get(key)]))
    kv = at_once(store.get(key))
    assert kv is not None and (done.succeeded, kv.value, kv.mod_revision) == (True, b"1", done.revision)
    assert not at_once(store.txn([Compare(key, Target.VERSION, 0)], [Put(key, b"2")], [Get(key)])).succeeded
    assert [kv.value for kv in at_once(store.range(CALICO)).kvs] == [b"1"]
    assert is_spoken(store)
    at_once(store.close())


def test_an_etcd_without_a_gateway_is_asked_over_grpc(tmp_path: Path) -> None:
    server = Server(tmp_path, options=["--enable-grpc-gateway=false"])
    with running(server):
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=server.url))
        begun = time.monotonic()
        assert at_once(store.txn([], [Put(CALICO, b"1")])).succeeded
        kv = at_once(store.get(CALICO))
        assert kv is not None and (kv.value, kv.version) == (b"1", 1)
        assert (is_spoken(store), time.monotonic() - begun < 2) == (False, True)
        at_once(store.close())


def test_metadata_for_every_request_is_sent_over_grpc_only(etcd: Etcd) -> None:
    store = GatewayDatastore(EtcdConfig((etcd.endpoint,), metadata=(("x-proxy", "1"),)))
    assert at_once(store.get(CALICO + b"none")) is None
    assert not is_spoken(store)
    at_once(store.close())


def test_a_user_by_the_name_of_a_certificate_is_known_over_grpc(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    server = tls_server(tmp_path, certificates)
    with running(server):
        variables = {
            **os.environ,
            "ETCDCTL_API": "3",
            "ETCDCTL_CACERT": certificates.ca.certificate,
            "ETCDCTL_CERT": certificates.client.certificate,
            "ETCDCTL_KEY": certificates.client.key,
        }
        for words in (*ROOT_AND_CLIENT, "auth enable"):
            command = ["etcdctl", "--endpoints", server.url, *words.split()]
            subprocess.run(command, check=True, capture_output=True, env=variables, timeout=30)
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=server.url, **certificates.variables()))
        assert at_once(store.txn([Compare(CALICO, Target.VERSION, 0)], [Put(CALICO, b"1")])).succeeded
        assert not is_spoken(store)
        at_once(store.close())


def test_a_wrong_password_is_worded_as_over_grpc(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        server.ask_for_users()
        texts = []
        for variables in ({**USER, "ETCD_PASSWORD": "wrong"}, {}):
            store = GatewayDatastore(settled(ETCD_ENDPOINTS=server.url, **variables))
            with pytest.raises(DatastoreError) as raised:
                at_once(store.get(CALICO))
            texts.append(str(raised.value))
            at_once(store.close())
    assert texts[0] == "etcdserver: authentication failed, invalid user ID or password"
    assert "wants ETCD_USERNAME and ETCD_PASSWORD" in texts[1]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(page("200 OK", b"{}"), id="JSON of another kind"),
        pytest.param(page("200 OK", b"<html>"), id="a page"),
        pytest.param(page("404 Not Found", b"404 page not found"), id="not found"),
        pytest.param(b"HTTP/1.0 501 Not Implemented\r\n\r\nno", id="HTTP 1.0 without a length"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="not HTTP"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_server_that_is_not_etcd(answer: bytes) -> None:
    with answering(answer) as url:
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=url))
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=rf"^cannot reach etcd at {url} \(ETCD_ENDPOINTS\): "):
            at_once(store.txn([], [Put(CALICO, b"1")]))
        assert time.monotonic() - begun < 8
        at_once(store.close())


def test_a_frozen_etcd_is_named_in_a_few_seconds(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=server.url))
        server.send(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="no answer for 1 s: the host is down, or hangs"):
            at_once(store.get(CALICO))
        assert time.monotonic() - begun < 7
        server.send(signal.SIGCONT)
        assert at_once(store.get(CALICO)) is None
        assert is_spoken(store)
        at_once(store.close())


class Cutting:
    """A relay to etcd that breaks off so many bytes into the answer to a request whose body has these words."""

    def __init__(self, server: Server, words: bytes, after: int) -> None:
        self._target = int(server.url.rpartition(":")[2])
        self._words, self._after = words, after
        self._listener = create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._relay, args=(self._listener.accept()[0],), daemon=True).start()

    def _relay(self, client: socket) -> None:
        with client, create_connection(("127.0.0.1", self._target)) as etcd, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([client, etcd], [], [])
                if client in ready:
                    request = client.recv(65536)
                    if not request:
                        return
                    etcd.sendall(request)
                    if not self.cuts and self._words in request:
                        self.cuts += 1
                        client.sendall(etcd.recv(65536)[: self._after])
                        return
                if etcd in ready:
                    answer = etcd.recv(65536)
                    if not answer:
                        return
                    client.sendall(answer)

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


@pytest.mark.parametrize("after", [0, 20, 300], ids=["before an answer", "in the head", "in the body"])
@pytest.mark.parametrize("asked", ["read", "guarded write", "write"])
def test_a_connection_that_breaks_in_an_answer(tmp_path: Path, asked: str, after: int) -> None:
    """A read is made again, a write that could be done twice is not; none is done twice."""
    server = Server(tmp_path)
    with running(server):
        server.etcdctl("put /calico/gateway/a 0")
        words = b"/v3/kv/range" if asked == "read" else b"request_put"
        relay = Cutting(server, words, after)
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=relay.url))
        key = CALICO + b"a"
        if asked == "read":
            kv = at_once(store.get(key))
            assert kv is not None and kv.value == b"0"
        elif asked == "guarded write":
            stored = at_once(store.get(key))
            assert stored is not None
            compare = Compare(key, Target.MOD_REVISION, stored.mod_revision)
            done = at_once(store.txn([compare], [Put(key, b"1")], [Get(key)]))
            kv = at_once(store.get(key))
            assert kv is not None
            assert (done.succeeded, kv.value, kv.version, kv.mod_revision) == (True, b"1", 2, done.revision)
        else:
            with pytest.raises(DatastoreError, match=r"^the connection to etcd at http\S+ \(ETCD_ENDPOINTS\) was lost"):
                at_once(store.txn([], [Put(key, b"1")]))
            kv = at_once(store.get(key))
            assert kv is not None and (kv.value, kv.version) == (b"1", 2)
        assert relay.cuts == 1
        at_once(store.close())
        relay.close()


def test_a_member_that_is_away_costs_a_moment(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        urls = f"http://192.0.2.1:2379,http://127.0.0.1:{free_port()},{server.url}"
        store = GatewayDatastore(settled(ETCD_ENDPOINTS=urls))
        begun = time.monotonic()
        assert at_once(store.get(CALICO)) is None
        assert (is_spoken(store), store.endpoint, time.monotonic() - begun < 1) == (True, server.url, True)
        at_once(store.close())


def test_a_long_list_comes_whole(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libcalico.datastore.gateway.LONG_LIST", 10)
    store = GatewayDatastore(EtcdConfig((etcd.endpoint,)))
    for number in range(11):
        at_once(store.put(CALICO + b"long/%02d" % number, b"1"))
    assert is_spoken(store)
    assert len(at_once(store.range(CALICO + b"long/", limit=4)).kvs) == 4
    assert is_spoken(store)
    found = at_once(store.range(CALICO + b"long/"))
    assert (len(found.kvs), found.more, is_spoken(store)) == (11, False, False)
    at_once(store.close())

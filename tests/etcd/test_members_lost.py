"""One of three members is lost: requests and watches go on at the next one, and no write is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libcalico.datastore.contract import Compare, Delete, Get, Put, Target
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.errors import DatastoreError, Unreachable
from libcalico.testing.machine import free_port
from tests.etcd.servers import Server, cluster, leader, running

ELECTION_S = 3.0
"""etcd's own election takes one to two seconds, in which no member can write."""


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Server]]:
    """Three, running."""
    made = cluster(tmp_path)
    with running(*made):
        yield made


@contextlib.asynccontextmanager
async def client(*urls: str) -> AsyncIterator[EtcdDatastore]:
    """A datastore at these endpoints."""
    store = EtcdDatastore(EtcdConfig(urls, source="ETCD_ENDPOINTS"))
    try:
        yield store
    finally:
        await store.close()


async def create(store: EtcdDatastore, key: bytes, value: bytes) -> bool:
    """As an ADD stores an endpoint."""
    answer = await store.txn([Compare(key, Target.VERSION, 0)], [Put(key, value)], [Get(key)])
    return answer.succeeded


async def test_a_frozen_member_costs_a_moment(members: list[Server]) -> None:
    head = leader(members)
    first = next(member for member in members if member is not head)
    async with client(first.url, *(one.url for one in members if one is not first)) as store:
        assert await create(store, b"/calico/a", b"1")
        first.send(signal.SIGSTOP)
        begun = time.monotonic()
        assert await create(store, b"/calico/b", b"2")
        assert time.monotonic() - begun < 1.5
        begun = time.monotonic()
        assert (await store.get(b"/calico/b")) is not None
        assert time.monotonic() - begun < 0.5, "the next request asks the frozen member again"
        first.send(signal.SIGCONT)
        await asyncio.sleep(1)
        kv = await store.get(b"/calico/b")
        assert kv is not None and (kv.value, kv.version) == (b"2", 1), "the frozen member's copy was done too"


@pytest.mark.parametrize("loss", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("asked", ["leader", "follower"])
async def test_writes_go_on_when_the_leader_is_lost(members: list[Server], loss: signal.Signals, asked: str) -> None:
    head = leader(members)
    others = [member for member in members if member is not head]
    order = [head, *others] if asked == "leader" else [others[0], head, others[1]]
    async with client(*(one.url for one in order)) as store:
        assert await create(store, b"/calico/a", b"1")
        head.send(loss)
        begun = time.monotonic()
        assert await create(store, b"/calico/b", b"2")
        assert time.monotonic() - begun < ELECTION_S + 2.0
        kv = await store.get(b"/calico/b")
        assert kv is not None and (kv.value, kv.version) == (b"2", 1)


async def test_a_watch_goes_where_requests_go(members: list[Server]) -> None:
    head = leader(members)
    first = next(member for member in members if member is not head)
    async with client(first.url, *(one.url for one in members if one is not first)) as store:
        revision = await store.put(b"/calico/a", b"1")
        watching = asyncio.ensure_future(_first_event(store, revision + 1))
        await asyncio.sleep(0.5)
        first.send(signal.SIGSTOP)
        assert await create(store, b"/calico/b", b"2")
        with pytest.raises(DatastoreError, match="does not answer requests: another one is asked"):
            await asyncio.wait_for(watching, 2)
        assert await asyncio.wait_for(_first_event(store, revision + 1), 2) == b"/calico/b"


async def _first_event(store: EtcdDatastore, revision: int) -> bytes:
    async with contextlib.aclosing(store.watch(b"/calico/", revision)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            for event in batch.events:
                return event.key
    return b""


def _holds_message(frames: bytes) -> bool:
    """Is there a DATA frame (RFC 9113, 4.1 and 6.1) among what arrived? Pings and windows are no answers."""
    place = 0
    while place + 9 <= len(frames):
        if frames[place + 3] == 0:
            return True
        place += 9 + int.from_bytes(frames[place : place + 3])
    return False


class Deaf:
    """Between a client and a server: the next message that the server answers is lost, as is the connection."""

    def __init__(self, server: Server) -> None:
        self._target = int(server.url.rpartition(":")[2])
        self._listener: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.port = free_port()
        self.is_deaf = False

    async def __aenter__(self) -> Deaf:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, outer]
        await asyncio.gather(self._pump(reader, outer, False), self._pump(inner, writer, True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_answer and self.is_deaf and _holds_message(data):
                    self.is_deaf = False
                    writer.transport.abort()
                    return
                writer.write(data)


async def test_a_write_whose_answer_was_lost_is_done_once(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        async with Deaf(server) as line, client(f"http://127.0.0.1:{line.port}") as store:
            revision = await store.put(b"/calico/block", b"0")
            await store.put(b"/calico/gone", b"x")
            line.is_deaf = True
            answer = await store.txn(
                [Compare(b"/calico/block", Target.MOD_REVISION, revision), Compare(b"/calico/new", Target.VERSION, 0)],
                [Put(b"/calico/block", b"1"), Put(b"/calico/new", b"n"), Delete(b"/calico/gone")],
                [Get(b"/calico/block")],
            )
            block = await store.get(b"/calico/block")
            assert block is not None and (block.value, block.version) == (b"1", 2)
            assert answer.succeeded and answer.revision == block.mod_revision


async def test_a_write_without_a_condition_is_sent_once_only(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server):
        async with Deaf(server) as line, client(f"http://127.0.0.1:{line.port}") as store:
            await store.put(b"/calico/a", b"1")
            line.is_deaf = True
            with pytest.raises(DatastoreError, match=r"the connection to etcd at .* \(ETCD_ENDPOINTS\) was lost"):
                await store.put(b"/calico/a", b"2")
            kv = await store.get(b"/calico/a")
            assert kv is not None and kv.version == 2


async def test_a_write_that_another_one_has_overtaken_has_failed(tmp_path: Path) -> None:
    """The answer is lost, and the conditions did not hold: that is told from the key's history."""
    server = Server(tmp_path)
    with running(server):
        async with Deaf(server) as line, client(f"http://127.0.0.1:{line.port}") as store:
            revision = await store.put(b"/calico/block", b"0")
            for value in (b"theirs", b"1", b"theirs"):  # the same value as ours, of another's transaction
                await store.put(b"/calico/block", value)
            line.is_deaf = True
            answer = await store.txn(
                [Compare(b"/calico/block", Target.MOD_REVISION, revision)],
                [Put(b"/calico/block", b"1"), Put(b"/calico/new", b"n")],
                [Get(b"/calico/block")],
            )
            assert not answer.succeeded and answer.responses[0][0].value == b"theirs"


async def test_a_dead_or_silent_endpoint_costs_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with running(server), socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)  # accepts, and never says a word
        urls = [f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{silent.getsockname()[1]}", server.url]
        for order in (urls, urls[1:], [urls[1], urls[0], urls[2]]):
            async with client(*order) as store:
                begun = time.monotonic()
                await store.put(b"/calico/a", b"1")
                assert time.monotonic() - begun < 0.5


async def test_what_is_down_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libcalico.datastore.etcd.CONNECT_TIMEOUT_S", 3.0)
    server = Server(tmp_path)
    with running():
        async with client(server.url) as store:
            begun = time.monotonic()
            with pytest.raises(Unreachable) as raised:
                await store.get(b"/calico/a")
            assert time.monotonic() - begun > 2.9
            reason = "connection refused: start etcd there, or correct the port"
            assert str(raised.value) == f"cannot reach etcd at {server.url} (ETCD_ENDPOINTS): {reason}"
            waiting = asyncio.ensure_future(store.get(b"/calico/a"))
            await asyncio.sleep(0.5)
            with running(server):
                assert await waiting is None
                assert store.members.trouble == ""

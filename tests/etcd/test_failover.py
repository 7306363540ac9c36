"""What the etcd client survives: an endpoint that is down, a login that etcd forgot, another history."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libcalico.datastore import syncer
from libcalico.datastore.contract import Compacted
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.datastore.syncer import Status, Syncer
from libcalico.errors import DatastoreError
from libcalico.testing.etcd import Etcd
from libcalico.testing.machine import free_port, need

PREFIX = "/calico/resources/"
USER, PASSWORD = "root", "swordfish"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of the test's own."""
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    made = Etcd(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def locked(server: Etcd) -> Etcd:
    """The same, asking for a password."""
    need(shutil.which("etcdctl") is not None, "etcdctl", "apt-get install etcd-client")
    for words in (f"user add {USER}:{PASSWORD}", f"user grant-role {USER} root", "auth enable"):
        command = ["etcdctl", "--endpoints", server.endpoint, *words.split()]
        subprocess.run(command, check=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, timeout=20)
    return server


@contextlib.asynccontextmanager
async def client(*endpoints: str, password: str = PASSWORD) -> AsyncIterator[EtcdDatastore]:
    """A client with a login."""
    store = EtcdDatastore(EtcdConfig(endpoints, USER, password))
    try:
        yield store
    finally:
        await store.close()


async def test_logging_in_moves_on_from_a_dead_endpoint(locked: Etcd) -> None:
    async with client(f"http://127.0.0.1:{free_port()}", locked.endpoint) as store:
        revision = await store.put(b"/calico/a", b"1")
        assert (await store.range(b"/calico/")).revision == revision


async def test_a_login_that_etcd_forgot_is_renewed(locked: Etcd) -> None:
    async with client(locked.endpoint) as store:
        await store.put(b"/calico/a", b"1")
        store._login._token = "gone.1"
        await store.put(b"/calico/a", b"2")
        kv = await store.get(b"/calico/a")
        assert kv is not None and (kv.value, kv.version) == (b"2", 2)


async def test_a_wrong_password_is_an_error_not_a_loop(locked: Etcd) -> None:
    async with client(locked.endpoint, password="wrong") as store:
        with pytest.raises(DatastoreError, match="authentication failed"):
            await store.get(b"/calico/a")


async def test_a_watch_from_the_future_is_refused(server: Etcd) -> None:
    store = EtcdDatastore(EtcdConfig((server.endpoint,)))
    revision = await store.put(b"/calico/a", b"1")
    with pytest.raises(Compacted):
        async with asyncio.timeout(30), contextlib.aclosing(store.watch(b"/calico/", revision + 50)) as batches:  # type: ignore[type-var]
            async for _ in batches:
                pass
    await store.close()


async def test_an_etcd_that_lost_its_data_is_followed(
    server: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncer, "RETRY_WATCH_S", 0.05)
    store = EtcdDatastore(EtcdConfig((server.endpoint,)))
    for number in range(30):
        await store.put(f"{PREFIX}{number}".encode(), b"old")
    await _follow_the_loss(store, server, tmp_path / "data")
    await store.close()


async def _follow_the_loss(store: EtcdDatastore, server: Etcd, data: Path) -> None:
    """The key written first has the same revision in both histories: only its value differs."""
    known: dict[bytes, bytes | None] = {}
    expected = {f"{PREFIX}0".encode(): b"new"}
    wiped = False
    async with asyncio.timeout(40), contextlib.aclosing(Syncer(store, (PREFIX,)).run()) as batches:  # type: ignore[type-var]
        async for batch in batches:
            known.update((update.key, update.value) for update in batch.updates)
            if batch.status is Status.IN_SYNC and not wiped:
                wiped = True
                server.kill()
                shutil.rmtree(data)
                await asyncio.to_thread(server.start)
                other = EtcdDatastore(EtcdConfig((server.endpoint,)))
                await other.put(f"{PREFIX}0".encode(), b"new")
                await other.close()
            if {key: value for key, value in known.items() if value is not None} == expected:
                return

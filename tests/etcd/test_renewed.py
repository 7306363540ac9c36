"""What changes while a client runs: certificates on disk, users, tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.datastore.settings import etcd_config, from_environment
from libcalico.datastore.syncer import Status, Syncer
from libcalico.errors import Unreachable
from libcalico.testing.certificates import Certificates
from tests.etcd.servers import Server, running, tls_options, tls_server


@contextlib.asynccontextmanager
async def client(config: EtcdConfig) -> AsyncIterator[EtcdDatastore]:
    """A datastore."""
    store = EtcdDatastore(config)
    try:
        yield store
    finally:
        await store.close()


async def follow(store: EtcdDatastore, seen: dict[str, bytes | None]) -> None:
    """What the agent's watch does."""
    async for batch in Syncer(store, ["/calico/"]).run():
        seen.update((update.key.decode(), update.value) for update in batch.updates)
        if batch.status is Status.IN_SYNC:
            seen["in sync"] = b""


async def until(seen: dict[str, bytes | None], key: str) -> None:
    """Until the watch has brought a key."""
    async with asyncio.timeout(15):
        while key not in seen:
            await asyncio.sleep(0.05)


async def test_renewed_certificates_are_taken_up(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once, also the authority; a half that does not fit changes nothing."""
    monkeypatch.setattr("libcalico.datastore.etcd.CONNECT_TIMEOUT_S", 2.0)
    server = tls_server(tmp_path, certificates)
    config = etcd_config(from_environment({"ETCD_ENDPOINTS": server.url, **certificates.variables()}))
    seen: dict[str, bytes | None] = {}
    with running(server):
        async with client(config) as store:
            await store.put(b"/calico/a", b"1")
            following = asyncio.ensure_future(follow(store, seen))
            await until(seen, "in sync")
            server.kill()
            certificates.authority("new")
            server.options = tls_options(certificates.sign("server", "new"), str(certificates.folder / "new.crt"))
            server.start()
            with pytest.raises(Unreachable, match="not signed by an authority of"):
                await store.get(b"/calico/a")
            Path(certificates.ca.certificate).write_bytes((certificates.folder / "new.crt").read_bytes())
            Path(certificates.client.key).write_text("half written")
            with pytest.raises(Unreachable):
                await store.get(b"/calico/a")
            certificates.sign("client", "new")
            await store.put(b"/calico/b", b"2")
            await until(seen, "/calico/b")
            following.cancel()


async def test_credentials_without_authentication_and_tokens_that_became_void(tmp_path: Path) -> None:
    """JWT: any change of users makes every token void."""
    (tmp_path / "secret").write_text("k" * 64)
    options = ["--auth-token", f"jwt,priv-key={tmp_path}/secret,sign-method=HS512,ttl=1h"]
    server = Server(tmp_path, options=options)
    seen: dict[str, bytes | None] = {}
    with running(server):
        async with client(EtcdConfig((server.url,), "calico", "s3cret")) as store:
            await store.put(b"/calico/off", b"")
            server.ask_for_users()
            await store.put(b"/calico/on", b"")
            assert await store.grant_lease(60)
            for number in range(2):
                server.etcdctl(f"user add other{number}:o", "root:r")
                await store.put(f"/calico/changed{number}".encode(), b"")
                server.etcdctl(f"user add another{number}:o", "root:r")
                following = asyncio.ensure_future(follow(store, seen))
                await until(seen, f"/calico/changed{number}")
                following.cancel()
            server.etcdctl("auth disable", "root:r")
            await store.put(b"/calico/off again", b"")


async def test_a_watch_with_a_void_token_asks_for_another(tmp_path: Path) -> None:
    server = Server(tmp_path)
    seen: dict[str, bytes | None] = {}
    with running(server):
        server.ask_for_users()
        async with client(EtcdConfig((server.url,), "calico", "s3cret")) as store:
            revision = await store.put(b"/calico/a", b"1")
            store._login._token = "void.1"
            async with asyncio.timeout(10), contextlib.aclosing(store.watch(b"/calico/", revision)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    seen.update((event.key.decode(), event.value) for event in batch.events)
                    break
    assert seen == {"/calico/a": b"1"}

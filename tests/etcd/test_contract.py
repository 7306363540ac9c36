"""etcd does what every datastore does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from libcalico.datastore.contract import Datastore
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.testing.datastore_contract import CHECKS
from libcalico.testing.etcd import Etcd


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_in_etcd(etcd: Etcd, check: Callable[[Datastore, bytes], Awaitable[None]]) -> None:
    store = EtcdDatastore(EtcdConfig((etcd.endpoint,)))
    try:
        await check(store, f"/{check.__name__}/".encode())
    finally:
        await store.close()

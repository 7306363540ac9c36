"""`calico-felix startup`: what the environment makes of the Node and the first pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_felix.startup import POOL, Startup
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.resources import AsyncClient


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", True), ("true", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("No", False)],
)
async def test_outgoing_nat_of_the_first_pool(text: str, wanted: bool, tmp_path: Path) -> None:
    client = AsyncClient(MemoryDatastore())
    environment = {"CALICO_IPV4POOL_NAT_OUTGOING": text, "CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    await Startup(client, "here", environment)._ensure_pool()
    assert (await client.get("IPPool", POOL)).spec.nat_outgoing is wanted


async def test_a_node_without_an_address_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    environment = {"CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    await Startup(AsyncClient(MemoryDatastore()), "here", environment)._ensure_node()
    assert "set IP" in caplog.text

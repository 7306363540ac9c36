"""`calico-felix startup`: what the environment makes of the Node and the first pool."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from calico_felix import startup
from calico_felix.startup import POOL, Startup
from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData
from libcalico.model.resources import IPPool


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", True), ("true", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("No", False)],
)
async def test_outgoing_nat_of_the_first_pool(text: str, wanted: bool, tmp_path: Path) -> None:
    client = AsyncClient(MemoryDatastore())
    environment = {"CALICO_IPV4POOL_NAT_OUTGOING": text, "CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    await Startup(client, "here", environment)._ensure_pool()
    assert (await client.get(IPPool, POOL)).spec.nat_outgoing is wanted


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("CALICO_IPV4POOL_CIDR", "10.9.0.0/16", "keeps 192.168.0.0/16: CALICO_IPV4POOL_CIDR=10.9.0.0/16"),
        ("CALICO_IPV4POOL_VXLAN", "Always", "keeps Never: CALICO_IPV4POOL_VXLAN=Always"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "28", "keeps 26: CALICO_IPV4POOL_BLOCK_SIZE=28"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "big", "'big' is not a number between 20 and 32"),
        ("CALICO_IPV4POOL_VXLAN", "never", ""),
        ("CALICO_IPV4POOL_CIDR", "192.168.0.1/16", ""),
        ("CALICO_IPV4POOL_CIDR", "fd00::/64", "'fd00::/64' is not an IPv4 network"),
    ],
)
async def test_what_cannot_change_a_pool_that_stands_is_told(
    variable: str, text: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    client = AsyncClient(MemoryDatastore())
    environment = {"CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    await Startup(client, "here", environment)._ensure_pool()
    before = await client.get(IPPool, POOL)
    await Startup(client, "here", {**environment, variable: text})._ensure_pool()
    assert await client.get(IPPool, POOL) == before
    assert told in caplog.text and (told != "" or not caplog.records)


@pytest.mark.parametrize(("name", "text"), [("BLOCK_SIZE", "33"), ("CIDR", "172.29.0.0/160")])
async def test_a_pool_with_a_bad_setting_is_not_made(name: str, text: str, tmp_path: Path) -> None:
    variable = f"CALICO_IPV4POOL_{name}"
    environment = {"CALICO_NODENAME_FILE": str(tmp_path / "nodename"), variable: text}
    with pytest.raises(BadData, match=f"{variable}='{text}'"):
        await Startup(AsyncClient(MemoryDatastore()), "here", environment)._ensure_pool()


async def test_a_node_without_an_address_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    environment = {"CALICO_NODENAME_FILE": str(tmp_path / "nodename")}
    await Startup(AsyncClient(MemoryDatastore()), "here", environment)._ensure_node()
    assert "set IP" in caplog.text


async def test_a_host_that_was_prepared_before_does_not_initialise_a_datastore_that_lost_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    monkeypatch.setattr(startup, "POLL_S", 0.01)
    client, nodename = AsyncClient(MemoryDatastore()), tmp_path / "nodename"
    one = Startup(client, "here", {"CALICO_NODENAME_FILE": str(nodename)})
    await one._wait_initialized()
    nodename.write_text("here")
    waiting = asyncio.ensure_future(one._wait_initialized())
    assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
    assert caplog.text.count(f"({nodename} is there)") == 1
    await client.ensure_initialized()
    await asyncio.wait_for(waiting, 5)

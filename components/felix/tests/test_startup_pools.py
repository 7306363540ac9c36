"""The default pools: what the environment makes of them, and what cannot change one that stands."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

import pytest

from calico_felix.startup.detection import Interface
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.pools import NAMES, default_network, ensure_pools, random_network
from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData
from libcalico.model.resources import IPPool
from libcalico.model.scalars import IPNetwork, parse_net


class Network(HostNetwork):
    """A host with these routes."""

    def __init__(self, *routes: str) -> None:
        self.routes = [net for route in routes if (net := parse_net(route)) is not None]

    def interfaces(self) -> list[Interface]:
        return []

    def networks(self) -> list[IPNetwork]:
        return self.routes


async def make(
    client: AsyncClient,
    environment: Mapping[str, str] | None = None,
    *,
    ipv6: bool = False,
    routes: Sequence[str] = (),
    none: bool = False,
) -> bool:
    return await ensure_pools(client, environment or {}, Network(*routes), none=none, ipv6=ipv6)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", True), ("true", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("No", False)],
)
async def test_outgoing_nat_of_the_first_pool(text: str, wanted: bool) -> None:
    client = AsyncClient(MemoryDatastore())
    await make(client, {"CALICO_IPV4POOL_NAT_OUTGOING": text})
    assert (await client.get(IPPool, NAMES[4])).spec.nat_outgoing is wanted


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("CALICO_IPV4POOL_CIDR", "10.9.0.0/16", "keeps 192.168.0.0/16: CALICO_IPV4POOL_CIDR=10.9.0.0/16"),
        ("CALICO_IPV4POOL_VXLAN", "Always", "keeps Never: CALICO_IPV4POOL_VXLAN=Always"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "28", "keeps 26: CALICO_IPV4POOL_BLOCK_SIZE=28"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "big", "'big' is not a number between 20 and 32"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "has(a)", "keeps all(): CALICO_IPV4POOL_NODE_SELECTOR=has(a)"),
        ("CALICO_IPV4POOL_VXLAN", "never", ""),
        ("CALICO_IPV4POOL_CIDR", "192.168.0.1/16", ""),
        ("CALICO_IPV4POOL_CIDR", "fd00::/64", "'fd00::/64' is not an IPv4 network"),
        ("CALICO_IPV4POOL_VXLANMODE", "Always", "(did you mean CALICO_IPV4POOL_VXLAN?)"),
    ],
)
async def test_what_cannot_change_a_pool_that_stands_is_told(
    variable: str, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    client = AsyncClient(MemoryDatastore())
    assert await make(client)
    before = await client.get(IPPool, NAMES[4])
    assert not await make(client, {variable: text})
    assert await client.get(IPPool, NAMES[4]) == before
    assert told in caplog.text and (told != "" or not caplog.records)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("CALICO_IPV4POOL_BLOCK_SIZE", "33", "is not a number between 20 and 32"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "2_6", "is not a number between 20 and 32"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "115", "is not a number between 116 and 128"),
        ("CALICO_IPV4POOL_CIDR", "172.29.0.0/160", "is not an IPv4 network such as"),
        ("CALICO_IPV4POOL_CIDR", "172.29.0.0", "is not an IPv4 network such as"),
        ("CALICO_IPV6POOL_CIDR", "172.29.0.0/16", "is not an IPv6 network such as"),
        ("CALICO_IPV4POOL_IPIP", "sometimes", "is not Never, CrossSubnet or Always"),
        ("CALICO_IPV6POOL_VXLAN", "on", "is not Never, CrossSubnet or Always"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "has(", "is no selector: "),
    ],
)
async def test_a_pool_with_a_bad_setting_is_not_made(name: str, text: str, reason: str) -> None:
    client = AsyncClient(MemoryDatastore())
    with pytest.raises(BadData) as error:
        await make(client, {name: text}, ipv6=True)
    assert str(error.value).startswith(f"{name}='{text}' {reason}") and "leave the variable out" in str(error.value)


async def test_both_encapsulations_contradict_each_other() -> None:
    both = {"CALICO_IPV4POOL_IPIP": "always", "CALICO_IPV4POOL_VXLAN": "cross-subnet"}
    with pytest.raises(BadData, match="CALICO_IPV4POOL_IPIP and CALICO_IPV4POOL_VXLAN are both on"):
        await make(AsyncClient(MemoryDatastore()), both)


async def test_no_pool_is_made_where_none_is_wanted() -> None:
    client = AsyncClient(MemoryDatastore())
    assert not await make(client, ipv6=True, none=True)
    assert not await make(client, {"CALICO_IPV4POOL_CIDR": "none", "CALICO_IPV6POOL_CIDR": "None"}, ipv6=True)
    assert not (await client.list(IPPool)).items
    with pytest.raises(BadData, match="NO_DEFAULT_POOLS=true and CALICO_IPV6POOL_CIDR contradict each other"):
        await make(client, {"CALICO_IPV6POOL_CIDR": "fd00::/48"}, none=True)


async def test_one_of_each_family() -> None:
    client = AsyncClient(MemoryDatastore())
    variables = {"CALICO_IPV6POOL_VXLAN": "Always", "CALICO_IPV6POOL_NAT_OUTGOING": "true"}
    assert await make(client, variables, ipv6=True, routes=("192.168.3.0/24",))
    first, second = (await client.list(IPPool)).items
    assert (first.metadata.name, second.metadata.name) == (NAMES[4], NAMES[6])
    assert (first.spec.cidr, first.spec.vxlan_mode, first.spec.block_size) == ("172.16.0.0/16", "Never", 26)
    assert second.spec.cidr.startswith("fd") and second.spec.cidr.endswith("::/48")
    assert (second.spec.vxlan_mode, second.spec.nat_outgoing, second.spec.block_size) == ("Always", True, 122)


async def test_an_unreadable_pool_may_be_any(caplog: pytest.LogCaptureFixture) -> None:
    datastore = MemoryDatastore()
    await datastore.put(b"/calico/resources/v3/projectcalico.org/ippools/mine", b"{")
    assert not await make(AsyncClient(datastore), ipv6=True)
    assert "ippools/mine" in caplog.text and len((await datastore.range(b"/calico")).kvs) == 1


def test_the_first_free_network() -> None:
    def networks(*routes: str) -> list[IPNetwork]:
        return Network(*routes).networks()

    assert default_network(networks("10.0.0.0/8")) == "192.168.0.0/16"
    assert default_network(networks("192.168.0.0/24", "172.16.0.0/15")) == "172.18.0.0/16"
    with pytest.raises(BadData, match="set CALICO_IPV4POOL_CIDR to a network that is free"):
        default_network(networks("192.168.1.1/32", "172.0.0.0/8"))


def test_a_random_network_is_a_unique_local_one() -> None:
    nets = [ipaddress.ip_network(random_network()) for _ in range(20)]
    assert len(set(nets)) == 20
    assert all(net.subnet_of(ipaddress.ip_network("fd00::/8")) and net.prefixlen == 48 for net in nets)  # type: ignore[arg-type]

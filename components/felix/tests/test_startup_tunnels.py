"""Addresses of tunnel devices: every row of spec/node-startup.md 4, and the order in time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from calico_felix.startup.tunnels import KINDS, Kind, ensure_tunnel_addresses
from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Delete, Put, TxnResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.ipam.service import IpamService
from libcalico.model import FelixConfiguration, IPPool, IPPoolSpec, Metadata, Node
from libcalico.model.resources import NodeStatus

HOST = "here"
KEY = "FYx4ztpGcTOnnIL+UIDMzRyBs8yCr66PcuNpNhROBTs="
BY_NAME = {kind.name: kind for kind in KINDS}
VXLAN = BY_NAME["vxlanTunnelAddress"]
_replace = msgspec.structs.replace


def pool(name: str = "a", cidr: str = "10.1.0.0/24", **spec: Any) -> IPPool:
    return IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, **{"block_size": 28, **spec}))


class World:
    """One host in a datastore."""

    def __init__(self, datastore: MemoryDatastore | None = None) -> None:
        self.client = AsyncClient(datastore or MemoryDatastore())
        self.ipam = IpamService(self.client.datastore, HOST)

    async def start(self, *pools: IPPool, node: Node | None = None) -> None:
        await self.client.create(node or Node(metadata=Metadata(name=HOST, labels={"rack": "1"})))
        for one in pools:
            await self.client.create(one)

    async def run(self) -> bool:
        """Run; a second run writes nothing."""
        changed = await ensure_tunnel_addresses(self.client, IpamService(self.client.datastore, HOST), HOST)
        before = (await self.client.datastore.range(b"/")).revision
        assert not await ensure_tunnel_addresses(self.client, IpamService(self.client.datastore, HOST), HOST)
        assert (await self.client.datastore.range(b"/")).revision == before
        return changed

    async def shown(self, kind: Kind = VXLAN) -> str:
        return kind.read((await self.client.get(Node, HOST)).spec)

    async def show(self, address: str, kind: Kind = VXLAN) -> None:
        node = await self.client.get(Node, HOST)
        await self.client.update(_replace(node, spec=kind.write(node.spec, address)))

    async def held(self, kind: Kind = VXLAN) -> list[str]:
        try:
            return list(await self.ipam.ips_by_handle(kind.handle(HOST)))
        except ResourceDoesNotExist:
            return []

    async def is_allocated(self, address: str) -> bool:
        try:
            await self.ipam.get_assignment_attributes(address)
        except ResourceDoesNotExist:
            return False
        return True


def keyed() -> Node:
    return Node(metadata=Metadata(name=HOST), status=NodeStatus(wireguard_public_key=KEY, wireguard_public_key_v6=KEY))


@pytest.mark.parametrize(
    ("name", "handle", "field", "spec"),
    [
        ("ipipTunnelAddress", "ipip-tunnel-addr-here", "bgp.ipv4_ipip_tunnel_addr", {"ipip_mode": "Always"}),
        ("ipipTunnelAddress", "ipip-tunnel-addr-here", "bgp.ipv4_ipip_tunnel_addr", {"ipip_mode": "CrossSubnet"}),
        ("vxlanTunnelAddress", "vxlan-tunnel-addr-here", "ipv4_vxlan_tunnel_addr", {"vxlan_mode": "Always"}),
        ("vxlanTunnelAddress", "vxlan-tunnel-addr-here", "ipv4_vxlan_tunnel_addr", {"vxlan_mode": "CrossSubnet"}),
        ("vxlanV6TunnelAddress", "vxlan-v6-tunnel-addr-here", "ipv6_vxlan_tunnel_addr",
         {"cidr": "fd00:1::/116", "block_size": 122, "vxlan_mode": "Always"}),
        ("wireguardTunnelAddress", "wireguard-tunnel-addr-here", "wireguard.interface_ipv4_address", {}),
        ("wireguardV6TunnelAddress", "wireguard-v6-tunnel-addr-here", "wireguard.interface_ipv6_address",
         {"cidr": "fd00:1::/116", "block_size": 122}),
    ],
)  # fmt: skip
async def test_an_address_of_each_kind(name: str, handle: str, field: str, spec: dict[str, Any]) -> None:
    world, kind = World(), BY_NAME[name]
    await world.start(pool(**spec), node=keyed() if "wireguard" in name else None)
    assert await world.run()
    value: Any = (await world.client.get(Node, HOST)).spec
    for part in field.split("."):
        value = getattr(value, part)
    assert value == await world.shown(kind) != ""
    attribute = await world.ipam.get_assignment_attributes(value)
    assert (attribute.handle, dict(attribute.secondary)) == (handle, {"node": HOST, "type": name})
    others = [await world.shown(other) for other in KINDS if other is not kind]
    assert not any(others)


@pytest.mark.parametrize(
    "spec",
    [
        {"vxlan_mode": "Never"},
        {"vxlan_mode": "Always", "disabled": True},
        {"vxlan_mode": "Always", "node_selector": "rack == '2'"},
        {"vxlan_mode": "Always", "allowed_uses": ["Workload"]},
    ],
)
async def test_pools_that_do_not_count(spec: dict[str, Any]) -> None:
    world = World()
    await world.start(pool(**spec))
    assert not await world.run() and await world.shown() == ""
    await world.client.create(pool("b", "10.2.0.0/24", vxlan_mode="Always", node_selector="rack == '1'"))
    assert await world.run() and (await world.shown()).startswith("10.2.0.")


async def test_host_encryption_needs_no_wireguard_address() -> None:
    world = World()
    await world.start(pool(), node=keyed())
    settings = FelixConfiguration(metadata=Metadata(name="default"), spec={"wireguardHostEncryptionEnabled": True})
    await world.client.create(settings)
    assert not await world.run()


async def test_without_a_pool_the_address_goes() -> None:
    world = World()
    await world.start(pool(vxlan_mode="Always", ipip_mode="Never"))
    await world.run()
    address = await world.shown()
    stored = await world.client.get(IPPool, "a")
    await world.client.update(_replace(stored, spec=_replace(stored.spec, vxlan_mode="Never")))
    assert await world.run()
    assert await world.shown() == "" and not await world.held() and not await world.is_allocated(address)


async def test_without_a_pool_what_is_not_ours_stays(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.start(pool())
    await world.ipam.assign_ip("10.1.0.5", handle="workload", attributes={"node": HOST})
    await world.show("10.1.0.5")
    assert await world.run()
    assert await world.shown() == "" and await world.is_allocated("10.1.0.5")
    assert "10.1.0.5, belongs to workload: it stays assigned" in caplog.text


async def test_without_a_pool_an_address_of_the_time_before_handles_is_released() -> None:
    world = World()
    await world.start(pool())
    await world.ipam.assign_ip("10.1.0.5")
    await world.show("10.1.0.5")
    assert await world.run()
    assert await world.shown() == "" and not await world.is_allocated("10.1.0.5")


async def test_a_handle_that_was_left_behind_is_released() -> None:
    world = World()
    await world.start(pool())
    await world.ipam.assign_ip("10.1.0.5", handle=VXLAN.handle(HOST), attributes={"node": HOST, "type": VXLAN.name})
    assert await world.run() and not await world.held()


@pytest.mark.parametrize(
    ("handle", "attributes", "stays", "same"),
    [
        (VXLAN.handle(HOST), {"node": HOST, "type": VXLAN.name}, True, True),
        ("workload", {}, True, False),
        (None, {}, True, True),
        ("workload", {"node": HOST, "pod": "x"}, True, False),
        (VXLAN.handle("there"), {"node": "there", "type": VXLAN.name}, True, False),
    ],
)
async def test_what_the_nodes_address_is(
    handle: str | None, attributes: dict[str, str], stays: bool, same: bool
) -> None:
    world = World()
    await world.start(pool(vxlan_mode="Always"))
    await world.ipam.assign_ip("10.1.0.5", handle=handle, attributes=attributes)
    await world.show("10.1.0.5")
    await world.run()
    address = await world.shown()
    assert (address == "10.1.0.5") is same and await world.is_allocated("10.1.0.5") is stays
    found = await world.ipam.get_assignment_attributes(address)
    assert (found.handle, dict(found.secondary)) == (VXLAN.handle(HOST), {"node": HOST, "type": VXLAN.name})
    assert await world.held() == [address]


async def test_an_address_outside_the_pools_is_replaced() -> None:
    world = World()
    await world.start(pool(vxlan_mode="Always"))
    await world.run()
    former = await world.shown()
    stored = await world.client.get(IPPool, "a")
    await world.client.update(_replace(stored, spec=_replace(stored.spec, vxlan_mode="Never")))
    await world.client.create(pool("b", "10.2.0.0/24", vxlan_mode="Always"))
    assert await world.run()
    address = await world.shown()
    assert address.startswith("10.2.0.") and not await world.is_allocated(former) and await world.held() == [address]


async def test_an_address_that_is_not_allocated_is_replaced() -> None:
    world = World()
    await world.start(pool(vxlan_mode="Always"))
    await world.show("10.1.0.77")
    assert await world.run()
    assert await world.held() == [await world.shown()]


async def test_what_cannot_be_used_is_named() -> None:
    world = World()
    await world.start(pool(vxlan_mode="Always"))
    path = b"/calico/resources/v3/projectcalico.org/nodes/here"
    stored = (await world.client.datastore.range(path)).kvs[0].value
    await world.client.datastore.put(path, stored.replace(b'"spec":{', b'"spec":{"ipv4VXLANTunnelAddr":"fd00::1"'))
    with pytest.raises(BadData, match=r"Node\(here\): fd00::1 is no IPv4 address for a tunnel"):
        await world.run()
    await world.client.datastore.put(b"/calico/resources/v3/projectcalico.org/ippools/b", b"{")
    with pytest.raises(BadData, match="ippools/b: repair or delete them"):
        await world.run()


async def test_a_full_pool_gives_back_what_was_assigned() -> None:
    world = World()
    await world.start(pool(ipip_mode="Always"), pool("b", "10.2.0.0/28", vxlan_mode="Always", block_size=28))
    await world.ipam.auto_assign(num4=16, handle="others", pools4=["10.2.0.0/28"])
    with pytest.raises(CalicoError, match=r"no address for vxlanTunnelAddress: .*make room in 10.2.0.0/28, or add a"):
        await world.run()
    assert not await world.held(BY_NAME["ipipTunnelAddress"]) and await world.shown(BY_NAME["ipipTunnelAddress"]) == ""


class Dying(MemoryDatastore):
    """Refuses each write after the first `left` ones."""

    left = 1 << 30

    async def txn(self, compares: Any, success: Any, failure: Any = ()) -> TxnResult:
        if any(isinstance(one, (Put, Delete)) for one in success):
            if self.left <= 0:
                raise DatastoreError("gone")
            self.left -= 1
        return await super().txn(compares, success, failure)


async def test_dying_after_any_write_loses_no_address() -> None:
    """Whatever the Node shows is allocated, and the next run puts the rest right."""
    died = 0
    for writes in range(6):
        datastore = Dying()
        world = World(datastore)
        await world.start(
            pool(vxlan_mode="Always", cidr="10.1.0.0/26"), pool("b", "fd00::/116", block_size=122, vxlan_mode="Always")
        )
        datastore.left = writes
        try:
            await ensure_tunnel_addresses(world.client, world.ipam, HOST)
        except CalicoError:
            died += 1
        datastore.left = 1 << 30
        for kind in (VXLAN, BY_NAME["vxlanV6TunnelAddress"]):
            address = await world.shown(kind)
            assert not address or await world.is_allocated(address)
        await world.run()
        assert len(await world.held()) == 1 and len(await world.held(BY_NAME["vxlanV6TunnelAddress"])) == 1
    assert died == 3, "two assignments and the Node"

"""What goes with a Node when it is deleted (spec/resources.md 7.1, in that order)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libcalico.datastore.contract import Delete
from libcalico.errors import ResourceDoesNotExist
from libcalico.model import codec
from libcalico.model.keys import ResourceKey, key_path, list_prefix, workload_endpoint_prefix
from libcalico.model.resources import Node, WorkloadEndpoint
from libcalico.model.scalars import parse_net

if TYPE_CHECKING:
    from libcalico.client.objects import AsyncClient


async def retire_node(client: AsyncClient, name: str) -> None:
    """Release the addresses that a node's endpoints and tunnels name, or that name the node, and what is its alone."""
    from libcalico.ipam.audit import tunnel_addresses
    from libcalico.ipam.service import IpamService

    ipam = IpamService(client.datastore, name, client.clock)
    endpoints = [e for e in await _endpoints(client, name) if e.spec.node == name]
    addresses = [net.partition("/")[0] for endpoint in endpoints for net in endpoint.spec.ip_networks]
    try:
        addresses += tunnel_addresses(await client.get(Node, name))
    except ResourceDoesNotExist:
        pass
    usable = [address for address in addresses if parse_net(address) is not None]
    await ipam.release_ips([*usable, *await ipam.addresses_of_node(name)])
    for endpoint in endpoints:
        await _delete(client, ResourceKey("WorkloadEndpoint", endpoint.metadata.name, endpoint.metadata.namespace))
    await ipam.remove_host(name)
    await _delete_of_node(client, "BGPPeer", name)
    await _delete(client, ResourceKey("FelixConfiguration", f"node.{name}"))
    await _delete(client, ResourceKey("BGPConfiguration", f"node.{name}"))
    await _delete_of_node(client, "HostEndpoint", name)


async def _endpoints(client: AsyncClient, node: str) -> list[WorkloadEndpoint]:
    prefix = workload_endpoint_prefix(node)
    found = (await client.list(WorkloadEndpoint)).items
    return [endpoint for endpoint in found if endpoint.metadata.name.startswith(prefix)]


async def _delete(client: AsyncClient, key: ResourceKey) -> None:
    await client.datastore.txn([], [Delete(key_path(key).encode())])


async def _delete_of_node(client: AsyncClient, kind: str, node: str) -> None:
    """Objects of a kind that has no struct here: only `spec.node` is read."""
    for kv in (await client.datastore.range(list_prefix(kind).encode())).kvs:
        if codec.spec_member(kv.value, "node") == node:
            await client.datastore.txn([], [Delete(kv.key)])

"""What goes with a Node when it is deleted (spec/resources.md 7.1, in that order)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from libcalico.datastore.contract import Delete, Get
from libcalico.errors import ResourceDoesNotExist
from libcalico.model import codec
from libcalico.model.keys import ResourceKey, key_path, list_prefix, workload_endpoint_prefix
from libcalico.model.resources import Node, WorkloadEndpoint
from libcalico.model.scalars import parse_net
from libcalico.net import bare_address

if TYPE_CHECKING:
    from libcalico.client.objects import AsyncClient

AT_ONCE = 100
"""Keys that are deleted by one transaction: etcd takes 128 operations."""


async def retire_node(client: AsyncClient, name: str) -> None:
    """Release the addresses that a node's endpoints and tunnels name, or that name the node, and what is its alone."""
    from libcalico.ipam.audit import tunnel_addresses
    from libcalico.ipam.service import IpamService

    ipam = IpamService(client.datastore, name, client.clock)
    endpoints = [e for e in await _endpoints(client, name) if e.spec.node == name]
    addresses = [bare_address(net) for endpoint in endpoints for net in endpoint.spec.ip_networks]
    try:
        addresses += tunnel_addresses(await client.get(Node, name))
    except ResourceDoesNotExist:
        pass
    usable = [address for address in addresses if parse_net(address) is not None]
    await ipam.release_ips([*usable, *await ipam.addresses_of_node(name)])
    await _delete(client, [_path(endpoint) for endpoint in endpoints])
    await ipam.remove_host(name)
    await _delete(client, await _configuration_of(client, name))


async def _endpoints(client: AsyncClient, node: str) -> list[WorkloadEndpoint]:
    prefix = workload_endpoint_prefix(node)
    endpoints = (await client.list(WorkloadEndpoint)).items
    return [endpoint for endpoint in endpoints if endpoint.metadata.name.startswith(prefix)]


def _path(endpoint: WorkloadEndpoint) -> bytes:
    return key_path(ResourceKey("WorkloadEndpoint", endpoint.metadata.name, endpoint.metadata.namespace)).encode()


async def _configuration_of(client: AsyncClient, node: str) -> list[bytes]:
    """The keys of a node's peers, its host endpoints and its own configuration, as far as they are stored.

    Of peers and host endpoints only `spec.node` is read: also one that is damaged otherwise goes."""
    own = [ResourceKey(kind, f"node.{node}") for kind in ("FelixConfiguration", "BGPConfiguration")]
    answer = await client.datastore.txn(
        [],
        [
            *(Get(list_prefix(kind).encode(), prefix=True) for kind in ("BGPPeer", "HostEndpoint")),
            *(Get(key_path(key).encode(), keys_only=True) for key in own),
        ],
    )
    peers, host_endpoints, *configuration = answer.responses
    of_node = [kv.key for kv in (*peers, *host_endpoints) if codec.spec_member(kv.value, "node") == node]
    return [*of_node, *(kv.key for kvs in configuration for kv in kvs)]


async def _delete(client: AsyncClient, paths: Sequence[bytes]) -> None:
    for start in range(0, len(paths), AT_ONCE):
        await client.datastore.txn([], [Delete(path) for path in paths[start : start + AT_ONCE]])

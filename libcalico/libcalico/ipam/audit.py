"""Which addresses are in use, and which only seem to be: blocks and handles against endpoints and nodes.

`take` reads everything at one revision, so that no address is missed because it changed hands between two reads.
What cannot be read is never guessed: an address is called leaked only if no endpoint and no node names it, and
`unreadable` says which of those could not be asked (spec/ipam.md 2.4, 14; spec/calicoctl.md 6.3).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from libcalico.clock import Clock
from libcalico.datastore.contract import Compare, Datastore, Delete, KeyValue, Target
from libcalico.errors import ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.ipam import plan
from libcalico.model import codec, defaults, ipam_data
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.keys import BLOCKS, HANDLES, BlockKey, HandleKey, ResourceKey, key_path, list_prefix, parse_path
from libcalico.model.resources import ClusterInformation, IPPool, Node, WorkloadEndpoint
from libcalico.model.scalars import parse_net
from libcalico.net import bare_address

CLUSTER = ResourceKey("ClusterInformation", "default")
RESERVED = "Reserved for Windows"


class Allocation(NamedTuple):
    """An address that a block says is in use. `owners` use it; `sequence` 0: the block does not know."""

    address: str
    attribute: Attribute
    sequence: int
    node: str
    borrowed: bool
    owners: tuple[str, ...]

    @property
    def handle(self) -> str:
        """The handle's id, empty without one."""
        return self.attribute.handle or ""

    @property
    def is_cooling(self) -> bool:
        """It was released a moment ago and is free as soon as its cooldown is over."""
        return self.attribute.released_at is not None

    @property
    def is_leaked(self) -> bool:
        """Nothing uses it, and nothing will give it back."""
        return not self.owners and not self.is_cooling


class AuditedBlock(NamedTuple):
    """A stored block; one that cannot be read has no allocations here."""

    cidr: str
    affinity: str | None
    allocations: tuple[Allocation, ...]
    problem: str = ""


class Use(NamedTuple):
    """An address and what uses it, as in `Workload(default/…)`."""

    address: str
    owner: str


class Audit(NamedTuple):
    """What `ipam check` shows. `pools` are the enabled ones, `handles` the keys with their revisions."""

    cluster: ClusterInformation
    blocks: tuple[AuditedBlock, ...]
    pools: tuple[plan.Pool, ...]
    tunnels: tuple[Use, ...]
    workloads: tuple[Use, ...]
    handles: Mapping[str, int]
    unreadable: tuple[str, ...]

    @property
    def allocations(self) -> Iterator[Allocation]:
        """Of all blocks."""
        return (allocation for block in self.blocks for allocation in block.allocations)

    @property
    def used(self) -> dict[str, list[str]]:
        """Every address that an endpoint or a node uses, with those that do."""
        return _by_address((*self.tunnels, *self.workloads))

    @property
    def leaked(self) -> list[Allocation]:
        """Allocated, and used by nothing."""
        return [allocation for allocation in self.allocations if allocation.is_leaked]

    def unallocated(self) -> tuple[list[str], list[str]]:
        """Used without an allocation: addresses outside of the active pools, and those inside."""
        known = {allocation.address for allocation in self.allocations if not allocation.is_cooling}
        outside: list[str] = []
        inside: list[str] = []
        for address in self.used:
            if address not in known:
                network = parse_net(address)
                in_pool = network and plan.pool_for(self.pools, network, enabled_only=True)
                (inside if in_pool else outside).append(address)
        return outside, inside

    @property
    def named_handles(self) -> set[str]:
        """The handles that blocks name."""
        return {allocation.handle for allocation in self.allocations} - {""}

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """Nodes with the number of their allocations, most first."""
        counts = Counter(allocation.node for allocation in self.allocations)
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


async def take(datastore: Datastore, clock: Clock) -> Audit:
    """Read everything; raises `ResourceDoesNotExist` for a datastore without ClusterInformation."""
    path = key_path(CLUSTER).encode()
    found = await datastore.range(path, limit=1)
    if not found.kvs or found.kvs[0].key != path:
        raise ResourceDoesNotExist(CLUSTER)
    read = functools.partial(datastore.range, revision=found.revision)
    blocks = (await read(BLOCKS.encode())).kvs
    handles = (await read(HANDLES.encode())).kvs
    pools, nodes, endpoints = [
        (await read(list_prefix(kind).encode())).kvs for kind in ("IPPool", "Node", "WorkloadEndpoint")
    ]
    return _audit(found.kvs[0], blocks, handles, pools, (nodes, endpoints), clock.now())


async def unreadable_blocks(datastore: Datastore) -> tuple[str, ...]:
    """The keys of blocks that cannot be read."""
    found = await datastore.range(BLOCKS.encode())
    return tuple(
        kv.key.decode() for kv in found.kvs if isinstance(key := _key(kv), BlockKey) and not _is_block(key, kv)
    )


def _is_block(key: BlockKey, stored: KeyValue) -> bool:
    try:
        ipam_data.decode_block(key, stored.value)
    except ParsingDatastoreEntry:
        return False
    return True


async def drop_handle(datastore: Datastore, handle: str, revision: int) -> bool:
    """Delete a handle's key if it is still the one of this revision; False if it is not."""
    path = key_path(HandleKey(handle)).encode()
    return (await datastore.txn([Compare(path, Target.MOD_REVISION, revision)], [Delete(path)])).succeeded


def _audit(
    cluster: KeyValue,
    blocks: Iterable[KeyValue],
    handles: Iterable[KeyValue],
    pools: Iterable[KeyValue],
    users: tuple[Iterable[KeyValue], Iterable[KeyValue]],
    now: datetime,
) -> Audit:
    unreadable: list[str] = []
    tunnels = [use for kv in users[0] for use in _uses(kv, unreadable)]
    workloads = [use for kv in users[1] for use in _uses(kv, unreadable)]
    owners = _by_address((*tunnels, *workloads))
    information = codec.decode(CLUSTER, cluster.value, cluster.mod_revision)
    assert isinstance(information, ClusterInformation)
    known = [plan.pool_of(resource) for kv in pools if isinstance(resource := _resource(kv), IPPool)]
    return Audit(
        cluster=information,
        blocks=tuple(_block(key, kv, owners, now) for kv in blocks if isinstance(key := _key(kv), BlockKey)),
        pools=tuple(pool for pool in known if pool is not None and pool.enabled),
        tunnels=tuple(tunnels),
        workloads=tuple(workloads),
        handles={key.id: kv.mod_revision for kv in handles if isinstance(key := _key(kv), HandleKey)},
        unreadable=tuple(unreadable),
    )


def _key(stored: KeyValue) -> Any:
    try:
        return parse_path(stored.key.decode())
    except UnicodeDecodeError:
        return None


def _resource(stored: KeyValue) -> Any:
    """The object of a stored value, None when it cannot be read."""
    key = _key(stored)
    try:
        return defaults.after_read(codec.decode(key, stored.value)) if isinstance(key, ResourceKey) else None
    except ParsingDatastoreEntry:
        return None


def _uses(stored: KeyValue, unreadable: list[str]) -> list[Use]:
    """The addresses of a node's tunnels or of an endpoint; one whose addresses cannot be read is named."""
    key, resource = _key(stored), _resource(stored)
    if isinstance(resource, Node):
        texts, owner = tunnel_addresses(resource), f"Node({key.name})"
    elif isinstance(resource, WorkloadEndpoint):
        texts, owner = resource.spec.ip_networks, f"Workload({key.namespace}/{key.name})"
    else:
        unreadable.append(stored.key.decode("utf-8", "backslashreplace"))
        return []
    networks = [parse_net(bare_address(text)) for text in texts]
    if None in networks:
        unreadable.append(key_path(key))
    return [Use(str(network.network_address), owner) for network in networks if network is not None]


def tunnel_addresses(node: Node) -> list[str]:
    """The addresses that a node's own tunnel devices have."""
    spec = node.spec
    addresses = [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr]
    if spec.bgp is not None:
        addresses.append(spec.bgp.ipv4_ipip_tunnel_addr)
    if spec.wireguard is not None:
        addresses += [spec.wireguard.interface_ipv4_address, spec.wireguard.interface_ipv6_address]
    return [address for address in addresses if address]


def _by_address(uses: Iterable[Use]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for use in uses:
        owners.setdefault(use.address, []).append(use.owner)
    return owners


def _block(key: BlockKey, stored: KeyValue, owners: Mapping[str, list[str]], now: datetime) -> AuditedBlock:
    try:
        block = ipam_data.decode_block(key, stored.value)
    except ParsingDatastoreEntry as error:
        return AuditedBlock(key.cidr, _affinity(stored.value), (), str(error.cause))
    host = (block.affinity or "").removeprefix("host:") if (block.affinity or "").startswith("host:") else ""
    sequences = dict(block.sequences)
    allocations = []
    for ordinal in range(len(block.allocations)):
        attribute = block.attribute(ordinal)
        if attribute is not None:
            address, node = block.address(ordinal), dict(attribute.secondary).get("node") or host
            users = list(owners.get(address, ()))
            if (attribute.handle or "").lower() == plan.RESERVED_HANDLE:
                users.append(RESERVED)
            allocation = Allocation(address, attribute, sequences.get(ordinal, 0), node, node != host, tuple(users))
            allocations.append(allocation)
    return AuditedBlock(key.cidr, block.affinity, tuple(allocations), "; ".join(block_problems(block, now)))


def _affinity(value: bytes) -> str | None:
    try:
        affinity = msgspec.json.decode(value).get("affinity")
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError):
        return None
    return affinity if isinstance(affinity, str) else None


def block_problems(block: Block, now: datetime) -> list[str]:
    """What contradicts itself in a block that can be read."""
    size, free = len(block.allocations), block.unallocated
    used = {index for index in block.allocations if index is not None}
    taken = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    found = []
    if used != set(range(len(block.attributes))):
        found.append("an attribute is used by no address")
    if any(not 0 <= ordinal < size for ordinal in free):
        found.append("the free list names an ordinal beyond the block")
    if len(set(free)) < len(free):
        found.append("the free list names an ordinal twice")
    if taken & set(free):
        found.append("the free list names an address in use")
    if not found and len(free) + len(taken) != size:
        found.append(f"{size - len(free) - len(taken)} addresses are neither in use nor free")
    if any(_is_later(attribute.released_at, now) for attribute in block.attributes):
        found.append("an address was released in the future")
    return found


def _is_later(released_at: str | None, now: datetime) -> bool:
    try:
        return released_at is not None and datetime.fromisoformat(released_at) > now
    except (ValueError, TypeError):
        return True

"""What IPAM decides, as pure functions: blocks in, blocks out (spec/ipam.md 5-10). No clock, no datastore."""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from calico_native import bitmap
from libcalico import selector
from libcalico.errors import BadData
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.resources import IPPool
from libcalico.model.scalars import IPNetwork, parse_net

FNV_OFFSET = 2166136261
FNV_PRIME = 16777619
DEFAULT_BLOCK_LIMIT = 20
BLOCK_SIZES = {4: range(20, 33), 6: range(116, 129)}
RESERVED_HANDLE = "windows-reserved-ipam-handle"


class NoQualifiedPool(BadData):
    """No pool can serve the request."""


class Pool(NamedTuple):
    """What allocation needs of an IPPool."""

    name: str
    network: IPNetwork
    block_length: int
    enabled: bool
    automatic: bool
    node_selector: str
    namespace_selector: str
    uses: tuple[str, ...]


class Owner(NamedTuple):
    """Who has the affinity of a block: a host, or a load balancer's controller (kind `virtual`)."""

    name: str
    kind: str = "host"

    def __str__(self) -> str:
        """As a block stores it: `host:a1`."""
        return f"{self.kind}:{self.name}"


def owner_of(affinity: str) -> Owner:
    """The owner that a block's `affinity` names."""
    kind, _, name = affinity.partition(":")
    return Owner(name, kind)


def pool_of(resource: IPPool) -> Pool | None:
    """The pool of a resource, None if its CIDR is not one."""
    spec = resource.spec
    network = parse_net(spec.cidr)
    if network is None or not _is_block_size(spec.block_size, network.version):
        return None
    conditions = resource.status.conditions if resource.status is not None else []
    allocatable = not any(one.type == "Allocatable" and one.status == "False" for one in conditions)
    return Pool(
        name=resource.metadata.name,
        network=network,
        block_length=spec.block_size or (26 if network.version == 4 else 122),
        enabled=not spec.disabled and allocatable and not resource.metadata.deletion_timestamp,
        automatic=spec.assignment_mode in (None, "", "Automatic"),
        node_selector=spec.node_selector,
        namespace_selector=spec.namespace_selector,
        uses=tuple(spec.allowed_uses) or ("Workload", "Tunnel"),
    )


def _is_block_size(length: int, version: int) -> bool:
    """Is it one that may be stored, or 0 for the default? Others make blocks without end, or none."""
    return length == 0 or length in BLOCK_SIZES[version]


def selects(text: str, labels: Mapping[str, str]) -> bool:
    """Does a pool's selector match? One that does not parse matches nothing."""
    try:
        return selector.parse(text).evaluate(labels)
    except selector.SelectorError:
        return False


def select_pools(
    pools: Sequence[Pool],
    version: int,
    requested: Sequence[str],
    host: str,
    node_labels: Mapping[str, str],
    namespace_labels: Mapping[str, str],
    use: str,
) -> list[Pool]:
    """The pools that a request may draw from, in order; raises `NoQualifiedPool` (spec/ipam.md 5)."""
    _check_family(requested, version)
    enabled = [pool for pool in pools if pool.enabled and pool.network.version == version]
    if not enabled:
        raise NoQualifiedPool("cannot find a qualified ippool")
    if requested:
        chosen = [_requested(enabled, cidr) for cidr in requested]
    else:
        chosen = [
            pool
            for pool in enabled
            if pool.automatic
            and selects(pool.node_selector, node_labels)
            and selects(pool.namespace_selector, namespace_labels)
        ]
        if not chosen:
            raise NoQualifiedPool(f"no configured Calico pools for node {host}")
    fitting = [pool for pool in chosen if use in pool.uses]
    if not fitting:
        raise NoQualifiedPool(f"cannot find a qualified ippool, no pools match the required use ({use})")
    return fitting


def _check_family(requested: Sequence[str], version: int) -> None:
    for cidr in requested:
        network = parse_net(cidr)
        if network is not None and network.version != version:
            other = network.version
            raise NoQualifiedPool(f"provided IPv{version} IPPools list contains one or more IPv{other} IPPools")


def _requested(pools: Sequence[Pool], cidr: str) -> Pool:
    network = parse_net(cidr)
    for pool in pools:
        if pool.network == network:
            return pool
    raise NoQualifiedPool(f"the given pool ({network or cidr}) does not exist, or is not enabled")


def contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    """Does `outer` hold all of `inner`?"""
    return outer.version == inner.version and outer.supernet_of(inner)  # type: ignore[arg-type]


def pool_for(pools: Sequence[Pool], network: IPNetwork, enabled_only: bool) -> Pool | None:
    """The first pool in name order that holds a network."""
    for pool in pools:
        if (pool.enabled or not enabled_only) and contains(pool.network, network):
            return pool
    return None


def block_cidr(address: str, length: int) -> str:
    """The block of this length that an address lies in."""
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def start_index(host: str, blocks: int) -> int:
    """Where a host begins to look for a block: stable for the host, spread over hosts."""
    seed = FNV_OFFSET
    for octet in host.encode():
        seed = (seed * FNV_PRIME & 0xFFFFFFFF) ^ octet
    mixed = seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 29) % blocks


def block_cidrs(pool: Pool, first: int, reservations: Sequence[IPNetwork] = ()) -> Iterator[str]:
    """Every block of a pool once, from block number `first` on, wrapping; without those that are reserved whole."""
    length = pool.block_length
    if length < pool.network.prefixlen:
        return
    count = 1 << (length - pool.network.prefixlen)
    base, width = int(pool.network.network_address), pool.network.max_prefixlen - length
    kind = ipaddress.IPv4Network if pool.network.version == 4 else ipaddress.IPv6Network
    skipped = _reserved_blocks(pool, reservations)
    place = 0
    while place < count:
        number = (first + place) % count
        at = bisect.bisect_right(skipped, (number, count)) - 1
        if at >= 0 and number < skipped[at][1]:
            place += skipped[at][1] - number
            continue
        yield str(kind((base + (number << width), length)))
        place += 1


def _reserved_blocks(pool: Pool, reservations: Sequence[IPNetwork]) -> list[tuple[int, int]]:
    """The numbers of a pool's blocks that lie in reservations: from, to (exclusive), in order."""
    base, last = int(pool.network.network_address), int(pool.network.broadcast_address)
    spans = sorted(
        (max(int(one.network_address), base) - base, min(int(one.broadcast_address), last) + 1 - base)
        for one in reservations
        if one.version == pool.network.version and one.overlaps(pool.network)
    )
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    width = pool.network.max_prefixlen - pool.block_length
    blocks = ((-(-start >> width), end >> width) for start, end in merged)
    return [(first, after) for first, after in blocks if first < after]


def reserved_bits(network: IPNetwork, reservations: Sequence[IPNetwork]) -> int:
    """Which ordinals of a block are reserved, as a bitmap."""
    bits = 0
    for one in reservations:
        if one.version != network.version or not one.overlaps(network):
            continue
        if contains(one, network):
            return (1 << network.num_addresses) - 1
        first = int(one.network_address) - int(network.network_address)
        bits |= ((1 << one.num_addresses) - 1) << first
    return bits


def new_block(cidr: str, affinity: str, claim_time: str, sequence: int) -> Block:
    """An empty block that `affinity` (`host:<name>`) owns."""
    size = ipaddress.ip_network(cidr).num_addresses
    return Block(cidr, affinity, claim_time, (None,) * size, tuple(range(size)), (), sequence, ())


def without_ghosts(block: Block) -> tuple[Block, tuple[int, ...]]:
    """A block whose free list names only ordinals that are free, each once, and the ordinals that were too many."""
    size, free, ghosts = len(block.allocations), dict[int, None](), []
    for ordinal in block.unallocated:
        if not 0 <= ordinal < size or block.allocations[ordinal] is not None or ordinal in free:
            ghosts.append(ordinal)
        else:
            free[ordinal] = None
    return (block._replace(unallocated=tuple(free)), tuple(ghosts)) if ghosts else (block, ())


def used_bits(block: Block) -> int:
    """Which ordinals are in use, as a bitmap."""
    return bitmap.from_allocations(list(block.allocations))


def free_count(block: Block, reserved: int) -> int:
    """How many addresses auto-assign could still hand out."""
    size = len(block.allocations)
    return len(bitmap.pick_free(list(block.unallocated), used_bits(block), size, size, reserved)[0])


def take(block: Block, count: int, attribute: Attribute, reserved: int = 0) -> tuple[Block, list[int]]:
    """Allocate up to `count` addresses off the front of the free list."""
    ordinals, remaining = bitmap.pick_free(
        list(block.unallocated), used_bits(block), len(block.allocations), count, reserved
    )
    if not ordinals:
        return block, []
    return allocate(block._replace(unallocated=tuple(remaining)), ordinals, attribute), ordinals


def take_ordinal(block: Block, ordinal: int, attribute: Attribute) -> Block:
    """Allocate this very address, which must be free."""
    rest = tuple(other for other in block.unallocated if other != ordinal)
    return allocate(block._replace(unallocated=rest), [ordinal], attribute)


def allocate(block: Block, ordinals: Sequence[int], attribute: Attribute) -> Block:
    """Point ordinals, already off the free list, at a shared attribute record; one write of the block."""
    attributes = block.attributes
    if attribute in attributes:
        index = attributes.index(attribute)
    else:
        index = len(attributes)
        attributes = (*attributes, attribute)
    allocations = list(block.allocations)
    sequences = dict(block.sequences)
    for ordinal in ordinals:
        allocations[ordinal] = index
        sequences[ordinal] = block.sequence
    return block._replace(
        allocations=tuple(allocations),
        attributes=attributes,
        sequence=block.sequence + 1,
        sequences=tuple(sorted(sequences.items())),
    )


def release(block: Block, ordinals: Sequence[int], released_at: str = "") -> Block:
    """Free these ordinals, which must be in use; they go to the end of the free list. One write of the block.

    With `released_at` they cool down first: they stay in use by nobody until `collect` frees them."""
    if not released_at:
        return _free(block, ordinals)._replace(sequence=block.sequence + 1)
    index = len(block.attributes)
    allocations, sequences = list(block.allocations), dict(block.sequences)
    for ordinal in ordinals:
        allocations[ordinal] = index
        sequences[ordinal] = block.sequence
    cooling = block._replace(
        allocations=tuple(allocations),
        attributes=(*block.attributes, Attribute(released_at=released_at)),
        sequence=block.sequence + 1,
        sequences=tuple(sorted(sequences.items())),
    )
    return _free(cooling, [])


def is_cooling(block: Block, ordinal: int) -> bool:
    """Was this ordinal released, and is not free yet?"""
    attribute = block.attribute(ordinal)
    return attribute is not None and attribute.released_at is not None


def collect(block: Block, now: datetime, cooldown_s: int) -> Block:
    """Free the ordinals whose cooldown is over, in ascending order. Not a write by itself."""
    over = {index for index, one in enumerate(block.attributes) if _is_over(one.released_at, now, cooldown_s)}
    ordinals = [ordinal for ordinal, index in enumerate(block.allocations) if index in over]
    return _free(block, ordinals) if ordinals else block


def _is_over(released_at: str | None, now: datetime, cooldown_s: int) -> bool:
    if released_at is None:
        return False
    try:
        return datetime.fromisoformat(released_at) < now - timedelta(seconds=cooldown_s)
    except (ValueError, TypeError):
        return True


def _free(block: Block, ordinals: Sequence[int]) -> Block:
    """Ordinals move to the end of the free list; attributes that nobody uses go, the others keep their order."""
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = None
    gone = set(ordinals)
    kept = sorted({index for index in allocations if index is not None})
    place = {index: number for number, index in enumerate(kept)}
    return block._replace(
        allocations=tuple(None if index is None else place[index] for index in allocations),
        unallocated=(*(o for o in block.unallocated if o not in gone), *ordinals),
        attributes=tuple(block.attributes[index] for index in kept),
        sequences=tuple((ordinal, number) for ordinal, number in block.sequences if ordinal not in gone),
    )


def disown(block: Block) -> Block:
    """The block without an owner; its addresses stay in use."""
    return block._replace(affinity=None, claim_time=None, sequence=block.sequence + 1)


def is_empty(block: Block) -> bool:
    """No allocation but those that a host reserves for itself."""
    return all(
        index is None or (block.attributes[index].handle or "").lower() == RESERVED_HANDLE
        for index in block.allocations
    )


def ordinals_of_handle(block: Block, handle: str) -> list[int]:
    """The ordinals that a handle holds, ascending."""
    wanted = {index for index, attribute in enumerate(block.attributes) if attribute.handle == handle}
    return [ordinal for ordinal, index in enumerate(block.allocations) if index in wanted]


def is_of_node(block: Block, ordinal: int, node: str) -> bool:
    """May `node` take this allocation back: does it name this node, or none? An empty `node` may take any."""
    attribute = block.attribute(ordinal)
    named = "" if attribute is None else dict(attribute.secondary).get("node", "")
    return not node or not named or named == node


class Cover:
    """Existing blocks, to be asked whether a new one would overlap any of them, whatever their sizes."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._first: dict[tuple[int, int], list[int]] = {}
        for network in networks:
            self._first.setdefault((network.version, network.prefixlen), []).append(int(network.network_address))
        for firsts in self._first.values():
            firsts.sort()

    def overlaps(self, candidate: IPNetwork) -> bool:
        """Does any of them share an address with this network?"""
        start = int(candidate.network_address)
        for (version, length), firsts in self._first.items():
            if version != candidate.version:
                continue
            size = 1 << candidate.max_prefixlen - length
            lowest = start & ~(size - 1)
            place = bisect.bisect_left(firsts, lowest)
            if place < len(firsts) and firsts[place] < start + candidate.num_addresses:
                return True
        return False


def count_by_handle(block: Block, ordinals: Sequence[int]) -> dict[str, int]:
    """How many of these ordinals each handle holds."""
    counts: dict[str, int] = {}
    for ordinal in ordinals:
        attribute = block.attribute(ordinal)
        if attribute is not None and attribute.handle is not None:
            counts[attribute.handle] = counts.get(attribute.handle, 0) + 1
    return counts


def add_to_handle(blocks: Mapping[str, int], cidr: str, count: int) -> dict[str, int]:
    """A handle with `count` more (or, negative, fewer) addresses in a block; an entry at zero goes."""
    fresh = dict(blocks)
    fresh[cidr] = fresh.get(cidr, 0) + count
    if fresh[cidr] <= 0:
        del fresh[cidr]
    return fresh

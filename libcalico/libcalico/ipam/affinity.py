"""Who owns which block: claims, their release, and what a range means in blocks (spec/ipam.md 7, 10).

A claim is the block and the owner's affinity key in one transaction. Plain functions on a `Store` and a `View`.
"""

from __future__ import annotations

from libcalico.clock import rfc3339
from libcalico.errors import BadData, CalicoError
from libcalico.ipam import plan
from libcalico.ipam.addresses import host_net
from libcalico.ipam.plan import Owner
from libcalico.ipam.store import LOAD_BALANCER, Store
from libcalico.ipam.transaction import View
from libcalico.model import ipam_data
from libcalico.model.ipam_data import Block
from libcalico.model.keys import AFFINITIES, IPAM, AffinityKey, BlockKey, key_path, parse_path
from libcalico.model.scalars import IPNetwork

MOST_BLOCK_BITS = 16
VIRTUAL_HOST = "load-balancer"
"""Whose load balancer addresses are for which no owner is named, as upstream's controllers name it."""
VIRTUAL_AFFINITIES = f"{IPAM}virtual/"


class BlockNotEmpty(BadData):
    """The block still has addresses in use."""

    def __init__(self, cidr: str) -> None:
        super().__init__(f"block '{cidr}' is not empty")


class ClaimConflict(CalicoError):
    """Another owner has the block."""

    def __init__(self, cidr: str, owner: str | None) -> None:
        super().__init__(f"{cidr} already claimed by {owner}")


def owner_for(host: str, use: str) -> Owner:
    """Who owns the blocks that serve a request: load balancer addresses belong to no host."""
    return Owner(host or VIRTUAL_HOST, "virtual") if use == LOAD_BALANCER else Owner(host)


def affinity_path(owner: Owner, cidr: str) -> str:
    """Where an owner's claim to a block is stored."""
    return key_path(AffinityKey(owner.name, cidr, owner.kind))


def affinity_prefix(owner: Owner) -> str:
    """Below which the claims of an owner are stored."""
    return f"{AFFINITIES if owner.kind == 'host' else f'{IPAM}{owner.kind}/'}{owner.name}/"


def cidrs_of(view: View, owner: Owner, version: int) -> list[str]:
    """The blocks of an IP version (0: both) to which an owner has a claim, confirmed or not, in key order."""
    keys = [parse_path(path) for path in view.below(affinity_prefix(owner))]
    return [key.cidr for key in keys if isinstance(key, AffinityKey) and version in (0, host_net(key.cidr).version)]


def claims_in(view: View, network: IPNetwork) -> list[AffinityKey]:
    """Every owner's claims to blocks inside a network."""
    prefixes = (AFFINITIES, VIRTUAL_AFFINITIES)
    view.need(*((prefix, True) for prefix in prefixes))
    keys = [parse_path(path) for prefix in prefixes for path in view.below(prefix)]
    return [key for key in keys if isinstance(key, AffinityKey) and plan.contains(network, host_net(key.cidr))]


def blocks_in(store: Store, view: View, cidr: str) -> list[str]:
    """The blocks that a range is made of; raises `BadData` for one that no pool holds, too small or too large a one."""
    network = host_net(cidr)
    first = host_net(str(network.network_address))
    pool = plan.pool_for(store.pools(view), first, enabled_only=True)
    if pool is None:
        raise BadData(f"The requested CIDR ({network}) is not within any configured pools.")
    if network.prefixlen > pool.block_length:
        raise BadData(f"The requested CIDR ({network}) is smaller than the minimum.")
    if pool.block_length - network.prefixlen > MOST_BLOCK_BITS:
        blocks = f"2^{pool.block_length - network.prefixlen} blocks"
        raise BadData(f"The requested CIDR ({network}) has {blocks}: name parts of it, 2^{MOST_BLOCK_BITS} at most.")
    return [str(part) for part in network.subnets(new_prefix=pool.block_length)]


def claim(store: Store, view: View, cidr: str, owner: Owner) -> Block:
    """Own a block: create it, or confirm that it is the owner's. Raises `ClaimConflict`."""
    block = store.block(view, cidr)
    if block is None:
        other = overlapping(store, view, host_net(cidr))
        if other is not None:
            raise ClaimConflict(other.cidr, other.affinity)
        return create(store, view, cidr, owner)
    if block.affinity != str(owner):
        raise ClaimConflict(cidr, block.affinity)
    path = affinity_path(owner, cidr)
    current = view.get(path)
    if current is None or ipam_data.decode_affinity(current) != "confirmed":
        view.put(path, ipam_data.CONFIRMED)
        block = block._replace(sequence=block.sequence + 1)
        store.put_block(view, block)  # whoever is about to delete the block meets a conflict
    return block


def create(store: Store, view: View, cidr: str, owner: Owner) -> Block:
    """Make an empty block of an owner, claimed now, in the place of the one that is there; none may overlap."""
    now = store.clock.now()
    block = plan.new_block(cidr, str(owner), rfc3339(now), int(now.timestamp() * 1_000_000) * 1000)
    store.put_block(view, block)
    view.put(affinity_path(owner, cidr), ipam_data.CONFIRMED)
    return block


def overlapping(store: Store, view: View, network: IPNetwork) -> Block | None:
    """An existing block that shares addresses with a network: one of another size, left over by an older pool."""
    blocks = store.all_blocks(view, network.version)
    for cidr in store.block_cidrs(view, network.version):
        if host_net(cidr).overlaps(network):
            return blocks.get(cidr) or store.block(view, cidr)  # which raises when it cannot be read
    return None


def release(store: Store, view: View, cidr: str, owner: Owner, must_be_empty: bool) -> None:
    """Give a block up; it goes when it is empty, its addresses in use stay. Raises `BlockNotEmpty` if it must be."""
    path = affinity_path(owner, cidr)
    block_path = key_path(BlockKey(cidr))
    view.need((path, False), (block_path, False))
    known = view.get(path) is not None
    block = store.block(view, cidr)
    if block is not None and block.affinity == str(owner):
        if must_be_empty and not plan.is_empty(block):
            raise BlockNotEmpty(cidr)
        if plan.is_empty(block):
            view.delete(block_path)
        else:
            store.put_block(view, plan.disown(block))
    if known:
        view.delete(path)


def release_from_owner(store: Store, view: View, cidr: str, must_be_empty: bool) -> None:
    """Take a block from whoever owns it, if anyone does."""
    block = store.block(view, cidr)
    if block is not None and block.affinity:
        release(store, view, cidr, plan.owner_of(block.affinity), must_be_empty)


def forget_host(view: View, host: str) -> None:
    """Delete the marker that says that a host has claims."""
    marker = f"{AFFINITIES}{host}"
    if view.get(marker) is not None:
        view.delete(marker)

"""Assigning addresses: as many as are asked for, or one given address (spec/ipam.md 5-8).

An auto-assign takes from the owner's blocks first, then claims new ones, then borrows from blocks of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from libcalico.clock import rfc3339
from libcalico.errors import BadData, CalicoError, ResourceAlreadyExists
from libcalico.ipam import affinity, plan, usage
from libcalico.ipam.addresses import AssignedAddress, host_net
from libcalico.ipam.plan import Owner, Pool
from libcalico.ipam.store import CONFIG, POOLS, RESERVATIONS, Store
from libcalico.ipam.transaction import View
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.keys import BlockKey, ResourceKey, key_path
from libcalico.model.scalars import IPNetwork

RECLAIM_AGE_S = 60
AlsoStore = Callable[[View, Sequence[str]], None]
"""Called with the assigned CIDRs inside the transaction: what it writes is stored together with them, or not at all."""


class Assigned(NamedTuple):
    """Addresses with the block's length (`172.29.4.66/26`), how many were asked for, and why some are missing."""

    addresses: tuple[str, ...]
    requested: int
    messages: tuple[str, ...] = ()
    version: int = 4

    @property
    def shortfall(self) -> str:
        """Empty, or the error text that callers make of an incomplete assignment."""
        if len(self.addresses) >= self.requested:
            return ""
        text = f"Assigned {len(self.addresses)} out of {self.requested} requested IPv{self.version} addresses"
        return "; ".join([text, *self.messages])


class AssignError(CalicoError):
    """An assignment that failed; `v4` and `v6` hold what was assigned before that and must be given back."""

    def __init__(self, cause: Exception | str, v4: Assigned | None = None, v6: Assigned | None = None) -> None:
        self.cause = cause
        self.v4 = v4
        self.v6 = v6
        super().__init__(str(cause))


class Request(NamedTuple):
    """One IP version's part of an auto-assign. `searched_host` is whose blocks are searched for lost handles."""

    version: int
    wanted: int
    attribute: Attribute
    host: str
    pools: tuple[str, ...]
    use: str
    namespace_labels: Mapping[str, str]
    max_blocks: int
    max_alloc: int
    searched_host: str

    @property
    def owner(self) -> Owner:
        """Who owns the blocks that are assigned from."""
        return affinity.owner_for(self.host, self.use)


class OneAddress(NamedTuple):
    """An assignment of one given address."""

    network: IPNetwork
    attribute: Attribute
    host: str
    use: str
    max_alloc: int
    searched_host: str


def attribute_of(handle: str | None, attributes: Mapping[str, str] | None) -> Attribute:
    """What a block stores of an assignment; raises `BadData` for attributes that are not text."""
    for name, value in (attributes or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadData(f"attribute {name!r} = {value!r} is not text: other programs could not read the block")
    return Attribute(handle or None, tuple(sorted((attributes or {}).items())))


def assign(
    store: Store, view: View, request: Request, also_store: AlsoStore | None = None
) -> tuple[Assigned, CalicoError | None]:
    """Addresses, and the error that ended the search early, if any. `also_store` is called when none is missing."""
    assigned, problem = _assign(store, view, request)
    if also_store is not None and problem is None and not assigned.shortfall:
        also_store(view, assigned.addresses)
    return assigned, problem


def _assign(store: Store, view: View, request: Request) -> tuple[Assigned, CalicoError | None]:
    handle = request.attribute.handle
    _need_facts(view, request.owner)
    if request.max_alloc and handle:
        held = usage.addresses_of_version(store, view, handle, request.searched_host, request.version)
        if len(held) >= request.max_alloc:
            whole = tuple(AssignedAddress(host_net(a)) for a in held[: request.wanted])
            return Assigned(whole, request.wanted, (), request.version), None
    return Assignment(store, view, request, _pools_for(store, view, request)).run()


def ensure_block(store: Store, view: View, request: Request) -> str:
    """The CIDR of a block of the owner with a free address, claimed if need be."""
    _need_facts(view, request.owner)
    return Assignment(store, view, request, _pools_for(store, view, request)).ensure()


def _need_facts(view: View, owner: Owner) -> None:
    view.need(
        (CONFIG, False), (POOLS, True), (RESERVATIONS, True), (affinity.affinity_prefix(owner), True),
        (key_path(ResourceKey("Node", owner.name)), False),
    )  # fmt: skip


def _pools_for(store: Store, view: View, request: Request) -> list[Pool]:
    host = request.owner.name
    labels = store.node_labels(view, host, request.use)
    return plan.select_pools(
        store.pools(view), request.version, request.pools, host, labels, request.namespace_labels, request.use
    )


def assign_address(store: Store, view: View, request: OneAddress) -> None:
    """Assign this very address; raises `ResourceAlreadyExists`, or `BadData` when it cannot be assigned at all."""
    view.need((POOLS, True), (CONFIG, False))
    network, attribute, use = request.network, request.attribute, request.use
    address = str(network.network_address)
    owner = affinity.owner_for(request.host, use)
    pool = plan.pool_for(store.pools(view), network, enabled_only=True)
    if pool is None:
        raise BadData("The provided IP address is not in a configured pool\n")
    if use and use not in pool.uses:
        raise BadData(f"IP address {address} is in pool {pool.name}, which does not allow use {use}")
    if _has_already(store, view, request, address):
        return
    cidr = plan.block_cidr(address, pool.block_length)
    block = store.block(view, cidr) or store.find_block(view, network)
    cidr = cidr if block is None else block.cidr
    if block is None:
        block = affinity.claim(store, view, cidr, owner)
    elif store.config(view).strict_affinity and block.affinity != str(owner):
        if block.affinity is None:
            raise BadData(f"Attempt to assign from block {cidr} with no affinity")
        raise BadData("Block host affinity does not match")
    ordinal = block.ordinal(address)
    if block.allocations[ordinal] is not None:
        raise ResourceAlreadyExists(address, "Address already assigned in block")
    store.put_block(view, plan.take_ordinal(block, ordinal, attribute))
    store.count_handle(view, attribute.handle, cidr, 1)


def _has_already(store: Store, view: View, request: OneAddress, address: str) -> bool:
    """With a limit per handle: does it have this address? Raises `BadData` when it has as many others as it may."""
    handle, most = request.attribute.handle, request.max_alloc
    if not most or not handle:
        return False
    held = usage.addresses_of_version(store, view, handle, request.searched_host, request.network.version)
    if address not in held and len(held) >= most:
        raise BadData(
            f"handle {handle} already has IP(s) allocated, cannot assign additional IP {address}"
            f" (maxAllocPerIPVersion={most})"
        )
    return address in held


class Assignment:
    """One auto-assign against one view: own blocks first, then claims, then borrowing (spec/ipam.md 7)."""

    def __init__(self, store: Store, view: View, request: Request, pools: list[Pool]) -> None:
        self.store = store
        self.view = view
        self.request = request
        self.owner = request.owner
        self.pools = pools
        self.config = store.config(view)
        self.reservations = store.reservations(view)
        self.found: list[str] = []

    def run(self) -> tuple[Assigned, CalicoError | None]:
        """Addresses, and the error that ended the search early, if any."""
        messages: list[str] = []
        problem: CalicoError | None = None
        owned = self._own_blocks()
        for cidr in owned:
            if self._missing():
                self._take(affinity.claim(self.store, self.view, cidr, self.owner))
        count = len(owned)
        while self._missing():
            limit = self._limit()
            if count >= limit:
                messages.append(
                    f"Need to allocate an IPAM block but could not - limit of {limit} blocks reached for this node"
                )
                problem = CalicoError("cannot allocate new block due to per host block limit")
                break
            if not self.config.auto_allocate_blocks:
                problem = CalicoError("failed to find or claim a block")
                break
            block = self._claim_new()
            if block is None:
                if self.config.strict_affinity:
                    messages.append("No more free affine blocks and strict affinity enabled")
                break
            count += 1
            self._take(block)
        if problem is None and self._missing() and not self.config.strict_affinity:
            self._borrow(messages)
        return Assigned(tuple(self.found), self.request.wanted, tuple(messages), self.request.version), problem

    def ensure(self) -> str:
        """A block of ours with a free address, claimed if need be."""
        for cidr in self._own_blocks():
            block = affinity.claim(self.store, self.view, cidr, self.owner)
            if plan.free_count(block, self._reserved(block.network)):
                return cidr
        claimed = self._claim_new() if self.config.auto_allocate_blocks else None
        if claimed is None:
            raise CalicoError("failed to find or claim a block")
        return claimed.cidr

    def _missing(self) -> int:
        return self.request.wanted - len(self.found)

    def _limit(self) -> int:
        configured, wanted = max(0, self.config.max_blocks_per_host), max(0, self.request.max_blocks)
        if configured and wanted:
            return min(configured, wanted)
        return configured or wanted or plan.DEFAULT_BLOCK_LIMIT

    def _reserved(self, network: IPNetwork) -> int:
        return plan.reserved_bits(network, self.reservations)

    def _own_blocks(self) -> list[str]:
        """Our blocks in the allowed pools, in key order; stale claims are dropped on the way."""
        claimed = affinity.cidrs_of(self.view, self.owner, self.request.version)
        self.view.need(*((key_path(BlockKey(cidr)), False) for cidr in claimed))
        own = []
        for cidr in claimed:
            block = self.store.readable_block(self.view, cidr)
            network = host_net(cidr)
            if block is None and self.view.get(key_path(BlockKey(cidr))) is not None:
                continue  # one that cannot be read costs its own addresses, not the host's assignments
            if block is not None and block.affinity != str(self.owner):
                self.view.delete(affinity.affinity_path(self.owner, cidr))
            elif any(plan.contains(pool.network, network) for pool in self.pools):
                own.append(cidr)
            else:
                self._release_unselected(cidr, block)
        return own

    def _release_unselected(self, cidr: str, block: Block | None) -> None:
        pool = plan.pool_for(self.store.pools(self.view), host_net(cidr), enabled_only=True)
        if pool is None or (block is not None and not plan.is_empty(block)):
            return
        labels = self.store.node_labels(self.view, self.owner.name, self.request.use)
        if not plan.selects(pool.node_selector, labels):
            affinity.release(self.store, self.view, cidr, self.owner, True)

    def _take(self, block: Block) -> None:
        """As many addresses as are missing; the block, its handle and our counts are written."""
        filled, ordinals = plan.take(block, self._missing(), self.request.attribute, self._reserved(block.network))
        if not ordinals:
            return
        self.store.put_block(self.view, filled)
        self.store.count_handle(self.view, self.request.attribute.handle, block.cidr, len(ordinals))
        length = block.network.prefixlen
        self.found += [AssignedAddress(f"{block.address(ordinal)}/{length}") for ordinal in ordinals]

    def _claim_new(self) -> Block | None:
        """A block without an owner, or an old empty one of another owner; None when there is neither."""
        blocks = self.store.all_blocks(self.view, self.request.version)
        idle: list[Block] = []
        cover = plan.Cover(host_net(cidr) for cidr in self.store.block_cidrs(self.view, self.request.version))
        for pool in self.pools:
            for cidr in plan.block_cidrs(pool, self._first(pool), self.reservations):
                block = blocks.get(cidr)
                network = host_net(cidr)
                reserved = self._reserved(network)
                if reserved.bit_count() == network.num_addresses:
                    continue
                if block is None:
                    if cover.overlaps(network):
                        continue
                    return affinity.create(self.store, self.view, cidr, self.owner)
                if block.affinity == str(self.owner):
                    if plan.free_count(block, reserved):
                        return affinity.claim(self.store, self.view, cidr, self.owner)
                elif block.affinity and plan.is_empty(block) and plan.free_count(block, reserved):
                    idle.append(block)
        return self._reclaim(idle)

    def _first(self, pool: Pool) -> int:
        bits = pool.block_length - pool.network.prefixlen
        return self.store.first_block(self.owner.name, str(pool.network), 1 << bits) if bits >= 0 else 0

    def _reclaim(self, idle: list[Block]) -> Block | None:
        now = rfc3339(self.store.clock.now())
        for block in idle:
            if block.claim_time and _age_s(block.claim_time, now) < RECLAIM_AGE_S:
                continue
            assert block.affinity is not None
            former = affinity.affinity_path(plan.owner_of(block.affinity), block.cidr)
            if self.view.get(former) is not None:
                self.view.delete(former)
            return affinity.create(self.store, self.view, block.cidr, self.owner)
        return None

    def _borrow(self, messages: list[str]) -> None:
        blocks = self.store.all_blocks(self.view, self.request.version)
        exhausted = []
        for pool in self.pools:
            if not self._missing():
                break
            first = self._first(pool)
            base, width = int(pool.network.network_address), pool.network.max_prefixlen - pool.block_length
            count = 1 << max(0, pool.block_length - pool.network.prefixlen)
            inside = [b for b in blocks.values() if plan.contains(pool.network, b.network)]
            inside.sort(key=lambda b: ((int(b.network.network_address) - base >> width) - first) % count)
            for block in inside:
                current = self.store.block(self.view, block.cidr)
                if self._missing() and current is not None:
                    self._take(current)
            if self._missing():
                exhausted.append(str(pool.network))
        if self._missing():
            messages.append(f"No IPs available in pools: [{' '.join(exhausted)}]")


def _age_s(earlier: str, later: str) -> float:
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except ValueError:
        return float("inf")

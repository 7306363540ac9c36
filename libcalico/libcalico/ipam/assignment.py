"""One auto-assign: own blocks first, then new claims, then borrowing (spec/ipam.md 7)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from libcalico.clock import rfc3339
from libcalico.errors import CalicoError
from libcalico.ipam import plan
from libcalico.ipam.plan import Pool
from libcalico.ipam.store import AssignedAddress, Store, host_net
from libcalico.ipam.transaction import View
from libcalico.model import ipam_data
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.keys import AffinityKey, BlockKey, key_path
from libcalico.model.scalars import IPNetwork

RECLAIM_AGE_S = 60


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


class Request(NamedTuple):
    """One IP version's part of an auto-assign."""

    version: int
    wanted: int
    attribute: Attribute
    host: str
    pools: tuple[str, ...]
    use: str
    namespace_labels: Mapping[str, str]
    max_blocks: int
    max_alloc: int


class Assignment:
    """One auto-assign against one view: own blocks first, then claims, then borrowing (spec/ipam.md 7)."""

    def __init__(self, store: Store, view: View, request: Request, host: str, kind: str, pools: list[Pool]) -> None:
        self.store = store
        self.view = view
        self.request = request
        self.host = host
        self.kind = kind
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
                self._take(self.store.claim(self.view, cidr, self.host, self.kind))
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
            block = self.store.claim(self.view, cidr, self.host, self.kind)
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
        affinities = self.store.affinities(self.view, self.host, self.kind, self.request.version)
        self.view.need(*((key_path(BlockKey(cidr)), False) for cidr in affinities))
        own = []
        for cidr in affinities:
            block = self.store.readable_block(self.view, cidr)
            network = host_net(cidr)
            if block is None and self.view.get(key_path(BlockKey(cidr))) is not None:
                continue  # one that cannot be read costs its own addresses, not the host's assignments
            if block is not None and block.affinity != f"{self.kind}:{self.host}":
                self.view.delete(key_path(AffinityKey(self.host, cidr, self.kind)))
            elif any(plan.contains(pool.network, network) for pool in self.pools):
                own.append(cidr)
            else:
                self._release_unselected(cidr, block)
        return own

    def _release_unselected(self, cidr: str, block: Block | None) -> None:
        pool = plan.pool_for(self.store.pools(self.view), host_net(cidr), enabled_only=True)
        if pool is None or (block is not None and not plan.is_empty(block)):
            return
        labels = self.store.node_labels(self.view, self.host, self.request.use)
        if not plan.selects(pool.node_selector, labels):
            self.store.release_affinity(self.view, cidr, self.host, self.kind, True)

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
        """A block that nobody has, or an old empty one of somebody else; None when there is none."""
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
                    return self.store.create(self.view, cidr, self.host, self.kind)
                if block.affinity == f"{self.kind}:{self.host}":
                    if plan.free_count(block, reserved):
                        return self.store.claim(self.view, cidr, self.host, self.kind)
                elif block.affinity and plan.is_empty(block) and plan.free_count(block, reserved):
                    idle.append(block)
        return self._reclaim(idle)

    def _first(self, pool: Pool) -> int:
        bits = pool.block_length - pool.network.prefixlen
        return self.store.first_block(self.host, str(pool.network), 1 << bits) if bits >= 0 else 0

    def _reclaim(self, idle: list[Block]) -> Block | None:
        now = rfc3339(self.store.clock.now())
        for block in idle:
            if block.claim_time and _age_s(block.claim_time, now) < RECLAIM_AGE_S:
                continue
            assert block.affinity is not None
            kind, _, owner = block.affinity.partition(":")
            former = key_path(AffinityKey(owner, block.cidr, kind))
            if self.view.get(former) is not None:
                self.view.delete(former)
            fresh = self.store.fresh_block(block.cidr, self.host, self.kind)
            self.store.put_block(self.view, fresh)
            self.view.put(key_path(AffinityKey(self.host, block.cidr, self.kind)), ipam_data.CONFIRMED)
            return fresh
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

"""Giving addresses back: by address, by handle, and what a node holds (spec/ipam.md 9, 10).

Blocks and handles change together. An empty block goes when nobody owns it, or when its pool no longer selects its
owner's node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Sequence
from functools import partial
from typing import NamedTuple

from libcalico.clock import rfc3339
from libcalico.errors import CalicoError, ParsingDatastoreEntry, ResourceUpdateConflict
from libcalico.ipam import affinity, plan, usage
from libcalico.ipam.addresses import address_net
from libcalico.ipam.store import CONFIG, POOLS, Store
from libcalico.ipam.transaction import View
from libcalico.model.ipam_data import Block
from libcalico.model.keys import BlockKey, HandleKey, ResourceKey, key_path
from libcalico.model.scalars import parse_net


class Release(NamedTuple):
    """One address to release, only if it is still held by this handle and has this sequence number (None: any)."""

    address: str
    handle: str | None = None
    sequence: int | None = None


class Released(NamedTuple):
    """`done` are the addresses without error; those of them that were not in use are in `unallocated` too."""

    done: tuple[str, ...]
    unallocated: tuple[str, ...]


class Held(NamedTuple):
    """Which of a handle's addresses are meant: `only` these (None: all), without the `kept` ones, of `host`'s own."""

    host: str
    only: Container[str] | None = None
    kept: Container[str] = ()

    def means(self, block: Block, ordinal: int) -> bool:
        """Is this allocation one of them? One whose attributes name another node is not."""
        address = block.address(ordinal)
        return (
            plan.is_of_node(block, ordinal, self.host)
            and (self.only is None or address in self.only)
            and address not in self.kept
        )


def release_addresses(store: Store, view: View, wanted: Sequence[Release]) -> Released:
    """Free these addresses, or raise `ResourceUpdateConflict` for one that another handle or assignment has now."""
    by_block: dict[str, dict[int, Release]] = {}
    done, unallocated = [], []
    view.need((POOLS, True), (CONFIG, False))
    for entry in wanted:
        network = address_net(entry.address)
        address = str(network.network_address)
        block = store.find_block(view, network, partial(_is_meant, entry=entry))
        if block is None:
            unallocated.append(address)
            if plan.pool_for(store.pools(view), network, enabled_only=False) is not None:
                done.append(address)
        else:
            done.append(address)
            by_block.setdefault(block.cidr, {})[block.ordinal(address)] = entry
    for cidr, entries in by_block.items():
        current = store.block(view, cidr)
        assert current is not None
        ordinals = []
        for ordinal, entry in entries.items():
            _check(current, ordinal, entry)
            if current.allocations[ordinal] is None or plan.is_cooling(current, ordinal):
                unallocated.append(current.address(ordinal))
            else:
                ordinals.append(ordinal)
        _free(store, view, current, sorted(ordinals))
    return Released(tuple(dict.fromkeys(done)), tuple(sorted(set(unallocated))))


def release_handle(store: Store, view: View, handle: str, held: Held) -> int | None:
    """Free what a handle holds; the number of freed addresses, None when there is no such handle."""
    view.need((key_path(HandleKey(handle)), False), (POOLS, True), (CONFIG, False))
    stored = store.handle(view, handle)
    blocks = usage.blocks_of(store, view, handle, held.host, stored)
    if stored is None and not blocks:
        return None
    left: dict[str, int] = {}
    freed = 0
    for block, ordinals in blocks:
        meant = [ordinal for ordinal in ordinals if held.means(block, ordinal)]
        if len(meant) < len(ordinals):
            left[block.cidr] = len(ordinals) - len(meant)
        _free(store, view, block, meant)
        freed += len(meant)
    if stored is not None and (freed or left != stored or not left):
        for cidr in stored:  # the handle is only put right by blocks that are as they were seen
            if parse_net(cidr) is not None:
                view.rely(key_path(BlockKey(cidr)))
        store.put_handle(view, handle, left)
    return freed


def addresses_of_node(store: Store, view: View, node: str) -> tuple[Release, ...]:
    """What the attributes of addresses say belongs to a node, ready to be released."""
    held = []
    for block in store.all_blocks(view, 0).values():
        sequences = dict(block.sequences)
        for ordinal, index in enumerate(block.allocations):
            if index is not None and dict(block.attributes[index].secondary).get("node") == node:
                handle = block.attributes[index].handle
                held.append(Release(block.address(ordinal), handle, sequences.get(ordinal)))
    return tuple(held)


def _free(store: Store, view: View, block: Block, ordinals: list[int]) -> None:
    if not ordinals:
        return
    counts = plan.count_by_handle(block, ordinals)
    view.need((CONFIG, False), *((key_path(HandleKey(handle)), False) for handle in counts if handle))
    released = plan.release(block, ordinals, rfc3339(store.clock.now()) if store.cooldown_s(view) else "")
    store.store_released(view, released)
    for handle, count in counts.items():
        store.count_handle(view, handle, block.cidr, -count)
    _drop_if_unselected(store, view, released)


def _drop_if_unselected(store: Store, view: View, block: Block) -> None:
    """After a release: an empty block goes back when its pool no longer selects the owner's node."""
    if block.affinity is None or not block.affinity.startswith("host:") or not plan.is_empty(block):
        return
    owner = plan.owner_of(block.affinity)
    node = view.get(key_path(ResourceKey("Node", owner.name)))
    pool = plan.pool_for(store.pools(view), block.network, enabled_only=True)
    if node is None or pool is None:
        return
    with contextlib.suppress(ParsingDatastoreEntry):  # a Node that cannot be read: its labels decide nothing
        if not plan.selects(pool.node_selector, store.node_labels(view, owner.name, "Workload")):
            affinity.release(store, view, block.cidr, owner, True)


def _check(block: Block, ordinal: int, entry: Release) -> None:
    address = block.address(ordinal)
    attribute = block.attribute(ordinal)
    if entry.sequence is not None:
        current = dict(block.sequences).get(ordinal, 0)  # 0: a block of a release that wrote none
        if current != entry.sequence:
            raise _conflict(address, f"the given sequence number ({entry.sequence}) does not match ({current})")
    handle = None if entry.handle is None else entry.handle.partition("\r")[0]
    if handle is not None and attribute is not None and attribute.handle != handle:
        raise _conflict(address, f"the given handle ({handle}) does not match ({attribute.handle or ''})")


def _is_meant(block: Block, ordinal: int, entry: Release) -> bool:
    try:
        _check(block, ordinal, entry)
    except ResourceUpdateConflict:
        return False
    return True


def _conflict(address: str, cause: str) -> ResourceUpdateConflict:
    error = ResourceUpdateConflict(address)
    error.__cause__ = CalicoError(f"{cause} when attempting to release IP")
    return error

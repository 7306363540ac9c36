"""What IPAM's plans read and write: pools, reservations, configuration, blocks and handles, through a `View`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from libcalico.clock import Clock
from libcalico.errors import ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.ipam import plan
from libcalico.ipam.plan import Pool
from libcalico.ipam.transaction import View
from libcalico.model import codec, defaults, ipam_data
from libcalico.model.ipam_data import Block, Config
from libcalico.model.keys import (
    BLOCKS,
    BlockKey,
    HandleKey,
    IPAMConfigKey,
    ResourceKey,
    key_path,
    list_prefix,
    parse_path,
)
from libcalico.model.resources import IPPool
from libcalico.model.scalars import IPNetwork, parse_net

POOLS = list_prefix("IPPool")
RESERVATIONS = list_prefix("IPReservation")
CONFIG = key_path(IPAMConfigKey())
LOAD_BALANCER = "LoadBalancer"
DECODED_VALUES = 4096
DECODED_BYTES = 32 << 20
"""Of stored values, whose decoded form takes a few times as much."""
GHOSTS_SHOWN = 8

T = TypeVar("T")
FirstBlock = Callable[[str, str, int], int]
"""(host, pool's CIDR, number of its blocks) -> the number of the block that the host tries first."""

log = logging.getLogger(__name__)


class Store:
    """Reads and writes within a plan. `first_block(host, pool cidr, blocks)` chooses where a host begins in a pool."""

    def __init__(self, clock: Clock, first_block: FirstBlock | None) -> None:
        self.clock = clock
        self.first_block: FirstBlock = first_block or (lambda host, _pool, blocks: plan.start_index(host, blocks))
        self.mended_free_lists = 0
        """How many blocks were met whose free list named addresses in use."""
        self._decoded: dict[tuple[str, bytes], Any] = {}
        self._decoded_size = 0

    def cached(self, path: str, value: bytes, decode: Callable[[], T]) -> T:
        """A decoded value, kept as long as the stored bytes stay the same."""
        key = (path, value)
        if key not in self._decoded:
            if len(self._decoded) > DECODED_VALUES or self._decoded_size > DECODED_BYTES:
                self._decoded.clear()
                self._decoded_size = 0
            self._decoded[key] = decode()
            self._decoded_size += len(value)
        known: T = self._decoded[key]
        return known

    def pools(self, view: View) -> list[Pool]:
        """Every pool, in name order; one that cannot be read is left out."""
        pools = []
        for path, value in view.below(POOLS).items():
            pool = self.cached(path, value, functools.partial(_decode_pool, path, value))
            if pool is not None:
                pools.append(pool)
        return pools

    def reservations(self, view: View) -> list[IPNetwork]:
        """Networks that auto-assign must leave alone."""
        networks = []
        for path, value in view.below(RESERVATIONS).items():
            networks += self.cached(path, value, functools.partial(_decode_reservation, value))
        return networks

    def config(self, view: View) -> Config:
        """The configuration in force; raises `ParsingDatastoreEntry` for a damaged one: what it forbids is unknown."""
        value = view.get(CONFIG)
        return Config() if value is None else self.cached(CONFIG, value, lambda: ipam_data.decode_config(value))

    def cooldown_s(self, view: View) -> int:
        """Seconds before a released address is free. A damaged configuration keeps nobody from releasing: it counts as
        far as it can be read, with one line in the log."""
        value = view.get(CONFIG)
        return 0 if value is None else self.cached(f"{CONFIG} cooldown", value, lambda: _cooldown_s(value))

    def node_labels(self, view: View, host: str, use: str) -> Mapping[str, str]:
        """Labels of a host; raises `ResourceDoesNotExist` when there is no such Node."""
        if use == LOAD_BALANCER:
            return {}
        key = ResourceKey("Node", host)
        value = view.get(key_path(key))
        if value is None:
            raise ResourceDoesNotExist(key)
        return self.cached(key_path(key), value, lambda: codec.decode(key, value).metadata.labels)

    def block(self, view: View, cidr: str) -> Block | None:
        """A block, None when it does not exist."""
        key = BlockKey(cidr)
        value = view.get(key_path(key))
        if value is None:
            return None
        block = self.cached(key_path(key), value, lambda: self._decode_block(key, value))
        if b'"releasedAt"' in value:
            return plan.collect(block, self.clock.now(), self.cooldown_s(view))
        return block

    def _decode_block(self, key: BlockKey, value: bytes) -> Block:
        """A stored block. A free list that names an address in use is put right here, and so by the next write of the
        block: the address must never be handed out again (spec/ipam.md 17)."""
        block, ghosts = plan.without_ghosts(ipam_data.decode_block(key, value))
        if ghosts:
            self.mended_free_lists += 1
            named = ", ".join(map(str, ghosts[:GHOSTS_SHOWN]))
            log.warning(
                "block %s: its free list names %d ordinals that are not free (%s): they are not handed out",
                key.cidr,
                len(ghosts),
                named if len(ghosts) <= GHOSTS_SHOWN else f"{named}, ...",
            )
        return block

    def block_cidrs(self, view: View, version: int) -> list[str]:
        """Every block of an IP version (0: both), readable or not: its addresses are not free."""
        prefixes = [f"{BLOCKS}ipv{one}/block/" for one in ((version,) if version else (4, 6))]
        view.need(*((prefix, True) for prefix in prefixes))
        keys = (parse_path(path) for prefix in prefixes for path in view.below(prefix))
        return [key.cidr for key in keys if isinstance(key, BlockKey)]

    def all_blocks(self, view: View, version: int) -> dict[str, Block]:
        """Every readable block of an IP version (0: both) by CIDR."""
        blocks = {}
        for cidr in self.block_cidrs(view, version):
            block = self.readable_block(view, cidr)
            if block is not None:
                blocks[cidr] = block
        return blocks

    def find_block(
        self, view: View, network: IPNetwork, is_meant: Callable[[Block, int], bool] = lambda _block, _ordinal: True
    ) -> Block | None:
        """The block of an address: the one that holds it, and as `is_meant` wants, where several overlap; whichever
        there is where none holds it."""
        address = str(network.network_address)

        def holds(block: Block) -> bool:
            ordinal = block.ordinal(address)
            return block.allocations[ordinal] is not None and is_meant(block, ordinal)

        pool = plan.pool_for(self.pools(view), network, enabled_only=False)
        usual = None if pool is None else self.block(view, plan.block_cidr(address, pool.block_length))
        if usual is not None and holds(usual):
            return usual
        others = [one for one in self.all_blocks(view, network.version).values() if plan.contains(one.network, network)]
        return next(filter(holds, others), usual or (others[0] if others else None))

    def readable_block(self, view: View, cidr: str) -> Block | None:
        """A block, None when it does not exist or cannot be read: then it is left alone."""
        try:
            return self.block(view, cidr)
        except ParsingDatastoreEntry:
            return None

    def handle(self, view: View, handle: str, optimistic: bool = False) -> dict[str, int] | None:
        """Counts by block, None when there is no such handle."""
        value = view.get(key_path(HandleKey(handle)), optimistic)
        return None if value is None else ipam_data.decode_handle(value)

    def put_block(self, view: View, block: Block) -> None:
        """Write a block."""
        path, value = key_path(BlockKey(block.cidr)), ipam_data.encode_block(block)
        if b"\\r" not in value:  # a handle is cut there when it is read
            self.cached(path, value, lambda: block)
        view.put(path, value)

    def store_released(self, view: View, block: Block) -> None:
        """Write a block after a release; an empty one without owner goes."""
        if block.affinity is None and plan.is_empty(block):
            view.delete(key_path(BlockKey(block.cidr)))
        else:
            self.put_block(view, block)

    def count_handle(self, view: View, handle: str | None, cidr: str, count: int) -> None:
        """A handle has `count` more, or fewer, addresses in a block."""
        if not handle:
            return
        current = self.handle(view, handle, optimistic=count > 0)
        if current is None and count < 0:
            view.rely(key_path(HandleKey(handle)))  # it may have come to be since it was read, with these addresses
            return
        self.put_handle(view, handle, plan.add_to_handle(current or {}, cidr, count))

    @staticmethod
    def put_handle(view: View, handle: str, blocks: dict[str, int]) -> None:
        """Write a handle's counts; without any the handle goes."""
        path = key_path(HandleKey(handle))
        if blocks:
            view.put(path, ipam_data.encode_handle(blocks))
        else:
            view.delete(path)


def _decode_pool(path: str, value: bytes) -> Pool | None:
    key = parse_path(path)
    try:
        resource = defaults.after_read(codec.decode(key, value)) if key is not None else None
    except ParsingDatastoreEntry:
        return None
    return plan.pool_of(resource) if isinstance(resource, IPPool) else None


def _cooldown_s(value: bytes) -> int:
    try:
        return ipam_data.decode_config(value).cooldown_s
    except ParsingDatastoreEntry as error:
        cooldown_s = ipam_data.decode_cooldown_s(value)
        text = "IPAM's configuration is damaged: no address is assigned, releases go on with a cooldown of %d s: %s"
        log.warning(text, cooldown_s, error)
        return cooldown_s


def _decode_reservation(value: bytes) -> list[IPNetwork]:
    texts = codec.spec_member(value, "reservedCIDRs")
    found = (parse_net(text) for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    return [network for network in found if network is not None]

"""What IPAM's plans read and write: pools, blocks, claims and handles, through a `View`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from libcalico.clock import Clock, rfc3339
from libcalico.errors import BadData, CalicoError, ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.ipam import plan
from libcalico.ipam.plan import Pool
from libcalico.ipam.transaction import View
from libcalico.model import codec, defaults, ipam_data
from libcalico.model.ipam_data import Block, Config
from libcalico.model.keys import (
    AFFINITIES,
    BLOCKS,
    IPAM,
    AffinityKey,
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
from libcalico.text import shown

POOLS = list_prefix("IPPool")
RESERVATIONS = list_prefix("IPReservation")
CONFIG = key_path(IPAMConfigKey())
LOAD_BALANCER = "LoadBalancer"
DECODED_VALUES = 4096
DECODED_BYTES = 32 << 20
"""Of stored values, whose decoded form takes a few times as much."""
GHOSTS_SHOWN = 8
KNOWN_NETWORKS = 16384

log = logging.getLogger(__name__)


class BlockNotEmpty(BadData):
    """The block still has addresses in use."""

    def __init__(self, cidr: str) -> None:
        super().__init__(f"block '{cidr}' is not empty")


class ClaimConflict(CalicoError):
    """Another owner has the block."""

    def __init__(self, cidr: str, owner: str | None) -> None:
        super().__init__(f"{cidr} already claimed by {owner}")


class Store:
    """`first_block(host, pool cidr, blocks)` chooses where a host begins in a pool."""

    def __init__(self, clock: Clock, first_block: Callable[[str, str, int], int] | None) -> None:
        self.clock = clock
        self.first_block = first_block or (lambda host, _pool, blocks: plan.start_index(host, blocks))
        self.mended_free_lists = 0
        """How many blocks were met whose free list named addresses in use."""
        self._decoded: dict[tuple[str, bytes], Any] = {}
        self._decoded_size = 0

    def cached(self, path: str, value: bytes, decode: Callable[[], Any]) -> Any:
        """A decoded value, kept as long as the stored bytes stay the same."""
        key = (path, value)
        if key not in self._decoded:
            if len(self._decoded) > DECODED_VALUES or self._decoded_size > DECODED_BYTES:
                self._decoded.clear()
                self._decoded_size = 0
            self._decoded[key] = decode()
            self._decoded_size += len(value)
        return self._decoded[key]

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
        """The configuration in force."""
        return ipam_data.decode_config(view.get(CONFIG))

    def node_labels(self, view: View, host: str, use: str) -> Mapping[str, str]:
        """Labels of a host; raises `ResourceDoesNotExist` when there is no such Node."""
        if use == LOAD_BALANCER:
            return {}
        key = ResourceKey("Node", host)
        value = view.get(key_path(key))
        if value is None:
            raise ResourceDoesNotExist(key)
        labels: Mapping[str, str] = self.cached(key_path(key), value, lambda: codec.decode(key, value).metadata.labels)
        return labels

    def block(self, view: View, cidr: str) -> Block | None:
        """A block, None when it does not exist."""
        key = BlockKey(cidr)
        value = view.get(key_path(key))
        if value is None:
            return None
        block: Block = self.cached(key_path(key), value, lambda: self._decode_block(key, value))
        if b'"releasedAt"' in value:
            return plan.collect(block, self.clock.now(), self.config(view).cooldown_s)
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

    @staticmethod
    def affinity_prefix(host: str, kind: str) -> str:
        """Below which the claims of an owner are stored."""
        return f"{AFFINITIES if kind == 'host' else f'{IPAM}{kind}/'}{host}/"

    def affinities(self, view: View, host: str, kind: str, version: int) -> dict[str, str]:
        """The host's blocks in key order, with the state of each claim."""
        found = {}
        for path, value in view.below(self.affinity_prefix(host, kind)).items():
            key = parse_path(path)
            if isinstance(key, AffinityKey) and (not version or host_net(key.cidr).version == version):
                found[key.cidr] = ipam_data.decode_affinity(value)
        return found

    def affinities_in(self, view: View, network: IPNetwork) -> list[AffinityKey]:
        """Claims of anybody to blocks inside a network."""
        prefixes = (AFFINITIES, f"{IPAM}virtual/")
        view.need(*((prefix, True) for prefix in prefixes))
        keys = [parse_path(path) for prefix in prefixes for path in view.below(prefix)]
        return [key for key in keys if isinstance(key, AffinityKey) and plan.contains(network, host_net(key.cidr))]

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

    def fresh_block(self, cidr: str, host: str, kind: str) -> Block:
        """A new block of an owner, claimed now."""
        now = self.clock.now()
        return plan.new_block(cidr, f"{kind}:{host}", rfc3339(now), int(now.timestamp() * 1_000_000) * 1000)

    def claim(self, view: View, cidr: str, host: str, kind: str) -> Block:
        """Own a block: create it, or confirm that it is ours."""
        block = self.block(view, cidr)
        affinity = key_path(AffinityKey(host, cidr, kind))
        if block is None:
            other = self.overlapping(view, host_net(cidr))
            if other is not None:
                raise ClaimConflict(other.cidr, other.affinity)
            return self.create(view, cidr, host, kind)
        if block.affinity != f"{kind}:{host}":
            raise ClaimConflict(cidr, block.affinity)
        current = view.get(affinity)
        if current is None or ipam_data.decode_affinity(current) != "confirmed":
            view.put(affinity, ipam_data.CONFIRMED)
            block = block._replace(sequence=block.sequence + 1)
            self.put_block(view, block)  # whoever is about to delete the block meets a conflict
        return block

    def create(self, view: View, cidr: str, host: str, kind: str) -> Block:
        """Make a new block of ours; it must not overlap an existing one."""
        block = self.fresh_block(cidr, host, kind)
        self.put_block(view, block)
        view.put(key_path(AffinityKey(host, cidr, kind)), ipam_data.CONFIRMED)
        return block

    def overlapping(self, view: View, network: IPNetwork) -> Block | None:
        """An existing block that shares addresses with a network: one of another size, left over by an older pool."""
        blocks = self.all_blocks(view, network.version)
        for cidr in self.block_cidrs(view, network.version):
            if host_net(cidr).overlaps(network):
                return blocks.get(cidr) or self.block(view, cidr)  # which raises when it cannot be read
        return None

    def release_affinity(self, view: View, cidr: str, host: str, kind: str, must_be_empty: bool) -> None:
        """Give a block up; it goes when it is empty, its addresses in use stay."""
        path = key_path(AffinityKey(host, cidr, kind))
        block_path = key_path(BlockKey(cidr))
        view.need((path, False), (block_path, False))
        known = view.get(path) is not None
        block = self.block(view, cidr)
        if block is not None and block.affinity == f"{kind}:{host}":
            if must_be_empty and not plan.is_empty(block):
                raise BlockNotEmpty(cidr)
            if plan.is_empty(block):
                view.delete(block_path)
            else:
                self.put_block(view, plan.disown(block))
        if known:
            view.delete(path)


class AssignedAddress(str):
    """An address as `auto_assign` gives it, with the length of its block: `172.29.4.64/26`. Without this type, such a
    text means the whole range."""


@functools.lru_cache(KNOWN_NETWORKS)  # what is longer than any network is none, and raises: it is not kept
def host_net(text: str) -> IPNetwork:
    """The network of a CIDR, or the one-address network of an address; raises `BadData`."""
    network = parse_net(text)
    if network is None:
        raise BadData(f"invalid IP address specified: {shown(text)}")
    return network


def address_net(text: str) -> IPNetwork:
    """The one-address network of an address, also of one with its block's length; raises `BadData`, also for a range,
    which is a length without an address in it."""
    address, slash, length = text.partition("/")
    if slash and not length.isdecimal():
        raise BadData(f"invalid IP address specified: {text}")
    network = host_net(address)
    if slash and not isinstance(text, AssignedAddress):
        span = host_net(text)
        if span.num_addresses > 1 and span.network_address == network.network_address:
            error = BadData(f"invalid IP address specified: {text}")
            error.add_note(f"it is a range of {span.num_addresses} addresses: give each address that is meant")
            raise error
    return network


def _decode_pool(path: str, value: bytes) -> Pool | None:
    key = parse_path(path)
    try:
        resource = defaults.after_read(codec.decode(key, value)) if key is not None else None
    except ParsingDatastoreEntry:
        return None
    return plan.pool_of(resource) if isinstance(resource, IPPool) else None


def _decode_reservation(value: bytes) -> list[IPNetwork]:
    texts = codec.spec_member(value, "reservedCIDRs")
    found = (parse_net(text) for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    return [network for network in found if network is not None]

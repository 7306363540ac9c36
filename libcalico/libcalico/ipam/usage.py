"""Look-ups: the addresses of a handle, what is known of an address, the pools with their blocks (spec/ipam.md 2.4, 10).

A handle is only an index. When it is lost, damaged or miscounts, the host's own blocks are searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from libcalico.errors import ResourceDoesNotExist
from libcalico.ipam import affinity, plan
from libcalico.ipam.addresses import address_net, host_net
from libcalico.ipam.plan import Owner, Pool
from libcalico.ipam.store import Store
from libcalico.ipam.transaction import View
from libcalico.model.ipam_data import Attribute, Block
from libcalico.model.keys import BlockKey, HandleKey, key_path
from libcalico.model.scalars import parse_net


class AddressCooling(ResourceDoesNotExist):
    """The address was released a moment ago: it has no owner, but is not free yet."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.args = (f"address {address} is in cooldown",)


class Usage(NamedTuple):
    """A pool with its blocks, for `ipam show`; `pool` None: the blocks outside all pools."""

    pool: Pool | None
    blocks: tuple[Block, ...]


def utilization(store: Store, view: View) -> tuple[Usage, ...]:
    """Every pool with its blocks, in pool order; last the blocks outside all pools."""
    pools = store.pools(view)
    blocks = list(store.all_blocks(view, 0).values())
    usage = [Usage(p, tuple(b for b in blocks if plan.contains(p.network, b.network))) for p in pools]
    rest = tuple(b for b in blocks if not any(plan.contains(p.network, b.network) for p in pools))
    return (*usage, Usage(None, rest))


def attributes_of(store: Store, view: View, address: str) -> Attribute:
    """Handle and attributes of an address in use; raises `ResourceDoesNotExist`, or `AddressCooling`."""
    network = address_net(address)
    text = str(network.network_address)
    pool = plan.pool_for(store.pools(view), network, enabled_only=True)
    if pool is None:
        raise ResourceDoesNotExist(text, "No valid IPPool")
    block = store.find_block(view, network)
    attribute = None if block is None else block.attribute(block.ordinal(text))
    if attribute is None:
        raise ResourceDoesNotExist(text, "IP is unassigned")
    if attribute.released_at is not None:
        raise AddressCooling(text)
    return attribute


def addresses_of(store: Store, view: View, handle: str, host: str) -> tuple[str, ...]:
    """The addresses of a handle, as `host` finds them; raises `ResourceDoesNotExist` when there is no such handle."""
    stored = store.handle(view, handle)
    held = blocks_of(store, view, handle, host, stored)
    if stored is None and not held:
        raise ResourceDoesNotExist(HandleKey(handle))
    return tuple(block.address(ordinal) for block, ordinals in held for ordinal in ordinals)


def addresses_of_version(store: Store, view: View, handle: str, host: str, version: int) -> list[str]:
    """The addresses of a handle in one IP version; none when there is no such handle."""
    try:
        addresses = addresses_of(store, view, handle, host)
    except ResourceDoesNotExist:
        return []
    return [address for address in addresses if host_net(address).version == version]


def blocks_of(
    store: Store, view: View, handle: str, host: str, stored: Mapping[str, int] | None
) -> list[tuple[Block, list[int]]]:
    """Blocks with the ordinals that a handle holds in them. `stored` is the handle's index; the blocks of `host` are
    searched too when it is wrong."""
    counts = dict(stored or {})
    held = [(block, plan.ordinals_of_handle(block, handle)) for block in _readable_blocks(store, view, counts)]
    if stored and {block.cidr: len(ordinals) for block, ordinals in held} == counts:
        return held
    own = [cidr for cidr in affinity.cidrs_of(view, Owner(host), 0) if cidr not in counts]
    held += [(block, plan.ordinals_of_handle(block, handle)) for block in _readable_blocks(store, view, own)]
    return [(block, ordinals) for block, ordinals in held if ordinals]


def _readable_blocks(store: Store, view: View, cidrs: Iterable[str]) -> list[Block]:
    possible = [cidr for cidr in cidrs if parse_net(cidr) is not None]
    view.need(*((key_path(BlockKey(cidr)), False) for cidr in possible))
    blocks = [store.readable_block(view, cidr) for cidr in possible]
    return [block for block in blocks if block is not None]

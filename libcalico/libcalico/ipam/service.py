"""The IPAM service: assign, release and look up addresses (spec/ipam.md 5-12).

Each operation is a plan (see `transaction`): it reads what it must, decides with `plan`, and commits block, handle
and affinity together in one compare-and-swap transaction. A long-lived service is fed by the agent's watch
(`feed`, `observe`) and then assigns an address with a single request to etcd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from libcalico.clock import Clock, SystemClock, rfc3339
from libcalico.datastore.contract import Datastore
from libcalico.errors import (
    BadData,
    CalicoError,
    ParsingDatastoreEntry,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
)
from libcalico.ipam import plan
from libcalico.ipam.assignment import Assigned, Assignment, Request
from libcalico.ipam.plan import Pool
from libcalico.ipam.store import (
    CONFIG,
    LOAD_BALANCER,
    POOLS,
    RESERVATIONS,
    AssignedAddress,
    ClaimConflict,
    Store,
    address_net,
    host_net,
)
from libcalico.ipam.transaction import Transactions, View
from libcalico.model import ipam_data
from libcalico.model.ipam_data import Attribute, Block, Config
from libcalico.model.keys import AFFINITIES, BLOCKS, BlockKey, HandleKey, ResourceKey, key_path
from libcalico.model.scalars import IPNetwork, parse_net

ADDRESSES_AT_ONCE = 50
MOST_BLOCK_BITS = 16
VIRTUAL_HOST = "load-balancer"
"""Whose load balancer addresses are for which nobody is named, as upstream's controllers name it."""
Beside = Callable[[View, Sequence[str]], None]
"""Told the assigned CIDRs inside the transaction: what it writes is stored together with them, or not at all."""
FEED_PREFIXES = (POOLS, RESERVATIONS, BLOCKS, CONFIG)


class AssignError(CalicoError):
    """An assignment that failed; `v4` and `v6` hold what was assigned before that and must be given back."""

    def __init__(self, cause: Exception | str, v4: Assigned | None = None, v6: Assigned | None = None) -> None:
        self.cause = cause
        self.v4 = v4
        self.v6 = v6
        super().__init__(str(cause))


class AddressCooling(ResourceDoesNotExist):
    """The address was released a moment ago and is nobody's, but not free yet."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.args = (f"address {address} is in cooldown",)


class Release(NamedTuple):
    """One address to release, only if it is still held by this handle and has this sequence number (None: any)."""

    address: str
    handle: str | None = None
    sequence: int | None = None


class Released(NamedTuple):
    """`done` are the addresses without error; those of them that were not in use are in `unallocated` too."""

    done: tuple[str, ...]
    unallocated: tuple[str, ...]


class Usage(NamedTuple):
    """A pool with its blocks, for `ipam show`."""

    pool: Pool | None
    blocks: tuple[Block, ...]


class IpamService:
    """IPAM as seen from one host. `first_block(host, pool cidr, blocks)` chooses where a host begins in a pool."""

    def __init__(
        self,
        datastore: Datastore,
        host: str,
        clock: Clock | None = None,
        first_block: Callable[[str, str, int], int] | None = None,
    ) -> None:
        self.host = host
        self._store = Store(clock or SystemClock(), first_block)
        self._transactions = Transactions(datastore)

    def feed(self) -> tuple[str, ...]:
        """From now on `observe` is told of every change below the returned prefixes, all present values first."""
        fed = (*FEED_PREFIXES, self._store.affinity_prefix(self.host, "host"), key_path(ResourceKey("Node", self.host)))
        self._transactions.cache.fed = fed
        self._transactions.cache.prefixes.update(fed)
        return fed

    @property
    def mended_free_lists(self) -> int:
        """How many blocks were met whose free list named addresses in use (spec/ipam.md 17)."""
        return self._store.mended_free_lists

    def observe(self, path: str, value: bytes | None, revision: int, certain: bool = False) -> None:
        """A key has changed (a fed service only). `certain`: it was read as part of a whole snapshot."""
        self._transactions.cache.observe(path, value, revision, certain)

    async def auto_assign(
        self,
        num4: int = 0,
        num6: int = 0,
        handle: str | None = None,
        attributes: Mapping[str, str] | None = None,
        pools4: Sequence[str] = (),
        pools6: Sequence[str] = (),
        use: str = "Workload",
        namespace_labels: Mapping[str, str] | None = None,
        max_blocks: int = 0,
        max_alloc: int = 0,
        host: str = "",
        beside: Beside | None = None,
    ) -> tuple[Assigned | None, Assigned | None]:
        """IPv4 addresses first, then IPv6; None for a version of which none were asked.

        `beside`, which only goes with one version, is called with them when none is missing.
        Raises `AssignError`, which holds what was assigned until then."""
        if not use:
            raise AssignError("must specify the intended use when assigning an IP")
        attribute = _attribute(handle, attributes)
        done: list[Assigned | None] = [None, None]
        for place, (version, count, pools) in enumerate(((4, num4, pools4), (6, num6, pools6))):
            if not count:
                continue
            request = Request(
                version,
                count,
                attribute,
                host or self.host,
                tuple(pools),
                use,
                namespace_labels or {},
                max_blocks,
                max_alloc,
            )
            try:
                assigned, problem = await self._transactions.run(
                    partial(self._plan_assign, request=request, beside=beside)
                )
            except CalicoError as error:
                raise AssignError(error, *done) from error
            done[place] = assigned
            if problem is not None:
                raise AssignError(problem, *done)
        return done[0], done[1]

    async def assign_ip(
        self,
        address: str,
        handle: str | None = None,
        attributes: Mapping[str, str] | None = None,
        host: str = "",
        use: str = "",
        max_alloc: int = 0,
    ) -> None:
        """Assign this very address; raises `ResourceAlreadyExists` when it is in use."""
        attribute = _attribute(handle, attributes)
        await self._transactions.run(
            lambda view: self._plan_assign_ip(view, address_net(address), attribute, host or self.host, use, max_alloc)
        )

    async def release_ips(self, addresses: Iterable[str | Release]) -> Released:
        """Free addresses; those that are not in use are reported, not an error. A length, as `auto_assign` tells it, is
        passed over: `10.1.0.5/26` is 10.1.0.5.

        Many are freed in several transactions: all are tried, then the first error is raised."""
        wanted = [Release(entry) if isinstance(entry, str) else entry for entry in addresses]
        done: list[str] = []
        unallocated: list[str] = []
        first: CalicoError | None = None
        for start in range(0, len(wanted), ADDRESSES_AT_ONCE):
            part = wanted[start : start + ADDRESSES_AT_ONCE]
            try:
                released: Released = await self._transactions.run(partial(self._plan_release, wanted=part))
            except CalicoError as error:
                first = first or error
                continue
            done += released.done
            unallocated += released.unallocated
        if first is not None:
            raise first
        return Released(tuple(dict.fromkeys(done)), tuple(sorted(set(unallocated))))

    async def release_by_handle(self, handle: str) -> None:
        """Free all addresses of a handle; raises `ResourceDoesNotExist` when there is no such handle.

        A handle is only an index: when it is lost or miscounts, this host's blocks are searched too. Addresses that
        name another node stay."""

        def step(view: View) -> None:
            if self._release_handle(view, handle) is None:
                raise ResourceDoesNotExist(HandleKey(handle))

        await self._transactions.run(step)

    async def release_held(
        self,
        handles: Sequence[str],
        otherwise: str = "",
        only: Container[str] | None = None,
        kept: Container[str] = (),
        beside: Callable[[View], None] | None = None,
    ) -> int:
        """Free what this host has under these handles, `only` those addresses and not the `kept`; how many it was.

        Handles that do not exist are fine. `otherwise` is a handle that counts when the others hold nothing. `beside`
        may write more keys in the same transaction."""

        def step(view: View) -> int:
            freed = sum(self._release_handle(view, handle, only, kept) or 0 for handle in handles)
            if not freed and otherwise:
                freed = self._release_handle(view, otherwise, only, kept) or 0
            if beside is not None:
                beside(view)
            return freed

        freed: int = await self._transactions.run(step)
        return freed

    async def ips_by_handle(self, handle: str) -> tuple[str, ...]:
        """The addresses of a handle."""
        found: tuple[str, ...] = await self._transactions.run(lambda view: self._addresses_of(view, handle))
        return found

    async def addresses_of_node(self, node: str) -> tuple[Release, ...]:
        """What the attributes of addresses say belongs to a node, ready to be released."""

        def step(view: View) -> tuple[Release, ...]:
            found = []
            for block in self._store.all_blocks(view, 0).values():
                sequences = dict(block.sequences)
                for ordinal, index in enumerate(block.allocations):
                    if index is not None and dict(block.attributes[index].secondary).get("node") == node:
                        handle = block.attributes[index].handle
                        found.append(Release(block.address(ordinal), handle, sequences.get(ordinal)))
            return tuple(found)

        addresses: tuple[Release, ...] = await self._transactions.run(step)
        return addresses

    async def get_assignment_attributes(self, address: str) -> Attribute:
        """Handle and attributes of an address in use."""
        found: Attribute = await self._transactions.run(lambda view: self._plan_attributes(view, address))
        return found

    async def claim_affinity(self, cidr: str, host: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make a host the owner of every block in a range; returns the claimed and the failed ones."""
        owner = host or self.host
        blocks = await self._transactions.run(lambda view: self._blocks_in(view, cidr))
        claimed, failed = [], []
        for block in blocks:
            try:
                await self._transactions.run(partial(self._store.claim, cidr=block, host=owner, kind="host"))
                claimed.append(block)
            except ClaimConflict:
                failed.append(block)
        return tuple(claimed), tuple(failed)

    async def release_affinity(self, cidr: str, host: str = "", must_be_empty: bool = False) -> None:
        """Give up a host's blocks in a range; addresses in use stay."""
        owner = host or self.host
        for block in await self._transactions.run(lambda view: self._blocks_in(view, cidr)):
            await self._release_quietly(block, owner, "host", must_be_empty)

    async def release_block_affinity(self, cidr: str, must_be_empty: bool = False) -> None:
        """Take a block from whoever owns it."""

        def step(view: View) -> None:
            block = self._store.block(view, cidr)
            if block is not None and block.affinity:
                kind, _, owner = block.affinity.partition(":")
                self._store.release_affinity(view, cidr, owner, kind, must_be_empty)

        await self._transactions.run(step)

    async def release_host_affinities(self, host: str = "", must_be_empty: bool = False, kind: str = "host") -> None:
        """Give up all blocks of a host. All are tried, then the last error is raised."""
        owner = host or self.host
        last: CalicoError | None = None
        for cidr in await self._transactions.run(lambda view: list(self._store.affinities(view, owner, kind, 0))):
            try:
                await self._release_quietly(cidr, owner, kind, must_be_empty)
            except CalicoError as error:
                last = error
        if last is not None:
            raise last

    async def release_pool_affinities(self, cidr: str) -> None:
        """Give up every host's blocks inside a pool."""
        network = host_net(cidr)
        for key in await self._transactions.run(lambda view: self._store.affinities_in(view, network)):
            await self._release_quietly(key.cidr, key.host, key.type, False)

    async def remove_host(self, host: str) -> None:
        """Forget a host: its affinities and its marker go, addresses stay in use."""
        await self.release_host_affinities(host)
        marker = f"{AFFINITIES}{host}"

        def step(view: View) -> None:
            if view.get(marker) is not None:
                view.delete(marker)

        await self._transactions.run(step)

    async def ensure_block(
        self, host: str = "", num4: bool = True, num6: bool = False
    ) -> tuple[str | None, str | None]:
        """Own a block with a free address in each family that is wanted; nothing is assigned."""
        owner, found = host or self.host, []
        for version, wanted in ((4, num4), (6, num6)):
            request = Request(version, 1, Attribute(), owner, (), "Workload", {}, 0, 0)
            found.append(await self._transactions.run(partial(self._plan_ensure, request=request)) if wanted else None)
        return found[0], found[1]

    async def get_config(self) -> Config:
        """The configuration in force."""
        found: Config = await self._transactions.run(self._store.config)
        return found

    async def set_config(self, config: Config) -> None:
        """Change the configuration; raises `BadData` for a combination that cannot be."""
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise BadData("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")
        if config.max_blocks_per_host > 0 and not config.strict_affinity:
            raise BadData("MaxBlocksPerHost requires StrictAffinity to be enabled")

        def step(view: View) -> None:
            if self._store.config(view) != config:
                view.put(CONFIG, ipam_data.encode_config(config))

        await self._transactions.run(step)

    async def get_utilization(self) -> tuple[Usage, ...]:
        """Every pool with its blocks, in pool order; last the blocks outside all pools."""

        def step(view: View) -> tuple[Usage, ...]:
            pools = self._store.pools(view)
            blocks = list(self._store.all_blocks(view, 0).values())
            usage = [Usage(p, tuple(b for b in blocks if plan.contains(p.network, b.network))) for p in pools]
            rest = tuple(b for b in blocks if not any(plan.contains(p.network, b.network) for p in pools))
            return (*usage, Usage(None, rest))

        found: tuple[Usage, ...] = await self._transactions.run(step)
        return found

    # Auto-assign.

    def _plan_assign(
        self, view: View, request: Request, beside: Beside | None = None
    ) -> tuple[Assigned, CalicoError | None]:
        assigned, problem = self._assign(view, request)
        if beside is not None and problem is None and not assigned.shortfall:
            beside(view, assigned.addresses)
        return assigned, problem

    def _assign(self, view: View, request: Request) -> tuple[Assigned, CalicoError | None]:
        host, kind = _owner(request.host, request.use)
        handle = request.attribute.handle
        self._need_facts(view, host, kind)
        if request.max_alloc and handle:
            held = [a for a in self._addresses_of_known(view, handle) if host_net(a).version == request.version]
            if len(held) >= request.max_alloc:
                whole = tuple(AssignedAddress(host_net(a)) for a in held[: request.wanted])
                return Assigned(whole, request.wanted, (), request.version), None
        labels = self._store.node_labels(view, host, request.use)
        pools = plan.select_pools(
            self._store.pools(view),
            request.version,
            request.pools,
            host,
            labels,
            request.namespace_labels,
            request.use,
        )
        return Assignment(self._store, view, request, host, kind, pools).run()

    def _need_facts(self, view: View, host: str, kind: str) -> None:
        view.need(
            (CONFIG, False), (POOLS, True), (RESERVATIONS, True), (self._store.affinity_prefix(host, kind), True),
            (key_path(ResourceKey("Node", host)), False),
        )  # fmt: skip

    def _addresses_of_known(self, view: View, handle: str) -> tuple[str, ...]:
        try:
            return self._addresses_of(view, handle)
        except ResourceDoesNotExist:
            return ()

    def _plan_ensure(self, view: View, request: Request) -> str:
        self._need_facts(view, request.host, "host")
        labels = self._store.node_labels(view, request.host, request.use)
        pools = plan.select_pools(self._store.pools(view), request.version, (), request.host, labels, {}, request.use)
        return Assignment(self._store, view, request, request.host, "host", pools).ensure()

    # A given address.

    def _plan_assign_ip(
        self, view: View, network: IPNetwork, attribute: Attribute, host: str, use: str, max_alloc: int
    ) -> None:
        view.need((POOLS, True), (CONFIG, False))
        address = str(network.network_address)
        host, kind = _owner(host, use)
        pool = plan.pool_for(self._store.pools(view), network, enabled_only=True)
        if pool is None:
            raise BadData("The provided IP address is not in a configured pool\n")
        if use and use not in pool.uses:
            raise BadData(f"IP address {address} is in pool {pool.name}, which does not allow use {use}")
        if max_alloc and attribute.handle:
            held = [
                a for a in self._addresses_of_known(view, attribute.handle) if host_net(a).version == network.version
            ]
            if address in held:
                return
            if len(held) >= max_alloc:
                raise BadData(
                    f"handle {attribute.handle} already has IP(s) allocated, cannot assign additional IP {address}"
                    f" (maxAllocPerIPVersion={max_alloc})"
                )
        cidr = plan.block_cidr(address, pool.block_length)
        block = self._store.block(view, cidr) or self._store.find_block(view, network)
        cidr = cidr if block is None else block.cidr
        if block is None:
            block = self._store.claim(view, cidr, host, kind)
        elif self._store.config(view).strict_affinity and block.affinity != f"{kind}:{host}":
            if block.affinity is None:
                raise BadData(f"Attempt to assign from block {cidr} with no affinity")
            raise BadData("Block host affinity does not match")
        ordinal = block.ordinal(address)
        if block.allocations[ordinal] is not None:
            raise ResourceAlreadyExists(address, "Address already assigned in block")
        self._store.put_block(view, plan.take_ordinal(block, ordinal, attribute))
        self._store.count_handle(view, attribute.handle, cidr, 1)

    # Release.

    def _plan_release(self, view: View, wanted: Sequence[Release]) -> Released:
        by_block: dict[str, dict[int, Release]] = {}
        done, unallocated = [], []
        view.need((POOLS, True), (CONFIG, False))
        for entry in wanted:
            network = address_net(entry.address)
            address = str(network.network_address)
            block = self._store.find_block(view, network, partial(_is_meant, entry=entry))
            if block is None:
                unallocated.append(address)
                if plan.pool_for(self._store.pools(view), network, enabled_only=False) is not None:
                    done.append(address)
            else:
                done.append(address)
                by_block.setdefault(block.cidr, {})[block.ordinal(address)] = entry
        for cidr, entries in by_block.items():
            current = self._store.block(view, cidr)
            assert current is not None
            ordinals = []
            for ordinal, entry in entries.items():
                _check_release(current, ordinal, entry)
                if current.allocations[ordinal] is None or plan.is_cooling(current, ordinal):
                    unallocated.append(current.address(ordinal))
                else:
                    ordinals.append(ordinal)
            self._free(view, current, sorted(ordinals))
        return Released(tuple(dict.fromkeys(done)), tuple(sorted(set(unallocated))))

    def _free(self, view: View, block: Block, ordinals: list[int]) -> None:
        if not ordinals:
            return
        counts = plan.count_by_handle(block, ordinals)
        view.need((CONFIG, False), *((key_path(HandleKey(handle)), False) for handle in counts if handle))
        now, cooldown_s = self._store.clock.now(), self._store.config(view).cooldown_s
        released = plan.release(block, ordinals, rfc3339(now) if cooldown_s else "")
        self._store.store_released(view, released)
        for handle, count in counts.items():
            self._store.count_handle(view, handle, block.cidr, -count)
        self._drop_if_unselected(view, released)

    def _drop_if_unselected(self, view: View, block: Block) -> None:
        """After a release: an empty block goes back when its pool no longer selects the owner's node."""
        if block.affinity is None or not block.affinity.startswith("host:") or not plan.is_empty(block):
            return
        host = block.affinity.removeprefix("host:")
        node = view.get(key_path(ResourceKey("Node", host)))
        pool = plan.pool_for(self._store.pools(view), block.network, enabled_only=True)
        if node is None or pool is None:
            return
        with contextlib.suppress(ParsingDatastoreEntry):  # a Node that cannot be read: its labels decide nothing
            if not plan.selects(pool.node_selector, self._store.node_labels(view, host, "Workload")):
                self._store.release_affinity(view, block.cidr, host, "host", True)

    def _release_handle(
        self, view: View, handle: str, only: Container[str] | None = None, kept: Container[str] = ()
    ) -> int | None:
        """The number of freed addresses, None when there is no such handle."""
        view.need((key_path(HandleKey(handle)), False), (POOLS, True), (CONFIG, False))
        stored = self._store.handle(view, handle)
        held = self._blocks_of(view, handle, stored)
        if stored is None and not held:
            return None
        left: dict[str, int] = {}
        freed = 0
        for block, ordinals in held:
            ours = [
                ordinal
                for ordinal in ordinals
                if plan.is_of_node(block, ordinal, self.host)
                and (only is None or block.address(ordinal) in only)
                and block.address(ordinal) not in kept
            ]
            if len(ours) < len(ordinals):
                left[block.cidr] = len(ordinals) - len(ours)
            self._free(view, block, ours)
            freed += len(ours)
        if stored is not None and (freed or left != stored or not left):
            for cidr in stored:  # the handle is only put right by blocks that are as they were seen
                if parse_net(cidr) is not None:
                    view.rely(key_path(BlockKey(cidr)))
            self._store.put_handle(view, handle, left)
        return freed

    def _blocks_of(self, view: View, handle: str, stored: Mapping[str, int] | None) -> list[tuple[Block, list[int]]]:
        """Blocks with the ordinals that a handle holds in them; our own blocks are searched when the index is wrong."""
        counts = dict(stored or {})
        found = [(block, plan.ordinals_of_handle(block, handle)) for block in self._readable_blocks(view, counts)]
        if stored and {block.cidr: len(ordinals) for block, ordinals in found} == counts:
            return found
        own = [cidr for cidr in self._store.affinities(view, self.host, "host", 0) if cidr not in counts]
        found += [(block, plan.ordinals_of_handle(block, handle)) for block in self._readable_blocks(view, own)]
        return [(block, ordinals) for block, ordinals in found if ordinals]

    def _readable_blocks(self, view: View, cidrs: Iterable[str]) -> list[Block]:
        blocks = []
        readable = [cidr for cidr in cidrs if parse_net(cidr) is not None]
        view.need(*((key_path(BlockKey(cidr)), False) for cidr in readable))
        for cidr in readable:
            block = self._store.readable_block(view, cidr)
            if block is not None:
                blocks.append(block)
        return blocks

    async def _release_quietly(self, cidr: str, host: str, kind: str, must_be_empty: bool) -> None:
        await self._transactions.run(lambda view: self._store.release_affinity(view, cidr, host, kind, must_be_empty))

    # Look-ups.

    def _addresses_of(self, view: View, handle: str) -> tuple[str, ...]:
        stored = self._store.handle(view, handle)
        held = self._blocks_of(view, handle, stored)
        if stored is None and not held:
            raise ResourceDoesNotExist(HandleKey(handle))
        return tuple(block.address(ordinal) for block, ordinals in held for ordinal in ordinals)

    def _plan_attributes(self, view: View, address: str) -> Attribute:
        network = address_net(address)
        text = str(network.network_address)
        pool = plan.pool_for(self._store.pools(view), network, enabled_only=True)
        if pool is None:
            raise ResourceDoesNotExist(text, "No valid IPPool")
        block = self._store.find_block(view, network)
        attribute = None if block is None else block.attribute(block.ordinal(text))
        if attribute is None:
            raise ResourceDoesNotExist(text, "IP is unassigned")
        if attribute.released_at is not None:
            raise AddressCooling(text)
        return attribute

    def _blocks_in(self, view: View, cidr: str) -> list[str]:
        network = host_net(cidr)
        first = host_net(str(network.network_address))
        pool = plan.pool_for(self._store.pools(view), first, enabled_only=True)
        if pool is None:
            raise BadData(f"The requested CIDR ({network}) is not within any configured pools.")
        if network.prefixlen > pool.block_length:
            raise BadData(f"The requested CIDR ({network}) is smaller than the minimum.")
        if pool.block_length - network.prefixlen > MOST_BLOCK_BITS:
            blocks = f"2^{pool.block_length - network.prefixlen} blocks"
            raise BadData(
                f"The requested CIDR ({network}) has {blocks}: name parts of it, 2^{MOST_BLOCK_BITS} at most."
            )
        return [str(part) for part in network.subnets(new_prefix=pool.block_length)]


def _owner(host: str, use: str) -> tuple[str, str]:
    """Who owns the blocks that serve a request, and of which kind it is: load balancer addresses belong to no host."""
    return (host or VIRTUAL_HOST, "virtual") if use == LOAD_BALANCER else (host, "host")


def _attribute(handle: str | None, attributes: Mapping[str, str] | None) -> Attribute:
    for name, value in (attributes or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise BadData(f"attribute {name!r} = {value!r} is not text: other programs could not read the block")
    return Attribute(handle or None, tuple(sorted((attributes or {}).items())))


def _check_release(block: Block, ordinal: int, entry: Release) -> None:
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
        _check_release(block, ordinal, entry)
    except ResourceUpdateConflict:
        return False
    return True


def _conflict(address: str, cause: str) -> ResourceUpdateConflict:
    error = ResourceUpdateConflict(address)
    error.__cause__ = CalicoError(f"{cause} when attempting to release IP")
    return error

"""The IPAM service: assign, release and look up addresses (spec/ipam.md 5-12).

Each operation is a plan (see `transaction`): it reads what it must, decides with `plan`, and commits block, handle
and affinity together in one compare-and-swap transaction. A long-lived service is fed by the agent's watch
(`feed`, `observe`) and then assigns an address with a single request to etcd.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec

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
from libcalico.ipam import model, plan
from libcalico.ipam.model import Attribute, Block, Config
from libcalico.ipam.plan import Pool
from libcalico.ipam.transaction import Transactions, View
from libcalico.model import codec, defaults
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

POOLS = list_prefix("IPPool")
RESERVATIONS = list_prefix("IPReservation")
CONFIG = key_path(IPAMConfigKey())
RECLAIM_AGE_S = 60
LOAD_BALANCER = "LoadBalancer"
FEED_PREFIXES = (POOLS, RESERVATIONS, BLOCKS, CONFIG)


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


class Release(NamedTuple):
    """One address to release, only if it is still held by this handle and has this sequence number (None: any)."""

    address: str
    handle: str | None = None
    sequence: int | None = None


class Released(NamedTuple):
    """`done` are the addresses without error; those of them that were not in use are in `unallocated` too."""

    done: tuple[str, ...]
    unallocated: tuple[str, ...]


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


class Usage(NamedTuple):
    """A pool with its blocks, for `ipam show`."""

    pool: Pool | None
    blocks: tuple[Block, ...]


class BlockNotEmpty(BadData):
    """The block still has addresses in use."""

    def __init__(self, cidr: str) -> None:
        super().__init__(f"block '{cidr}' is not empty")


class ClaimConflict(CalicoError):
    """Another owner has the block."""

    def __init__(self, cidr: str, owner: str | None) -> None:
        super().__init__(f"{cidr} already claimed by {owner}")


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
        self._clock = clock or SystemClock()
        self._transactions = Transactions(datastore)
        self._first_block = first_block or (lambda host, _pool, blocks: plan.start_index(host, blocks))
        self._decoded: dict[tuple[str, bytes], Any] = {}

    def feed(self) -> tuple[str, ...]:
        """From now on `observe` is told of every change below the returned prefixes, all present values first."""
        fed = (*FEED_PREFIXES, self._affinity_prefix(self.host, "host"), key_path(ResourceKey("Node", self.host)))
        self._transactions.cache.fed = fed
        self._transactions.cache.prefixes.update(fed)
        return fed

    def observe(self, path: str, value: bytes | None, revision: int) -> None:
        """A key has changed (a fed service only)."""
        self._transactions.cache.observe(path, value, revision)

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
    ) -> tuple[Assigned | None, Assigned | None]:
        """IPv4 addresses first, then IPv6; None for a version of which none were asked.

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
                assigned, problem = await self._transactions.run(partial(self._plan_assign, request=request))
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
            lambda view: self._plan_assign_ip(view, _host_net(address), attribute, host or self.host, use, max_alloc)
        )

    async def release_ips(self, addresses: Iterable[str | Release]) -> Released:
        """Free addresses; those that are not in use are reported, not an error."""
        wanted = [Release(entry) if isinstance(entry, str) else entry for entry in addresses]
        released: Released = await self._transactions.run(lambda view: self._plan_release(view, wanted))
        return released

    async def release_by_handle(self, handle: str) -> None:
        """Free all addresses of a handle; raises `ResourceDoesNotExist` when there is no such handle."""
        await self._transactions.run(lambda view: self._plan_release_handle(view, handle))

    async def ips_by_handle(self, handle: str) -> tuple[str, ...]:
        """The addresses of a handle."""
        found: tuple[str, ...] = await self._transactions.run(lambda view: self._addresses_of(view, handle))
        return found

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
                await self._transactions.run(partial(self._claim, cidr=block, host=owner, kind="host"))
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
            block = self._block(view, cidr)
            if block is not None and block.affinity:
                kind, _, owner = block.affinity.partition(":")
                self._release_affinity(view, cidr, owner, kind, must_be_empty)

        await self._transactions.run(step)

    async def release_host_affinities(self, host: str = "", must_be_empty: bool = False, kind: str = "host") -> None:
        """Give up all blocks of a host. All are tried, then the last error is raised."""
        owner = host or self.host
        last: CalicoError | None = None
        for cidr in await self._transactions.run(lambda view: list(self._affinities(view, owner, kind, 0))):
            try:
                await self._release_quietly(cidr, owner, kind, must_be_empty)
            except CalicoError as error:
                last = error
        if last is not None:
            raise last

    async def release_pool_affinities(self, cidr: str) -> None:
        """Give up every host's blocks inside a pool."""
        network = _host_net(cidr)
        for key in await self._transactions.run(lambda view: self._affinities_in(view, network)):
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
        found: Config = await self._transactions.run(self._config)
        return found

    async def set_config(self, config: Config) -> None:
        """Change the configuration; raises `BadData` for a combination that cannot be."""
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise BadData("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")
        if config.max_blocks_per_host > 0 and not config.strict_affinity:
            raise BadData("MaxBlocksPerHost requires StrictAffinity to be enabled")

        def step(view: View) -> None:
            if self._config(view) != config:
                view.put(CONFIG, model.encode_config(config))

        await self._transactions.run(step)

    async def get_utilization(self) -> tuple[Usage, ...]:
        """Every pool with its blocks, in pool order; last the blocks outside all pools."""

        def step(view: View) -> tuple[Usage, ...]:
            pools = self._pools(view)
            blocks = list(self._all_blocks(view, 0).values())
            usage = [Usage(p, tuple(b for b in blocks if plan.contains(p.network, b.network))) for p in pools]
            rest = tuple(b for b in blocks if not any(plan.contains(p.network, b.network) for p in pools))
            return (*usage, Usage(None, rest))

        found: tuple[Usage, ...] = await self._transactions.run(step)
        return found

    # What plans read.

    def _cached(self, path: str, value: bytes, decode: Callable[[], Any]) -> Any:
        key = (path, value)
        if key not in self._decoded:
            if len(self._decoded) > 4096:
                self._decoded.clear()
            self._decoded[key] = decode()
        return self._decoded[key]

    def _pools(self, view: View) -> list[Pool]:
        pools = []
        for path, value in view.below(POOLS).items():
            pool = self._cached(path, value, partial(_decode_pool, path, value))
            if pool is not None:
                pools.append(pool)
        return pools

    def _reservations(self, view: View) -> list[IPNetwork]:
        networks = []
        for path, value in view.below(RESERVATIONS).items():
            networks += self._cached(path, value, partial(_decode_reservation, value))
        return networks

    def _config(self, view: View) -> Config:
        return model.decode_config(view.get(CONFIG))

    def _node_labels(self, view: View, host: str, use: str) -> Mapping[str, str]:
        if use == LOAD_BALANCER:
            return {}
        key = ResourceKey("Node", host)
        value = view.get(key_path(key))
        if value is None:
            raise ResourceDoesNotExist(key)
        labels: Mapping[str, str] = self._cached(key_path(key), value, lambda: codec.decode(key, value).metadata.labels)
        return labels

    def _block(self, view: View, cidr: str) -> Block | None:
        key = BlockKey(cidr)
        value = view.get(key_path(key))
        if value is None:
            return None
        block: Block = self._cached(key_path(key), value, lambda: model.decode_block(key, value))
        return block

    def _all_blocks(self, view: View, version: int) -> dict[str, Block]:
        prefixes = [f"{BLOCKS}ipv{one}/block/" for one in ((version,) if version else (4, 6))]
        view.need(*((prefix, True) for prefix in prefixes))
        blocks = {}
        for prefix in prefixes:
            for path in view.below(prefix):
                key = parse_path(path)
                if isinstance(key, BlockKey):
                    try:
                        block = self._block(view, key.cidr)
                    except ParsingDatastoreEntry:
                        continue
                    if block is not None:
                        blocks[key.cidr] = block
        return blocks

    @staticmethod
    def _affinity_prefix(host: str, kind: str) -> str:
        return f"{AFFINITIES if kind == 'host' else f'{IPAM}{kind}/'}{host}/"

    def _affinities(self, view: View, host: str, kind: str, version: int) -> dict[str, str]:
        """The host's blocks in key order, with the state of each claim."""
        found = {}
        for path, value in view.below(self._affinity_prefix(host, kind)).items():
            key = parse_path(path)
            if isinstance(key, AffinityKey) and (not version or _host_net(key.cidr).version == version):
                found[key.cidr] = model.decode_affinity(value)
        return found

    def _affinities_in(self, view: View, network: IPNetwork) -> list[AffinityKey]:
        prefixes = (AFFINITIES, f"{IPAM}virtual/")
        view.need(*((prefix, True) for prefix in prefixes))
        keys = [parse_path(path) for prefix in prefixes for path in view.below(prefix)]
        return [key for key in keys if isinstance(key, AffinityKey) and plan.contains(network, _host_net(key.cidr))]

    def _handle(self, view: View, handle: str, optimistic: bool = False) -> dict[str, int] | None:
        value = view.get(key_path(HandleKey(handle)), optimistic)
        return None if value is None else model.decode_handle(value)

    # What plans write.

    def _put_block(self, view: View, block: Block) -> None:
        view.put(key_path(BlockKey(block.cidr)), model.encode_block(block))

    def _store_released(self, view: View, block: Block) -> None:
        if block.affinity is None and plan.is_empty(block):
            view.delete(key_path(BlockKey(block.cidr)))
        else:
            self._put_block(view, block)

    def _count_handle(self, view: View, handle: str | None, cidr: str, count: int) -> None:
        if not handle:
            return
        current = self._handle(view, handle, optimistic=count > 0)
        if current is None and count < 0:
            return
        blocks = plan.add_to_handle(current or {}, cidr, count)
        path = key_path(HandleKey(handle))
        if blocks:
            view.put(path, model.encode_handle(blocks))
        else:
            view.delete(path)

    def _fresh_block(self, cidr: str, host: str, kind: str) -> Block:
        now = self._clock.now()
        return plan.new_block(cidr, f"{kind}:{host}", rfc3339(now), int(now.timestamp() * 1_000_000) * 1000)

    def _claim(self, view: View, cidr: str, host: str, kind: str) -> Block:
        """Own a block: create it, or confirm that it is ours."""
        block = self._block(view, cidr)
        affinity = key_path(AffinityKey(host, cidr, kind))
        if block is None:
            block = self._fresh_block(cidr, host, kind)
            self._put_block(view, block)
        elif block.affinity != f"{kind}:{host}":
            raise ClaimConflict(cidr, block.affinity)
        current = view.get(affinity)
        if current is None or model.decode_affinity(current) != "confirmed":
            view.put(affinity, model.CONFIRMED)
        return block

    # Auto-assign.

    def _plan_assign(self, view: View, request: Request) -> tuple[Assigned, CalicoError | None]:
        kind = "virtual" if request.use == LOAD_BALANCER else "host"
        host = "load-balancer" if kind == "virtual" else request.host
        handle = request.attribute.handle
        self._need_facts(view, host, kind)
        if request.max_alloc and handle:
            held = [a for a in self._addresses_of_known(view, handle) if _host_net(a).version == request.version]
            if len(held) >= request.max_alloc:
                whole = tuple(str(_host_net(a)) for a in held[: request.wanted])
                return Assigned(whole, request.wanted, (), request.version), None
        pools = plan.select_pools(
            self._pools(view), request.version, request.pools, host, self._node_labels(view, host, request.use),
            request.namespace_labels, request.use,
        )  # fmt: skip
        return _Assignment(self, view, request, host, kind, pools).run()

    def _need_facts(self, view: View, host: str, kind: str) -> None:
        view.need(
            (CONFIG, False), (POOLS, True), (RESERVATIONS, True), (self._affinity_prefix(host, kind), True),
            (key_path(ResourceKey("Node", host)), False),
        )  # fmt: skip

    def _addresses_of_known(self, view: View, handle: str) -> tuple[str, ...]:
        try:
            return self._addresses_of(view, handle)
        except ResourceDoesNotExist:
            return ()

    def _plan_ensure(self, view: View, request: Request) -> str:
        self._need_facts(view, request.host, "host")
        labels = self._node_labels(view, request.host, request.use)
        pools = plan.select_pools(self._pools(view), request.version, (), request.host, labels, {}, request.use)
        return _Assignment(self, view, request, request.host, "host", pools).ensure()

    # A given address.

    def _plan_assign_ip(
        self, view: View, network: IPNetwork, attribute: Attribute, host: str, use: str, max_alloc: int
    ) -> None:
        view.need((POOLS, True), (CONFIG, False))
        address = str(network.network_address)
        pool = plan.pool_for(self._pools(view), network, enabled_only=True)
        if pool is None:
            raise BadData("The provided IP address is not in a configured pool\n")
        if use and use not in pool.uses:
            raise BadData(f"IP address {address} is in pool {pool.name}, which does not allow use {use}")
        if max_alloc and attribute.handle:
            held = [
                a for a in self._addresses_of_known(view, attribute.handle) if _host_net(a).version == network.version
            ]
            if address in held:
                return
            if len(held) >= max_alloc:
                raise BadData(
                    f"handle {attribute.handle} already has IP(s) allocated, cannot assign additional IP {address}"
                    f" (maxAllocPerIPVersion={max_alloc})"
                )
        cidr = plan.block_cidr(address, pool.block_length)
        block = self._block(view, cidr)
        if block is None:
            block = self._claim(view, cidr, host, "host")
        elif self._config(view).strict_affinity and block.affinity != f"host:{host}":
            if block.affinity is None:
                raise BadData(f"Attempt to assign from block {cidr} with no affinity")
            raise BadData("Block host affinity does not match")
        ordinal = block.ordinal(address)
        if block.allocations[ordinal] is not None:
            raise ResourceAlreadyExists(address, "Address already assigned in block")
        self._put_block(view, plan.take_ordinal(block, ordinal, attribute))
        self._count_handle(view, attribute.handle, cidr, 1)

    # Release.

    def _plan_release(self, view: View, wanted: Sequence[Release]) -> Released:
        by_block: dict[str, dict[int, Release]] = {}
        done, unallocated = [], []
        view.need((POOLS, True))
        for entry in wanted:
            network = _host_net(entry.address)
            address = str(network.network_address)
            block = self._find_block(view, network)
            if block is None:
                unallocated.append(address)
                if plan.pool_for(self._pools(view), network, enabled_only=False) is not None:
                    done.append(address)
            else:
                done.append(address)
                by_block.setdefault(block.cidr, {})[block.ordinal(address)] = entry
        for cidr, entries in by_block.items():
            current = self._block(view, cidr)
            assert current is not None
            ordinals = []
            for ordinal, entry in entries.items():
                _check_release(current, ordinal, entry)
                if current.allocations[ordinal] is None:
                    unallocated.append(current.address(ordinal))
                else:
                    ordinals.append(ordinal)
            self._free(view, current, sorted(ordinals))
        return Released(tuple(dict.fromkeys(done)), tuple(sorted(set(unallocated))))

    def _find_block(self, view: View, network: IPNetwork) -> Block | None:
        address = str(network.network_address)
        pool = plan.pool_for(self._pools(view), network, enabled_only=False)
        if pool is not None:
            block = self._block(view, plan.block_cidr(address, pool.block_length))
            if block is not None:
                return block
        for block in self._all_blocks(view, network.version).values():
            if plan.contains(block.network, network):
                return block
        return None

    def _free(self, view: View, block: Block, ordinals: list[int]) -> None:
        if not ordinals:
            return
        counts = plan.count_by_handle(block, ordinals)
        view.need(*((key_path(HandleKey(handle)), False) for handle in counts if handle))
        released = plan.release(block, ordinals)
        self._store_released(view, released)
        for handle, count in counts.items():
            self._count_handle(view, handle, block.cidr, -count)
        self._drop_if_unselected(view, released)

    def _drop_if_unselected(self, view: View, block: Block) -> None:
        """After a release: an empty block goes back when its pool no longer selects the owner's node."""
        if block.affinity is None or not block.affinity.startswith("host:") or not plan.is_empty(block):
            return
        host = block.affinity.removeprefix("host:")
        node = view.get(key_path(ResourceKey("Node", host)))
        pool = plan.pool_for(self._pools(view), block.network, enabled_only=True)
        if node is None or pool is None:
            return
        if not plan.selects(pool.node_selector, self._node_labels(view, host, "Workload")):
            self._release_affinity(view, block.cidr, host, "host", True)

    def _plan_release_handle(self, view: View, handle: str) -> None:
        path = key_path(HandleKey(handle))
        blocks = self._handle(view, handle)
        view.need((POOLS, True))
        if blocks is None:
            raise ResourceDoesNotExist(HandleKey(handle))
        view.need(*((key_path(BlockKey(cidr)), False) for cidr in blocks))
        for cidr in blocks:
            block = self._block(view, cidr)
            if block is not None:
                self._free(view, block, plan.ordinals_of_handle(block, handle))
        if self._handle(view, handle):
            view.delete(path)

    def _release_affinity(self, view: View, cidr: str, host: str, kind: str, must_be_empty: bool) -> None:
        path = key_path(AffinityKey(host, cidr, kind))
        block_path = key_path(BlockKey(cidr))
        view.need((path, False), (block_path, False))
        known = view.get(path) is not None
        block = self._block(view, cidr)
        if block is not None and block.affinity == f"{kind}:{host}":
            if must_be_empty and not plan.is_empty(block):
                raise BlockNotEmpty(cidr)
            if plan.is_empty(block):
                view.delete(block_path)
            else:
                self._put_block(view, plan.disown(block))
        if known:
            view.delete(path)

    async def _release_quietly(self, cidr: str, host: str, kind: str, must_be_empty: bool) -> None:
        await self._transactions.run(lambda view: self._release_affinity(view, cidr, host, kind, must_be_empty))

    # Look-ups.

    def _addresses_of(self, view: View, handle: str) -> tuple[str, ...]:
        blocks = self._handle(view, handle)
        if blocks is None:
            raise ResourceDoesNotExist(HandleKey(handle))
        view.need(*((key_path(BlockKey(cidr)), False) for cidr in blocks))
        found = []
        for cidr in blocks:
            try:
                block = self._block(view, cidr)
            except ParsingDatastoreEntry:
                continue
            if block is not None:
                found += [block.address(ordinal) for ordinal in plan.ordinals_of_handle(block, handle)]
        return tuple(found)

    def _plan_attributes(self, view: View, address: str) -> Attribute:
        network = _host_net(address)
        text = str(network.network_address)
        pool = plan.pool_for(self._pools(view), network, enabled_only=True)
        if pool is None:
            raise ResourceDoesNotExist(text, "No valid IPPool")
        block = self._find_block(view, network)
        attribute = None if block is None else block.attribute(block.ordinal(text))
        if attribute is None:
            raise ResourceDoesNotExist(text, "IP is unassigned")
        return attribute

    def _blocks_in(self, view: View, cidr: str) -> list[str]:
        network = _host_net(cidr)
        first = _host_net(str(network.network_address))
        pool = plan.pool_for(self._pools(view), first, enabled_only=True)
        if pool is None:
            raise BadData(f"The requested CIDR ({network}) is not within any configured pools.")
        if network.prefixlen > pool.block_length:
            raise BadData(f"The requested CIDR ({network}) is smaller than the minimum.")
        return [str(part) for part in network.subnets(new_prefix=pool.block_length)]


class _Assignment:
    """One auto-assign against one view: own blocks first, then claims, then borrowing (spec/ipam.md 7)."""

    def __init__(
        self, service: IpamService, view: View, request: Request, host: str, kind: str, pools: list[Pool]
    ) -> None:
        self.service = service
        self.view = view
        self.request = request
        self.host = host
        self.kind = kind
        self.pools = pools
        self.config = service._config(view)
        self.reservations = service._reservations(view)
        self.found: list[str] = []

    def run(self) -> tuple[Assigned, CalicoError | None]:
        """Addresses, and the error that ended the search early, if any."""
        messages: list[str] = []
        problem: CalicoError | None = None
        owned = self._own_blocks()
        for cidr in owned:
            if self._missing():
                self._take(self.service._claim(self.view, cidr, self.host, self.kind))
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
            block = self.service._claim(self.view, cidr, self.host, self.kind)
            if plan.free_count(block, self._reserved(block.network)):
                return cidr
        claimed = self._claim_new() if self.config.auto_allocate_blocks else None
        if claimed is None:
            raise CalicoError("failed to find or claim a block")
        return claimed.cidr

    def _missing(self) -> int:
        return self.request.wanted - len(self.found)

    def _limit(self) -> int:
        configured, wanted = self.config.max_blocks_per_host, self.request.max_blocks
        if configured and wanted:
            return min(configured, wanted)
        return configured or wanted or plan.DEFAULT_BLOCK_LIMIT

    def _reserved(self, network: IPNetwork) -> int:
        return plan.reserved_bits(network, self.reservations)

    def _own_blocks(self) -> list[str]:
        """Our blocks in the allowed pools, in key order; stale claims are dropped on the way."""
        affinities = self.service._affinities(self.view, self.host, self.kind, self.request.version)
        self.view.need(*((key_path(BlockKey(cidr)), False) for cidr in affinities))
        own = []
        for cidr in affinities:
            block = self.service._block(self.view, cidr)
            network = _host_net(cidr)
            if block is not None and block.affinity != f"{self.kind}:{self.host}":
                self.view.delete(key_path(AffinityKey(self.host, cidr, self.kind)))
            elif any(plan.contains(pool.network, network) for pool in self.pools):
                own.append(cidr)
            else:
                self._release_unselected(cidr, block)
        return own

    def _release_unselected(self, cidr: str, block: Block | None) -> None:
        pool = plan.pool_for(self.service._pools(self.view), _host_net(cidr), enabled_only=True)
        if pool is None or (block is not None and not plan.is_empty(block)):
            return
        labels = self.service._node_labels(self.view, self.host, self.request.use)
        if not plan.selects(pool.node_selector, labels):
            self.service._release_affinity(self.view, cidr, self.host, self.kind, True)

    def _take(self, block: Block) -> None:
        """As many addresses as are missing; the block, its handle and our counts are written."""
        filled, ordinals = plan.take(block, self._missing(), self.request.attribute, self._reserved(block.network))
        if not ordinals:
            return
        self.service._put_block(self.view, filled)
        self.service._count_handle(self.view, self.request.attribute.handle, block.cidr, len(ordinals))
        length = block.network.prefixlen
        self.found += [f"{block.address(ordinal)}/{length}" for ordinal in ordinals]

    def _claim_new(self) -> Block | None:
        """A block that nobody has, or an old empty one of somebody else; None when there is none."""
        blocks = self.service._all_blocks(self.view, self.request.version)
        idle: list[Block] = []
        networks = sorted((b.network for b in blocks.values()), key=lambda n: int(n.network_address))
        for pool in self.pools:
            for cidr in plan.block_cidrs(pool, self._first(pool)):
                block = blocks.get(cidr)
                network = _host_net(cidr)
                reserved = self._reserved(network)
                if reserved.bit_count() == network.num_addresses:
                    continue
                if block is None:
                    if _overlaps(networks, network):
                        continue
                    return self.service._claim(self.view, cidr, self.host, self.kind)
                if block.affinity == f"{self.kind}:{self.host}":
                    if plan.free_count(block, reserved):
                        return self.service._claim(self.view, cidr, self.host, self.kind)
                elif block.affinity and plan.is_empty(block) and plan.free_count(block, reserved):
                    idle.append(block)
        return self._reclaim(idle)

    def _first(self, pool: Pool) -> int:
        bits = pool.block_length - pool.network.prefixlen
        return self.service._first_block(self.host, str(pool.network), 1 << bits) if bits >= 0 else 0

    def _reclaim(self, idle: list[Block]) -> Block | None:
        now = rfc3339(self.service._clock.now())
        for block in idle:
            if block.claim_time and _age_s(block.claim_time, now) < RECLAIM_AGE_S:
                continue
            assert block.affinity is not None
            kind, _, owner = block.affinity.partition(":")
            former = key_path(AffinityKey(owner, block.cidr, kind))
            if self.view.get(former) is not None:
                self.view.delete(former)
            fresh = self.service._fresh_block(block.cidr, self.host, self.kind)
            self.service._put_block(self.view, fresh)
            self.view.put(key_path(AffinityKey(self.host, block.cidr, self.kind)), model.CONFIRMED)
            return fresh
        return None

    def _borrow(self, messages: list[str]) -> None:
        blocks = self.service._all_blocks(self.view, self.request.version)
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
                current = self.service._block(self.view, block.cidr)
                if self._missing() and current is not None:
                    self._take(current)
            if self._missing():
                exhausted.append(str(pool.network))
        if self._missing():
            messages.append(f"No IPs available in pools: [{' '.join(exhausted)}]")


def _attribute(handle: str | None, attributes: Mapping[str, str] | None) -> Attribute:
    return Attribute(handle or None, tuple(sorted((attributes or {}).items())))


def _host_net(text: str) -> IPNetwork:
    network = parse_net(text)
    if network is None:
        raise BadData(f"invalid IP address specified: {text}")
    return network


def _check_release(block: Block, ordinal: int, entry: Release) -> None:
    address = block.address(ordinal)
    attribute = block.attribute(ordinal)
    if entry.sequence is not None:
        current = dict(block.sequences).get(ordinal)
        if current != entry.sequence:
            raise _conflict(address, f"the given sequence number ({entry.sequence}) does not match ({current})")
    handle = None if entry.handle is None else entry.handle.partition("\r")[0]
    if handle is not None and attribute is not None and attribute.handle != handle:
        raise _conflict(address, f"the given handle ({handle}) does not match ({attribute.handle or ''})")


def _conflict(address: str, cause: str) -> ResourceUpdateConflict:
    error = ResourceUpdateConflict(address)
    error.__cause__ = CalicoError(f"{cause} when attempting to release IP")
    return error


def _overlaps(networks: list[IPNetwork], candidate: IPNetwork) -> bool:
    place = bisect.bisect_right(networks, int(candidate.network_address), key=lambda n: int(n.network_address))
    near = networks[max(0, place - 1) : place + 1]
    return any(network.version == candidate.version and network.overlaps(candidate) for network in near)


def _age_s(earlier: str, later: str) -> float:
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except ValueError:
        return float("inf")


def _decode_pool(path: str, value: bytes) -> Pool | None:
    key = parse_path(path)
    try:
        resource = defaults.after_read(codec.decode(key, value)) if key is not None else None
    except ParsingDatastoreEntry:
        return None
    return plan.pool_of(resource) if isinstance(resource, IPPool) else None


def _decode_reservation(value: bytes) -> list[IPNetwork]:
    try:
        texts = msgspec.json.decode(value)["spec"].get("reservedCIDRs") or []
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return []
    return [network for text in texts if (network := parse_net(str(text))) is not None]

"""The IPAM service: assign, release and look up addresses (spec/ipam.md 5-12).

Each call is one plan or a few (see `transaction`): a plan reads what it must, decides, and block, handle and affinity
are committed together in one compare-and-swap transaction. A long-lived service follows the agent's watch
(`follow`, `observe`) and then assigns an address with a single request to etcd.

The plans are in `assignment`, `release`, `affinity` and `usage`. Every call may raise `DatastoreError`, and
`ResourceUpdateConflict` after 100 conflicts with other writers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial

from libcalico.clock import Clock, SystemClock
from libcalico.datastore.contract import Datastore
from libcalico.errors import BadData, CalicoError, ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.ipam import affinity, assignment, release, usage
from libcalico.ipam.addresses import address_net, host_net
from libcalico.ipam.affinity import ClaimConflict
from libcalico.ipam.assignment import AlsoStore, Assigned, AssignError, OneAddress, Request, attribute_of
from libcalico.ipam.plan import Owner
from libcalico.ipam.release import Held, Release, Released
from libcalico.ipam.store import CONFIG, POOLS, RESERVATIONS, FirstBlock, Store
from libcalico.ipam.transaction import Transactions, View
from libcalico.ipam.usage import Usage
from libcalico.model import ipam_data
from libcalico.model.ipam_data import Attribute, Config
from libcalico.model.keys import BLOCKS, HandleKey, ResourceKey, key_path

ADDRESSES_AT_ONCE = 50
FOLLOWED_PREFIXES = (POOLS, RESERVATIONS, BLOCKS, CONFIG)


class IpamService:
    """IPAM as seen from one host, which is meant wherever a call names none."""

    def __init__(
        self, datastore: Datastore, host: str, clock: Clock | None = None, first_block: FirstBlock | None = None
    ) -> None:
        self.host = host
        self._store = Store(clock or SystemClock(), first_block)
        self._transactions = Transactions(datastore)

    def follow(self) -> tuple[str, ...]:
        """From now on every change below the returned prefixes is given to `observe`, all present values first."""
        own = affinity.affinity_prefix(Owner(self.host))
        followed = (*FOLLOWED_PREFIXES, own, key_path(ResourceKey("Node", self.host)))
        self._transactions.cache.followed = followed
        self._transactions.cache.prefixes.update(followed)
        return followed

    @property
    def mended_free_lists(self) -> int:
        """How many blocks were met whose free list named addresses in use (spec/ipam.md 17)."""
        return self._store.mended_free_lists

    def observe(self, path: str, value: bytes | None, revision: int, certain: bool = False) -> None:
        """A key has changed (for a service that follows). `certain`: it was read as part of a whole snapshot."""
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
        also_store: AlsoStore | None = None,
    ) -> tuple[Assigned | None, Assigned | None]:
        """IPv4 addresses first, then IPv6; None for a version of which none were asked (spec/ipam.md 7).

        `pools4` and `pools6` are CIDRs of pools, empty: those that select the host. `use` is `Workload`, `Tunnel` or
        `LoadBalancer`. `max_blocks` bounds the host's blocks, `max_alloc` the handle's addresses of a version (0: no
        bound of this call). `also_store`, which only goes with one version, is called with them when none is missing.
        Raises `AssignError`, which holds what was assigned until then. That fewer were free than were asked for is no
        error: see `Assigned.shortfall`."""
        if not use:
            raise AssignError("must specify the intended use when assigning an IP")
        attribute = attribute_of(handle, attributes)
        done: list[Assigned | None] = [None, None]
        for place, (version, count, pools) in enumerate(((4, num4, pools4), (6, num6, pools6))):
            if not count:
                continue
            request = Request(
                version, count, attribute, host or self.host, tuple(pools), use, namespace_labels or {}, max_blocks,
                max_alloc, self.host,
            )  # fmt: skip
            try:
                step = partial(assignment.assign, self._store, request=request, also_store=also_store)
                assigned, problem = await self._transactions.run(step)
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
        """Assign this very address (spec/ipam.md 8); a block that nobody owns becomes the host's.

        Raises `ResourceAlreadyExists` when it is in use, `BadData` when no pool has it or the block is foreign under
        strict affinity."""
        attribute = attribute_of(handle, attributes)
        request = OneAddress(address_net(address), attribute, host or self.host, use, max_alloc, self.host)
        await self._transactions.run(lambda view: assignment.assign_address(self._store, view, request))

    async def release_ips(self, addresses: Iterable[str | Release]) -> Released:
        """Free addresses (spec/ipam.md 10); those that are not in use are reported, not an error. A length, as
        `auto_assign` returns it, is passed over: `10.1.0.5/26` is 10.1.0.5.

        Many are freed in several transactions: all are tried, then the first error is raised, which is
        `ResourceUpdateConflict` for a `Release` whose handle or sequence number is not the stored one."""
        wanted = [Release(entry) if isinstance(entry, str) else entry for entry in addresses]
        done: list[str] = []
        unallocated: list[str] = []
        first: CalicoError | None = None
        for start in range(0, len(wanted), ADDRESSES_AT_ONCE):
            part = wanted[start : start + ADDRESSES_AT_ONCE]
            try:
                released = await self._transactions.run(partial(release.release_addresses, self._store, wanted=part))
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
            if release.release_handle(self._store, view, handle, Held(self.host)) is None:
                raise ResourceDoesNotExist(HandleKey(handle))

        await self._transactions.run(step)

    async def release_held(
        self,
        handles: Sequence[str],
        otherwise: str = "",
        only: Container[str] | None = None,
        kept: Container[str] = (),
        also_store: Callable[[View], None] | None = None,
    ) -> int:
        """Free what this host has under these handles, `only` those addresses and not the `kept`; how many it was.

        Handles that do not exist are fine. `otherwise` is a handle that counts when the others hold nothing.
        `also_store` may write more keys in the same transaction."""
        held = Held(self.host, only, kept)

        def step(view: View) -> int:
            freed = sum(release.release_handle(self._store, view, handle, held) or 0 for handle in handles)
            if not freed and otherwise:
                freed = release.release_handle(self._store, view, otherwise, held) or 0
            if also_store is not None:
                also_store(view)
            return freed

        return await self._transactions.run(step)

    async def ips_by_handle(self, handle: str) -> tuple[str, ...]:
        """The addresses of a handle, without lengths; raises `ResourceDoesNotExist` when there is no such handle."""
        return await self._transactions.run(lambda view: usage.addresses_of(self._store, view, handle, self.host))

    async def addresses_of_node(self, node: str) -> tuple[Release, ...]:
        """What the attributes of addresses say belongs to a node, ready to be released."""
        return await self._transactions.run(lambda view: release.addresses_of_node(self._store, view, node))

    async def get_assignment_attributes(self, address: str) -> Attribute:
        """Handle and attributes of an address in use.

        Raises `ResourceDoesNotExist` for one that is not, `AddressCooling` if it was released a moment ago."""
        return await self._transactions.run(lambda view: usage.attributes_of(self._store, view, address))

    async def claim_affinity(self, cidr: str, host: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make a host the owner of every block in a range; returns the claimed CIDRs and those of other owners.

        Raises `BadData` for a range that is in no enabled pool, smaller than a block or of more than 2^16 blocks."""
        owner = Owner(host or self.host)
        blocks = await self._transactions.run(lambda view: affinity.blocks_in(self._store, view, cidr))
        claimed, failed = [], []
        for block in blocks:
            try:
                await self._transactions.run(partial(affinity.claim, self._store, cidr=block, owner=owner))
                claimed.append(block)
            except ClaimConflict:
                failed.append(block)
        return tuple(claimed), tuple(failed)

    async def release_affinity(self, cidr: str, host: str = "", must_be_empty: bool = False) -> None:
        """Give up a host's blocks in a range; addresses in use stay. Raises `BlockNotEmpty` if they may not be."""
        owner = Owner(host or self.host)
        for block in await self._transactions.run(lambda view: affinity.blocks_in(self._store, view, cidr)):
            await self._release_block(block, owner, must_be_empty)

    async def release_block_affinity(self, cidr: str, must_be_empty: bool = False) -> None:
        """Take a block from whoever owns it; raises `BlockNotEmpty` if addresses in use may not stay."""
        await self._transactions.run(lambda view: affinity.release_from_owner(self._store, view, cidr, must_be_empty))

    async def release_host_affinities(self, host: str = "", must_be_empty: bool = False, kind: str = "host") -> None:
        """Give up all blocks of a host (kind `virtual`: of a load balancer's controller). All are tried, then the last
        error is raised."""
        owner = Owner(host or self.host, kind)
        last: CalicoError | None = None
        for cidr in await self._transactions.run(lambda view: affinity.cidrs_of(view, owner, 0)):
            try:
                await self._release_block(cidr, owner, must_be_empty)
            except CalicoError as error:
                last = error
        if last is not None:
            raise last

    async def release_pool_affinities(self, cidr: str) -> None:
        """Give up every host's blocks inside a pool; addresses in use stay."""
        network = host_net(cidr)
        for key in await self._transactions.run(lambda view: affinity.claims_in(view, network)):
            await self._release_block(key.cidr, Owner(key.host, key.type), False)

    async def remove_host(self, host: str) -> None:
        """Forget a host: its affinities and its marker go, addresses stay in use."""
        await self.release_host_affinities(host)
        await self._transactions.run(lambda view: affinity.forget_host(view, host))

    async def ensure_block(
        self, host: str = "", num4: bool = True, num6: bool = False
    ) -> tuple[str | None, str | None]:
        """Own a block with a free address in each IP version that is wanted; nothing is assigned. Returns the CIDRs."""
        owner = host or self.host
        blocks: list[str | None] = []
        for version, wanted in ((4, num4), (6, num6)):
            request = Request(version, 1, Attribute(), owner, (), "Workload", {}, 0, 0, self.host)
            step = partial(assignment.ensure_block, self._store, request=request)
            blocks.append(await self._transactions.run(step) if wanted else None)
        return blocks[0], blocks[1]

    async def get_config(self) -> Config:
        """The configuration in force (spec/ipam.md 3); raises `ParsingDatastoreEntry` for a damaged one."""
        return await self._transactions.run(self._store.config)

    async def set_config(self, config: Config) -> None:
        """Change the configuration, also a damaged one; raises `BadData` for a combination that cannot be."""
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise BadData("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")
        if config.max_blocks_per_host > 0 and not config.strict_affinity:
            raise BadData("MaxBlocksPerHost requires StrictAffinity to be enabled")

        def step(view: View) -> None:
            try:
                if self._store.config(view) == config:
                    return
            except ParsingDatastoreEntry:
                pass  # it is written over
            view.put(CONFIG, ipam_data.encode_config(config))

        await self._transactions.run(step)

    async def get_utilization(self) -> tuple[Usage, ...]:
        """Every pool with its blocks, in pool order; last the blocks outside all pools."""
        return await self._transactions.run(lambda view: usage.utilization(self._store, view))

    async def _release_block(self, cidr: str, owner: Owner, must_be_empty: bool) -> None:
        await self._transactions.run(lambda view: affinity.release(self._store, view, cidr, owner, must_be_empty))

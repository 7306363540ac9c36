"""Address management for scripts: the operations of `libcalico.ipam.service.IpamService` as plain calls.

Source of all rules: spec/ipam.md 5-12. Addresses are text without a length (`10.1.0.5`), or as `auto_assign` returns
them, with the length of their block (`10.1.0.5/26`); blocks and pools are CIDRs. Every call may raise `DatastoreError`
when the datastore cannot be reached, and `ResourceUpdateConflict` after 100 conflicts with other writers.
"""

from __future__ import annotations

from collections.abc import Container, Coroutine, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from libcalico.client.objects import AsyncClient
from libcalico.errors import BadData
from libcalico.ipam import audit
from libcalico.ipam.assignment import Assigned
from libcalico.ipam.audit import Audit
from libcalico.ipam.release import Release, Released
from libcalico.ipam.service import IpamService
from libcalico.ipam.store import LOAD_BALANCER
from libcalico.ipam.usage import Usage
from libcalico.model.ipam_data import Attribute, Config

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end and returns its result."""

    def __call__(self, work: Coroutine[object, object, T], /) -> T:
        """Blocks until it is done; raises what it raises."""


class Ipam:
    """Addresses of pools, for the hosts of the cluster.

    Calls that take addresses for a host, or blocks from it, must name it: `host="..."`. In the others a host is the one
    whose blocks are searched when a handle was lost."""

    def __init__(self, client: AsyncClient, run: Run) -> None:
        self._client = client
        self._run = run

    def _service(self, host: str = "") -> IpamService:
        return IpamService(self._client.datastore, host, self._client.clock)

    def auto_assign(
        self,
        num4: int = 0,
        num6: int = 0,
        handle: str | None = None,
        attributes: Mapping[str, str] | None = None,
        pools4: Sequence[str] | str = (),
        pools6: Sequence[str] | str = (),
        use: str = "Workload",
        namespace_labels: Mapping[str, str] | None = None,
        max_blocks: int = 0,
        max_alloc: int = 0,
        host: str = "",
    ) -> tuple[Assigned | None, Assigned | None]:
        """IPv4 addresses first, then IPv6; None for a version of which none were asked (spec/ipam.md 7).

        `pools4` and `pools6` are CIDRs of pools; without them, the pools that select the host. `use` is `Workload`,
        `Tunnel` or `LoadBalancer` (which needs no host). `max_blocks` bounds the host's blocks, `max_alloc` the
        handle's addresses of a version; 0 is no bound. That fewer were free than were asked for is no error: see
        `Assigned.shortfall`. Raises `AssignError`, which holds what was assigned until then and must be given back, and
        `BadData` without a host."""
        _check_count("num4", num4)
        _check_count("num6", num6)
        _check_host("auto_assign", host, use)
        return self._run(
            self._service().auto_assign(
                num4, num6, handle, attributes, _several(pools4), _several(pools6), use, namespace_labels, max_blocks,
                max_alloc, host,
            )
        )  # fmt: skip

    def assign_ip(
        self,
        address: str,
        handle: str | None = None,
        attributes: Mapping[str, str] | None = None,
        host: str = "",
        use: str = "",
        max_alloc: int = 0,
    ) -> None:
        """Assign this very address (spec/ipam.md 8); a block that nobody owns becomes the host's.

        Raises `ResourceAlreadyExists` when it is in use, `BadData` when no pool has it, when the block is foreign under
        strict affinity, and without a host."""
        _check_host("assign_ip", host, use)
        self._run(self._service().assign_ip(address, handle, attributes, host, use, max_alloc))

    def release_ips(self, addresses: Iterable[str | Release] | str | Release, host: str = "") -> Released:
        """Free addresses (spec/ipam.md 10); those that are not in use are reported in `unallocated`, not an error.

        Raises `ResourceUpdateConflict` for a `Release` whose handle or sequence number is not the stored one, after the
        others were released."""
        return self._run(self._service(host).release_ips(_several_addresses(addresses)))

    def release_by_handle(self, handle: str, host: str = "") -> None:
        """Free all addresses of a handle; raises `ResourceDoesNotExist` when there is no such handle."""
        self._run(self._service(host).release_by_handle(handle))

    def release_held(
        self,
        handles: Sequence[str] | str,
        otherwise: str = "",
        only: Container[str] | str | None = None,
        kept: Container[str] | str = (),
        host: str = "",
    ) -> int:
        """Free what these handles hold, `only` those addresses and not the `kept`; how many addresses it was.

        Handles that do not exist are fine. `otherwise` is a handle that counts when the others hold nothing. With a
        `host`, addresses whose attributes name another one stay."""
        only = [only] if isinstance(only, str) else only
        kept = [kept] if isinstance(kept, str) else kept
        return self._run(self._service(host).release_held(_several(handles), otherwise, only, kept))

    def ips_by_handle(self, handle: str, host: str = "") -> tuple[str, ...]:
        """The addresses of a handle, without lengths; raises `ResourceDoesNotExist` when there is no such handle."""
        return self._run(self._service(host).ips_by_handle(handle))

    def addresses_of_node(self, node: str) -> tuple[Release, ...]:
        """What the attributes of addresses say belongs to a node, ready for `release_ips`."""
        return self._run(self._service().addresses_of_node(node))

    def get_assignment_attributes(self, address: str) -> Attribute:
        """Handle and attributes of an address in use.

        Raises `ResourceDoesNotExist` for one that is not, `AddressCooling` if it was released a moment ago."""
        return self._run(self._service().get_assignment_attributes(address))

    def claim_affinity(self, cidr: str, host: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make a host the owner of every block in a range; returns the claimed CIDRs and those of other owners.

        Raises `BadData` for a range that is in no enabled pool, smaller than a block or of more than 2^16 blocks, and
        without a host."""
        _check_host("claim_affinity", host)
        return self._run(self._service().claim_affinity(cidr, host))

    def release_affinity(self, cidr: str, host: str = "", must_be_empty: bool = False) -> None:
        """Give up a host's blocks in a range; addresses in use stay, or `BlockNotEmpty` is raised if they may not.

        Raises `BadData` as `claim_affinity` does."""
        _check_host("release_affinity", host)
        self._run(self._service().release_affinity(cidr, host, must_be_empty))

    def release_block_affinity(self, cidr: str, must_be_empty: bool = False) -> None:
        """Take a block from whoever owns it; addresses in use stay, or `BlockNotEmpty` is raised if they may not."""
        self._run(self._service().release_block_affinity(cidr, must_be_empty))

    def release_host_affinities(self, host: str = "", must_be_empty: bool = False, kind: str = "host") -> None:
        """Give up all blocks of a host (kind `virtual`: of a load balancer's controller).

        All are tried, then the last error is raised; `BlockNotEmpty` if addresses in use may not stay."""
        _check_host("release_host_affinities", host)
        self._run(self._service().release_host_affinities(host, must_be_empty, kind))

    def release_pool_affinities(self, cidr: str) -> None:
        """Give up every host's blocks inside a pool; addresses in use stay."""
        self._run(self._service().release_pool_affinities(cidr))

    def remove_host(self, host: str) -> None:
        """Forget a host: its affinities and its marker go, addresses stay in use."""
        _check_host("remove_host", host)
        self._run(self._service().remove_host(host))

    def ensure_block(self, host: str = "", num4: bool = True, num6: bool = False) -> tuple[str | None, str | None]:
        """Own a block with a free address in each IP version that is wanted; nothing is assigned. Returns the CIDRs.

        Raises `CalicoError` when there is none to be had, `BadData` without a host."""
        _check_host("ensure_block", host)
        return self._run(self._service().ensure_block(host, num4, num6))

    def get_config(self) -> Config:
        """The configuration in force (spec/ipam.md 3); `cooldown_s` is in seconds.

        Raises `ParsingDatastoreEntry` for a damaged one: no address is assigned until it is mended (`set_config`)."""
        return self._run(self._service().get_config())

    def set_config(self, config: Config) -> None:
        """Change the configuration, also a damaged one; raises `BadData` for a combination that cannot be."""
        self._run(self._service().set_config(config))

    def get_utilization(self) -> tuple[Usage, ...]:
        """Every pool with its blocks, in pool order; last the blocks outside all pools."""
        return self._run(self._service().get_utilization())

    def check(self) -> Audit:
        """What is allocated and what is used, read at one revision (`calicoctl ipam check`).

        Raises `ResourceDoesNotExist` for a datastore without ClusterInformation."""
        return self._run(audit.take(self._client.datastore, self._client.clock))

    def unreadable_blocks(self) -> tuple[str, ...]:
        """The keys of stored blocks that cannot be read, and that no other call shows."""
        return self._run(audit.unreadable_blocks(self._client.datastore))

    def drop_handle(self, handle: str, revision: int) -> bool:
        """Delete a handle's key if it is still the one of this datastore revision; its addresses stay in use."""
        return self._run(audit.drop_handle(self._client.datastore, handle, revision))


def _several(texts: Sequence[str] | str) -> Sequence[str]:
    """One text may stand where several are taken."""
    return [texts] if isinstance(texts, str) else texts


def _several_addresses(addresses: Iterable[str | Release] | str | Release) -> Iterable[str | Release]:
    return [addresses] if isinstance(addresses, (str, Release)) else addresses


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 0:
        raise BadData(f"auto_assign: {name} = {value!r}: it must be a number of addresses, 0 or more")


def _check_host(operation: str, host: str, use: str = "") -> None:
    if not host and use != LOAD_BALANCER:
        raise BadData(f"{operation}: name the host that it is for: host='...'")

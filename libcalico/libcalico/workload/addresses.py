"""Addresses of an attachment from Calico's IPAM (spec/cni.md 7), and what a front's other IPAM has to offer."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

from libcalico.errors import CalicoError, DatastoreError, ResourceAlreadyExists, ResourceDoesNotExist, Unreachable
from libcalico.ipam.assignment import AlsoStore, Assigned, AssignError
from libcalico.ipam.plan import NoQualifiedPool
from libcalico.ipam.release import Release
from libcalico.ipam.transaction import View
from libcalico.model.resources import IPPool
from libcalico.net import bare_address
from libcalico.workload.endpoint import host_cidr
from libcalico.workload.errors import Refused
from libcalico.workload.work import Work

POOLS_TIMEOUT_S = 30.0


class OtherIpam(Protocol):
    """An IPAM that is not Calico's: a front's own. Both raise errors of `libcalico.errors`, or `TimeoutError`."""

    async def assign(self) -> tuple[str, ...]:
        """Addresses with their prefix lengths. May be cancelled: then `release` follows."""
        ...

    async def release(self) -> None:
        """Take back what `assign` gave, or may have given."""
        ...


async def assign(work: Work, also_store: AlsoStore | None = None) -> tuple[str, ...]:
    """Addresses as /32 and /128, IPv4 first; all that were asked for, or an error and none (even if etcd's answer is
    lost: what may have been assigned is given back).

    `also_store` writes more keys in the same transaction; it only goes with addresses of
    one version that IPAM may choose."""
    request = work.attachment.addresses
    fixed = request.fixed
    pools4 = await _resolve_pools(work, request.pools_v4, 4) if request.want_v4 or fixed else ()
    wants_v6 = request.want_v6 or any(":" in address for address in fixed)
    pools6 = await _resolve_pools(work, request.pools_v6, 6) if wants_v6 else ()
    if fixed:
        found = await _assign_fixed(work, fixed, pools4, pools6)
    else:
        found = await _auto_assign(work, pools4, pools6, also_store)
    return tuple(map(host_cidr, found))


async def _resolve_pools(work: Work, listed: Sequence[str], version: int) -> tuple[str, ...]:
    """The pool list of a version as CIDRs; entries are CIDRs or names of pools."""
    if not listed:
        return ()
    async with asyncio.timeout(POOLS_TIMEOUT_S):
        cidrs = [await _pool_cidr(work, entry) for entry in listed]
    for cidr in cidrs:
        address = bare_address(cidr)
        if (":" in address) != (version == 6):
            raise Refused(f'"{address}" isn\'t a IPv{version} address')
    return tuple(cidrs)


async def _pool_cidr(work: Work, entry: str) -> str:
    if "/" in entry:
        try:
            return str(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            raise Refused(f'error parsing pool "{entry}": invalid CIDR address: {entry}') from None
    try:
        pool = await work.client.get(IPPool, entry)
    except ResourceDoesNotExist:
        raise Refused(f'error parsing pool "{entry}": invalid CIDR address: {entry}') from None
    return str(pool.spec.cidr)


def attributes(work: Work) -> dict[str, str]:
    """What is stored with each address."""
    now = work.host.clock.now()
    fraction = f"{now.microsecond:06d}".rstrip("0")
    moment = now.strftime("%Y-%m-%d %H:%M:%S") + (f".{fraction}" if fraction else "")
    return {"node": work.identity.node, "timestamp": f"{moment} +0000 UTC"}


async def _assign_fixed(
    work: Work, fixed: Sequence[str], pools4: Sequence[str], pools6: Sequence[str]
) -> tuple[str, ...]:
    for address in fixed:
        limits = pools6 if ":" in address else pools4
        ip = ipaddress.ip_address(address)
        if limits and not any(ip in ipaddress.ip_network(cidr) for cidr in limits):
            raise Refused(f"{address} is in none of the pools {', '.join(limits)}")
    done: list[str] = []
    for address in fixed:
        try:
            await assign_one(work, address)
        except CalicoError as error:
            await _give_back_after(error, work, [*done, address] if _may_be_done(error) else done)
            raise
        done.append(address)
    return tuple(done)


async def assign_one(work: Work, address: str) -> None:
    """This very address under the attachment's handle; `ResourceAlreadyExists` when it is in use."""
    await work.ipam.assign_ip(address, work.attachment.handle, attributes(work), work.identity.node, "Workload")


async def _auto_assign(
    work: Work, pools4: Sequence[str], pools6: Sequence[str], also_store: AlsoStore | None
) -> tuple[str, ...]:
    request = work.attachment.addresses
    tried: list[str] = []

    def note(view: View, cidrs: Sequence[str]) -> None:
        tried[:] = [bare_address(cidr) for cidr in cidrs]
        if also_store is not None:
            also_store(view, cidrs)

    try:
        v4, v6 = await work.ipam.auto_assign(
            int(request.want_v4),
            int(request.want_v6),
            work.attachment.handle,
            attributes(work),
            pools4,
            pools6,
            host=work.identity.node,
            also_store=note,
        )
    except AssignError as error:
        unsure = tried if _may_be_done(error.cause) and also_store is None else []
        await _give_back_after(error, work, [*_bare(error.v4, error.v6), *unsure])
        if isinstance(error.cause, ResourceAlreadyExists | DatastoreError):
            raise error.cause from None
        if isinstance(error.cause, NoQualifiedPool):
            work.notes.append(_without_pool(work, 6 if error.v4 is not None or not request.want_v4 else 4))
        raise
    found = _bare(v4, v6)
    for version, part in ((4, v4), (6, v6)):
        if part is not None and part.shortfall:
            await give_back(work, found)
            raise Refused(f"failed to request IPv{version} addresses: {part.shortfall}")
    return tuple(found)


def _without_pool(work: Work, version: int) -> str:
    """Upstream's error does not say which version it means."""
    node = work.identity.node
    text = f"no IPv{version} address: no IP pool of this family is enabled for node {node}"
    return f'{text}: create one (calicoctl get ippool -o wide), or set ipam.assign_ipv{version} to "false"'


def _bare(*parts: Assigned | None) -> list[str]:
    return [bare_address(cidr) for part in parts if part is not None for cidr in part.addresses]


def _may_be_done(error: object) -> bool:
    """A write whose answer was lost; one for which nothing was reached was not sent."""
    return isinstance(error, DatastoreError) and not isinstance(error, Unreachable)


async def _give_back_after(error: CalicoError, work: Work, addresses: Sequence[str]) -> None:
    """The first failure is the one to report."""
    try:
        await give_back(work, addresses)
    except CalicoError as further:
        work.notes.append(f"after {error}: give {', '.join(addresses)} back: {further}")


async def give_back(work: Work, addresses: Iterable[str]) -> None:
    """Release these bare addresses of the attachment's handle; what is not ours any more stays."""
    wanted = [Release(address, work.attachment.handle) for address in addresses]
    if wanted:
        await work.ipam.release_ips(wanted)


async def release(
    work: Work,
    networks: Sequence[str],
    only: Sequence[str] | None = None,
    kept: Container[str] = (),
    also_write: Callable[[View], None] | None = None,
) -> int:
    """Release what the workload holds on this node in these networks: `only` those addresses, and not the `kept`.

    Returns how many there were; none is fine. The bare workload's name is the handle of very old endpoints: it counts
    when the others hold nothing. `also_write` may write more keys in the same transaction."""
    *handles, bare = _handles(work, networks)
    return await work.ipam.release_held(handles, bare, only, kept, also_write)


async def release_known(work: Work, networks: Sequence[str], known: Sequence[str]) -> None:
    """Release addresses that the endpoint names, if they are the workload's still: a handle's index may be lost."""
    handles = _handles(work, networks)
    for address in known:
        try:
            attribute = await work.ipam.get_assignment_attributes(address)
        except ResourceDoesNotExist:
            continue
        node = dict(attribute.secondary).get("node")
        if attribute.handle in handles and node in {None, "", work.identity.node}:
            await work.ipam.release_ips([Release(address, attribute.handle)])


def _handles(work: Work, networks: Sequence[str]) -> list[str]:
    return [*map(work.attachment.handle_in, networks), work.identity.workload]


async def holding_node(work: Work) -> str:
    """The node that the addresses of the attachment's handle name, "" when there are none."""
    try:
        held = await work.ipam.ips_by_handle(work.attachment.handle)
        attribute = await work.ipam.get_assignment_attributes(held[0]) if held else None
    except ResourceDoesNotExist:
        return ""
    return dict(attribute.secondary).get("node", "") if attribute is not None else ""


async def holds_any(work: Work) -> bool:
    """The attachment's handle has addresses."""
    try:
        return bool(await work.ipam.ips_by_handle(work.attachment.handle))
    except ResourceDoesNotExist:
        return False

"""The steps of an attachment one by one, for an engine that moves the interface itself; `lifecycle` has their promises.

The engine's order is assign, put, wire; then unwire, drop, release. Each step finds out from the datastore and the
kernel what is there: nothing is remembered between them, so a restart of the agent or of the engine changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from libcalico.conventions import CLOSED
from libcalico.errors import (
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
    Unreachable,
)
from libcalico.ipam.release import Release
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import endpoint, making, plan
from libcalico.workload.attach import Inspection
from libcalico.workload.errors import OutOfOrder, Refused, TryAgain
from libcalico.workload.request import Attached, temporary_interface
from libcalico.workload.work import Undo, Work

UPDATE_TRIES = 10
_replace = msgspec.structs.replace


# --- addresses -------------------------------------------------------------------------------------------------------


async def assign_addresses(work: Work) -> tuple[str, ...]:
    """Addresses with their prefix lengths under the attachment's handle: those that it has, and what is missing."""
    held = await _held(work)
    request = work.attachment.addresses
    if request.fixed and held and set(held) != set(request.fixed):
        raise Refused(f"handle {work.attachment.handle} has {', '.join(held)} already, not {', '.join(request.fixed)}")
    has_v4, has_v6 = any(":" not in one for one in held), any(":" in one for one in held)
    missing = request._replace(want_v4=request.want_v4 and not has_v4, want_v6=request.want_v6 and not has_v6)
    found: tuple[str, ...] = ()
    if not held or (not request.fixed and (missing.want_v4 or missing.want_v6)):
        async with Undo(work) as undo:
            rest = replace(work, attachment=work.attachment._replace(addresses=missing))
            found = await making.assign(rest, undo, None)
            undo.keep()
    return tuple(sorted((*map(endpoint.host_cidr, held), *found), key=lambda cidr: ":" in cidr))


async def _held(work: Work) -> tuple[str, ...]:
    try:
        return await work.ipam.ips_by_handle(work.attachment.handle)
    except ResourceDoesNotExist:
        return ()


async def release_addresses(work: Work, listed: Sequence[str]) -> None:
    """Free what the attachment's handle has on this host, or these bare addresses of it; with the handle "" these
    addresses whatever their handle. `OutOfOrder` while an endpoint of this host has one of them."""
    handle = work.attachment.handle
    for address in listed or await _held(work):
        if user := await _user_of(work, address):
            raise OutOfOrder(f"address {address} is in use by endpoint {user}: call DropEndpoint first")
    if handle:
        await work.ipam.release_held([handle], only=listed or None)
    elif in_pools := [address for address in listed if await _is_assigned(work, address)]:
        await work.ipam.release_ips([Release(address) for address in in_pools])


async def _is_assigned(work: Work, address: str) -> bool:
    try:
        await work.ipam.get_assignment_attributes(address)
    except ResourceDoesNotExist:
        return False
    return True


async def _user_of(work: Work, address: str) -> str:
    """The name of an endpoint of this node that has the address, "" when there is none."""
    candidates = work.host.users_of(address)
    if candidates is None:
        candidates = await endpoint.keys_of_node(work.client, work.identity.node)
    for key in candidates:  # a view may be behind: the datastore has the last word
        with contextlib.suppress(ResourceDoesNotExist):
            stored = await work.client.get(WorkloadEndpoint, key.name, key.namespace)
            if address in endpoint.bare_addresses(stored):
                return key.name
    return ""


# --- the endpoint ----------------------------------------------------------------------------------------------------


async def put_endpoint(work: Work, bare: Sequence[str]) -> WorkloadEndpoint:
    """Store the endpoint with these addresses (none: it is stored already). Of one that is stored already labels are
    added, the MAC is changed, and one that was closed is opened.

    `OutOfOrder` for an address that nobody has assigned. Where its interface stands, this returns once the kernel
    enforces the endpoint's policy as it is stored now."""
    for address in bare:
        if not await _is_assigned(work, address):
            raise OutOfOrder(f"address {address} is not assigned: call Assign first")
    for _ in range(UPDATE_TRIES):
        existing = await _stored(work)
        if existing is None and not bare:
            raise OutOfOrder(f"endpoint {work.identity.key.name} is not stored: put it with its addresses first")
        with contextlib.suppress(ResourceAlreadyExists, ResourceUpdateConflict):
            stored = await (_create(work, bare) if existing is None else _update(work, existing, bare))
            seen = await _inspect(work, stored)
            if seen.host is not None:
                await making.wait_programmed(work, stored, "it is stored and stays closed")
            return stored
    raise TryAgain(f"endpoint {work.identity.key.name} is being changed all the time: try again later")


async def _create(work: Work, bare: Sequence[str]) -> WorkloadEndpoint:
    """When etcd's answer is lost, what it may have stored is taken back: a release of the addresses may come next."""
    host_interface = await _choose_host_interface(work)
    mac = work.attachment.device.mac or plan.random_mac()
    wanted = making.make_endpoint(work, host_interface, bare, mac)
    async with Undo(work) as undo:
        await making.ensure_profile(work)
        try:
            stored = await endpoint.create_endpoint(work.client, wanted)
        except DatastoreError as error:
            if not isinstance(error, Unreachable):
                undo.unsure("delete the endpoint", lambda: endpoint.delete_endpoint(work.client, wanted))
            raise
        undo.done("delete the endpoint", lambda: endpoint.delete_endpoint(work.client, stored))
        undo.keep()
    return stored


async def _choose_host_interface(work: Work) -> str:
    usual = work.identity.usual_interface
    return work.identity.hashed_interface if await work.is_held(usual) else usual


async def _update(work: Work, existing: WorkloadEndpoint, bare: Sequence[str]) -> WorkloadEndpoint:
    attachment, spec, metadata = work.attachment, existing.spec, existing.metadata
    is_same = set(endpoint.bare_addresses(existing)) == set(bare) and spec.profiles == [attachment.network]
    if bare and not is_same:
        what = f"addresses {', '.join(spec.ip_networks)} and profiles {', '.join(spec.profiles)}"
        raise Refused(f"endpoint {metadata.name} is stored with {what}: call DropEndpoint first")
    labels = {**metadata.labels, **attachment.labels}
    mac, ports = attachment.device.mac or spec.mac, list(attachment.ports) or spec.ports
    annotations = metadata.annotations
    if not attachment.is_closed:
        annotations = {name: value for name, value in annotations.items() if name != CLOSED}
    metadata = _replace(metadata, labels=labels, annotations=annotations)
    changed = _replace(existing, metadata=metadata, spec=_replace(spec, mac=mac, ports=ports))
    return await endpoint.update_endpoint(work.client, changed) if changed != existing else existing


async def drop_endpoint(work: Work) -> None:
    """Take the endpoint away, after the interface if that still stands; what is gone is fine."""
    await unwire(work)
    key = work.identity.key
    await endpoint.delete_key(work.client, key)


async def _stored(work: Work) -> WorkloadEndpoint | None:
    key = work.identity.key
    try:
        return await work.client.get(WorkloadEndpoint, key.name, key.namespace)
    except ResourceDoesNotExist:
        return None


# --- the interface ---------------------------------------------------------------------------------------------------


async def wire(work: Work) -> tuple[Attached, str]:
    """Make the endpoint's veth pair; returns, with the IPv6 gateway ("" = none), once the kernel enforces the
    endpoint's policy. Without a namespace both ends stay in the host's, the inner one under a temporary name.

    `OutOfOrder` when no endpoint is stored, and when an engine has moved the inner end already."""
    making.check_device(work)
    stored = await _stored(work)
    if stored is None:
        raise OutOfOrder(f"endpoint {work.identity.key.name} is not stored: call PutEndpoint first")
    async with Undo(work) as undo:
        inner, gateway = await (_wire_inside if work.attachment.netns_path else _wire_here)(work, undo, stored)
        await making.wait_programmed(work, stored, "the interface was taken away again")
        undo.keep()
    spec = stored.spec
    return Attached(tuple(spec.ip_networks), spec.interface_name, inner, spec.mac, is_new=False), gateway


async def _wire_here(work: Work, undo: Undo, stored: WorkloadEndpoint) -> tuple[str, str]:
    """A pair that no engine has moved is made again: nobody has been given it."""
    name = stored.spec.interface_name
    seen = await _inspect(work, stored)
    if seen.host is not None and seen.host.link.leads_away:
        raise OutOfOrder(f"host interface {name} leads into a container already: call Unwire first")
    bare = endpoint.bare_addresses(stored)
    inner = temporary_interface(name)
    attacher = work.host.attacher
    await work.host.protect(bare)
    gateway = await attacher.make_pair(making.wiring(work, name, bare, stored.spec.mac, inner))
    undo.done("remove the interface", lambda: attacher.detach("", inner, [name]))
    return inner, gateway


async def _wire_inside(work: Work, undo: Undo, stored: WorkloadEndpoint) -> tuple[str, str]:
    identity, path, name = work.identity, work.attachment.netns_path, stored.spec.interface_name
    bare = endpoint.bare_addresses(stored)
    seen = await work.host.attacher.inspect(path, identity.interface, name)
    if seen.host is not None and not seen.is_wired:
        raise Refused(f"host interface {name} stands and does not lead to {identity.interface} in {path}")
    if seen.is_wired:
        await work.host.attacher.complete(making.wiring(work, name, bare, stored.spec.mac), path)
    else:
        await making.wire_container(work, undo, name, bare, stored.spec.mac)
    return identity.interface, ""


async def unwire(work: Work) -> None:
    """Take the pair away by its end on the host, wherever the other end is; what is gone is fine."""
    stored = await _stored(work)
    usual = work.identity.usual_interface
    if stored is not None:
        name = stored.spec.interface_name
    elif not await work.is_held(usual):
        name = usual
    else:
        name = work.identity.hashed_interface
    await work.host.attacher.detach("", work.identity.interface, [name] if name else [])


async def _inspect(work: Work, stored: WorkloadEndpoint) -> Inspection:
    return await work.host.attacher.inspect("", work.identity.interface, stored.spec.interface_name)

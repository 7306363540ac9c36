"""An attachment whose endpoint is stored already: a repeated ADD, or a further network on the same interface."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from libcalico.errors import ResourceDoesNotExist
from libcalico.kernel import objects
from libcalico.model.resources import WorkloadEndpoint
from libcalico.net import bare_address
from libcalico.workload import addresses, endpoint, making
from libcalico.workload.addresses import OtherIpam
from libcalico.workload.attach import Inspection
from libcalico.workload.errors import Refused
from libcalico.workload.work import Undo, Work

_replace = msgspec.structs.replace


async def renew(work: Work, undo: Undo, existing: WorkloadEndpoint, other: OtherIpam | None) -> WorkloadEndpoint:
    """The endpoint as it is, made whole again; returns it as stored."""
    attachment, spec = work.attachment, existing.spec
    attacher, path = work.host.attacher, attachment.netns_path
    seen = await attacher.inspect(path, work.identity.interface, spec.interface_name)
    stands = seen.is_wired
    if seen.host is not None and not stands:
        raise Refused(_why_taken(work, existing, seen))
    bare = endpoint.bare_addresses(existing)
    if not bare:
        bare = [bare_address(cidr) for cidr in await making.assign(work, undo, other)]
    elif other is None:
        await _claim(work, existing, bare)
    mac = seen.container.link.mac if stands and seen.container is not None else spec.mac
    if stands and not _is_complete(seen, bare):  # an agent was killed over it, say
        await attacher.complete(making.wiring(work, spec.interface_name, bare, mac), path)
    elif not stands:
        mac = await making.wire_container(work, undo, spec.interface_name, bare, mac)
    cidrs = spec.ip_networks or [endpoint.host_cidr(address) for address in bare]
    changed = endpoint.with_network(existing, attachment.network)
    changed = _replace(changed, spec=_replace(changed.spec, ip_networks=cidrs, mac=mac))
    await making.ensure_profile(work)
    return await endpoint.update_endpoint(work.client, changed) if changed != existing else existing


async def _claim(work: Work, existing: WorkloadEndpoint, bare: Sequence[str]) -> None:
    """The stored addresses are this workload's in IPAM; free ones are taken again."""
    attachment = work.attachment
    networks = (*existing.spec.profiles, attachment.network)
    handles = {work.identity.workload, *map(attachment.handle_in, networks)}
    for address in bare:
        try:
            attribute = await work.ipam.get_assignment_attributes(address)
        except ResourceDoesNotExist as error:
            if "No valid IPPool" not in str(error):
                await addresses.assign_one(work, address)
            continue
        if attribute.handle not in handles:
            text = f"address {address} of endpoint {existing.metadata.name} belongs to {attribute.handle}"
            raise Refused(f"{text} now: delete this container's endpoint first")


def _why_taken(work: Work, existing: WorkloadEndpoint, seen: Inspection) -> str:
    """The endpoint's host interface stands, and its other end is not the interface of the call."""
    name, interface = existing.metadata.name, existing.spec.interface_name
    if seen.far_name and seen.far_name != work.identity.interface:
        path = work.attachment.netns_path
        text = f"endpoint {name}: its interface has the name {seen.far_name} in {path}, not {work.identity.interface}"
        return f"{text}: rename it back, or call DEL first"
    text = f"endpoint {name} is in use by another network namespace: interface"
    return f"{text} {interface} stands and does not lead to this one"


def _is_complete(seen: Inspection, bare: Sequence[str]) -> bool:
    """All has been done to the two ends; host routes come last."""
    assert seen.host is not None and seen.container is not None
    up = seen.host.link.up and seen.container.link.up
    there = set(bare) <= set(seen.container.addresses) and set(map(objects.family_of, bare)) <= seen.families
    return up and there and set(bare) <= set(seen.routed)

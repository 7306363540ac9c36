"""The life of a workload's interface, whoever asks for it: CNI, the node API, a plug-in of an engine.

An attachment (`request.Attachment`) is made of three things. For each there is a step that makes it and one that takes
it away again:

    addresses    of Calico's IPAM                assign_addresses    release_addresses
    endpoint     in the datastore                put_endpoint        drop_endpoint
    interface    a veth pair, routes, settings   wire                unwire

`attach` does all three, `detach` takes all away; both are for callers that know the container from the beginning (CNI).
An engine that asks for an address before it knows the endpoint, and moves the interface into the container itself,
calls the steps one by one (`steps`): forwards in the order of the table, and backwards.

Promised:

1. **All or nothing.** What `attach` has done it takes back, backwards, when a later part fails, when its time is over
   and when its caller goes away. What etcd may have stored before its answer was lost is looked for and taken back.
2. **Policy comes first.** `attach` and `wire` answer when the kernel enforces the endpoint's policy. Until then the
   interface is closed; if policy does not come in time, `attach` fails and `wire` takes the interface away again.
3. **Again and again.** Every step may be repeated. Making finds what is there already and completes it; taking away
   succeeds on what is gone. `detach` goes on past a failure and reports all of them.
4. **Order.** The interface goes before its addresses: while it stands, nobody else gets them. A step that misses the
   one before it is refused (`OutOfOrder`) and does nothing.
5. **A crash at any point** is finished by `detach`, or by `drop_endpoint` and `release_addresses`.
6. **What is another's stays.** A host interface that leads into another container, an address under another handle, an
   endpoint of another host are never touched; no host interface's name is given to two endpoints.
7. **One at a time.** Calls about a container wait for each other (`Work.alone`); a call that has begun a part ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from libcalico.errors import (
    CalicoError,
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
    Unreachable,
)
from libcalico.ipam.transaction import View
from libcalico.kernel.errors import KernelError
from libcalico.model.resources import WorkloadEndpoint
from libcalico.net import bare_address
from libcalico.workload import addresses, endpoint, lookup, plan, renewal
from libcalico.workload.addresses import OtherIpam
from libcalico.workload.attach import LeadsElsewhere, leads_elsewhere
from libcalico.workload.endpoint import NewEndpoint
from libcalico.workload.errors import TryAgain
from libcalico.workload.lookup import Found
from libcalico.workload.making import assign, check_some, ensure_profile, make_endpoint, wait_programmed, wire_container
from libcalico.workload.request import Attached
from libcalico.workload.work import Undo, Work

T = TypeVar("T")

UPDATE_TRIES = 10
DYING_S = 1.0
_LOOK_AGAIN_S = 0.05


# --- all of it -------------------------------------------------------------------------------------------------------


async def attach(work: Work, other: OtherIpam | None = None) -> Attached:
    """Addresses (of `other` instead of Calico's IPAM), endpoint and interface, with policy in the kernel.

    The attachment has been checked (`making.check`), and the caller is alone at the container. An endpoint that is
    stored already is kept and made whole again."""
    usual = work.identity.usual_interface
    try:
        if other is None and work.host.is_unused(usual) and _is_simple(work):
            with work.reserved(usual) as is_ours:
                if is_ours:
                    return await _attach_at_once(work, usual)
    except ResourceAlreadyExists:
        pass  # stored before: the long way finds out what it is
    return await _attach_by_steps(work, other)


def _is_simple(work: Work) -> bool:
    request = work.attachment.addresses
    return not request.fixed and request.want_v4 != request.want_v6 and "." not in work.identity.workload


async def _attach_at_once(work: Work, host_interface: str) -> Attached:
    """Nothing is known of the container: addresses and endpoint in one transaction; the agent programs the endpoint's
    policy while the interface is made."""
    async with Undo(work) as undo:
        await ensure_profile(work)
        stored = await _store_with_addresses(work, undo, host_interface)
        spec = stored.spec
        await wire_container(work, undo, host_interface, endpoint.bare_addresses(stored), spec.mac)
        await wait_programmed(work, stored)
        undo.keep()
    return _attached(work, stored)


async def _store_with_addresses(work: Work, undo: Undo, host_interface: str) -> WorkloadEndpoint:
    """When etcd's answer is lost, what it may have stored is taken back."""
    mac = work.attachment.device.mac or plan.random_mac()
    written: list[NewEndpoint] = []
    views: list[View] = []

    def store_endpoint(view: View, cidrs: Sequence[str]) -> None:
        bare = [bare_address(cidr) for cidr in cidrs]
        wanted = make_endpoint(work, host_interface, bare, mac)
        new = endpoint.new_endpoint(wanted, work.client.clock.now())
        view.create(new.path, new.value)
        written[:] = [new]
        views[:] = [view]

    try:
        check_some(await addresses.assign(work, store_endpoint))
    except DatastoreError as error:
        if written and not isinstance(error, Unreachable):
            undo.unsure("take back what may have been stored", lambda: _take_back(work, written[0], 0))
        raise
    new, revision = written[0], views[0].revision
    undo.done("take the endpoint back", lambda: _take_back(work, new, revision))
    return new.at(revision)


async def _take_back(work: Work, new: NewEndpoint, revision: int) -> None:
    """Endpoint and addresses, if the endpoint is still the one of this revision (0: the one of our making)."""
    revision = revision or await endpoint.revision_of(work.client, new)
    if not revision:
        return
    await work.ipam.release_held(
        [work.attachment.handle],
        only=endpoint.bare_addresses(new.endpoint),
        also_store=lambda view: view.drop(new.path, revision),
    )


async def _attach_by_steps(work: Work, other: OtherIpam | None) -> Attached:
    mine, rest = await lookup.find_mine(work)
    if mine is None:
        await _remove_under_former_name(work)
    usual = work.identity.usual_interface
    with work.reserved(usual) as is_ours:  # the name is kept until all is undone
        async with Undo(work) as undo:
            if mine is None:
                name = await _choose_name(work, usual if is_ours else "", bool(rest))
                stored = await _create(work, undo, name, other)
            else:
                stored = await renewal.renew(work, undo, mine, other)
            await wait_programmed(work, stored)
            undo.keep()
    return _attached(work, stored)._replace(is_new=mine is None)


async def _create(work: Work, undo: Undo, host_interface: str, other: OtherIpam | None) -> WorkloadEndpoint:
    cidrs = await assign(work, undo, other)
    bare = [bare_address(cidr) for cidr in cidrs]
    mac = await wire_container(work, undo, host_interface, bare, work.attachment.device.mac)
    await ensure_profile(work)
    wanted = make_endpoint(work, host_interface, bare, mac)
    try:
        stored = await endpoint.create_endpoint(work.client, wanted)
    except Unreachable:  # nothing was sent
        raise
    except DatastoreError:  # it may have been stored all the same
        undo.unsure("delete the endpoint", lambda: endpoint.delete_endpoint(work.client, wanted))
        raise
    undo.done("delete the endpoint", lambda: endpoint.delete_endpoint(work.client, stored))
    return stored


async def _choose_name(work: Work, usual: str, is_further: bool) -> str:
    """The usual name of the host interface, or the hashed one when that could be another's."""
    identity = work.identity
    if usual and not is_further and "." not in identity.workload and not await work.is_held(usual):
        seen = await work.host.attacher.inspect(work.attachment.netns_path, identity.interface, usual)
        far = seen.container.link if seen.container is not None else None
        if seen.host is None or not leads_elsewhere(seen.host.link, far):
            return usual
    return identity.hashed_interface


async def _remove_under_former_name(work: Work) -> None:
    """Before an ADD: what the interface that stands in the container belongs to, if that is an endpoint of a name that
    this node had. No agent polices it, and with a new one it would stay for good."""
    seen = await lookup.inspect(work, "")
    name = (await lookup.former_name(work))[0] if seen.container is not None else ""
    if not name:
        return
    work.notes.append(f"the container has an endpoint of node {name}, as this one was called: it makes way")
    if problems := await detach(work.of_node(name)):
        raise problems[0]


def _attached(work: Work, stored: WorkloadEndpoint) -> Attached:
    spec = stored.spec
    return Attached(tuple(spec.ip_networks), spec.interface_name, work.identity.interface, spec.mac)


# --- and away again --------------------------------------------------------------------------------------------------


async def detach(work: Work, other: OtherIpam | None = None) -> list[Exception]:
    """Take interface, addresses and endpoint away; what went wrong, in order. The caller is alone at the container."""
    found = await lookup.find_endpoints(work)
    work, mine = found.work, found.mine
    names = await _host_interfaces(found)
    is_gone = False
    if mine is not None and names and _is_of_one_network(work, mine):
        is_gone = await _detach_unless_elsewhere(work, names)
    if mine is not None and not is_gone and await _lives_elsewhere(work, mine):
        text = (
            f"interface {mine.spec.interface_name} of endpoint {mine.metadata.name} leads to another network namespace"
        )
        work.notes.append(f"{text} than {work.attachment.netns_path}: nothing was removed")
        return []
    if mine is not None and await _leaves_one_network_only(work, mine):
        return []
    problems: list[Exception] = []
    if not is_gone:
        path, interface = work.attachment.netns_path, work.identity.interface
        await _try(problems, lambda: work.host.attacher.detach(path, interface, names))
    went_along = None
    if other is None:
        went_along = await _try(problems, lambda: _release(found))
    else:
        await _try(problems, other.release)
    is_cut_off = any(isinstance(problem, Unreachable) for problem in problems)
    if mine is not None and not went_along and not is_cut_off:
        await _try(problems, lambda: endpoint.delete_endpoint(work.client, mine))
    return problems


def _is_of_one_network(work: Work, mine: WorkloadEndpoint) -> bool:
    """The endpoint goes with this DEL for certain, unless its interface is another container's."""
    return len(mine.spec.profiles) < 2 and work.attachment.network not in endpoint.networks_that_left(mine)


async def _detach_unless_elsewhere(work: Work, names: Sequence[str]) -> bool:
    """The usual case in one visit to a worker thread: the interface is this container's, and goes. False when that is
    not certain."""
    if not work.has_namespace() or work.host.attacher.is_host(work.attachment.netns_path):
        return False
    try:
        await work.host.attacher.detach(
            work.attachment.netns_path, work.identity.interface, names, unless_elsewhere=True
        )
    except (LeadsElsewhere, KernelError, TimeoutError, OSError):
        return False
    return True


async def standing_interfaces(work: Work) -> list[str]:
    """The host interfaces that the attachment has, or, when its endpoint is not known, would have, and that stand."""
    found = await lookup.find_endpoints(work)
    names = await _host_interfaces(found)
    seen = {name: await work.host.attacher.inspect("", work.identity.interface, name) for name in names}
    return [name for name, now in seen.items() if now.host is not None]


async def _try(problems: list[Exception], call: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await call()
    except (CalicoError, TimeoutError, OSError) as error:
        problems.append(error)
        return None


async def _release(found: Found) -> bool:
    """Release the addresses, and with them, in the same transaction, the endpoint. True when that was done."""
    work, mine, rest = found.work, found.mine, found.rest
    networks = list(dict.fromkeys([work.attachment.network, *(mine.spec.profiles if mine is not None else ())]))
    kept = {address for item in rest for address in endpoint.bare_addresses(item)}
    only = endpoint.bare_addresses(mine) if mine is not None and rest else None

    def drop(view: View) -> None:
        if mine is not None:
            view.drop(endpoint.endpoint_path(mine))

    released = await addresses.release(work, networks, only, kept, drop)
    if mine is not None and not released:
        await addresses.release_known(work, networks, endpoint.bare_addresses(mine))
    return True


async def _host_interfaces(found: Found) -> list[str]:
    """The host interfaces to delete: the endpoint's, or, when there is none (an ADD that was killed), those that it
    would have."""
    work, mine = found.work, found.mine
    if mine is not None:
        name = mine.spec.interface_name
        neighbours = (*found.rest, *found.alike)
        return [name] if name and all(item.spec.interface_name != name for item in neighbours) else []
    names = [work.identity.hashed_interface]
    if work.has_namespace():
        return names  # the usual one goes with its other end, if it is this container's
    usual = work.identity.usual_interface
    if "." not in work.identity.workload and not await work.is_held(usual):
        with work.reserved(usual) as is_ours:
            names += [usual] if is_ours else []
    return names


async def _lives_elsewhere(work: Work, mine: WorkloadEndpoint) -> bool:
    """The endpoint's interface leads to a living network namespace that is not the one of this call: this is the DEL
    which follows an ADD that was refused for it.

    The namespace of a container that has ended takes its time to go, and whatever interface was moved there with it."""
    if not work.has_namespace() or work.host.attacher.is_host(work.attachment.netns_path):
        return False
    until_s = asyncio.get_running_loop().time() + DYING_S
    while await _is_used_elsewhere(work, mine.spec.interface_name):
        if asyncio.get_running_loop().time() > until_s:
            return True
        await asyncio.sleep(_LOOK_AGAIN_S)
    return False


async def _is_used_elsewhere(work: Work, host_interface: str) -> bool:
    attacher = work.host.attacher
    try:
        return await attacher.is_used_elsewhere(work.attachment.netns_path, host_interface)
    except KernelError:  # the call's namespace has ended meanwhile
        seen = await attacher.inspect("", work.identity.interface, host_interface)
        return seen.host is not None and seen.host.link.leads_away


async def _leaves_one_network_only(work: Work, mine: WorkloadEndpoint) -> bool:
    """The interface serves another network too, whose address it has: only this network's profile goes."""
    network = work.attachment.network
    for _ in range(UPDATE_TRIES):
        if network in endpoint.networks_that_left(mine):
            return True  # a repeated DEL
        if len(mine.spec.profiles) < 2 or network not in mine.spec.profiles or await addresses.holds_any(work):
            return False
        try:
            with contextlib.suppress(ResourceUpdateConflict):
                await endpoint.update_endpoint(work.client, endpoint.without_network(mine, network))
                return True
            mine = await work.client.get(WorkloadEndpoint, mine.metadata.name, mine.metadata.namespace)
        except ResourceDoesNotExist:
            return False
    raise TryAgain(f"endpoint {mine.metadata.name} is being changed all the time: try again later")

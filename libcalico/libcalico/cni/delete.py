"""DEL: interface, addresses and endpoint go; what is gone already is fine; one failure does not stop the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from libcalico.cni import addresses, errors
from libcalico.cni.conf import read_conf
from libcalico.cni.context import Context, alone, node_names, open_context
from libcalico.cni.errors import CniError
from libcalico.cni.request import Call
from libcalico.errors import CalicoError, ResourceDoesNotExist, ResourceUpdateConflict, Unreachable
from libcalico.ipam.transaction import View
from libcalico.kernel.errors import KernelError
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import endpoint, plan
from libcalico.workload.attach import Inspection
from libcalico.workload.host import Host

T = TypeVar("T")

UPDATE_TRIES = 10
DYING_S = 1.0
_LOOK_AGAIN_S = 0.05
_TRUE = frozenset({"1", "true"})


async def delete(call: Call, host: Host, notes: list[str]) -> bytes:
    """Do a DEL; it prints nothing."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    context = await open_context(call, conf, host, notes)
    problems = await alone(call, host, lambda: remove_attachment(context))
    if problems:
        raise problems[0]
    if host.attacher.is_host(call.netns) and call.environment.get("CNI_NETNS_OVERRIDE", "").lower() not in _TRUE:
        raise CniError(errors.OWN_NAMESPACE, "plugin's netns and netns from CNI_NETNS should not be the same")
    return b""


async def remove_attachment(context: Context) -> list[Exception]:
    """Take one attachment away; what went wrong, in order. The interface goes first: while it stands, nobody else
    may get its address."""
    call = context.call
    own, others = await _find(context)
    segment = endpoint.endpoint_segment(call.interface)
    mine = next((item for item in own if item.spec.endpoint == segment), None)
    rest = [item for item in own if item is not mine]
    if mine is not None and await _lives_elsewhere(context, mine):
        text = (
            f"interface {mine.spec.interface_name} of endpoint {mine.metadata.name} leads to another network namespace"
        )
        context.notes.append(f"{text} than {call.netns}: nothing was removed")
        return []
    if mine is not None and await _leaves_one_network_only(context, mine):
        return []
    problems: list[Exception] = []
    names = await _host_interfaces(context, mine, [*rest, *others])
    attacher = context.host.attacher
    await _step(problems, lambda: attacher.detach(call.netns, call.interface, names))
    went_along = await _step(problems, lambda: _release(context, mine, rest))
    is_cut_off = any(isinstance(problem, Unreachable) for problem in problems)
    if mine is not None and not went_along and not is_cut_off:
        await _step(problems, lambda: endpoint.delete_endpoint(context.client, mine))
    return problems


async def standing_interfaces(context: Context) -> list[str]:
    """The host interfaces that the attachment has, or, when its endpoint is not known, would have, and that stand.

    Its endpoint may be known under another node name, which the context then takes."""
    own, others = await _find(context)
    segment = endpoint.endpoint_segment(context.call.interface)
    mine = next((item for item in own if item.spec.endpoint == segment), None)
    names = await _host_interfaces(context, mine, [*(item for item in own if item is not mine), *others])
    seen = {name: await context.host.attacher.inspect("", context.call.interface, name) for name in names}
    return [name for name, found in seen.items() if found.host is not None]


async def _step(problems: list[Exception], call: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await call()
    except (CalicoError, TimeoutError, OSError) as error:
        problems.append(error)
        return None


async def _find(context: Context) -> tuple[list[WorkloadEndpoint], list[WorkloadEndpoint]]:
    """The container's endpoints under this node's name, else under a name that the node has or had.

    A handle whose addresses name such a node decides too, when an ADD was killed before it stored the endpoint."""
    call = context.call
    own, others = await endpoint.find_related(context.client, context.namespace, context.node, call.container_id)
    if own:
        return own, others
    holder = await addresses.holding_node(context)
    names = node_names(context.conf, context.host)
    if holder not in {"", context.node}:
        names += await context.host.attacher.host_addresses()
    for name in names:
        if name == context.node:
            continue
        found, near = await endpoint.find_related(context.client, context.namespace, name, call.container_id)
        if found or name == holder:
            _take_node_name(context, name)
            return found, near
    return await _find_by_evidence(context) or (own, others)


async def _find_by_evidence(context: Context) -> tuple[list[WorkloadEndpoint], list[WorkloadEndpoint]] | None:
    """The endpoints under a node name that nobody remembers, when there is evidence that they are this host's."""
    name, uncertain = await _former_name(context)
    if name:
        _take_node_name(context, name)
        return await endpoint.find_related(context.client, context.namespace, name, context.call.container_id)
    for item in uncertain:
        text = f"endpoint {item.metadata.name} has this container id and interface, and names node {item.spec.node}"
        context.notes.append(f"{text}: nothing shows that it is this host's, so it was left")
    return None


async def _former_name(context: Context) -> tuple[str, list[WorkloadEndpoint]]:
    """The node name of an endpoint to which the interface in the container belongs: it has the endpoint's MAC, or (a
    later plug-in may have changed that) is the other end of its host interface and no other endpoint comes into
    question. Without one "", and the endpoints that have this container id and interface under other node names."""
    call = context.call
    found = await endpoint.find_elsewhere(context.client, context.namespace, call.container_id, call.interface)
    found = [item for item in found if item.spec.node != context.node]
    seen = [await _inspect(context, item.spec.interface_name) for item in found]
    evident = [item for item, now in zip(found, seen, strict=True) if now.has_mac(item.spec.mac)]
    if not evident and len(found) == 1 and seen[0].is_wired:
        evident = found
    return (evident[0].spec.node, []) if evident else ("", found)


async def remove_under_former_name(context: Context) -> None:
    """Before an ADD: what the interface that stands in the container belongs to, if that is an endpoint of a name that
    this node had. No agent polices it, and with a new one it would stay for good."""
    seen = await _inspect(context, "")
    name = (await _former_name(context))[0] if seen.container is not None else ""
    if not name:
        return
    context.notes.append(f"the container has an endpoint of node {name}, as this one was called: it makes way")
    former = replace(context, node=name, ipam=context.host.open_ipam(context.client, name))
    if problems := await remove_attachment(former):
        raise problems[0]


async def _inspect(context: Context, host_interface: str) -> Inspection:
    """Where no namespace is (any more), nothing stands inside."""
    call, attacher = context.call, context.host.attacher
    try:
        return await attacher.inspect(call.netns if _is_namespace(context) else "", call.interface, host_interface)
    except KernelError:
        return await attacher.inspect("", call.interface, host_interface)


def _take_node_name(context: Context, name: str) -> None:
    context.notes.append(f"the container is known under the node name {name}, not {context.node}")
    context.node, context.ipam = name, context.host.open_ipam(context.client, name)


async def _lives_elsewhere(context: Context, mine: WorkloadEndpoint) -> bool:
    """The endpoint's interface leads to a living network namespace that is not the one of this call: this is the DEL
    which follows an ADD that was refused for it.

    The namespace of a container that has ended takes its time to go, and whatever interface was moved there with it."""
    if not _is_namespace(context) or context.host.attacher.is_host(context.call.netns):
        return False
    until_s = asyncio.get_running_loop().time() + DYING_S
    while await _is_used_elsewhere(context, mine.spec.interface_name):
        if asyncio.get_running_loop().time() > until_s:
            return True
        await asyncio.sleep(_LOOK_AGAIN_S)
    return False


async def _is_used_elsewhere(context: Context, host_interface: str) -> bool:
    call, attacher = context.call, context.host.attacher
    try:
        return await attacher.is_used_elsewhere(call.netns, host_interface)
    except KernelError:  # the call's namespace has ended meanwhile
        seen = await attacher.inspect("", call.interface, host_interface)
        return seen.host is not None and seen.host.link.leads_away


async def _leaves_one_network_only(context: Context, mine: WorkloadEndpoint) -> bool:
    """The interface serves another network too, whose address it has: only this network's profile goes."""
    network = context.call.network
    for _ in range(UPDATE_TRIES):
        if network in endpoint.networks_that_left(mine):
            return True  # a repeated DEL
        if len(mine.spec.profiles) < 2 or network not in mine.spec.profiles or await _holds_addresses(context):
            return False
        try:
            with contextlib.suppress(ResourceUpdateConflict):
                await endpoint.update_endpoint(context.client, endpoint.without_network(mine, network))
                return True
            mine = await context.client.get(WorkloadEndpoint, mine.metadata.name, mine.metadata.namespace)
        except ResourceDoesNotExist:
            return False
    raise CniError(errors.TRY_AGAIN, f"endpoint {mine.metadata.name} is being changed all the time: try again later")


async def _holds_addresses(context: Context) -> bool:
    try:
        return bool(await context.ipam.ips_by_handle(context.handle))
    except ResourceDoesNotExist:
        return False


async def _host_interfaces(
    context: Context, mine: WorkloadEndpoint | None, neighbours: Sequence[WorkloadEndpoint]
) -> list[str]:
    """The host ends to delete: the endpoint's, or, when there is none (an ADD that was killed), those it would have."""
    call, locks = context.call, context.host.locks
    if mine is not None:
        name = mine.spec.interface_name
        return [name] if name and all(item.spec.interface_name != name for item in neighbours) else []
    names = [plan.hashed_interface_name(call.container_id, call.interface)]
    if _is_namespace(context):
        return names  # the usual one goes with its other end, if it is this container's
    usual, owner = plan.host_interface_name(call.container_id), f"{call.container_id}/{call.interface}"
    if "." not in call.container_id and not await context.is_held(usual) and locks.reserve(usual, owner):
        locks.unreserve(usual, owner)
        names.append(usual)
    return names


def _is_namespace(context: Context) -> bool:
    if not context.call.netns:
        return False
    try:
        context.host.attacher.check_netns(context.call.netns)
    except KernelError:
        return False
    return True


async def _release(context: Context, mine: WorkloadEndpoint | None, rest: Sequence[WorkloadEndpoint]) -> bool:
    """Release the addresses. True when the endpoint went in the same transaction."""
    kind = context.conf.ipam_type
    if kind and kind != addresses.OWN_PLUGIN:
        await addresses.run_plugin(context, "DEL")
        return False
    if not kind:
        context.notes.append("conf has no ipam.type: calico-ipam is taken")
    networks = [context.call.network, *(mine.spec.profiles if mine is not None else ())]
    kept = {address for item in rest for address in endpoint.bare_addresses(item)}
    only = endpoint.bare_addresses(mine) if mine is not None and rest else None
    networks = list(dict.fromkeys(networks))

    def drop(view: View) -> None:
        if mine is not None:
            view.drop(endpoint.endpoint_path(mine))

    released = await addresses.release(context, networks, only, kept, drop)
    if mine is not None and not released:
        await addresses.release_known(context, networks, endpoint.bare_addresses(mine))
    return True

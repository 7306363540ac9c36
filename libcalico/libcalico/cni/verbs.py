"""GC and STATUS, and the verbs of `calico-ipam` (spec/cni.md 7, 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from libcalico.cni import addresses, errors, result
from libcalico.cni.conf import check_types, read_conf
from libcalico.cni.context import Context, alone, open_context
from libcalico.cni.delete import remove_attachment
from libcalico.cni.errors import CniError, shown
from libcalico.cni.request import Call
from libcalico.cni.result import Addresses
from libcalico.errors import CalicoError, ResourceDoesNotExist
from libcalico.ipam import plan as ipam_plan
from libcalico.model.keys import HANDLES, HandleKey, parse_path
from libcalico.model.resources import IPPool, Node, WorkloadEndpoint
from libcalico.workload import endpoint
from libcalico.workload.errors import CallerGone
from libcalico.workload.host import Host

STATUS_TIMEOUT_S = 2.0
VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_HANDLES = HANDLES.encode()


async def collect_garbage(call: Call, host: Host, notes: list[str]) -> bytes:
    """GC: what this network holds on this node for attachments that are not listed goes."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    valid = _valid_attachments(call.conf)
    context = await open_context(call, conf, host, notes)
    problems: list[Exception] = []
    endpoints = (await context.client.list(WorkloadEndpoint)).items
    known = {(container, endpoint.endpoint_segment(interface)) for container, interface in valid}
    unknown = [
        stored
        for stored in endpoints
        if stored.spec.orchestrator == endpoint.ORCHESTRATOR
        and call.network in stored.spec.profiles
        and (stored.spec.container_id, stored.spec.endpoint) not in known
    ]
    for stored in await _of_this_host(context, unknown, endpoints):
        problems += await _remove(context, stored)
    if conf.ipam_type in {"", addresses.OWN_PLUGIN}:
        problems += await _release_strays(context, {container for container, _interface in valid}, endpoints)
    else:
        await addresses.run_plugin(context, "GC")
    if problems:
        raise CniError(errors.GENERAL, "; ".join(str(problem) for problem in problems))
    return b""


def _valid_attachments(conf: dict[str, Any]) -> set[tuple[str, str]]:
    if VALID_ATTACHMENTS not in conf:
        raise CniError(errors.BAD_CONFIG, f"GC needs {VALID_ATTACHMENTS}: nothing was removed")
    listed = [] if conf[VALID_ATTACHMENTS] is None else conf[VALID_ATTACHMENTS]  # Go writes an empty list as null
    try:
        check_types(listed, [{"containerID": str, "ifname": str}], VALID_ATTACHMENTS)
    except CniError as error:
        raise CniError(error.code, f"{error.message}: nothing was removed") from None
    valid = set()
    for entry in listed:
        found = ((entry or {}).get("containerID"), (entry or {}).get("ifname"))
        if not all(found):
            text = f"bad entry {shown(entry)} in {VALID_ATTACHMENTS}, wanted containerID and ifname"
            raise CniError(errors.BAD_CONFIG, f"{text}: nothing was removed")
        valid.add((str(found[0]), str(found[1])))
    return valid


async def _of_this_host(
    context: Context, unknown: Sequence[WorkloadEndpoint], endpoints: Sequence[WorkloadEndpoint]
) -> list[WorkloadEndpoint]:
    """The endpoints of this node, and those of a name that it had: their host interface stands here, is no endpoint's
    of this node, and has the routes to their addresses."""
    own = [stored for stored in unknown if stored.spec.node == context.node]
    used = {stored.spec.interface_name for stored in endpoints if stored.spec.node == context.node}
    attacher = context.host.attacher
    there = (await attacher.host_interfaces()).keys() - used
    for stored in unknown:
        spec = stored.spec
        if spec.node == context.node or spec.interface_name not in there:
            continue
        seen = await attacher.inspect("", spec.endpoint, spec.interface_name)
        if spec.ip_networks and set(endpoint.bare_addresses(stored)) <= set(seen.routed):
            context.notes.append(f"endpoint {stored.metadata.name} names node {spec.node}, as this one was called")
            own.append(stored)
    return own


async def _remove(context: Context, stored: WorkloadEndpoint) -> list[Exception]:
    spec = stored.spec
    call = context.call._replace(container_id=spec.container_id, interface=spec.endpoint, netns="")
    ipam = context.ipam if spec.node == context.node else context.host.open_ipam(context.client, spec.node)
    gone = replace(context, call=call, arguments={}, node=spec.node, namespace=stored.metadata.namespace, ipam=ipam)
    return await alone(call, context.host, lambda: remove_attachment(gone))


async def _release_strays(context: Context, valid: set[str], endpoints: Sequence[WorkloadEndpoint]) -> list[Exception]:
    """Handles of this network that are not listed: left by an ADD that was killed, say.

    Those of network `prod.eu` begin like those of `prod`: an endpoint tells which network they are of."""
    prefix = f"{context.call.network}."
    others = {
        f"{profile}.{stored.spec.container_id}"
        for stored in endpoints
        for profile in stored.spec.profiles
        if profile != context.call.network
    }
    found = await context.client.datastore.range(_HANDLES + prefix.encode(), keys_only=True)
    problems: list[Exception] = []
    for pair in found.kvs:
        key = parse_path(pair.key.decode("utf-8", "replace"))
        if not isinstance(key, HandleKey) or key.id in others or key.id.removeprefix(prefix) in valid:
            continue
        try:
            await context.ipam.release_held([key.id])
        except CalicoError as error:
            problems.append(error)
    return problems


async def status(call: Call, host: Host, notes: list[str]) -> bytes:
    """STATUS: an ADD could succeed now."""
    conf, _ = read_conf(call.conf)
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            context = await open_context(call, conf, host, notes)
            if addresses.OWN_PLUGIN in {conf.ipam_type, call.program}:
                await _check_pools(context)
            elif conf.ipam_type:
                await addresses.run_plugin(context, "STATUS")
    except TimeoutError:
        text = f"the datastore did not answer in {STATUS_TIMEOUT_S:.0f} s"
        raise CniError(errors.NOT_AVAILABLE, "plugin not available", text) from None
    except CalicoError as error:
        raise CniError(errors.NOT_AVAILABLE, "plugin not available", str(error)) from error
    return b""


async def _check_pools(context: Context) -> None:
    try:
        labels = (await context.client.get(Node, context.node)).metadata.labels
    except ResourceDoesNotExist:
        labels = {}
    for pool in (await context.client.list(IPPool)).items:
        uses = pool.spec.allowed_uses or ["Workload"]
        if not pool.spec.disabled and "Workload" in uses and ipam_plan.selects(pool.spec.node_selector, labels):
            return
    raise CniError(errors.NOT_AVAILABLE, f"no enabled IP pool is meant for node {context.node}")


# --- calico-ipam -----------------------------------------------------------------------------------------------------


async def ipam_add(call: Call, host: Host, notes: list[str]) -> bytes:
    """`calico-ipam` ADD: addresses under the attachment's handle."""
    conf, _ = read_conf(call.conf)
    context = await open_context(call, conf, host, notes)
    found = await alone(call, host, lambda: _assign(context), context.gone.set)
    return result.render_result(call.conf.get("cniVersion") or "", found)


async def _assign(context: Context) -> Addresses:
    found = await addresses.assign(context)
    try:
        context.check_wanted()
    except CallerGone:
        await addresses.give_back(context, [cidr.partition("/")[0] for cidr in found.cidrs])
        raise
    return found


async def ipam_delete(call: Call, host: Host, notes: list[str]) -> bytes:
    """`calico-ipam` DEL: everything under the attachment's handle goes back."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    context = await open_context(call, conf, host, notes)
    await alone(call, host, lambda: addresses.release(context, [call.network]))
    return b""


async def ipam_collect_garbage(call: Call, host: Host, notes: list[str]) -> bytes:
    """`calico-ipam` GC: handles of this network on this node that are not listed go."""
    conf, _ = read_conf(call.conf, lenient=True)
    valid = {container for container, _interface in _valid_attachments(call.conf)}
    context = await open_context(call, conf, host, notes)
    problems = await _release_strays(context, valid, (await context.client.list(WorkloadEndpoint)).items)
    if problems:
        raise CniError(errors.GENERAL, "; ".join(str(problem) for problem in problems))
    return b""

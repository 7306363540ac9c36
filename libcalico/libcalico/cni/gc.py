"""GC: what this network holds on this node for attachments that are not listed goes (spec/cni.md 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from libcalico.cni import errors
from libcalico.cni.conf import check_types, read_conf
from libcalico.cni.context import Context, open_context
from libcalico.cni.errors import CniError, shown
from libcalico.cni.request import Call
from libcalico.errors import CalicoError
from libcalico.model.keys import HANDLES, HandleKey, parse_path
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import endpoint, lifecycle
from libcalico.workload.host import Host
from libcalico.workload.names import endpoint_segment
from libcalico.workload.request import CNI
from libcalico.workload.work import Work

VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_HANDLES = HANDLES.encode()


async def collect_garbage(call: Call, host: Host, notes: list[str]) -> bytes:
    """GC of `calico`: endpoints and their interfaces, then addresses of which nothing else is known."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    valid = _valid_attachments(call.conf)
    context = await open_context(call, conf, host, notes)
    work = context.work
    problems: list[Exception] = []
    endpoints = (await work.client.list(WorkloadEndpoint)).items
    known = {(container, endpoint_segment(interface)) for container, interface in valid}
    unknown = [
        stored
        for stored in endpoints
        if stored.spec.orchestrator == CNI
        and call.network in stored.spec.profiles
        and (stored.spec.container_id, stored.spec.endpoint) not in known
    ]
    for stored in await _of_this_host(work, unknown, endpoints):
        problems += await _remove(context, stored)
    if context.other is None:
        problems += await _release_strays(context, {container for container, _interface in valid}, endpoints)
    else:
        await context.other.run("GC")
    if problems:
        raise CniError(errors.GENERAL, "; ".join(str(problem) for problem in problems))
    return b""


async def collect_addresses(call: Call, host: Host, notes: list[str]) -> bytes:
    """GC of `calico-ipam`: handles of this network on this node that are not listed go."""
    conf, _ = read_conf(call.conf, lenient=True)
    valid = {container for container, _interface in _valid_attachments(call.conf)}
    context = await open_context(call, conf, host, notes)
    problems = await _release_strays(context, valid, (await context.work.client.list(WorkloadEndpoint)).items)
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
    work: Work, unknown: Sequence[WorkloadEndpoint], endpoints: Sequence[WorkloadEndpoint]
) -> list[WorkloadEndpoint]:
    """The endpoints of this node, and those of a name that it had: their host interface stands here, is no endpoint's
    of this node, and has the routes to their addresses."""
    own = [stored for stored in unknown if stored.spec.node == work.identity.node]
    used = {stored.spec.interface_name for stored in endpoints if stored.spec.node == work.identity.node}
    attacher = work.host.attacher
    there = (await attacher.host_interfaces()).keys() - used
    for stored in unknown:
        spec = stored.spec
        if spec.node == work.identity.node or spec.interface_name not in there:
            continue
        seen = await attacher.inspect("", spec.endpoint, spec.interface_name)
        if spec.ip_networks and set(endpoint.bare_addresses(stored)) <= set(seen.routed):
            work.notes.append(f"endpoint {stored.metadata.name} names node {spec.node}, as this one was called")
            own.append(stored)
    return own


async def _remove(context: Context, stored: WorkloadEndpoint) -> list[Exception]:
    spec = stored.spec
    work = context.work.of_node(spec.node)
    identity = work.identity._replace(
        namespace=stored.metadata.namespace, workload=spec.container_id, interface=spec.endpoint
    )
    gone = replace(work, attachment=work.attachment._replace(identity=identity, netns_path=""))
    call = context.call._replace(container_id=spec.container_id, interface=spec.endpoint, netns="")
    other = context.other.of_call(call) if context.other is not None else None
    return await gone.alone(lambda: lifecycle.detach(gone, other))


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
    found = await context.work.client.datastore.range(_HANDLES + prefix.encode(), keys_only=True)
    problems: list[Exception] = []
    for pair in found.kvs:
        key = parse_path(pair.key.decode("utf-8", "replace"))
        if not isinstance(key, HandleKey) or key.id in others or key.id.removeprefix(prefix) in valid:
            continue
        try:
            await context.work.ipam.release_held([key.id])
        except CalicoError as error:
            problems.append(error)
    return problems

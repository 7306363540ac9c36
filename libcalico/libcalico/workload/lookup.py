"""Which endpoints are this container's, under whatever name this node is or was known.

A node may be renamed (DC/OS names nodes by their address) while its containers run. An endpoint of another node name is
taken for this host's only on evidence: the interface in the container has its MAC, or is the other end of its host
interface and no other endpoint comes into question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libcalico.kernel.errors import KernelError
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import addresses, endpoint
from libcalico.workload.attach import Inspection
from libcalico.workload.work import Work


class Found(NamedTuple):
    """`work` is under the node name that was found. `mine` is the attachment's endpoint, `rest` are the workload's
    others, `alike` those of workloads whose names begin alike."""

    work: Work
    mine: WorkloadEndpoint | None
    rest: Sequence[WorkloadEndpoint]
    alike: Sequence[WorkloadEndpoint]


async def find_endpoints(work: Work) -> Found:
    """Under this node's name, else under a name that the node has or had, else by evidence.

    A handle whose addresses name such a node decides too, when an ADD was killed before it stored the endpoint."""
    own, alike = await endpoint.find_related(work.client, work.identity)
    if own:
        return _found(work, own, alike)
    holder = await addresses.holding_node(work)
    names = list(work.node_names())
    if holder not in {"", work.identity.node}:
        names += await work.host.attacher.host_addresses()
    for name in names:
        if name == work.identity.node:
            continue
        other = work.of_node(name)
        found, near = await endpoint.find_related(work.client, other.identity)
        if found or name == holder:
            return _found(_take_node_name(work, other), found, near)
    return await _find_by_evidence(work) or _found(work, own, alike)


async def find_mine(work: Work) -> tuple[WorkloadEndpoint | None, list[WorkloadEndpoint]]:
    """The attachment's endpoint under this node's name, and the workload's others."""
    own, _ = await endpoint.find_related(work.client, work.identity)
    mine = _with_segment(work, own)
    return mine, [item for item in own if item is not mine]


def _found(work: Work, own: Sequence[WorkloadEndpoint], alike: Sequence[WorkloadEndpoint]) -> Found:
    mine = _with_segment(work, own)
    return Found(work, mine, [item for item in own if item is not mine], alike)


def _with_segment(work: Work, own: Sequence[WorkloadEndpoint]) -> WorkloadEndpoint | None:
    segment = work.identity.segment
    return next((item for item in own if item.spec.endpoint == segment), None)


def _take_node_name(work: Work, other: Work) -> Work:
    name = other.identity.node
    work.notes.append(f"the container is known under the node name {name}, not {work.identity.node}")
    return other


async def _find_by_evidence(work: Work) -> Found | None:
    """The endpoints under a node name that nobody remembers, when there is evidence that they are this host's."""
    name, uncertain = await former_name(work)
    if name:
        other = work.of_node(name)
        return _found(_take_node_name(work, other), *await endpoint.find_related(work.client, other.identity))
    for item in uncertain:
        text = f"endpoint {item.metadata.name} has this container id and interface, and names node {item.spec.node}"
        work.notes.append(f"{text}: nothing shows that it is this host's, so it was left")
    return None


async def former_name(work: Work) -> tuple[str, list[WorkloadEndpoint]]:
    """The node name of an endpoint to which the interface in the container belongs: it has the endpoint's MAC, or (a
    later plug-in may have changed that) is the other end of its host interface and no other endpoint comes into
    question. Without one "", and the endpoints that have this container id and interface under other node names."""
    found = await endpoint.find_elsewhere(work.client, work.identity)
    seen = [await inspect(work, item.spec.interface_name) for item in found]
    evident = [item for item, now in zip(found, seen, strict=True) if now.has_mac(item.spec.mac)]
    if not evident and len(found) == 1 and seen[0].is_wired:
        evident = found
    return (evident[0].spec.node, []) if evident else ("", found)


async def inspect(work: Work, host_interface: str) -> Inspection:
    """Both ends of an interface. Where no namespace is (any more), nothing stands inside."""
    attacher, interface = work.host.attacher, work.identity.interface
    path = work.attachment.netns_path if work.has_namespace() else ""
    try:
        return await attacher.inspect(path, interface, host_interface)
    except KernelError:
        return await attacher.inspect("", interface, host_interface)

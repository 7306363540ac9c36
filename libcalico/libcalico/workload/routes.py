"""The routes inside a container: each of its Calico interfaces has a default route of its own (spec/cni.md 5.2).

All of them lead to the same gateway, so they differ in device and metric: the first interface has the lowest metric,
each further one the next. Neither making nor removing an interface changes the routes of another, and a default route
through an interface that is not ours is never touched: it stands, or the attachment is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from libcalico.conventions import INTERFACE_PREFIX
from libcalico.errors import BadData
from libcalico.kernel import objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Link, Route
from libcalico.kernel.rtnl import Rtnl
from libcalico.workload.plan import GATEWAY

_DEFAULT: dict[int, str] = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_FIRST_METRIC: dict[int, int] = {socket.AF_INET: 0, socket.AF_INET6: 1024}
"""What the kernel gives to a route that is made without a metric."""
_TO_GATEWAY = f"{GATEWAY}/32"


class DefaultRouteTaken(BadData):
    """The container has a default route through an interface that is not ours."""


def missing_routes(there: Rtnl, device: int, gateway: str, is_ours: Callable[[int], bool]) -> list[Route]:
    """The routes that the container's interface `device` lacks, in the order in which they must be made.

    Of its own default routes one with a wrong gateway is deleted. `is_ours` says of another device of the container
    whether it is a Calico interface; it is asked only where there are such routes."""
    family = objects.family_of(gateway)
    present = [
        route for route in there.routes(family) if route.destination in {_DEFAULT[family], _TO_GATEWAY}
    ]  # fmt: skip
    own = [route for route in present if route.device == device]
    right = [route for route in own if route.destination != _TO_GATEWAY and route.gateway == gateway]
    if right:
        metric = right[0].metric
    else:
        others = [route for route in present if route.device != device]
        metric = _free_metric(family, gateway, others, is_ours)
        for route in own:
            there.delete_route(route)
        own = []
    wanted = [Route(_DEFAULT[family], device, gateway=gateway, metric=metric)]
    if family == socket.AF_INET:
        wanted.insert(0, Route(_TO_GATEWAY, device, scope=objects.RT_SCOPE_LINK, metric=metric))
    standing = {(route.destination, route.metric) for route in own}
    return [route for route in wanted if (route.destination, route.metric) not in standing]


def _free_metric(family: int, gateway: str, others: Iterable[Route], is_ours: Callable[[int], bool]) -> int:
    taken: set[int] = set()
    last = -1
    for route in others:
        taken.add(route.metric)
        if is_ours(route.device):
            last = max(last, route.metric)
    metric = _FIRST_METRIC[family] if last < 0 else last + 1
    if last < 0 and metric in taken:
        version = 6 if family == socket.AF_INET6 else 4
        text = f"failed to add IPv{version} route for {_DEFAULT[family]} via {gateway}: file exists"
        raise DefaultRouteTaken(text)
    while metric in taken:
        metric += 1
    return metric


def is_calico_end(there: Rtnl, device: int, here: Rtnl) -> bool:
    """The container's interface `device` is one end of a veth pair whose other end is a workload interface here."""
    far = link_at(there, device)
    near = link_at(here, far.lower) if far is not None and far.kind == "veth" else None
    return near is not None and near.lower == device and near.name.startswith(INTERFACE_PREFIX)


def link_at(rtnl: Rtnl, index: int) -> Link | None:
    """The interface of that index, None if there is none."""
    if index <= 0:
        return None
    try:
        body = objects.encode_link(index)
        return objects.decode_link(memoryview(rtnl.query(f"get link {index}", objects.RTM_GETLINK, body)))
    except KernelError as error:
        if error.gone:
            return None
        raise


def routed_families(there: Rtnl, device: int) -> frozenset[int]:
    """The families in which the interface has a default route of the kind that we make, in whatever table (a later
    plug-in of the chain may have moved it)."""
    return frozenset(family for family in _DEFAULT if _has_default(there.routes(family, table=0, device=device)))


def _has_default(routes: Iterable[Route]) -> bool:
    found = {(route.destination, route.gateway) for route in routes}
    if (_DEFAULT[socket.AF_INET], GATEWAY) in found:
        return (_TO_GATEWAY, "") in found
    return any(
        destination == _DEFAULT[socket.AF_INET6] and gateway.startswith("fe80:") for destination, gateway in found
    )

"""Requests about routes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from libcalico.kernel import objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import Request
from libcalico.kernel.objects import Route
from libcalico.kernel.rtnl.requests import CREATE, REPLACE, RouteNetlink


class RouteRequests(RouteNetlink):
    """Routes: read, asked for a way, written one by one or many at once."""

    def routes(
        self, family: int, *, table: int = objects.RT_TABLE_MAIN, device: int = 0, protocol: int = 0
    ) -> list[Route]:
        """Routes, filtered by the kernel (and again here, for kernels that do not)."""
        body = objects.encode_route_dump(family, table, device, protocol)
        try:
            found = self.dump("list routes", objects.RTM_GETROUTE, body, objects.decode_route)
        except KernelError as error:
            if error.gone:
                return []
            raise
        return [
            route
            for route in found
            if table in {0, route.table} and device in {0, route.device} and protocol in {0, route.protocol}
        ]

    def device_to(self, address: str) -> int:
        """The index of the interface by which packets to an address leave; 0 when there is no way."""
        try:
            body = objects.encode_route_query(address)
            return objects.decode_route_device(self.query(f"find route to {address}", objects.RTM_GETROUTE, body))
        except KernelError as error:
            if error.gone or error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES}:
                return 0
            raise

    def replace_route(self, route: Route) -> None:
        """Add the route, or put it in place of one with the same destination, table and metric."""
        self.request(f"add route {describe_route(route)}", objects.RTM_NEWROUTE, REPLACE, objects.encode_route(route))

    def create_route(self, route: Route) -> None:
        """Add the route; `KernelError` with EEXIST when there is one of the same destination, table and metric."""
        self.request(f"add route {describe_route(route)}", objects.RTM_NEWROUTE, CREATE, objects.encode_route(route))

    def delete_route(self, route: Route) -> bool:
        """Delete the route; False when it was not there."""
        operation = f"delete route {describe_route(route)}"
        return self.delete_object(operation, objects.RTM_DELROUTE, objects.encode_route(route))

    def apply_routes(self, deletes: Sequence[Route], replaces: Sequence[Route]) -> dict[Route, KernelError]:
        """Delete, then replace, many routes in few system calls; what failed, by route. A missing one is deleted."""
        requests = [Request(objects.RTM_DELROUTE, 0, objects.encode_route(route)) for route in deletes]
        requests += [Request(objects.RTM_NEWROUTE, REPLACE, objects.encode_route(route)) for route in replaces]
        routes = [*deletes, *replaces]
        return {
            routes[index]: error
            for index, error in self.batch("program route", requests).items()
            if index >= len(deletes) or not error.gone
        }


def describe_route(route: Route) -> str:
    """The route as `ip route` shows it, with the device's index for its name."""
    words = ["blackhole"] if route.type == objects.RTN_BLACKHOLE else []
    words.append(route.destination)
    if route.gateway:
        words += ["via", route.gateway]
    if route.device:
        words += ["dev", f"#{route.device}"]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)

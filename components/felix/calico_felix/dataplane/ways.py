"""How packets get to a destination on another host: the kernel's route for what the graph says of it."""

from __future__ import annotations

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.ipip import Ipip
from calico_felix.dataplane.manager import Context, Manager
from calico_felix.dataplane.underlay import Underlay
from calico_felix.dataplane.vxlan import Vxlan
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.objects import RT_SCOPE_LINK, RTN_BLACKHOLE, Route

METRIC_V6 = 1024
"""What the kernel takes when none is given, and reports."""
LOOPBACK = 1
"""The index of `lo`, to which the kernel ties blackholes of IPv6."""


class Ways:
    """The underlay and the tunnels over it, as one. No I/O."""

    def __init__(self, context: Context, interfaces: Interfaces) -> None:
        self._config = context.config
        self.underlay = Underlay(context, interfaces)
        self.vxlan = Vxlan(context, interfaces, self.underlay)
        self.ipip = Ipip(context, interfaces, self.underlay)
        self.managers: tuple[Manager, ...] = (self.underlay, self.vxlan, self.ipip)
        """In the order of their work."""

    @property
    def generation(self) -> int:
        """Grows when a way may be another one."""
        return self.underlay.generation + self.vxlan.generation + self.ipip.generation

    def uses(self, ifindex: int) -> bool:
        """A tunnel's device, or one below them."""
        return self._is_tunnel(ifindex) or self.underlay.uses(ifindex)

    def _is_tunnel(self, ifindex: int) -> bool:
        return self.vxlan.uses(ifindex) or self.ipip.uses(ifindex)

    def is_open(self, route: Route) -> bool:
        """The device that a route leads to is still there."""
        return bool(route.device) and self.uses(route.device)

    def is_new_tunnel(self, route: Route, former: Route) -> bool:
        """A route leads through a tunnel, and what it follows does not lead through that one."""
        return route.device != former.device and self._is_tunnel(route.device)

    def leads(self, wanted: WantedRoute, route: Route) -> bool:
        """A route leads through the tunnel that is wanted."""
        if wanted.kind == "ipip":
            return self.ipip.uses(route.device)
        return wanted.kind.startswith("vxlan") and self.vxlan.uses(route.device)

    def mtus(self) -> dict[str, int]:
        """Of each tunnel that is wanted, by its device, the MTU in octets; 0 while it is not there."""
        return {**self.vxlan.mtus(), **self.ipip.mtus()}

    def plan_route(self, wanted: WantedRoute) -> Route | None:
        """The kernel's route to a destination elsewhere; None while the way to it is not there."""
        family = 6 if ":" in wanted.destination else 4
        route = Route(
            wanted.destination, protocol=self._config.route_protocol, metric=METRIC_V6 if family == 6 else 0
        )  # fmt: skip
        match wanted.kind:
            case "blackhole":
                return route._replace(type=RTN_BLACKHOLE, device=LOOPBACK if family == 6 else 0)
            case "same-subnet":
                way = self.underlay.way(family)
                if way is None:
                    return None
                return route._replace(device=way.parent.ifindex, gateway=wanted.gateway, onlink=True)
            case "ipip":
                tunnel = self.ipip.device
                if tunnel is None:
                    return None
                return route._replace(device=tunnel.ifindex, gateway=wanted.gateway, onlink=True, mtu=tunnel.mtu)
        return self._by_vxlan(route, wanted, family)

    def to_gateway(self, route: Route) -> Route | None:
        """The route that the kernel needs before it takes `route`; None for most.

        It refuses an IPv6 gateway, onlink or not, that some other route but the default one leads to by another
        device: that of another program for a part of the pool, or the destination's own former one."""
        if ":" not in route.gateway or not self.vxlan.uses(route.device):
            return None
        return route._replace(destination=f"{route.gateway}/128", gateway="", onlink=False)

    def _by_vxlan(self, route: Route, wanted: WantedRoute, family: int) -> Route | None:
        end, device = self.vxlan.end(wanted.node, family), self.vxlan.device(family)
        if end is None or device is None:
            return None
        route = route._replace(device=device.ifindex, protocol=self._config.device_protocol, mtu=device.mtu)
        if wanted.kind == "vxlan-direct":
            return route._replace(scope=RT_SCOPE_LINK if family == 4 else 0)
        return route._replace(gateway=end.address, onlink=True)

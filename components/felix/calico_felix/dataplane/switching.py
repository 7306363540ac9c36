"""When a destination on another host takes another way: at once, unless that is a tunnel whose other end may not be
there yet. All hosts change a pool's encapsulation, each in its own time; until then the former way serves on.
"""

from __future__ import annotations

from typing import NamedTuple

from calico_felix.dataplane.encapsulations import LINGER_S
from calico_felix.dataplane.ways import Ways
from libcalico.calc.messages import Route as WantedRoute
from libcalico.kernel.objects import Route

SWITCH_S = 2.0
"""How long the other end has to make a new tunnel after this host knows of it."""


class Hold(NamedTuple):
    """Until when a destination keeps its former way, and whether the new one is known."""

    until_s: float
    is_known: bool


class Switches:
    """The destinations that keep their former way for a while."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._holds: dict[str, Hold] = {}

    def choose(self, wanted: WantedRoute, former: Route | None, now_s: float) -> Route | None:
        """The route that a destination has now; None while there is no way to it."""
        route = self._ways.plan_route(wanted)
        limit_s = 0.0 if former is None else self._longest_s(wanted, former, route)
        hold = self._holds.pop(wanted.destination, None)
        if not limit_s:
            return route
        if hold is None or hold.is_known != (route is not None):
            hold = Hold(now_s + limit_s, route is not None)
        if now_s < hold.until_s:
            self._holds[wanted.destination] = hold
            return former
        return route

    def _longest_s(self, wanted: WantedRoute, former: Route, route: Route | None) -> float:
        """How long the former way may be kept, in seconds: 0.0 when it is closed, or no tunnel is to be waited for."""
        if not self._ways.is_open(former):
            return 0.0
        if route is None:
            return 0.0 if self._ways.leads(wanted, former) else LINGER_S
        return SWITCH_S if self._ways.is_new_tunnel(route, former) else 0.0

    def forget(self, destination: str) -> None:
        """It is no destination any more."""
        self._holds.pop(destination, None)

    def due_s(self) -> float | None:
        """When the next one must be chosen again; None: none waits."""
        return min((hold.until_s for hold in self._holds.values()), default=None)

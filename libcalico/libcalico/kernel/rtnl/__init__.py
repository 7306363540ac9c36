"""Typed operations on links, addresses, routes and neighbours of one network namespace. Blocking, no fork.

Each call is one netlink request (0.01-0.6 ms), except deleting an interface, which waits for the kernel's RCU
(about 20 ms), and dumps. `netlink.Netlink` is the same for coroutines. The operations stand by subject in the modules
of this package; one object has them all, since one socket serves them all.
"""

from __future__ import annotations

from libcalico.kernel.rtnl.addresses import AddressRequests
from libcalico.kernel.rtnl.links import LinkRequests
from libcalico.kernel.rtnl.neighbours import NeighbourRequests
from libcalico.kernel.rtnl.routes import RouteRequests


class Rtnl(LinkRequests, AddressRequests, RouteRequests, NeighbourRequests):
    """Route netlink of our namespace, or of the one whose handle is at `netns_path`."""

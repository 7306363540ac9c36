"""What start-up asks of this host's kernel: interfaces with their addresses, routes, the way to another host."""

from __future__ import annotations

import os
import socket

from calico_felix.startup.detection import Interface
from libcalico.kernel.objects import RTPROT_CALICO
from libcalico.kernel.rtnl import Rtnl
from libcalico.model.scalars import IPNetwork, parse_net

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ANY_PORT = 80
IPV6 = "/proc/sys/net/ipv6"


class HostNetwork:
    """The network of the host in whose namespace we are."""

    def interfaces(self) -> list[Interface]:
        """Every interface, with its addresses in the kernel's order."""
        with Rtnl() as rtnl:
            addresses = rtnl.addresses()
            return [
                Interface(link.ifindex, link.name, tuple(one.cidr for one in addresses if one.device == link.ifindex))
                for link in rtnl.links()
            ]

    def networks(self) -> list[IPNetwork]:
        """The IPv4 networks to which this host has routes, without the default route and our own."""
        with Rtnl() as rtnl:
            routes = rtnl.routes(socket.AF_INET)
        nets = (parse_net(route.destination) for route in routes if route.protocol != RTPROT_CALICO)
        return [net for net in nets if net is not None and net.prefixlen]

    def source_to(self, host: str, version: int) -> str:
        """The address with which packets to a host leave; none is sent. Raises OSError."""
        places = socket.getaddrinfo(host, ANY_PORT, FAMILIES[version], socket.SOCK_DGRAM)
        with socket.socket(FAMILIES[version], socket.SOCK_DGRAM) as probe:
            probe.connect(places[0][4])
            return str(probe.getsockname()[0])

    def has_ipv6(self) -> bool:
        """Does this kernel have IPv6?"""
        return os.path.isdir(IPV6)

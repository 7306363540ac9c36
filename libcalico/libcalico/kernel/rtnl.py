"""Typed operations on links, addresses, routes and neighbours of one network namespace. Blocking, no fork.

Each call is one netlink request (0.01-0.6 ms), except deleting an interface, which waits for the kernel's RCU
(about 20 ms), and dumps. `netlink.Netlink` is the same for coroutines.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence

from libcalico.kernel import nlmsg, objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket, Request
from libcalico.kernel.objects import Address, Link, Neighbour, Route, VxlanAttributes

_SIOCGIFNAME = 0x8910
_IFREQ = struct.Struct("16xi20x")
_CREATE = nlmsg.NLM_F_CREATE | nlmsg.NLM_F_EXCL
_REPLACE = nlmsg.NLM_F_CREATE | nlmsg.NLM_F_REPLACE


class Rtnl(NetlinkSocket):
    """Route netlink of our namespace, or of the one whose handle is at `netns_path`."""

    def __init__(self, netns_path: str = "") -> None:
        super().__init__(socket.NETLINK_ROUTE, netns_path)

    # --- links

    def links(self) -> list[Link]:
        """Every interface."""
        return self.dump("list links", objects.RTM_GETLINK, objects.encode_link_dump(), objects.decode_link)

    def link(self, name: str) -> Link | None:
        """The interface of that name, None if there is none."""
        body = objects.encode_link(attributes=nlmsg.encode_text(objects.IFLA_IFNAME, name))
        try:
            return objects.decode_link(memoryview(self.query(f"get link {name}", objects.RTM_GETLINK, body)))
        except KernelError as error:
            if error.gone:
                return None
            raise

    def index(self, name: str) -> int:
        """The index of the interface of that name, 0 if there is none.

        Not by SIOCGIFINDEX: for a name that is not there it has the kernel look for a module of that name."""
        body = objects.encode_link(attributes=nlmsg.encode_text(objects.IFLA_IFNAME, name))
        try:
            return objects.decode_link_index(self.query(f"get index of {name}", objects.RTM_GETLINK, body))
        except KernelError as error:
            if error.gone:
                return 0
            raise

    def has_index(self, index: int) -> bool:
        """Is there an interface of that index? Takes microseconds, and may be asked from any thread."""
        try:
            fcntl.ioctl(self._socket, _SIOCGIFNAME, _IFREQ.pack(index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise KernelError(f"get name of link {index}", error.errno or 0) from error
        return True

    def create_link(self, name: str, info: bytes, attributes: bytes = b"", *, up: bool = False) -> None:
        """Make an interface; `info` is its IFLA_LINKINFO (`objects.encode_link_info`)."""
        flags = objects.IFF_UP if up else 0
        body = objects.encode_link(
            flags=flags, change=flags, attributes=nlmsg.encode_text(objects.IFLA_IFNAME, name) + info + attributes
        )
        self.request(f"create link {name}", objects.RTM_NEWLINK, _CREATE, body)

    def create_veth(
        self,
        name: str,
        peer: str,
        *,
        peer_netns: int = -1,
        mac: str = "",
        peer_mac: str = "",
        mtu: int = 0,
        queues: int = 1,
    ) -> None:
        """A veth pair: `name` here, `peer` in the namespace of descriptor `peer_netns` (-1 = here too).

        Both ends are born where they belong: moving one later costs 18 ms."""
        common = nlmsg.encode_u32(objects.IFLA_MTU, mtu) if mtu else b""
        common += nlmsg.encode_u32(objects.IFLA_NUM_TX_QUEUES, queues)
        common += nlmsg.encode_u32(objects.IFLA_NUM_RX_QUEUES, queues)
        far = objects.encode_link() + nlmsg.encode_text(objects.IFLA_IFNAME, peer) + common
        if peer_mac:
            far += nlmsg.encode_attribute(objects.IFLA_ADDRESS, objects.pack_mac(peer_mac))
        if peer_netns >= 0:
            far += nlmsg.encode_u32(objects.IFLA_NET_NS_FD, peer_netns)
        info = objects.encode_link_info("veth", nlmsg.encode_nested(objects.VETH_INFO_PEER, far))
        if mac:
            common += nlmsg.encode_attribute(objects.IFLA_ADDRESS, objects.pack_mac(mac))
        self.create_link(name, info, common)

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int = 0,
        mac: str = "",
        name: str = "",
        ipv4: Mapping[str, int] | None = None,
    ) -> None:
        """Change what is given; `ipv4`: settings by their names below net/ipv4/conf/ (`objects.IPV4_SETTINGS`)."""
        attributes = nlmsg.encode_u32(objects.IFLA_MTU, mtu) if mtu else b""
        if mac:
            attributes += nlmsg.encode_attribute(objects.IFLA_ADDRESS, objects.pack_mac(mac))
        if name:
            attributes += nlmsg.encode_text(objects.IFLA_IFNAME, name)
        if ipv4:
            attributes += objects.encode_ipv4_settings(ipv4)
        flags = objects.IFF_UP if up else 0
        change = 0 if up is None else objects.IFF_UP
        body = objects.encode_link(index, flags, change, attributes)
        self.request(f"set link {index}", objects.RTM_NEWLINK, 0, body)

    def delete_link(self, name: str) -> bool:
        """Delete the interface (and a veth's other end); False when there was none. Waits about 20 ms for RCU."""
        body = objects.encode_link(attributes=nlmsg.encode_text(objects.IFLA_IFNAME, name))
        return self._delete(f"delete link {name}", objects.RTM_DELLINK, body)

    def delete_index(self, index: int) -> bool:
        """As `delete_link`, for an interface whose name may have been given to another since."""
        return self._delete(f"delete link {index}", objects.RTM_DELLINK, objects.encode_link(index))

    def _delete(self, operation: str, kind: int, body: bytes) -> bool:
        try:
            self.request(operation, kind, 0, body)
        except KernelError as error:
            if error.gone:
                return False
            raise
        return True

    # --- tunnels

    def ensure_vxlan(self, name: str, attributes: VxlanAttributes, mac: str, mtu: int) -> Link:
        """A VXLAN device with exactly these properties, up; one that differs is deleted and made again."""
        current = self.link(name)
        if current is not None and not (current.kind == "vxlan" and current.vxlan == attributes and current.mac == mac):
            self.delete_link(name)
            current = None
        if current is None:
            common = nlmsg.encode_attribute(objects.IFLA_ADDRESS, objects.pack_mac(mac))
            self.create_link(name, objects.encode_vxlan(attributes), common)
            current = self._expect_link(name)
        return self._bring_up(current, mtu)

    def _bring_up(self, link: Link, mtu: int) -> Link:
        change_mtu = mtu if mtu and link.mtu != mtu else 0
        if change_mtu or not link.up:
            self.set_link(link.ifindex, up=True, mtu=change_mtu)
            return self._expect_link(link.name)
        return link

    def _expect_link(self, name: str) -> Link:
        link = self.link(name)
        if link is None:
            raise KernelError(f"get link {name}", errno.ENODEV)
        return link

    # --- addresses

    def addresses(self, device: int = 0, family: int = 0) -> list[Address]:
        """Addresses of one interface (0 = all) and one family (0 = both)."""
        found = self.dump(
            "list addresses", objects.RTM_GETADDR, objects.encode_address_dump(device, family), objects.decode_address
        )
        return [address for address in found if device in {0, address.device}]

    def replace_address(self, address: Address) -> None:
        """Add, or change, an address."""
        body = objects.encode_address(address)
        self.request(f"add address {address.cidr}", objects.RTM_NEWADDR, _REPLACE, body)

    def delete_address(self, address: Address) -> bool:
        """Delete an address; False when it was not there."""
        body = objects.encode_address(address)
        return self._delete(f"delete address {address.cidr}", objects.RTM_DELADDR, body)

    def ensure_only_address(self, device: int, cidrs: Sequence[str], family: int = socket.AF_INET) -> bool:
        """Give the interface exactly these addresses of a family (IPv6 link-local ones stay); True when changed."""
        wanted, changed = set(cidrs), False
        for address in self.addresses(device, family):
            if address.cidr in wanted:
                wanted.discard(address.cidr)
            elif not address.cidr.startswith("fe80:"):
                changed = self.delete_address(address) or changed
        for cidr in sorted(wanted):
            self.replace_address(Address(device, cidr))
            changed = True
        return changed

    # --- routes

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
        self.request(f"add route {describe_route(route)}", objects.RTM_NEWROUTE, _REPLACE, objects.encode_route(route))

    def create_route(self, route: Route) -> None:
        """Add the route; `KernelError` with EEXIST when there is one of the same destination, table and metric."""
        self.request(f"add route {describe_route(route)}", objects.RTM_NEWROUTE, _CREATE, objects.encode_route(route))

    def delete_route(self, route: Route) -> bool:
        """Delete the route; False when it was not there."""
        operation = f"delete route {describe_route(route)}"
        return self._delete(operation, objects.RTM_DELROUTE, objects.encode_route(route))

    def apply_routes(self, deletes: Sequence[Route], replaces: Sequence[Route]) -> dict[Route, KernelError]:
        """Delete, then replace, many routes in few system calls; what failed, by route. A missing one is deleted."""
        requests = [Request(objects.RTM_DELROUTE, 0, objects.encode_route(route)) for route in deletes]
        requests += [Request(objects.RTM_NEWROUTE, _REPLACE, objects.encode_route(route)) for route in replaces]
        routes = [*deletes, *replaces]
        return {
            routes[index]: error
            for index, error in self.batch("program route", requests).items()
            if index >= len(deletes) or not error.gone
        }

    # --- neighbours

    def neighbours(self, device: int, family: int) -> list[Neighbour]:
        """Neighbour entries of an interface, 0 = of all; family `objects.AF_BRIDGE` = its FDB."""
        body = objects.encode_neighbour_dump(family, device)
        found = self.dump("list neighbours", objects.RTM_GETNEIGH, body, objects.decode_neighbour)
        return [entry for entry in found if device in {0, entry.device}]

    def replace_neighbour(self, entry: Neighbour) -> None:
        """Add, or change, a neighbour or FDB entry."""
        body = objects.encode_neighbour(entry)
        self.request(f"add neighbour {entry.address}", objects.RTM_NEWNEIGH, _REPLACE, body)

    def apply_neighbours(
        self, deletes: Sequence[Neighbour], replaces: Sequence[Neighbour]
    ) -> dict[Neighbour, KernelError]:
        """Delete, then replace, neighbour and FDB entries; what failed, by entry."""
        requests = [Request(objects.RTM_DELNEIGH, 0, objects.encode_neighbour(entry)) for entry in deletes]
        requests += [Request(objects.RTM_NEWNEIGH, _REPLACE, objects.encode_neighbour(entry)) for entry in replaces]
        entries = [*deletes, *replaces]
        return {
            entries[index]: error
            for index, error in self.batch("program neighbour", requests).items()
            if index >= len(deletes) or not error.gone
        }

    def keep_neighbours(self, deletes: Sequence[Neighbour], kept: Sequence[Neighbour]) -> dict[Neighbour, KernelError]:
        """Delete, then see to it that each of `kept` has an entry that counts as learned; what failed, by entry.

        One that is there keeps its MAC; one that is not comes without, and the kernel finds it when it is needed."""
        failed = self.apply_neighbours(deletes, ())
        fresh = [Request(objects.RTM_NEWNEIGH, _CREATE, objects.encode_neighbour(_learned(entry, objects.NUD_NONE)))
                 for entry in kept]  # fmt: skip
        refused = self.batch("keep neighbour", fresh)
        there = [kept[index] for index, error in refused.items() if error.errno == errno.EEXIST]
        failed |= {kept[index]: error for index, error in refused.items() if error.errno != errno.EEXIST}
        marks = [Request(objects.RTM_NEWNEIGH, _REPLACE, objects.encode_neighbour(_learned(entry, objects.NUD_STALE)))
                 for entry in there]  # fmt: skip
        for index, error in self.batch("keep neighbour", marks).items():
            if error.errno != errno.EINVAL:  # no MAC is known yet: it is marked nevertheless
                failed[there[index]] = error
        return failed


def _learned(entry: Neighbour, state: int) -> Neighbour:
    return entry._replace(mac="", state=state, learned=True)


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

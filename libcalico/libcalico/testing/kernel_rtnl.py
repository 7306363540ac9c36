"""Route netlink of the fake kernel: the real `Rtnl` over messages that are answered in memory.

Requests are decoded by the code that reads dumps and events; answers are encoded as the kernel encodes them. So a test
runs all of `kernel.rtnl` and `kernel.objects` but the socket.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence

from libcalico.kernel import nlmsg, objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import Request, T
from libcalico.kernel.objects import Link, Neighbour, VxlanAttributes
from libcalico.kernel.rtnl import Rtnl
from libcalico.net import bare_address
from libcalico.testing.kernel_state import KernelState

DEFAULT_METRIC_V6 = 1024
VXLAN_OVERHEAD = 50


class FakeRtnl(Rtnl):
    """Answers `Rtnl`'s requests from a kernel's state."""

    def __init__(self, kernel: KernelState) -> None:
        self._kernel = kernel
        self._together: list[tuple[str, Request]] | None = None

    def close(self) -> None:
        """Nothing is open."""

    def has_index(self, index: int) -> bool:
        """Is there an interface of that index?"""
        return index in self._kernel.links

    def request(self, operation: str, kind: int, flags: int, body: bytes) -> None:
        """One change; raises `KernelError`."""
        if self._together is not None:
            self._together.append((operation, Request(kind, flags, body)))
        elif number := self._act(kind, flags, memoryview(body)):
            raise KernelError(operation, number)

    def batch(self, operation: str, requests: Sequence[Request]) -> dict[int, KernelError]:
        """Many changes in order: the errors by index into `requests`."""
        numbers = [self._act(kind, flags, memoryview(body)) for kind, flags, body in requests]
        return {index: KernelError(operation, number) for index, number in enumerate(numbers) if number}

    def query(self, operation: str, kind: int, body: bytes) -> bytes:
        """One object: a link by name or index, or the way to an address."""
        if kind == objects.RTM_GETLINK:
            link = self._find(objects.decode_link(memoryview(body)))
            if link is None:
                raise KernelError(operation, errno.ENODEV)
            return encode_answer(self._kernel.as_told(link))
        route = objects.decode_route(memoryview(body))
        assert route is not None
        device = self._kernel.device_to(bare_address(route.destination))
        if not device:
            raise KernelError(operation, errno.ENETUNREACH)
        return objects.encode_route(route._replace(device=device))

    def dump(self, operation: str, kind: int, body: bytes, decode: Callable[[memoryview], T | None]) -> list[T]:
        """Every object of a table."""
        self._kernel.reads.append(operation)
        if number := self._kernel.refused(operation):
            raise KernelError(operation, number)
        found = (decode(memoryview(message)) for message in self._messages(kind, body))
        return [one for one in found if one is not None]

    def _messages(self, kind: int, body: bytes) -> Iterable[bytes]:
        kernel, family = self._kernel, body[0]
        match kind:
            case objects.RTM_GETLINK:
                return [encode_answer(kernel.as_told(link)) for link in kernel.links.values()]
            case objects.RTM_GETADDR:
                return [objects.encode_address(one) for one in kernel.addresses
                        if family in {0, objects.family_of(one.cidr)}]  # fmt: skip
            case objects.RTM_GETROUTE:
                return [objects.encode_route(one) for one in kernel.routes.values() if one.family == family]
            case _:
                return [objects.encode_neighbour(one) for one in kernel.neighbours.values()
                        if family == (objects.AF_BRIDGE if one.fdb else objects.family_of(one.address))]  # fmt: skip

    def _act(self, kind: int, flags: int, body: memoryview) -> int:
        match kind:
            case objects.RTM_NEWLINK:
                return self._new_link(flags, body)
            case objects.RTM_DELLINK:
                link = self._find(objects.decode_link(body))
                name = link.name if link is not None else objects.decode_link(body).name
                return self._kernel.change(
                    f"delete link {name}", lambda: self._kernel.drop_link(link.ifindex if link is not None else 0)
                )
            case objects.RTM_NEWADDR | objects.RTM_DELADDR:
                return self._address(kind, body)
            case objects.RTM_NEWROUTE | objects.RTM_DELROUTE:
                return self._route(kind, flags, body)
            case _:
                return self._neighbour(kind, flags, body)

    def _find(self, wanted: Link) -> Link | None:
        index = wanted.ifindex or self._kernel.index(wanted.name)
        return self._kernel.links.get(index)

    def _new_link(self, flags: int, body: memoryview) -> int:
        asked = objects.decode_link(body)
        if not flags & nlmsg.NLM_F_CREATE:
            return self._kernel.change(
                f"set link {self._kernel.name(asked.ifindex)}", lambda: self._change_link(asked, body)
            )
        return self._kernel.change(f"create link {asked.name}", lambda: self._create(asked))

    def _create(self, asked: Link) -> int:
        kernel = self._kernel
        if kernel.index(asked.name):
            return errno.EEXIST
        if asked.vxlan is not None and self._has_vni(asked.vxlan):
            return errno.EEXIST
        kernel.add_link(asked.name, up=asked.up, mtu=asked.mtu or 1500, kind=asked.kind, mac=asked.mac)
        index = kernel.index(asked.name)
        if asked.vxlan is not None:
            lower = kernel.links.get(asked.vxlan.lower)
            mtu = (lower.mtu if lower is not None else 1500) - VXLAN_OVERHEAD
            kernel.put_link(kernel.links[index]._replace(vxlan=asked.vxlan, lower=asked.vxlan.lower, mtu=mtu))
        return 0

    def _has_vni(self, wanted: VxlanAttributes) -> bool:
        """A VNI on a port is one device's, of each family."""
        family = objects.family_of(wanted.local)
        there = [link.vxlan for link in self._kernel.links.values() if link.vxlan is not None]
        return any((wanted.vni, wanted.port, family) == (o.vni, o.port, objects.family_of(o.local)) for o in there)

    def _change_link(self, asked: Link, body: memoryview) -> int:
        link = self._kernel.links.get(asked.ifindex)
        if link is None:
            return errno.ENODEV
        change = nlmsg.U32.unpack_from(body, 12)[0]
        up = asked.up if change & objects.IFF_UP else link.up
        self._kernel.put_link(
            link._replace(
                up=up, running=up, mtu=asked.mtu or link.mtu, mac=asked.mac or link.mac, name=asked.name or link.name
            )
        )
        return 0

    def _address(self, kind: int, body: memoryview) -> int:
        kernel, address = self._kernel, objects.decode_address(body)
        words = f"address {address.cidr} dev {kernel.name(address.device)}"
        if kind == objects.RTM_DELADDR:
            return kernel.change(f"delete {words}", lambda: kernel.drop_address(address.device, address.cidr))

        def add() -> int:
            if address.device not in kernel.links:
                return errno.ENODEV
            kernel.put_address(address)
            return 0

        return kernel.change(f"add {words}", add)

    def _route(self, kind: int, flags: int, body: memoryview) -> int:
        kernel, route = self._kernel, objects.decode_route(body)
        assert route is not None
        if route.family == socket.AF_INET6 and not route.metric:
            route = route._replace(metric=DEFAULT_METRIC_V6)
        words = f"route {kernel.route_line(route)}"
        if kind == objects.RTM_DELROUTE:
            return kernel.change(f"delete {words}", lambda: kernel.drop_route(route))
        return kernel.change(f"add {words}", lambda: kernel.put_route(route, bool(flags & nlmsg.NLM_F_EXCL)))

    def _neighbour(self, kind: int, flags: int, body: memoryview) -> int:
        kernel, entry = self._kernel, objects.decode_neighbour(body)
        words = f"neighbour {kernel.neighbour_line(entry)}"
        if kind == objects.RTM_DELNEIGH:
            return kernel.change(f"delete {words}", lambda: self._drop_neighbour(entry))
        return kernel.change(f"add {words}", lambda: self._put_neighbour(entry, bool(flags & nlmsg.NLM_F_EXCL)))

    def _drop_neighbour(self, entry: Neighbour) -> int:
        if entry.device not in self._kernel.links:
            return errno.ENODEV
        return 0 if self._kernel.neighbours.pop(_key(entry), None) is not None else errno.ENOENT

    def _put_neighbour(self, entry: Neighbour, exclusive: bool) -> int:
        """An entry whose state needs a MAC, and which has none, is marked and refused, as the kernel does."""
        neighbours, key = self._kernel.neighbours, _key(entry)
        link = self._kernel.links.get(entry.device)
        if link is None:
            return errno.ENODEV
        if not link.up:
            return errno.ENETDOWN
        known = neighbours.get(key)
        if known is not None and exclusive:
            return errno.EEXIST
        if entry.mac or entry.state == objects.NUD_NONE:
            neighbours[key] = entry
            return 0
        if known is None:
            return errno.EINVAL
        neighbours[key] = known._replace(learned=entry.learned)
        return 0 if known.mac else errno.EINVAL


def _key(entry: Neighbour) -> tuple[int, str, str]:
    return (entry.device, entry.address, entry.mac if entry.fdb else "")


def encode_answer(link: Link) -> bytes:
    """A link as the kernel's message about it."""
    attributes = nlmsg.encode_text(objects.IFLA_IFNAME, link.name) + nlmsg.encode_u32(objects.IFLA_MTU, link.mtu)
    if link.mac:
        attributes += nlmsg.encode_attribute(objects.IFLA_ADDRESS, objects.pack_mac(link.mac))
    if link.vxlan is not None:
        attributes += objects.encode_vxlan(link.vxlan)
    elif link.kind:
        attributes += objects.encode_link_info(link.kind)
    if link.lower:
        attributes += nlmsg.encode_u32(objects.IFLA_LINK, link.lower)
    areas = ((socket.AF_INET, objects.IFLA_INET_CONF, link.ipv4), (socket.AF_INET6, objects.IFLA_INET6_CONF, link.ipv6))
    told = [
        nlmsg.encode_nested(family, nlmsg.encode_attribute(kind, values)) for family, kind, values in areas if values
    ]
    attributes += nlmsg.encode_nested(objects.IFLA_AF_SPEC, *told) if told else b""
    flags = (objects.IFF_UP if link.up else 0) | (objects.IFF_RUNNING if link.running else 0)
    return objects.encode_link(link.ifindex, flags, 0, attributes)

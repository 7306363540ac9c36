"""Requests about interfaces."""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Mapping

from libcalico.kernel import nlmsg, objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Link, VxlanAttributes
from libcalico.kernel.rtnl.requests import CREATE, RouteNetlink

_SIOCGIFNAME = 0x8910
_IFREQ = struct.Struct("16xi20x")


class LinkRequests(RouteNetlink):
    """Interfaces: read, made, changed, deleted."""

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
        self.request(f"create link {name}", objects.RTM_NEWLINK, CREATE, body)

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
        return self.delete_object(f"delete link {name}", objects.RTM_DELLINK, body)

    def delete_index(self, index: int) -> bool:
        """As `delete_link`, for an interface whose name may have been given to another since."""
        return self.delete_object(f"delete link {index}", objects.RTM_DELLINK, objects.encode_link(index))

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
        return self.bring_up(current, mtu)

    def bring_up(self, link: Link, mtu: int) -> Link:
        """Set an interface up, with this MTU in octets unless it is 0; the interface as it is then."""
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

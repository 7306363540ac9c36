"""The kernel's network objects as values: links, addresses, routes, neighbours, and how netlink spells them.

Pure: `encode_*` give the fixed part and attributes of a request, `decode_*` read a dump's or an event's message.
Constants keep the kernel's names (linux/rtnetlink.h, if_link.h, neighbour.h).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from libcalico.kernel import nlmsg
from libcalico.net import bare_address

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP, IFF_RUNNING, IFF_LOWER_UP = 0x1, 0x40, 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_OPERSTATE = 1, 3, 4, 5, 16
IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 18, 28, 31, 32
IFLA_EXT_MASK, IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_INET6_CONF, IFLA_LINK_NETNSID = 29, 26, 1, 2, 37
IPV4_SETTINGS = {"forwarding": 1, "proxy_arp": 3, "rp_filter": 8, "route_localnet": 26}
"""Places in IFLA_INET_CONF, from 1 (linux/ip.h, IPV4_DEVCONF_*), of what stands below net/ipv4/conf/."""
IPV6_SETTINGS = {"forwarding": 0, "accept_ra": 3, "proxy_ndp": 22}
"""Places in IFLA_INET6_CONF, from 0 (linux/ipv6.h, DEVCONF_*), of what stands below net/ipv6/conf/."""
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PROXY, IFLA_VXLAN_RSC, IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS = 11, 12, 13, 14
IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GBP = 15, 2, 16, 17, 23

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE = 1, 2, 6
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_BIRD, RTPROT_CALICO = 2, 3, 12, 80
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_TABLE = 15
RTAX_MTU = 2

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_TENTATIVE, IFA_F_NODAD = 0x40, 0x02

AF_BRIDGE = 7
NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NUD_NONE, NUD_STALE, NUD_PERMANENT = 0x00, 0x04, 0x80
NTF_SELF, NTF_EXT_LEARNED = 0x02, 0x10

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_BE16 = struct.Struct(">H")
_SETTING = struct.Struct("=i")
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class Link(NamedTuple):
    """An interface. `up` is what was asked for, `running` whether it can carry packets.

    `lower` is the index of a veth's other end, or of the device below; `leads_away`: it is in another namespace.

    `ipv4` and `ipv6` are its settings, four bytes each, as the kernel last reported them; see `setting`."""

    ifindex: int
    name: str
    up: bool
    running: bool
    mtu: int
    mac: str
    kind: str = ""
    lower: int = 0
    vxlan: VxlanAttributes | None = None
    ipv4: bytes = b""
    ipv6: bytes = b""
    leads_away: bool = False

    def setting(self, area: str, name: str) -> int | None:
        """A setting of `ipv4` or `ipv6`, such as "forwarding"; None when the kernel did not tell."""
        values = self.ipv4 if area == "ipv4" else self.ipv6
        place = IPV4_SETTINGS[name] - 1 if area == "ipv4" else IPV6_SETTINGS[name]
        return _SETTING.unpack_from(values, place * 4)[0] if len(values) >= place * 4 + 4 else None

    def with_setting(self, area: str, name: str, value: int) -> Link:
        """As it is after such a setting was written, which the kernel does not report."""
        values = bytearray(self.ipv4 if area == "ipv4" else self.ipv6)
        place = IPV4_SETTINGS[name] - 1 if area == "ipv4" else IPV6_SETTINGS[name]
        values[place * 4 : place * 4 + 4] = _SETTING.pack(value)
        return self._replace(ipv4=bytes(values)) if area == "ipv4" else self._replace(ipv6=bytes(values))


class VxlanAttributes(NamedTuple):
    """What makes a VXLAN device the one that we want; differences in these mean delete and make again."""

    vni: int
    port: int
    local: str
    lower: int
    learning: bool = False
    proxy: bool = False
    rsc: bool = False
    l2miss: bool = False
    l3miss: bool = False
    group: str = ""
    gbp: bool = False


class Address(NamedTuple):
    """An address of an interface; `cidr` like `10.0.0.1/32`."""

    device: int
    cidr: str
    scope: int = RT_SCOPE_UNIVERSE
    flags: int = 0

    @property
    def address(self) -> str:
        """The address without its length."""
        return bare_address(self.cidr)


class Route(NamedTuple):
    """A route. `device` is an interface index, 0 for a blackhole; `metric` 0 is the kernel's default."""

    destination: str
    device: int = 0
    gateway: str = ""
    scope: int = RT_SCOPE_UNIVERSE
    protocol: int = RTPROT_BOOT
    metric: int = 0
    type: int = RTN_UNICAST
    table: int = RT_TABLE_MAIN
    onlink: bool = False
    mtu: int = 0
    source: str = ""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return family_of(self.destination)


class Neighbour(NamedTuple):
    """A neighbour entry (address -> MAC), or with `fdb` a forwarding entry (MAC -> remote) of a VXLAN device.

    `learned`: marked as externally learned, so that the kernel never drops it to make room for others."""

    device: int
    address: str
    mac: str
    fdb: bool = False
    state: int = NUD_PERMANENT
    learned: bool = False


def family_of(text: str) -> int:
    """The address family of an address or CIDR."""
    return socket.AF_INET6 if ":" in text else socket.AF_INET


@lru_cache(maxsize=4096)
def pack_address(address: str) -> bytes:
    """The address as bytes in network order; ValueError naming it when it is none."""
    try:
        return socket.inet_pton(family_of(address), address)
    except OSError as error:
        raise ValueError(f"{address!r} is not an address") from error


def unpack_address(payload: memoryview | bytes) -> str:
    """Four or sixteen bytes as text, "" for other sizes."""
    size = len(payload)
    if size == 4:
        return socket.inet_ntoa(payload)
    if size != 16:
        return ""
    text = socket.inet_ntop(socket.AF_INET6, payload)
    return str(ipaddress.IPv6Address(bytes(payload))) if "." in text else text  # one spelling: that of ipaddress


def pack_mac(mac: str) -> bytes:
    """Six bytes of a MAC; ValueError naming it when it is none."""
    try:
        packed = bytes.fromhex(mac.replace(":", ""))
    except ValueError as error:
        raise ValueError(f"{mac!r} is not a MAC") from error
    if len(packed) != 6:
        raise ValueError(f"{mac!r} is not a MAC")
    return packed


def unpack_mac(payload: memoryview) -> str:
    """Lower case, colons."""
    return payload.hex(":")


def _split_cidr(cidr: str) -> tuple[bytes, int]:
    address, _, length = cidr.partition("/")
    packed = pack_address(address)
    return packed, int(length) if length else 8 * len(packed)


# --- links ---------------------------------------------------------------------------------------------------------


def encode_link(index: int = 0, flags: int = 0, change: int = 0, attributes: bytes = b"") -> bytes:
    """Body of a link request; `change` is the mask of the flags to set."""
    return _IFINFO.pack(0, 0, index, flags, change) + attributes


def encode_link_dump() -> bytes:
    """Body that asks for every link, without its statistics."""
    return encode_link() + nlmsg.encode_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def encode_link_info(kind: str, *data: bytes) -> bytes:
    """IFLA_LINKINFO of a device kind."""
    parts = [nlmsg.encode_text(IFLA_INFO_KIND, kind)]
    if data:
        parts.append(nlmsg.encode_nested(IFLA_INFO_DATA, *data))
    return nlmsg.encode_nested(IFLA_LINKINFO, *parts)


def encode_vxlan(attributes: VxlanAttributes) -> bytes:
    """IFLA_LINKINFO of a VXLAN device."""
    local = pack_address(attributes.local)
    data = [
        nlmsg.encode_u32(IFLA_VXLAN_ID, attributes.vni),
        nlmsg.encode_attribute(IFLA_VXLAN_LOCAL if len(local) == 4 else IFLA_VXLAN_LOCAL6, local),
        nlmsg.encode_attribute(IFLA_VXLAN_PORT, _BE16.pack(attributes.port)),
        nlmsg.encode_u8(IFLA_VXLAN_LEARNING, attributes.learning),
        nlmsg.encode_u8(IFLA_VXLAN_PROXY, attributes.proxy),
        nlmsg.encode_u8(IFLA_VXLAN_RSC, attributes.rsc),
        nlmsg.encode_u8(IFLA_VXLAN_L2MISS, attributes.l2miss),
        nlmsg.encode_u8(IFLA_VXLAN_L3MISS, attributes.l3miss),
    ]
    if attributes.lower:
        data.append(nlmsg.encode_u32(IFLA_VXLAN_LINK, attributes.lower))
    return encode_link_info("vxlan", *data)


def decode_link_index(body: bytes) -> int:
    """The index alone."""
    return int(_IFINFO.unpack_from(body)[2])


def decode_link(body: memoryview) -> Link:
    """A link of a dump or an event."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = nlmsg.decode_attributes(body[16:])
    families = nlmsg.decode_attributes(found[IFLA_AF_SPEC]) if IFLA_AF_SPEC in found else {}
    kind, data = "", None
    if IFLA_LINKINFO in found:
        details = nlmsg.decode_attributes(found[IFLA_LINKINFO])
        kind = nlmsg.decode_text(details[IFLA_INFO_KIND]) if IFLA_INFO_KIND in details else ""
        data = details.get(IFLA_INFO_DATA)
    return Link(
        ifindex=index,
        name=nlmsg.decode_text(found[IFLA_IFNAME]) if IFLA_IFNAME in found else "",
        up=bool(flags & IFF_UP),
        running=bool(flags & IFF_RUNNING),
        mtu=nlmsg.decode_u32(found.get(IFLA_MTU)),
        mac=unpack_mac(found[IFLA_ADDRESS]) if IFLA_ADDRESS in found else "",
        kind=kind,
        lower=nlmsg.decode_u32(found.get(IFLA_LINK)),
        vxlan=_decode_vxlan(data) if kind == "vxlan" and data is not None else None,
        ipv4=_decode_settings(families.get(socket.AF_INET), IFLA_INET_CONF),
        ipv6=_decode_settings(families.get(socket.AF_INET6), IFLA_INET6_CONF),
        leads_away=IFLA_LINK_NETNSID in found,
    )


def _decode_settings(of_family: memoryview | None, kind: int) -> bytes:
    return b"" if of_family is None else bytes(nlmsg.decode_attributes(of_family).get(kind, b""))


def encode_ipv4_settings(values: Mapping[str, int]) -> bytes:
    """IFLA_AF_SPEC that sets an interface's IPv4 settings, by their names below net/ipv4/conf/."""
    conf = [nlmsg.encode_u32(IPV4_SETTINGS[name], value) for name, value in values.items()]
    of_family = nlmsg.encode_nested(socket.AF_INET, nlmsg.encode_nested(IFLA_INET_CONF, *conf))
    return nlmsg.encode_nested(IFLA_AF_SPEC, of_family)


def _decode_vxlan(data: memoryview) -> VxlanAttributes:
    found = nlmsg.decode_attributes(data)

    def flag(kind: int) -> bool:
        return kind in found and found[kind][0] != 0

    local = found.get(IFLA_VXLAN_LOCAL, found.get(IFLA_VXLAN_LOCAL6))
    group = found.get(IFLA_VXLAN_GROUP, found.get(IFLA_VXLAN_GROUP6))
    return VxlanAttributes(
        vni=nlmsg.decode_u32(found.get(IFLA_VXLAN_ID)),
        port=_BE16.unpack_from(found[IFLA_VXLAN_PORT])[0] if IFLA_VXLAN_PORT in found else 0,
        local=unpack_address(local) if local is not None else "",
        lower=nlmsg.decode_u32(found.get(IFLA_VXLAN_LINK)),
        learning=flag(IFLA_VXLAN_LEARNING),
        proxy=flag(IFLA_VXLAN_PROXY),
        rsc=flag(IFLA_VXLAN_RSC),
        l2miss=flag(IFLA_VXLAN_L2MISS),
        l3miss=flag(IFLA_VXLAN_L3MISS),
        group=unpack_address(group) if group is not None else "",
        gbp=IFLA_VXLAN_GBP in found,
    )


# --- addresses -----------------------------------------------------------------------------------------------------


def encode_address(address: Address) -> bytes:
    """Body of an address request; IPv6 ones skip duplicate detection (they are ours by allocation)."""
    packed, length = _split_cidr(address.cidr)
    flags = IFA_F_NODAD if len(packed) == 16 else 0
    body = _IFADDR.pack(family_of(address.cidr), length, flags, address.scope, address.device)
    return body + nlmsg.encode_attribute(IFA_LOCAL, packed) + nlmsg.encode_attribute(IFA_ADDRESS, packed)


def encode_address_dump(device: int = 0, family: int = 0) -> bytes:
    """Body that asks for the addresses of one device (0 = all) and family (0 = both)."""
    return _IFADDR.pack(family, 0, 0, 0, device)


def decode_address(body: memoryview) -> Address:
    """An address of a dump or an event."""
    _family, length, flags, scope, device = _IFADDR.unpack_from(body)
    found = nlmsg.decode_attributes(body[8:])
    packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
    text = unpack_address(packed) if packed is not None else ""
    return Address(device, f"{text}/{length}", scope, nlmsg.decode_u32(found.get(IFA_FLAGS), flags))


# --- routes --------------------------------------------------------------------------------------------------------


def encode_route(route: Route) -> bytes:
    """Body of a route request."""
    packed, length = _split_cidr(route.destination)
    table = route.table
    parts = [
        _RTMSG.pack(
            socket.AF_INET6 if len(packed) == 16 else socket.AF_INET,
            length,
            0,
            0,
            table if table < 256 else 0,
            route.protocol,
            route.scope,
            route.type,
            RTNH_F_ONLINK if route.onlink else 0,
        )
    ]
    if length:
        parts.append(nlmsg.encode_attribute(RTA_DST, packed))
    if route.device:
        parts.append(nlmsg.encode_u32(RTA_OIF, route.device))
    if route.gateway:
        parts.append(nlmsg.encode_attribute(RTA_GATEWAY, pack_address(route.gateway)))
    if route.metric:
        parts.append(nlmsg.encode_u32(RTA_PRIORITY, route.metric))
    if route.source:
        parts.append(nlmsg.encode_attribute(RTA_PREFSRC, pack_address(route.source)))
    if route.mtu:
        parts.append(nlmsg.encode_nested(RTA_METRICS, nlmsg.encode_u32(RTAX_MTU, route.mtu)))
    if table >= 256:
        parts.append(nlmsg.encode_u32(RTA_TABLE, table))
    return b"".join(parts)


def encode_route_dump(family: int, table: int = 0, device: int = 0, protocol: int = 0) -> bytes:
    """Body that asks for routes; the kernel filters by what is not 0."""
    body = _RTMSG.pack(family, 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
    if table >= 256:
        body += nlmsg.encode_u32(RTA_TABLE, table)
    return body + (nlmsg.encode_u32(RTA_OIF, device) if device else b"")


def encode_route_query(address: str) -> bytes:
    """Body that asks how packets to an address would go."""
    packed = pack_address(address)
    head = _RTMSG.pack(family_of(address), 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    return head + nlmsg.encode_attribute(RTA_DST, packed)


def decode_route_device(body: bytes) -> int:
    """The interface of the answer to that, 0 when there is none."""
    return nlmsg.decode_u32(nlmsg.decode_attributes(memoryview(body)[_RTMSG.size :]).get(RTA_OIF))


def decode_route(body: memoryview) -> Route | None:
    """A route of a dump or an event; None for cached exceptions (clones)."""
    family, length, _src, _tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    if flags & RTM_F_CLONED or family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    found = nlmsg.decode_attributes(body[12:])
    get = found.get
    packed = get(RTA_DST)
    destination = unpack_address(packed) if packed is not None else _ANY[family]
    mtu = 0
    if RTA_METRICS in found:
        mtu = nlmsg.decode_u32(nlmsg.decode_attributes(found[RTA_METRICS]).get(RTAX_MTU))
    gateway, source = get(RTA_GATEWAY), get(RTA_PREFSRC)
    return Route(
        f"{destination}/{length}",
        nlmsg.decode_u32(get(RTA_OIF)) if RTA_OIF in found else 0,
        unpack_address(gateway) if gateway is not None else "",
        scope,
        protocol,
        nlmsg.decode_u32(get(RTA_PRIORITY)),
        kind,
        nlmsg.decode_u32(get(RTA_TABLE), table),
        bool(flags & RTNH_F_ONLINK),
        mtu,
        unpack_address(source) if source is not None else "",
    )


# --- neighbours ----------------------------------------------------------------------------------------------------


def encode_neighbour(entry: Neighbour) -> bytes:
    """Body of a neighbour or FDB request; with an empty `mac` or `address` that part is left out (deletions)."""
    family = AF_BRIDGE if entry.fdb else family_of(entry.address)
    flags = (NTF_SELF if entry.fdb else 0) | (NTF_EXT_LEARNED if entry.learned else 0)
    body = _NDMSG.pack(family, entry.device, entry.state, flags, 0)
    if entry.address:
        body += nlmsg.encode_attribute(NDA_DST, pack_address(entry.address))
    if entry.mac:
        body += nlmsg.encode_attribute(NDA_LLADDR, pack_mac(entry.mac))
    return body


def encode_neighbour_dump(family: int, device: int = 0) -> bytes:
    """Body that asks for the neighbours of a family; the FDB (AF_BRIDGE) is filtered by the reader."""
    body = _NDMSG.pack(family, 0, 0, 0, 0)
    return body + (nlmsg.encode_u32(NDA_IFINDEX, device) if device and family != AF_BRIDGE else b"")


def decode_neighbour(body: memoryview) -> Neighbour:
    """A neighbour or FDB entry of a dump or an event."""
    family, device, state, flags, _type = _NDMSG.unpack_from(body)
    found = nlmsg.decode_attributes(body[12:])
    address, mac = found.get(NDA_DST), found.get(NDA_LLADDR)
    return Neighbour(
        device,
        unpack_address(address) if address is not None else "",
        unpack_mac(mac) if mac is not None else "",
        family == AF_BRIDGE,
        state,
        bool(flags & NTF_EXT_LEARNED) and family != AF_BRIDGE,
    )

"""Forget the connections of an address, so that a reused address never inherits flows. No fork.

Asks the kernel for the flows of the address (filtered there since Linux 5.8; older kernels list all, we filter) and
deletes each by its exact tuple. A listing costs the kernel milliseconds, however few flows there are: it goes through
all buckets of the host's one hash table. So there is none when there are no flows, and one when there are few.

The equivalent of `conntrack -D --orig-src IP` and `conntrack -D --reply-src IP`.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from libcalico.kernel import nlmsg
from libcalico.kernel.nlsocket import NetlinkSocket, Request
from libcalico.kernel.objects import family_of, pack_address

_NETLINK_NETFILTER = 12
_IPCTNL_MSG_CT_GET = (1 << 8) | 1
_IPCTNL_MSG_CT_DELETE = (1 << 8) | 2
_IPCTNL_MSG_CT_GET_STATS = (1 << 8) | 5
_CTA_STATS_GLOBAL_ENTRIES = 1
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_ZONE, _CTA_FILTER = 1, 2, 12, 18, 25
_CTA_TUPLE_IP = 1
_CTA_IP_V4_SRC, _CTA_IP_V6_SRC = 1, 3
_CTA_FILTER_ORIG_FLAGS, _CTA_FILTER_REPLY_FLAGS = 1, 2
_CTA_FILTER_F_CTA_IP_SRC = 1
_NFGENMSG = struct.Struct("=BBH")
_CHEAPER_THAN_A_LISTING = 1000
"""So many flows are decoded here in the time of one more listing."""


class _Flow(NamedTuple):
    source: bytes
    reply_source: bytes
    identity: bytes


class Conntrack(NetlinkSocket):
    """Connection tracking of our network namespace, or of the one at `netns_path`."""

    def __init__(self, netns_path: str = "") -> None:
        super().__init__(_NETLINK_NETFILTER, netns_path)

    def delete_flows(self, addresses: Iterable[str]) -> int:
        """Delete every flow that comes from, or answers as, one of the addresses; how many there were."""
        entries = self.count()
        deleted = 0
        if not entries:
            return 0
        for family in (socket.AF_INET, socket.AF_INET6):
            wanted = {pack_address(address) for address in addresses if family_of(address) == family}
            if wanted:
                deleted += self._delete_family(family, wanted, entries)
        return deleted

    def addresses(self) -> set[str]:
        """Every address that some flow comes from, or answers as."""
        found: set[bytes] = set()
        if self.count():
            for family in (socket.AF_INET, socket.AF_INET6):
                body = _NFGENMSG.pack(family, 0, 0)
                for flow in self.dump("list connections", _IPCTNL_MSG_CT_GET, body, _decode_flow):
                    found |= {flow.source, flow.reply_source}
        return {str(ipaddress.ip_address(packed)) for packed in found - {b""}}

    def count(self) -> int:
        """The number of flows of the namespace."""
        answer = self.query("count connections", _IPCTNL_MSG_CT_GET_STATS, _NFGENMSG.pack(0, 0, 0))
        found = nlmsg.decode_attributes(memoryview(answer)[_NFGENMSG.size :]).get(_CTA_STATS_GLOBAL_ENTRIES)
        return int.from_bytes(found, "big") if found is not None else 0

    def _delete_family(self, family: int, wanted: set[bytes], entries: int) -> int:
        flows: dict[bytes, _Flow] = {}
        if entries < len(_SIDES) * len(wanted) * _CHEAPER_THAN_A_LISTING:
            filters = [b""]
        else:
            filters = [_filter(family, address, tuple_) for address in wanted for tuple_ in _SIDES]
        for selection in filters:
            body = _NFGENMSG.pack(family, 0, 0) + selection
            for flow in self.dump("list connections", _IPCTNL_MSG_CT_GET, body, _decode_flow):
                if flow.source in wanted or flow.reply_source in wanted:
                    flows[flow.identity] = flow
        head = _NFGENMSG.pack(family, 0, 0)
        requests = [Request(_IPCTNL_MSG_CT_DELETE, 0, head + flow.identity) for flow in flows.values()]
        failures = self.batch("delete connection", requests)
        for error in failures.values():
            if not error.gone:
                raise error
        return len(requests) - len(failures)


_SIDES = ((_CTA_TUPLE_ORIG, _CTA_FILTER_ORIG_FLAGS), (_CTA_TUPLE_REPLY, _CTA_FILTER_REPLY_FLAGS))


def _filter(family: int, address: bytes, side: tuple[int, int]) -> bytes:
    kind, flags = side
    source = nlmsg.encode_attribute(_CTA_IP_V4_SRC if family == socket.AF_INET else _CTA_IP_V6_SRC, address)
    ours, others = (
        nlmsg.encode_u32(flags, _CTA_FILTER_F_CTA_IP_SRC),
        nlmsg.encode_u32(_CTA_FILTER_REPLY_FLAGS + _CTA_FILTER_ORIG_FLAGS - flags, 0),
    )
    selection = nlmsg.encode_nested(_CTA_FILTER, ours, others)
    return selection + nlmsg.encode_nested(kind, nlmsg.encode_nested(_CTA_TUPLE_IP, source))


def _decode_flow(body: memoryview) -> _Flow | None:
    found = nlmsg.decode_attributes(body[4:])
    original, reply = found.get(_CTA_TUPLE_ORIG), found.get(_CTA_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    identity = nlmsg.encode_attribute(_CTA_TUPLE_ORIG | nlmsg.NLA_F_NESTED, bytes(original))
    for kind in (_CTA_ZONE, _CTA_ID):
        if kind in found:
            identity += nlmsg.encode_attribute(kind, bytes(found[kind]))
    return _Flow(_source(original), _source(reply), identity)


def _source(tuple_: memoryview) -> bytes:
    inner = nlmsg.decode_attributes(tuple_).get(_CTA_TUPLE_IP)
    if inner is None:
        return b""
    addresses = nlmsg.decode_attributes(inner)
    found = addresses.get(_CTA_IP_V4_SRC, addresses.get(_CTA_IP_V6_SRC))
    return bytes(found) if found is not None else b""

"""Elements of nftables sets and verdict maps as one netlink batch: bytes out, no sockets here. `nfrule` has the rest.

libnftables reads a table's sets back before each transaction, which costs 35 ms for one member of an interval set of
10,000. The kernel itself needs the members that change, and nothing else. A batch is BEGIN, one message for at most
`MESSAGE_BYTES` of elements of one set, and END; the kernel commits all of it, or nothing. Numbers of nftables are
big endian, those of netlink's headers in host order. Source: linux/netfilter/nf_tables.h, nfnetlink.h.

An interval is two elements: where it begins, and, marked INTERVAL_END, the first value after it. The one that ends at
the last value of all has no second element, as libnftables does it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Protocol

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 12, 14
NFPROTO_INET = 1
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 0x1, 0x4, 0x400
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS = 1, 2, 3
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_SET_ELEM_INTERVAL_END = 1
NFT_JUMP = -3
NLA_F_NESTED = 0x8000
MESSAGE_BYTES = 60_000
"""Of elements in one message: the length of an attribute has 16 bits."""
IFNAME_BYTES = 16
LAST_PORT = 65535
TYPES = (
    "ipv4_addr",
    "ipv6_addr",
    "ipv4_addr . inet_proto . inet_service",
    "ipv6_addr . inet_proto . inet_service",
    "ifname : verdict",
    "inet_service",
)
"""The types of sets and maps, in nftables' words, whose elements can be encoded."""

_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("=BB")
_ATTRIBUTE = struct.Struct("=HH")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "dccp": 33}


class Network(Protocol):
    """A network that is no text: `calico_native.net.Cidr`."""

    @property
    def bounds(self) -> tuple[bytes, bytes]:
        """The first address, and the first one after the network, empty where there is none."""


Change = tuple[bool, str, str, bool, Sequence[str | Network] | None]


Message = tuple[int, int, bytes]
"""Its number among those of nftables, flags, attributes."""


def encode_batch(table: str, changes: Sequence[Change]) -> tuple[bytes, list[str]]:
    """A batch for the `inet` table of a name, and what each of its messages but BEGIN and END is about.

    A change is (add, set, type, interval, elements: networks, or as nft writes them); those of one set that delete go
    before those that add. To delete None is to delete all that the set has. Message n has sequence number n, BEGIN 0;
    only the last one asks for an acknowledgement. Raises ValueError or OSError (an address): a type or an element that
    is none of ours."""
    messages: list[Message] = []
    names: list[str] = []
    for add, name, kind, interval, elements in changes:
        found = element_messages(table, (add, name, kind, interval, elements))
        messages += found
        names += [f"elements of set {name}"] * len(found)
    return frame_batch(messages), names


def frame_batch(messages: Sequence[Message]) -> bytes:
    """Messages about `inet` tables as one transaction."""
    found = [_message(NFNL_MSG_BATCH_BEGIN, 0, 0, _NFGENMSG.pack(0, 0) + b"\0\x0a")]
    head = _NFGENMSG.pack(NFPROTO_INET, 0) + b"\0\0"
    for number, (kind, flags, attributes) in enumerate(messages, 1):
        asked = NLM_F_ACK if number == len(messages) else 0
        found.append(_message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags | asked, number, head + attributes))
    found.append(_message(NFNL_MSG_BATCH_END, 0, len(messages) + 1, _NFGENMSG.pack(0, 0) + b"\0\x0a"))
    return b"".join(found)


def element_messages(table: str, change: Change) -> list[Message]:
    """The messages of one change; raises as `encode_batch`."""
    add, name, kind, interval, elements = change
    if elements is None and add:
        raise ValueError("elements that are added must be given")
    number, flags = (NFT_MSG_NEWSETELEM, NLM_F_CREATE) if add else (NFT_MSG_DELSETELEM, 0)
    head = text_attribute(NFTA_SET_ELEM_LIST_TABLE, table) + text_attribute(NFTA_SET_ELEM_LIST_SET, name)
    return [(number, flags, head + part) for part in ((b"",) if elements is None else _parts(kind, interval, elements))]


def _parts(kind: str, interval: bool, elements: Sequence[str | Network]) -> list[bytes]:
    """The ELEMENTS attributes of one change, none longer than a message may be."""
    parts: list[bytes] = []
    pieces: list[bytes] = []
    size = 0
    for element in elements:
        if not isinstance(element, str):
            piece = _network(kind, element.bounds, interval)
        else:
            piece = _interval(kind, element) if interval else _element(kind, element)
        if size + len(piece) > MESSAGE_BYTES:
            parts.append(attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, b"".join(pieces)))
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece)
    if pieces:
        parts.append(attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, b"".join(pieces)))
    return parts


def _network(kind: str, bounds: tuple[bytes, bytes], interval: bool) -> bytes:
    """A network as beginning and end, or a single address as a key."""
    first, after = bounds
    if kind == "ipv4_addr" and len(first) == 4:
        head, end = _HEAD4, _END4
    elif kind == "ipv6_addr" and len(first) == 16:
        head, end = _HEAD6, _END6
    else:
        raise ValueError(f"a set of type {kind!r} holds no network of {len(first)} bytes")
    return head + first + end + after + _MARKED if interval and after else head + first


def _element(kind: str, text: str) -> bytes:
    if kind == "ipv4_addr":
        return _keyed(socket.inet_pton(socket.AF_INET, text))
    if kind == "ipv6_addr":
        return _keyed(socket.inet_pton(socket.AF_INET6, text))
    if kind == "ifname : verdict":
        return _jump(text)
    if kind in TYPES[2:4]:
        return _keyed(_address_and_port(kind.startswith("ipv6"), text))
    raise ValueError(f"a set of type {kind!r} cannot be changed by a batch")


def _interval(kind: str, text: str) -> bytes:
    """A prefix, or a single address, as beginning and end; ports as `80-90`."""
    if kind == "inet_service":
        return _ports(text)
    if kind == "ipv4_addr":
        family, length, head, end = socket.AF_INET, 4, _HEAD4, _END4
    elif kind == "ipv6_addr":
        family, length, head, end = socket.AF_INET6, 16, _HEAD6, _END6
    else:
        raise ValueError(f"an interval set of type {kind!r} cannot be changed by a batch")
    address, slash, bits = text.partition("/")
    first = socket.inet_pton(family, address)
    after = int.from_bytes(first, "big") + (1 << (length * 8 - int(bits)) if slash else 1)
    if after >> (length * 8):
        return head + first
    return head + first + end + after.to_bytes(length, "big") + _MARKED


def _ports(text: str) -> bytes:
    first, dash, last = text.partition("-")
    after = int(last if dash else first) + 1
    begin = _port(int(first), b"")
    return begin + _port(after, _MARKED) if after <= LAST_PORT else begin


def _port(number: int, marked: bytes) -> bytes:
    if not 0 <= number <= LAST_PORT:
        raise ValueError(f"{number} is no port")
    key = attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, attribute(NFTA_DATA_VALUE, number.to_bytes(2, "big")))
    return attribute(NFTA_LIST_ELEM | NLA_F_NESTED, key + marked)


def _address_and_port(is_v6: bool, text: str) -> bytes:
    """`address . protocol . port`, each padded to four bytes."""
    address, protocol, port = text.split(" . ")
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    number = PROTOCOLS[protocol] if protocol in PROTOCOLS else int(protocol)
    return socket.inet_pton(family, address) + bytes((number, 0, 0, 0)) + int(port).to_bytes(2, "big") + b"\0\0"


def _jump(text: str) -> bytes:
    """`"interface" : jump chain`."""
    name, colon, verdict = text.partition(" : jump ")
    if not colon or len(name) < 3 or name[0] != '"' or name[-1] != '"':
        raise ValueError(f"{text!r} is no interface and jump")
    key = name[1:-1].encode()
    if len(key) >= IFNAME_BYTES:
        raise ValueError(f"{name} is longer than an interface's name may be")
    code = attribute(NFTA_VERDICT_CODE, NFT_JUMP.to_bytes(4, "big", signed=True))
    data = attribute(NFTA_DATA_VERDICT | NLA_F_NESTED, code + text_attribute(NFTA_VERDICT_CHAIN, verdict))
    value = attribute(NFTA_DATA_VALUE, key + bytes(IFNAME_BYTES - len(key)))
    return attribute(
        NFTA_LIST_ELEM | NLA_F_NESTED,
        attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, value) + attribute(NFTA_SET_ELEM_DATA | NLA_F_NESTED, data),
    )


def _keyed(key: bytes) -> bytes:
    """An element that is a key alone; the key's length is a multiple of four."""
    return _head(len(key), 0) + key


def _head(length: int, more: int) -> bytes:
    """What comes before a key of `length` bytes; `more` bytes of attributes follow it."""
    heads = _ATTRIBUTE.pack(8 + length, NFTA_SET_ELEM_KEY | NLA_F_NESTED) + _ATTRIBUTE.pack(4 + length, NFTA_DATA_VALUE)
    return _ATTRIBUTE.pack(12 + length + more, NFTA_LIST_ELEM | NLA_F_NESTED) + heads


_MARKED = _ATTRIBUTE.pack(8, NFTA_SET_ELEM_FLAGS) + NFT_SET_ELEM_INTERVAL_END.to_bytes(4, "big")
_HEAD4, _HEAD6 = _head(4, 0), _head(16, 0)
_END4, _END6 = _head(4, len(_MARKED)), _head(16, len(_MARKED))


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute of netlink, filled up to four bytes."""
    length = len(payload)
    return _ATTRIBUTE.pack(4 + length, kind) + payload + bytes(-length & 3)


def text_attribute(kind: int, text: str) -> bytes:
    """One that holds a text."""
    return attribute(kind, text.encode() + b"\0")


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body

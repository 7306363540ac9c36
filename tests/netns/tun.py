"""IP packets straight into and out of a network namespace: TUN devices (linux/if_tun.h), and packets as bytes."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator

from libcalico.policy.ir import Packet

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
TCP, UDP, SCTP, UDPLITE, ICMP, ICMPV6 = 6, 17, 132, 136, 1, 58
SYN = 0x02
SCTP_INIT = 1
CASTAGNOLI = 0x82F63B78
MAGIC = b"mtch"


def open_tun(name: str) -> int:
    """A file descriptor of a new TUN device in this thread's network namespace; it goes when that is closed."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def drain(descriptor: int) -> Iterator[bytes]:
    """All packets that wait."""
    while True:
        try:
            yield os.read(descriptor, 2048)
        except BlockingIOError:
            return


def encode(packet: Packet, tag: int) -> bytes:
    """The packet on the wire, with `tag` (32 bits) as its payload."""
    payload = MAGIC + struct.pack("!I", tag)
    size = 4 if packet.family == 4 else 16
    source, destination = packet.source.to_bytes(size), packet.destination.to_bytes(size)
    if packet.family == 4:
        pseudo = source + destination + struct.pack("!xB", packet.protocol)
    else:
        pseudo = source + destination + struct.pack("!IxxxB", 0, packet.protocol)
    body = _transport(packet, payload, pseudo)
    if packet.family == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), packet.protocol, 64) + source + destination + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, packet.protocol, 0) + source + destination
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def tag_of(data: bytes) -> int:
    """The tag of an encoded packet; -1 for a packet of the kernel's own."""
    return int.from_bytes(data[-4:]) if data[-8:-4] == MAGIC else -1


def _transport(packet: Packet, payload: bytes, pseudo: bytes) -> bytes:
    ports = (packet.source_port, packet.destination_port)
    if packet.protocol == TCP:
        body, at = struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, SYN, 1024, 0, 0) + payload, 16
    elif packet.protocol == SCTP:
        return _sctp_init(ports, payload)
    elif packet.protocol == UDPLITE:
        body, at = struct.pack("!HHHH", *ports, 0, 0) + payload, 6
    elif packet.protocol == UDP:
        body, at = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, 6
    elif packet.icmp_type is not None:
        body, at = struct.pack("!BBHI", packet.icmp_type, packet.icmp_code or 0, 0, 1) + payload, 2
        pseudo = b"" if packet.protocol == ICMP else pseudo
    else:
        return payload
    length = b"" if not pseudo else struct.pack("!H", len(body))
    summed = pseudo + length if packet.family == 4 else _with_length(pseudo, len(body))
    return body[:at] + struct.pack("!H", _checksum(summed + body)) + body[at + 2 :]


def _sctp_init(ports: tuple[int, int], payload: bytes) -> bytes:
    """RFC 9260 3.3.2; the payload stands where optional parameters do, because INIT must be the only chunk."""
    head = struct.pack("!HHI", *ports, 0)
    chunk = struct.pack("!BBHIIHHI", SCTP_INIT, 0, 20 + len(payload), 1, 65536, 1, 1, 1) + payload
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _with_length(pseudo: bytes, length: int) -> bytes:
    return pseudo[:32] + struct.pack("!I", length) + pseudo[36:]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""The packet matcher: which rule of a list is the first to decide about a packet.

Rules come as plain values (see `Rule`), so that this module knows no other. All criteria of a rule are ANDed, the
entries of one list are ORed, a negated list means "none of" (spec/felix.md 2.8). Addresses are integers.
"""

from __future__ import annotations

ANY = -1
FULL_LENGTH = {4: 32, 6: 128}


class AddressSet:
    """Addresses and prefixes of both families; membership costs one look-up for each prefix length in use."""

    def __init__(self) -> None:
        self.nets: dict[int, dict[int, dict[int, None]]] = {4: {}, 6: {}}

    def add(self, family: int, address: int, length: int) -> None:
        """Put a prefix in; `address` has no bits set beyond `length`."""
        self.nets[family].setdefault(length, {})[address] = None

    def remove(self, family: int, address: int, length: int) -> None:
        """Take a prefix out; nothing happens when it is not there."""
        of_length = self.nets[family].get(length)
        if of_length is not None:
            of_length.pop(address, None)
            if not of_length:
                del self.nets[family][length]

    def contains(self, family: int, address: int) -> bool:
        """Is the address in any of the prefixes?"""
        full = 32 if family == 4 else 128
        for length, addresses in self.nets[family].items():
            if (address >> (full - length)) << (full - length) in addresses:
                return True
        return False


class PortSet:
    """(family, address, protocol, port) tuples: the endpoints that carry a named port."""

    def __init__(self) -> None:
        self.members: dict[tuple[int, int, int, int], None] = {}

    def add(self, family: int, address: int, protocol: int, port: int) -> None:
        """Put one endpoint's port in."""
        self.members[(family, address, protocol, port)] = None

    def remove(self, family: int, address: int, protocol: int, port: int) -> None:
        """Take one out; nothing happens when it is not there."""
        self.members.pop((family, address, protocol, port), None)

    def contains(self, family: int, address: int, protocol: int, port: int) -> bool:
        """Is this exact combination in the set?"""
        return (family, address, protocol, port) in self.members


class Side:
    """The criteria on one end of a packet; the meaning of each member is that of `libcalico.policy.ir.Side`.

    `nets` and `not_nets` are (family, address, length), `ports` and `not_ports` (first, last), sets are names."""

    def __init__(
        self,
        nets: tuple[tuple[int, int, int], ...],
        not_nets: tuple[tuple[int, int, int], ...],
        sets: tuple[str, ...],
        not_sets: tuple[str, ...],
        ports: tuple[tuple[int, int], ...],
        not_ports: tuple[tuple[int, int], ...],
        port_sets: tuple[str, ...],
        not_port_sets: tuple[str, ...],
    ) -> None:
        self.nets = nets
        self.not_nets = not_nets
        self.sets = sets
        self.not_sets = not_sets
        self.ports = ports
        self.not_ports = not_ports
        self.port_sets = port_sets
        self.not_port_sets = not_port_sets
        self.empty = not (nets or not_nets or sets or not_sets or ports or not_ports or port_sets or not_port_sets)


class Rule:
    """One rule. `decides` is False for a Log rule; -1 (`ANY`) stands for a criterion that is not there."""

    def __init__(
        self,
        decides: bool,
        family: int,
        protocol: int,
        not_protocol: int,
        icmp: tuple[int, int] | None,
        not_icmp: tuple[int, int] | None,
        source: Side,
        destination: Side,
    ) -> None:
        self.decides = decides
        self.family = family
        self.protocol = protocol
        self.not_protocol = not_protocol
        self.icmp = icmp
        self.not_icmp = not_icmp
        self.source = source
        self.destination = destination


class Packet:
    """The first packet of a connection; ports are 0 and ICMP fields -1 where the protocol has none."""

    def __init__(
        self,
        family: int,
        protocol: int,
        source: int,
        destination: int,
        source_port: int,
        destination_port: int,
        icmp_type: int,
        icmp_code: int,
    ) -> None:
        self.family = family
        self.protocol = protocol
        self.source = source
        self.destination = destination
        self.source_port = source_port
        self.destination_port = destination_port
        self.icmp_type = icmp_type
        self.icmp_code = icmp_code


class Sets:
    """The IP sets that rules name. A name that is not there is an empty set."""

    def __init__(self) -> None:
        self.addresses: dict[str, AddressSet] = {}
        self.ports: dict[str, PortSet] = {}


def first_decision(rules: list[Rule], sets: Sets, packet: Packet) -> int:
    """Index of the first rule that matches and decides, -1 if there is none."""
    index = 0
    for rule in rules:
        if rule.decides and matches(rule, sets, packet):
            return index
        index += 1
    return -1


def matches(rule: Rule, sets: Sets, packet: Packet) -> bool:
    """Does the packet meet every criterion of the rule?"""
    if rule.family != 0 and rule.family != packet.family:
        return False
    if rule.protocol != ANY and rule.protocol != packet.protocol:
        return False
    if rule.not_protocol != ANY and rule.not_protocol == packet.protocol:
        return False
    if rule.icmp is not None and not _icmp_matches(rule.icmp, packet):
        return False
    if rule.not_icmp is not None and _icmp_matches(rule.not_icmp, packet):
        return False
    if not rule.source.empty and not _side_matches(rule.source, sets, packet, packet.source, packet.source_port):
        return False
    if rule.destination.empty:
        return True
    return _side_matches(rule.destination, sets, packet, packet.destination, packet.destination_port)


def _icmp_matches(wanted: tuple[int, int], packet: Packet) -> bool:
    if packet.icmp_type == ANY or wanted[0] != packet.icmp_type:
        return False
    return wanted[1] == ANY or wanted[1] == packet.icmp_code


def _side_matches(side: Side, sets: Sets, packet: Packet, address: int, port: int) -> bool:
    family = packet.family
    if side.nets and not _in_nets(side.nets, family, address):
        return False
    if side.not_nets and _in_nets(side.not_nets, family, address):
        return False
    for name in side.sets:
        if not _in_set(sets, name, family, address):
            return False
    for name in side.not_sets:
        if _in_set(sets, name, family, address):
            return False
    if side.ports or side.port_sets:
        if not _has_ports(packet.protocol):
            return False
        if not _in_ports(side.ports, port) and not _in_port_sets(side.port_sets, sets, packet, address, port):
            return False
    if side.not_ports and (not _has_ports(packet.protocol) or _in_ports(side.not_ports, port)):
        return False
    return not _in_port_sets(side.not_port_sets, sets, packet, address, port)


def _has_ports(protocol: int) -> bool:
    return protocol == 6 or protocol == 17 or protocol == 132 or protocol == 136


def _in_nets(nets: tuple[tuple[int, int, int], ...], family: int, address: int) -> bool:
    for net_family, network, length in nets:
        if net_family == family:
            shift = (32 if family == 4 else 128) - length
            if address >> shift == network >> shift:
                return True
    return False


def _in_set(sets: Sets, name: str, family: int, address: int) -> bool:
    members = sets.addresses.get(name)
    return members is not None and members.contains(family, address)


def _in_ports(ports: tuple[tuple[int, int], ...], port: int) -> bool:
    for first, last in ports:
        if first <= port <= last:
            return True
    return False


def _in_port_sets(names: tuple[str, ...], sets: Sets, packet: Packet, address: int, port: int) -> bool:
    for name in names:
        members = sets.ports.get(name)
        if members is not None and members.contains(packet.family, address, packet.protocol, port):
            return True
    return False

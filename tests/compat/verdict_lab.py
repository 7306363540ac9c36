"""The network of the packet verdicts, and probes through it: real packets, real sockets (vectors/VERDICTS.md).

The calling process is the host (`private_host.enter_private_host`); workloads and the peer on the uplink are namespaces
beside it. TCP and UDP probes are sockets of the kernel; what has no socket (spoofed addresses, ICMP, SCTP, protocols by
number) is sent as a whole packet with a tag at its end, and recognised by it.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from libcalico.kernel import netns
from libcalico.policy.ir import Packet
from tests.compat.private_host import HOST_MAC, sh
from tests.compat.verdict_probes import Probe, protocol_of
from tests.netns import tun

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::ecee:eeff:feee:eeee"
DNAT_PORT, DNAT_TARGET, DNAT_TARGET_PORT = 31000, "w1", 8080
QUIET_S, AGAIN_S, LONGEST_S = 0.1, 0.5, 6.0
ECHO = {4: (8, 0), 6: (128, 129)}
NEIGHBOUR_DISCOVERY = range(133, 138)
ROUND_TAGS = 4096


class End(NamedTuple):
    """A probe end of the topology: where it is and what it is called."""

    name: str
    netns: str
    addresses: dict[int, str]
    interface: str


def ends_of(topology: dict[str, Any]) -> dict[str, End]:
    """The probe ends by name; the host's own namespace has the empty path."""
    found = {}
    for name, node in topology["nodes"].items():
        path = "" if node["namespace"] == topology["host"] else f"/run/netns/{node['namespace']}"
        found[name] = End(name, path, {4: node["ipv4"], 6: node["ipv6"]}, node["interface_on_host"] or "")
    return found


# --- the network -----------------------------------------------------------------------------------------------------


def build_network(topology: dict[str, Any], ends: dict[str, End]) -> None:
    """Namespaces, links, addresses and routes; the agent has to route to the workloads."""
    settings = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    for key in settings:
        _write(key, "1")
    macs = {
        resource["spec"]["interfaceName"]: resource["spec"].get("mac", "02:00:00:00:00:01")
        for resource in topology["resources"]
        if resource["kind"] == "WorkloadEndpoint"
    }
    for path in sorted({end.netns for end in ends.values() if end.netns}):
        sh("ip", "netns", "add", path.rpartition("/")[2])
        _batch(path, "link set lo up")
    for end in ends.values():
        if end.interface:
            _add_workload(end, macs[end.interface])
    _add_uplink(topology, ends)
    _add_dnat(ends)


def _add_workload(end: End, mac: str) -> None:
    name = end.netns.rpartition("/")[2]
    _batch("", f"link add {end.interface} address {HOST_MAC} type veth peer name eth0 address {mac} netns {name}",
           f"link set {end.interface} addrgenmode eui64", f"link set {end.interface} up")  # fmt: skip
    with netns.entered(end.netns):
        _write("net/ipv6/conf/eth0/accept_dad", "0")
    _batch(end.netns, "link set eth0 up", f"addr add {end.addresses[4]}/32 dev eth0",
           f"addr add {end.addresses[6]}/128 dev eth0 nodad", f"route add {GATEWAY4} dev eth0 scope link",
           f"route add default via {GATEWAY4} dev eth0",
           f"-6 route add default via {GATEWAY6} dev eth0")  # fmt: skip


def _add_uplink(topology: dict[str, Any], ends: dict[str, End]) -> None:
    """The host's first address with its prefix, the peer that is in it, and that peer's other addresses."""
    host = next(end for end in ends.values() if not end.netns)
    bgp = next(
        resource["spec"]["bgp"]
        for resource in topology["resources"]
        if resource["kind"] == "Node" and resource["metadata"]["name"] == topology["host"]
    )
    own = {4: bgp["ipv4Address"], 6: bgp["ipv6Address"]}
    outside = [end for end in ends.values() if end.netns and not end.interface]
    subnet = ipaddress.ip_interface(own[4]).network
    peer = next(end for end in outside if ipaddress.ip_address(end.addresses[4]) in subnet)
    _batch("", f"link add eth0 type veth peer name eth0 netns {peer.netns.rpartition('/')[2]}", "link set eth0 up",
           f"addr add {own[4]} dev eth0", f"addr add {own[6]} dev eth0 nodad")  # fmt: skip
    lengths = {family: address.partition("/")[2] for family, address in own.items()}
    lines = ["link set eth0 up"]
    for end in outside:
        for family, whole in ((4, "32"), (6, "128")):
            length = lengths[family] if end is peer else whole
            lines.append(f"addr add {end.addresses[family]}/{length} dev eth0" + " nodad" * (family == 6))
    lines += [f"route add default via {host.addresses[4]}", f"-6 route add default via {host.addresses[6]}"]
    _batch(peer.netns, *lines)
    _batch("", f"route add default via {peer.addresses[4]}", f"-6 route add default via {peer.addresses[6]}")


def _add_dnat(ends: dict[str, End]) -> None:
    host = next(end for end in ends.values() if not end.netns)
    target = ends[DNAT_TARGET].addresses
    text = "".join(
        f"table {table} lab {{ chain pre {{ type nat hook prerouting priority -110; "
        f"{table} daddr {host.addresses[family]} tcp dport {DNAT_PORT} dnat to {place}:{DNAT_TARGET_PORT}; }}; }}\n"
        for table, family, place in (("ip", 4, target[4]), ("ip6", 6, f"[{target[6]}]"))
    )
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def _batch(path: str, *lines: str) -> None:
    """Lines for `ip` in a namespace."""
    for family in ("", "-6"):
        text = "\n".join(line.removeprefix("-6 ") for line in lines if line.startswith("-6 ") == bool(family))
        command = ["ip", *filter(None, (family,)), *(("-n", path.rpartition("/")[2]) if path else ()), "-batch", "-"]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{path}: {text}: {done.stderr}"


def _write(key: str, value: str) -> None:
    with open(f"/proc/sys/{key}", "w", encoding="ascii") as setting:
        setting.write(value)


# --- servers ---------------------------------------------------------------------------------------------------------


class Servers:
    """What answers at every end: TCP and UDP on the ports that are probed, and ears for tagged packets."""

    def __init__(self, ends: dict[str, End], probes: Iterable[Probe]) -> None:
        ports: dict[str, set[int]] = {"tcp": {DNAT_TARGET_PORT}, "udp": set()}
        self._numbers: dict[int, set[int]] = {4: set(), 6: set()}
        for probe in probes:
            if probe["proto"] in ports:
                ports[probe["proto"]].add(probe["dport"])
            self._numbers[probe["family"]].add(protocol_of(probe))
        self.poll = select.epoll()
        self.tcp: dict[int, socket.socket] = {}
        self.udp: dict[int, socket.socket] = {}
        self.ears: dict[int, tuple[socket.socket, str]] = {}
        for path in sorted({end.netns for end in ends.values()}):
            with netns.entered(path):
                self._open_tcp(ports["tcp"])
                for end in (one for one in ends.values() if one.netns == path):
                    self._open_udp(end, ports["udp"])
                    self._open_ears(end)

    def _open_tcp(self, ports: Iterable[int]) -> None:
        for port in ports:
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
            self._add(listener, self.tcp)

    def _open_udp(self, end: End, ports: Iterable[int]) -> None:
        for port in ports:
            for family, address in end.addresses.items():
                server = socket.socket(FAMILY[family], socket.SOCK_DGRAM)
                server.bind((address, port))
                self._add(server, self.udp)

    def _open_ears(self, end: End) -> None:
        for family, address in end.addresses.items():
            for number in self._numbers[family] - {socket.IPPROTO_TCP}:
                ear = socket.socket(FAMILY[family], socket.SOCK_RAW, number)
                ear.bind((address, 0))
                ear.setblocking(False)
                self.poll.register(ear, select.EPOLLIN)
                self.ears[ear.fileno()] = (ear, end.name)

    def _add(self, server: socket.socket, kind: dict[int, socket.socket]) -> None:
        server.setblocking(False)
        self.poll.register(server, select.EPOLLIN)
        kind[server.fileno()] = server


FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


# --- probes ----------------------------------------------------------------------------------------------------------


class Round:
    """Probes that are under way at the same time."""

    def __init__(self, servers: Servers, ends: dict[str, End], probes: dict[int, Probe], base: int) -> None:
        self._servers, self._ends, self._probes, self._base = servers, ends, probes, base
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        self._raw: dict[tuple[str, int], socket.socket] = {}
        self.allowed: set[int] = set()

    def run(self, expected: set[int]) -> set[int]:
        """Send them all; the numbers of those that got through. Waits for the `expected` ones, then for silence."""
        try:
            self._send(self._probes)
            started = heard = sent_again = time.monotonic()
            while True:
                now = time.monotonic()
                if self._collect(0.01):
                    heard = now
                missing = expected - self.allowed
                if now - started > LONGEST_S or (not missing and now - max(started, heard) > QUIET_S):
                    return self.allowed
                if missing and now - sent_again > AGAIN_S:
                    self._send({n: self._probes[n] for n in missing if not self._is_tcp(n)})
                    sent_again = now
        finally:
            for _number, one in self._sockets.values():
                self._servers.poll.unregister(one)
                one.close()
            for raw in self._raw.values():
                raw.close()

    def _is_tcp(self, number: int) -> bool:
        return bool(self._probes[number]["proto"] == "tcp")

    def _send(self, probes: dict[int, Probe]) -> None:
        by_netns: dict[str, list[int]] = {}
        for number, probe in probes.items():
            by_netns.setdefault(self._ends[probe["from"]].netns, []).append(number)
        for path, numbers in by_netns.items():
            with netns.entered(path):
                for number in numbers:
                    self._send_one(number, probes[number])

    def _send_one(self, number: int, probe: Probe) -> None:
        family = probe["family"]
        source, target = (self._ends[probe[end]].addresses[family] for end in ("from", "to"))
        if probe["proto"] == "tcp" and "src" not in probe:
            client = self._client(number, family, socket.SOCK_STREAM, (source, probe.get("sport", 0)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            result = client.connect_ex((target, probe["dport"]))
            assert result in (0, errno.EINPROGRESS), f"probe {number}: {errno.errorcode[result]}"
        elif probe["proto"] == "udp" and "src" not in probe:
            client = self._client(number, family, socket.SOCK_DGRAM, (source, probe.get("sport", 0)))
            client.sendto(self._payload(number), (target, probe["dport"]))
        else:
            key = (self._ends[probe["from"]].netns, family)
            if key not in self._raw:
                self._raw[key] = socket.socket(FAMILY[family], socket.SOCK_RAW, socket.IPPROTO_RAW)
            data = self._packet(number, probe, probe.get("src", source), target)
            try:
                self._raw[key].sendto(data, (target, 0))
            except PermissionError:  # a packet that the host's own rules drop on their way out
                pass

    def _client(self, number: int, family: int, kind: int, own: tuple[str, int]) -> socket.socket:
        former = next((one for n, one in self._sockets.values() if n == number), None)
        if former is not None:
            return former
        client = socket.socket(FAMILY[family], kind)
        if own[1]:  # for a port of the kernel's choice it would mean one that another probe has
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setblocking(False)
        client.bind(own)
        events = select.EPOLLOUT if kind == socket.SOCK_STREAM else select.EPOLLIN
        self._sockets[client.fileno()] = (number, client)
        self._servers.poll.register(client, events)
        return client

    def _payload(self, number: int) -> bytes:
        return tun.MAGIC + struct.pack("!I", self._base + number)

    def _packet(self, number: int, probe: Probe, source: str, target: str) -> bytes:
        family = probe["family"]
        kind, code = None, None
        if probe["proto"] in ("icmp", "icmpv6"):
            icmp = probe.get("icmp") or {}
            kind, code = icmp.get("type", ECHO[family][0]), icmp.get("code", 0)
        packet = Packet(
            family=family,
            protocol=protocol_of(probe),
            source=int(ipaddress.ip_address(source)),
            destination=int(ipaddress.ip_address(target)),
            source_port=probe.get("sport", 40000 + number % 20000) if "dport" in probe else 0,
            destination_port=probe.get("dport", 0),
            icmp_type=kind,
            icmp_code=code,
        )
        data = tun.encode(packet, self._base + number)
        if family == 6 and kind in NEIGHBOUR_DISCOVERY:  # no other hop limit is legal
            data = data[:7] + b"\xff" + data[8:]
        return data

    def _collect(self, wait_s: float) -> bool:
        """Take in what has happened; whether a probe of this round was among it."""
        before = len(self.allowed)
        for descriptor, _events in self._servers.poll.poll(wait_s):
            if descriptor in self._servers.tcp:
                _accept(self._servers.tcp[descriptor])
            elif descriptor in self._servers.udp:
                _echo(self._servers.udp[descriptor])
            elif descriptor in self._servers.ears:
                self._hear(*self._servers.ears[descriptor])
            elif descriptor in self._sockets:
                self._answered(*self._sockets[descriptor])
        return len(self.allowed) > before

    def _answered(self, number: int, client: socket.socket) -> None:
        if self._is_tcp(number):
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                self.allowed.add(number)
            self._servers.poll.modify(client, 0)
            return
        try:
            if client.recv(2048) == self._payload(number):
                self.allowed.add(number)
        except OSError:  # an ICMP error came back
            pass

    def _hear(self, ear: socket.socket, end: str) -> None:
        for data in tun.drain(ear.fileno()):
            number = tun.tag_of(data) - self._base
            probe = self._probes.get(number)
            if probe is not None and _arrived(probe, end, data):
                self.allowed.add(number)


def _arrived(probe: Probe, end: str, data: bytes) -> bool:
    """Does this packet at this end prove that the probe got through? An echo request has to come back as a reply."""
    if probe["proto"] in ("icmp", "icmpv6"):
        family = probe["family"]
        request, reply = ECHO[family]
        if (probe.get("icmp") or {}).get("type", request) == request:
            kind = data[(data[0] & 15) * 4] if family == 4 else data[0]
            return end == probe["from"] and kind == reply
    return bool(end == probe["to"] and ("src" in probe or probe["proto"] not in ("tcp", "udp")))


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # the client has gone already
            continue
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.close()


def _echo(server: socket.socket) -> None:
    while True:
        try:
            data, address = server.recvfrom(2048)
            server.sendto(data, address)
        except BlockingIOError:
            return
        except OSError:  # a spoofed address that leads nowhere, or an ICMP error
            continue


def rounds(probes: list[Probe]) -> Iterator[dict[int, Probe]]:
    """Groups of probes of which none can pass for the answer to another, or for its repetition."""
    left = dict(enumerate(probes))
    while left:
        group: dict[int, Probe] = {}
        taken: set[str] = set()
        for number, probe in left.items():
            key = flow_of(number, probe)
            if key not in taken and len(group) < ROUND_TAGS:
                taken.add(key)
                group[number] = probe
        left = {number: probe for number, probe in left.items() if number not in group}
        yield group


def flow_of(number: int, probe: Probe) -> str:
    """What connection tracking could take two probes for one by."""
    proto, ends = str(probe["proto"]), sorted((probe["from"], probe["to"]))
    if proto in ("icmp", "icmpv6"):
        return json.dumps([probe["family"], probe["from"], probe["to"], probe.get("icmp"), probe.get("src")])
    if "sport" in probe:
        return json.dumps([probe["family"], proto, ends, sorted((probe["sport"], probe["dport"]))])
    if proto in ("tcp", "udp", "sctp"):
        return str(number)
    return json.dumps([probe["family"], proto, ends])

"""Which of a host's addresses is the node's: the methods of autodetection, as pure functions over what the kernel says.

Interfaces are visited newest first, their addresses in the kernel's order; the first global unicast one counts
(spec/node-startup.md 3.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from libcalico.model.go_regex import go_search
from libcalico.model.scalars import parse_net
from libcalico.net import bare_address

FIRST_FOUND_WORD, INTERFACE, SKIP_INTERFACE, CIDR, CAN_REACH = (
    "first-found", "interface", "skip-interface", "cidr", "can-reach"
)  # fmt: skip
KUBERNETES = "kubernetes-internal-ip"
HOST = re.compile(r"[a-zA-Z0-9:._-]{1,253}")
EXCLUDED = re.compile(
    r"docker|cbr|dummy|podman|virbr|lxcbr|veth|lo|br-|cali|tunl|flannel|kube-ipvs|cni|vxlan\.calico|vxlan-v6\.calico"
    r"|wireguard\.cali|wg-v6\.cali|nodelocaldns|d-dcos|m-dcos|vtep|minuteman|spartan|dcos-"
)
"""How names of interfaces begin that are no way to other hosts: those of containers, tunnels and DC/OS."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Interface(NamedTuple):
    """An interface of the host: its index, and its addresses, like `10.0.0.1/24`, in the kernel's order."""

    number: int
    name: str
    cidrs: tuple[str, ...]


class Method(NamedTuple):
    """A method and what it is given; as it is written: `interface=eth.*`."""

    kind: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.kind}={','.join(self.words)}" if self.words else self.kind


class NotFound(Exception):
    """The method finds no address; the text says why."""


FIRST_FOUND = Method(FIRST_FOUND_WORD)


def parse_method(text: str) -> Method:
    """A method from its text; raises ValueError."""
    if text == FIRST_FOUND_WORD:
        return FIRST_FOUND
    kind, _, rest = text.partition("=")
    words = tuple(word.strip() for word in rest.split(",") if word.strip())
    if kind == KUBERNETES:
        raise ValueError(
            f"needs Kubernetes, which is not supported here: use {FIRST_FOUND_WORD}, interface=, cidr= or can-reach="
        )
    if kind not in (INTERFACE, SKIP_INTERFACE, CIDR, CAN_REACH):
        raise ValueError(
            f"is no method: use {FIRST_FOUND_WORD}, interface=REGEX, skip-interface=REGEX, cidr=CIDR or can-reach=HOST"
        )
    if not words:
        raise ValueError(f"has nothing after {kind}=")
    if kind in (INTERFACE, SKIP_INTERFACE):
        for word in words:
            _searcher(word)
    elif kind == CIDR:
        for word in words:
            if "/" not in word or parse_net(word) is None:
                raise ValueError(f"has '{word}', which is no network such as 10.0.0.0/8")
    elif len(words) > 1 or not HOST.fullmatch(words[0]):
        raise ValueError("does not name one host or address")
    return Method(kind, words)


def _searcher(pattern: str) -> Callable[[str], object]:
    try:
        return go_search(pattern)
    except ValueError as error:
        raise ValueError(f"has '{pattern}', which is no regular expression: {error}") from None


def detect(
    method: Method, version: int, interfaces: Sequence[Interface], source_to: Callable[[str, int], str]
) -> tuple[str, str]:
    """The address with its network's length, and the interface that has it. `source_to(host, version)` is the address
    with which packets to a host leave; it raises OSError. Raises `NotFound`."""
    if method.kind == CAN_REACH:
        return _by_reach(method.words[0], version, interfaces, source_to)
    networks = [parse_net(word) for word in method.words] if method.kind == CIDR else None
    for interface in sorted(_candidates(method, interfaces), key=lambda one: -one.number):
        for cidr in interface.cidrs:
            address = ipaddress.ip_address(bare_address(cidr))
            if address.version != version or not is_global_unicast(address):
                continue
            if networks is None or any(net is not None and address in net for net in networks):
                return cidr, interface.name
    raise NotFound(f"{method} finds no IPv{version} address; {_offered(version, interfaces)}")


def _candidates(method: Method, interfaces: Iterable[Interface]) -> list[Interface]:
    if method.kind == CIDR:
        return list(interfaces)
    searches = [_searcher(word) for word in method.words]
    if method.kind == INTERFACE:
        return [one for one in interfaces if any(search(one.name) for search in searches)]
    return [
        one for one in interfaces if not EXCLUDED.match(one.name) and not any(search(one.name) for search in searches)
    ]


def _by_reach(
    host: str, version: int, interfaces: Sequence[Interface], source_to: Callable[[str, int], str]
) -> tuple[str, str]:
    try:
        source = source_to(host, version)
    except OSError as error:
        raise NotFound(f"can-reach={host} finds no IPv{version} address: {error.strerror or error}") from None
    found = cidr_of(source, interfaces)
    if found is None:
        raise NotFound(f"can-reach={host} finds {source}, which no interface has")
    return found


def cidr_of(address: str, interfaces: Iterable[Interface]) -> tuple[str, str] | None:
    """An address with its network's length, and the interface that has it."""
    wanted = ipaddress.ip_address(address)
    for interface in interfaces:
        for cidr in interface.cidrs:
            if ipaddress.ip_address(bare_address(cidr)) == wanted:
                return cidr, interface.name
    return None


def is_global_unicast(address: IPAddress) -> bool:
    """Can another host reach it? Private ranges count."""
    return not (
        address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
        or str(address) == "255.255.255.255"
    )  # fmt: skip


def _offered(version: int, interfaces: Sequence[Interface]) -> str:
    """The addresses that there are, for a person who has to choose."""
    there = [
        f"{one.name} {cidr}"
        for one in interfaces
        for cidr in one.cidrs
        if ipaddress.ip_interface(cidr).version == version and is_global_unicast(ipaddress.ip_interface(cidr).ip)
    ]
    return f"this host has {', '.join(there)}" if there else "this host has none"

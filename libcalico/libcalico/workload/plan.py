"""What wiring a workload's interface means, as data: names, settings, routes (spec/cni.md 4.4, 5.4). Pure.

`plan_wiring` decides, `attach.attach` does. Both ends get no surprise: the host end has no address and the MAC
ee:ee:ee:ee:ee:ee, the container's addresses are /32 and /128, its gateway is 169.254.1.1 (answered by proxy ARP) or
the host end's link-local address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from libcalico.conventions import INTERFACE_PREFIX
from libcalico.errors import BadData
from libcalico.net import bare_address

HOST_MAC = "ee:ee:ee:ee:ee:ee"
NO_MAC = "00:00:00:00:00:00"
GATEWAY = "169.254.1.1"
LEAST_MTU = 68
LEAST_MTU_V6 = 1280
MOST_MTU = 65535
MOST_QUEUES = 4096  # the kernel's limit for a link
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_BAD_IN_NAME = re.compile(r"[/:\s]")


class Setting(NamedTuple):
    """One kernel setting below /proc/sys; when `required` is False a failure is only logged."""

    key: str
    value: int
    required: bool = True


class Wiring(NamedTuple):
    """One veth pair and all that belongs to it. `addresses` are bare; `mtu` 0 is the kernel's choice.

    `host_ipv4` are settings of the host end by their names below net/ipv4/conf/."""

    host_interface: str
    container_interface: str
    addresses: tuple[str, ...]
    mtu: int
    queues: int
    mac: str
    host_ipv4: Mapping[str, int]
    host_settings: tuple[Setting, ...]
    container_settings: tuple[Setting, ...]
    forwarding_settings: tuple[Setting, ...]

    @property
    def has_v4(self) -> bool:
        """There is an IPv4 address."""
        return any(":" not in address for address in self.addresses)

    @property
    def has_v6(self) -> bool:
        """There is an IPv6 address."""
        return any(":" in address for address in self.addresses)


def host_interface_name(container_id: str) -> str:
    """The usual name of a host end: `cali` and the first eleven characters of the container id."""
    return INTERFACE_PREFIX + container_id[:11]


def hashed_interface_name(container_id: str, interface: str) -> str:
    """The name of a host end when the usual one is not unique: nested containers, second interfaces, collisions."""
    digest = hashlib.sha1(f"{container_id}.{interface}".encode(), usedforsecurity=False).hexdigest()
    return INTERFACE_PREFIX + digest[:11]


def plan_wiring(
    host_interface: str,
    container_interface: str,
    addresses: Sequence[str],
    *,
    mtu: int = 0,
    queues: int = 1,
    mac: str = "",
    allow_ip_forwarding: bool = False,
) -> Wiring:
    """The wiring of one interface; raises `BadData` for what the kernel would refuse half-way."""
    for name in (host_interface, container_interface):
        problem = interface_name_problem(name)
        if problem:
            raise BadData(f"{problem}: {name!r}")
    bare = tuple(_bare(address) for address in addresses)
    wiring = Wiring(
        host_interface,
        container_interface,
        bare,
        mtu,
        max(1, queues),
        mac,
        {},
        (),
        (),
        (),
    )
    problem = mtu_problem(mtu, wiring.has_v6) or mac_problem(mac) or queues_problem(queues)
    if problem:
        raise BadData(problem)
    return wiring._replace(
        host_ipv4={"route_localnet": 1, "proxy_arp": 1, "forwarding": 1} if wiring.has_v4 else {},
        host_settings=_host_settings(wiring),
        container_settings=_container_settings(wiring),
        forwarding_settings=_forwarding_settings(wiring, allow_ip_forwarding),
    )


def mtu_problem(mtu: int, with_v6: bool) -> str:
    """Why this MTU cannot be, "" when it can."""
    if mtu == 0:
        return ""
    least = LEAST_MTU_V6 if with_v6 else LEAST_MTU
    if least <= mtu <= MOST_MTU:
        return ""
    return f"mtu {mtu} is out of range: {least} to {MOST_MTU}" + (" with IPv6" if with_v6 else "")


def mac_problem(mac: str) -> str:
    """Why an interface cannot have this MAC, "" when it can ("" = the kernel chooses)."""
    if not mac or (_MAC.fullmatch(mac) and not int(mac[1], 16) & 1 and mac != NO_MAC):
        return ""
    return f"{mac!r} is not the MAC of an interface: six bytes with colons, not a group address, not all zero"


def queues_problem(queues: int) -> str:
    """Why a veth cannot have so many queues, "" when it can (what is below 1 counts as 1)."""
    return "" if queues <= MOST_QUEUES else f"num_queues {queues} is out of range: at most {MOST_QUEUES}"


def random_mac() -> str:
    """A MAC that is nobody's: locally administered, not a group's (what the kernel would choose)."""
    first, *rest = random.randbytes(6)  # no system call: it is nobody's secret
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 0x02, *rest))


def interface_name_problem(name: str) -> str:
    """What is wrong with an interface name, in the words of the CNI library; "" when nothing is."""
    if not name:
        return "interface name is empty"
    if len(name.encode()) > 15:
        return "interface name is too long"
    if name in {".", ".."}:
        return "interface name is . or .."
    if _BAD_IN_NAME.search(name):
        return "interface name contains / or : or whitespace characters"
    return ""


def _bare(address: str) -> str:
    try:
        return str(ipaddress.ip_address(bare_address(address)))
    except ValueError as error:
        raise BadData(f"{address!r} is not an address") from error


def _host_settings(wiring: Wiring) -> tuple[Setting, ...]:
    v6 = f"net/ipv6/conf/{wiring.host_interface}/"
    settings: list[Setting] = []
    if wiring.has_v4:
        settings.append(Setting(f"net/ipv4/neigh/{wiring.host_interface}/proxy_delay", 0, required=False))
    if wiring.has_v6:
        settings += [
            Setting(v6 + "accept_dad", 0),
            Setting(v6 + "disable_ipv6", 0),
            Setting(v6 + "proxy_ndp", 1),
            Setting(v6 + "forwarding", 1),
        ]
    return (*settings, Setting(v6 + "accept_ra", 0, required=False))


def _container_settings(wiring: Wiring) -> tuple[Setting, ...]:
    if not wiring.has_v6:
        return ()
    enabled = tuple(Setting(f"net/ipv6/conf/{name}/disable_ipv6", 0) for name in ("all", "default", "lo"))
    return (Setting(f"net/ipv6/conf/{wiring.container_interface}/accept_dad", 0), *enabled)


def _forwarding_settings(wiring: Wiring, allowed: bool) -> tuple[Setting, ...]:
    settings = [Setting("net/ipv4/ip_forward", int(allowed))] if wiring.has_v4 else []
    if wiring.has_v6:
        settings.append(Setting("net/ipv6/conf/all/forwarding", int(allowed)))
    return tuple(settings)

"""The environment's variables of start-up: one table, in the form of the agent's own (`libcalico.config.Parameter`).

A variable that is empty counts as not set. A value that cannot be used ends the program: it names the variable, the
value and what to do. Source: spec/node-startup.md 2, 3, 5, 6."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from calico_felix.startup import detection
from libcalico import selector
from libcalico.config import Parameter, boolean, did_you_mean, file_path, matching, one_of, seconds, shown
from libcalico.conventions import NODENAME_FILE, SHUTDOWN_FILE
from libcalico.errors import BadData
from libcalico.model.scalars import parse_net
from libcalico.net import bare_address

AUTODETECT, NONE = "autodetect", "none"
NO = ("false", "0", "no", "n", "f")
MODES = {"": "Never", "off": "Never", "never": "Never", "crosssubnet": "CrossSubnet", "cross-subnet": "CrossSubnet",
         "always": "Always"}  # fmt: skip
BLOCK_SIZES = {4: (26, 20, 32), 6: (122, 116, 128)}
"""By family: the default length of a block, the least and the largest one."""
LARGEST_AS, LARGEST_HALF = 0xFFFFFFFF, 0xFFFF
SHORTEST_POLL_S = 1.0
EXAMPLES = {4: ("10.0.0.1", "10.0.0.1/24", "172.29.0.0/16"), 6: ("fd00::1", "fd00::1/64", "fd00:29::/48")}
NUMBER = re.compile(r"[0-9]{1,10}")
AS_TEXT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,5}))?")
POOL_PREFIXES = {4: "CALICO_IPV4POOL_", 6: "CALICO_IPV6POOL_"}


def node_address(version: int) -> Callable[[str], str]:
    """An address with or without its network's length, `autodetect` or `none`."""
    bare, whole, _ = EXAMPLES[version]

    def read(text: str) -> str:
        if text.lower() in (AUTODETECT, NONE):
            return text.lower()
        try:
            found = ipaddress.ip_interface(text)
        except ValueError:
            found = None
        if found is None or found.version != version or "%" in text:
            raise ValueError(f"is not an IPv{version} address such as {bare} or {whole}, {AUTODETECT} or {NONE}")
        if not detection.is_global_unicast(found.ip):
            raise ValueError("is an address that no other host reaches (loopback, link-local, multicast or none)")
        return str(found) if "/" in text else bare_address(str(found))

    return read


def as_number(text: str) -> int:
    """An AS number, decimal or dotted (`65000`, `1.10`)."""
    found = AS_TEXT.fullmatch(text)
    high, low = (int(found[1]), found[2]) if found else (0, None)
    number = high if low is None else (high << 16) + int(low)
    if found is None or number > LARGEST_AS or (low is not None and max(high, int(low)) > LARGEST_HALF):
        raise ValueError(f"is not an AS number from 0 to {LARGEST_AS}, such as 64512 or 1.10")
    return number


def pool_network(version: int) -> Callable[[str], str]:
    """A network, or `none`."""

    def read(text: str) -> str:
        if text.lower() == NONE:
            return NONE
        net = parse_net(text)
        if net is None or net.version != version or "/" not in text:
            raise ValueError(f"is not an IPv{version} network such as {EXAMPLES[version][2]}, or {NONE}")
        return str(net)

    return read


def number(low: int, high: int) -> Callable[[str], int]:
    """A decimal number within bounds."""

    def read(text: str) -> int:
        if not NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"is not a number between {low} and {high}")
        return int(text)

    return read


def mode(text: str) -> str:
    """When packets are encapsulated."""
    if text.lower() not in MODES:
        raise ValueError("is not Never, CrossSubnet or Always")
    return MODES[text.lower()]


def switch(text: str) -> bool:
    """Off is `false`, `0`, `no`, `n` or `f`; all else is on, as upstream reads it."""
    return text.lower() not in NO


def node_selector(text: str) -> str:
    """A selector of nodes."""
    try:
        selector.parse(text)
    except selector.SelectorError as error:
        raise ValueError(f"is no selector: {error}") from None
    return text


def poll_interval(text: str) -> float:
    """A pause between two looks, in seconds."""
    pause_s = seconds(text)
    if pause_s < SHORTEST_POLL_S:
        raise ValueError(f"is shorter than {SHORTEST_POLL_S:g} s")
    return pause_s


def _row(name: str, read: Callable[[str], Any], default: Any, text: str) -> Parameter:
    return Parameter(name, read, default, text, datastore=False, fatal=True)


def _address_rows(version: int, suffix: str) -> tuple[Parameter, ...]:
    kept = "autodetected if it has none" if version == 4 else "which may be none"
    return (
        _row(f"IP{suffix}", node_address(version), "",
             f"this host's IPv{version} address: without a length that of the interface which has it; `autodetect`:"
             f" found each time; `none`: the Node's stays; not set: the Node's stays, {kept}"),
        _row(f"IP{suffix}_AUTODETECTION_METHOD", detection.parse_method, detection.FIRST_FOUND,
             f"how the IPv{version} address is found: `first-found`, `interface=REGEX,..`, `skip-interface=REGEX,..`,"
             " `cidr=CIDR,..` or `can-reach=HOST`"),
    )  # fmt: skip


def pool_rows(version: int) -> tuple[Parameter, ...]:
    """What the default pool of a family is made with."""
    prefix = POOL_PREFIXES[version]
    default, least, largest = BLOCK_SIZES[version]
    usual = (
        "192.168.0.0/16, or the first free one of 172.16.0.0/16 to 172.31.0.0/16" if version == 4 else "a random /48"
    )
    ipip = (_row(f"{prefix}IPIP", mode, "Never", "its IPIP mode"),) if version == 4 else ()
    return (
        _row(f"{prefix}CIDR", pool_network(version), "",
             f"the default IPv{version} pool, `none`: no pool; not set: {usual}"),
        _row(f"{prefix}BLOCK_SIZE", number(least, largest), default, "the length of its blocks"),
        *ipip,
        _row(f"{prefix}VXLAN", mode, "Never", "its VXLAN mode"),
        _row(f"{prefix}NAT_OUTGOING", switch, version == 4, "masquerade what leaves it"),
        _row(f"{prefix}DISABLE_BGP_EXPORT", switch, False, "BGP does not announce it"),
        _row(f"{prefix}NODE_SELECTOR", node_selector, "all()", "the nodes that assign addresses from it"),
    )  # fmt: skip


POOL_VARIABLES = {version: pool_rows(version) for version in (4, 6)}
NODE_VARIABLES = (
    *_address_rows(4, ""),
    *_address_rows(6, "6"),
    _row("AS", as_number, None, "this host's AS number; not set: the Node's stays"),
    _row("DISABLE_NODE_IP_CHECK", boolean, False, "an address that another Node has is no error"),
    _row("CALICO_NETWORKING_BACKEND", one_of("bird", "vxlan", NONE), "bird",
         "`none`: policy only, the Node gets no address"),
    _row("CALICO_NETWORKING", boolean, True, "deprecated: `false` is `CALICO_NETWORKING_BACKEND=none`"),
    _row("AUTODETECT_POLL_INTERVAL", poll_interval, 60.0, "the pause of `-monitor-addresses`"),
)  # fmt: skip
STARTUP_VARIABLES = (
    _row("WAIT_FOR_DATASTORE", boolean, False, "wait until the datastore answers, instead of ending with an error"),
    _row("NO_DEFAULT_POOLS", boolean, False, "make no pool"),
    _row("CLUSTER_TYPE", matching(r"[A-Za-z0-9_.,-]{0,253}", "words with a comma between them"), "",
         "words that are added to ClusterInformation's clusterType"),
    _row("CALICO_NODENAME_FILE", file_path, NODENAME_FILE, "where this host's name is kept"),
    _row("CALICO_SHUTDOWN_TIMESTAMP_FILE", file_path, SHUTDOWN_FILE, "where `-shutdown` writes the time"),
    _row("CALICO_DISABLE_FILE_LOGGING", boolean, False, "the folder /var/log/calico is not made"),
)  # fmt: skip


class Variables:
    """Values by the names of a table's rows, read once. Raises `BadData` for the first that cannot be used."""

    def __init__(self, environment: Mapping[str, str], table: Iterable[Parameter]) -> None:
        self.given: set[str] = set()
        """The names that the environment sets."""
        self._values: dict[str, Any] = {}
        for row in table:
            text = environment.get(row.name, "").strip()
            self._values[row.name] = _read(row, text) if text else row.default
            if text:
                self.given.add(row.name)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]


def _read(row: Parameter, text: str) -> Any:
    try:
        return row.read(text)
    except ValueError as error:
        raise BadData(f"{row.name}={shown(text)} {error}: correct it, or leave the variable out") from None


def strangers(environment: Mapping[str, str]) -> list[str]:
    """What is set of a pool's variables and no row of the table: each with the name that may be meant."""
    names = [row.name for rows in POOL_VARIABLES.values() for row in rows]
    found = []
    for name, text in sorted(environment.items()):
        if name.startswith(tuple(POOL_PREFIXES.values())) and name not in names and text.strip():
            meant = did_you_mean(name, names)
            found.append(
                f"{shown(name)} is no variable of start-up: it is ignored"
                + (f" (did you mean {meant}?)" if meant else "")
            )
    return found

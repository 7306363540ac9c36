"""The default pools: one of each family, made when there is none of that family at all (spec/node-startup.md 3.2)."""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Mapping, Sequence

import msgspec

from calico_felix.startup.host import HostNetwork
from calico_felix.startup.variables import NONE, POOL_PREFIXES, POOL_VARIABLES, Variables, strangers
from libcalico.client.objects import AsyncClient
from libcalico.config import shown
from libcalico.errors import BadData, ResourceAlreadyExists
from libcalico.model import IPPool, IPPoolSpec, Metadata
from libcalico.model.scalars import IPNetwork, parse_net

log = logging.getLogger(__name__)

NAMES = {4: "default-ipv4-ippool", 6: "default-ipv6-ippool"}
USUAL = ("192.168.0.0/16", *(f"172.{number}.0.0/16" for number in range(16, 32)))
"""The first that no route of the host overlaps is the default IPv4 pool."""
FIELDS = {
    "CIDR": "cidr", "BLOCK_SIZE": "block_size", "IPIP": "ipip_mode", "VXLAN": "vxlan_mode",
    "NAT_OUTGOING": "nat_outgoing", "DISABLE_BGP_EXPORT": "disable_bgp_export", "NODE_SELECTOR": "node_selector",
}  # fmt: skip
ULA_OCTETS, ULA_LENGTH = 5, 48

_replace = msgspec.structs.replace


async def ensure_pools(
    client: AsyncClient, environment: Mapping[str, str], network: HostNetwork, *, none: bool, ipv6: bool
) -> bool:
    """Make the default pools that are missing; was any made? `none`: no pool is wanted. `ipv6`: this host has IPv6.

    Raises `BadData` for a variable that cannot be used when a pool is to be made."""
    for stranger in strangers(environment):
        log.warning("%s", stranger)
    if none:
        _check_none(environment)
        return False
    listed = await client.list(IPPool)
    pools, made = listed.items, False
    if listed.unreadable:
        log.warning("no default pool is made, since these cannot be read: %s", ", ".join(map(shown, listed.unreadable)))
        return False
    for version in (4, 6) if ipv6 else (4,):
        of_family = [pool for pool in pools if (":" in pool.spec.cidr) is (version == 6)]
        if of_family:
            _warn_about(environment, version, of_family)
        else:
            made = await _make(client, Variables(environment, POOL_VARIABLES[version]), version, network) or made
    return made


def _check_none(environment: Mapping[str, str]) -> None:
    for prefix in POOL_PREFIXES.values():
        if environment.get(f"{prefix}CIDR", "").strip():
            raise BadData(f"NO_DEFAULT_POOLS=true and {prefix}CIDR contradict each other: leave one of them out")


async def _make(client: AsyncClient, variables: Variables, version: int, network: HostNetwork) -> bool:
    spec = pool_spec(variables, version)
    if spec.cidr == NONE:
        return False
    cidr = spec.cidr or (default_network(network.networks()) if version == 4 else random_network())
    pool = IPPool(metadata=Metadata(name=NAMES[version]), spec=_replace(spec, cidr=cidr))
    try:
        await client.create(pool)
    except ResourceAlreadyExists:
        return False
    log.info("pool %s is made: %s", NAMES[version], cidr)
    return True


def pool_spec(variables: Variables, version: int) -> IPPoolSpec:
    """The default pool as the variables want it; its CIDR is empty where none is given."""
    prefix = POOL_PREFIXES[version]
    wanted = {field: variables[f"{prefix}{word}"] for word, field in FIELDS.items() if version == 4 or word != "IPIP"}
    spec = IPPoolSpec(**{"ipip_mode": "Never", **wanted})
    if "Never" not in (spec.ipip_mode, spec.vxlan_mode):
        raise BadData(f"{prefix}IPIP and {prefix}VXLAN are both on: set one of them to Never")
    return spec


def default_network(routes: Sequence[IPNetwork]) -> str:
    """The first usual network that no route of the host overlaps; raises `BadData` when there is none."""
    for text in USUAL:
        net = ipaddress.IPv4Network(text)
        if not any(route.version == 4 and route.overlaps(net) for route in routes):
            return text
    raise BadData(
        f"this host has routes into {USUAL[0]} and into all of 172.16.0.0/12: set {POOL_PREFIXES[4]}CIDR to a network"
        " that is free"
    )


def random_network() -> str:
    """A unique local network of IPv6 (RFC 4193): fd and 40 random bits."""
    octets = b"\xfd" + secrets.token_bytes(ULA_OCTETS) + bytes(16 - 1 - ULA_OCTETS)
    return str(ipaddress.IPv6Network((octets, ULA_LENGTH)))


def _warn_about(environment: Mapping[str, str], version: int, pools: Sequence[IPPool]) -> None:
    """The variables describe a pool that is to be made; one that stands is changed with calicoctl."""
    prefix = POOL_PREFIXES[version]
    try:
        variables = Variables(environment, POOL_VARIABLES[version])
    except BadData as error:
        log.warning("%s (no pool is made now, so it does not matter yet)", error)
        return
    for pool in pools:
        if pool.metadata.name != NAMES[version]:
            continue
        for word, field in FIELDS.items():
            variable = f"{prefix}{word}"
            if variable not in variables.given:
                continue
            kept, asked = getattr(pool.spec, field), variables[variable]
            if asked != (str(parse_net(kept)) if field == "cidr" else kept):
                log.warning("pool %s keeps %s: %s=%s does not change it", pool.metadata.name, kept, variable, asked)

"""The IPAM driver: pools are Calico's, and addresses come from the node's blocks (spec/libnetwork.md 3)."""

from __future__ import annotations

import ipaddress
import uuid

from calico_libnetwork.agent import Agent
from calico_libnetwork.networks import Pools, parse_subnet
from calico_libnetwork.protocol import (
    ANY_V4,
    ANY_V6,
    GATEWAY_DATUM,
    DriverError,
    ReleaseAddress,
    Reply,
    RequestAddress,
    RequestPool,
)
from libcalico.net import bare_address

POOL_V4, POOL_V6 = "CalicoPoolIPv4", "CalicoPoolIPv6"
LOCAL_SPACE, GLOBAL_SPACE = "CalicoLocalAddressSpace", "CalicoGlobalAddressSpace"
HANDLE = "libnetwork."
"""What the IPAM handles of Docker's addresses begin with. Who has an address is not known when it is asked for."""
_NO_ADDRESS = ("", "0.0.0.0", "::")


class IpamDriver:
    """The calls by which Docker asks for pools and addresses."""

    def __init__(self, pools: Pools, agent: Agent) -> None:
        self._pools = pools
        self._agent = agent

    async def request_pool(self, call: RequestPool) -> Reply:
        """A network is being created with this subnet, or without one. Nothing is remembered."""
        if call.sub_pool:
            raise DriverError(
                "Calico IPAM does not support sub pool configuration on 'docker create network'. Calico IP Pools should"
                " be configured first and IP assignment is from those pre-configured pools."
            )
        if call.options:
            raise DriverError("Arbitrary options are not supported")
        any_pool = ANY_V6 if call.v6 else ANY_V4
        if call.pool in ("", any_pool):
            return _pool(POOL_V6 if call.v6 else POOL_V4, any_pool)
        net = parse_subnet(call.pool)
        pool = await self._pools.of_subnet(call.pool)
        return _pool(pool.metadata.name, str(net))

    async def request_address(self, call: RequestAddress) -> Reply:
        """An address for an endpoint: this one, or any of the pool."""
        version, pool = await self._family(call)
        if (call.options or {}).get("RequestAddressType") == GATEWAY_DATUM:
            if call.address not in _NO_ADDRESS:
                raise DriverError("Calico IPAM does not support specifying a gateway.")
            return {"Address": ANY_V6 if version == 6 else ANY_V4, "Data": None}
        handle = HANDLE + uuid.uuid4().hex
        try:
            if call.address not in _NO_ADDRESS:
                return _address(await self._agent.assign(handle, version, str(_parse(call.address))))
            return _address(await self._agent.assign(handle, version, pool=pool))
        except DriverError as error:
            text = str(error)
            raise DriverError(text if text.startswith("Unexpected") else f"IP assignment error: {text}") from None

    async def release_address(self, call: ReleaseAddress) -> Reply:
        """An address is free again. One that is none of ours, or free already, is fine."""
        try:
            address = _parse(call.address)
        except DriverError:
            return {}
        if not address.is_unspecified:
            await self._agent.release(str(address))
        return {}

    async def _family(self, call: RequestAddress) -> tuple[int, str]:
        """The IP version, and the name of the pool, "" = any."""
        if call.pool_id in (POOL_V4, POOL_V6):
            return (6 if call.pool_id == POOL_V6 else 4), ""
        pool = await self._pools.named(call.pool_id)
        return (6 if ":" in pool.spec.cidr else 4), call.pool_id


def _pool(name: str, cidr: str) -> Reply:
    gateway = ANY_V6 if ":" in cidr else ANY_V4
    return {"PoolID": name, "Pool": cidr, "Data": {GATEWAY_DATUM: gateway}}


def _address(cidr: str) -> Reply:
    return {"Address": cidr, "Data": None}


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(bare_address(text))
    except ValueError:
        raise DriverError(f"Invalid IP address: {text[:80]!r}") from None

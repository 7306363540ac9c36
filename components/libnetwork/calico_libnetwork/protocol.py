"""What Docker sends and is sent: the bodies of the two protocols (spec/libnetwork.md 1, 3, 4). Pure.

Docker sends more members than are read here; a member that is null counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

Reply = dict[str, Any]
ANY_V4, ANY_V6 = "0.0.0.0/0", "::/0"
"""A pool that nobody chose, and the gateway by which a network driver knows that Calico's IPAM is in use."""
GATEWAY_DATUM = "com.docker.network.gateway"


class DriverError(Exception):
    """What Docker shows the user: what is wrong, and what to do."""


class Malformed(Exception):
    """A body that is not what the protocol says."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """A call's body."""


class RequestPool(Call, frozen=True):
    """IpamDriver.RequestPool."""

    pool: str = msgspec.field(name="Pool", default="")
    sub_pool: str = msgspec.field(name="SubPool", default="")
    options: dict[str, Any] | None = msgspec.field(name="Options", default=None)
    v6: bool = msgspec.field(name="V6", default=False)


class RequestAddress(Call, frozen=True):
    """IpamDriver.RequestAddress."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str = msgspec.field(name="Address", default="")
    options: dict[str, Any] | None = msgspec.field(name="Options", default=None)


class ReleaseAddress(Call, frozen=True):
    """IpamDriver.ReleaseAddress."""

    address: str = msgspec.field(name="Address")


class PoolData(Call, frozen=True):
    """A subnet of a network. `gateway` with its prefix length."""

    pool: str = msgspec.field(name="Pool", default="")
    gateway: str = msgspec.field(name="Gateway", default="")


class CreateNetwork(Call, frozen=True):
    """NetworkDriver.CreateNetwork."""

    network: str = msgspec.field(name="NetworkID")
    options: dict[str, Any] | None = msgspec.field(name="Options", default=None)
    ipv4: list[PoolData] | None = msgspec.field(name="IPv4Data", default=None)
    ipv6: list[PoolData] | None = msgspec.field(name="IPv6Data", default=None)

    @property
    def subnets(self) -> list[str]:
        """The CIDRs that a user chose."""
        pools = [data.pool for data in [*(self.ipv4 or ()), *(self.ipv6 or ())]]
        return [pool for pool in pools if pool not in ("", ANY_V4, ANY_V6)]


class OfNetwork(Call, frozen=True):
    """NetworkDriver.DeleteNetwork."""

    network: str = msgspec.field(name="NetworkID")


class Interface(Call, frozen=True):
    """What Docker says of an endpoint's interface; addresses with their prefix lengths."""

    address: str = msgspec.field(name="Address", default="")
    address_v6: str = msgspec.field(name="AddressIPv6", default="")
    mac: str = msgspec.field(name="MacAddress", default="")


class CreateEndpoint(Call, frozen=True):
    """NetworkDriver.CreateEndpoint."""

    network: str = msgspec.field(name="NetworkID")
    endpoint: str = msgspec.field(name="EndpointID")
    interface: Interface | None = msgspec.field(name="Interface", default=None)


class OfEndpoint(Call, frozen=True):
    """NetworkDriver.Leave and DeleteEndpoint."""

    network: str = msgspec.field(name="NetworkID")
    endpoint: str = msgspec.field(name="EndpointID")


class Join(Call, frozen=True):
    """NetworkDriver.Join. `sandbox`: the path of the container's network namespace."""

    network: str = msgspec.field(name="NetworkID")
    endpoint: str = msgspec.field(name="EndpointID")
    sandbox: str = msgspec.field(name="SandboxKey", default="")


C = TypeVar("C", bound=Call)


def decode(body: bytes, kind: type[C]) -> C:
    """Raises `Malformed`. A call without arguments has an empty body."""
    try:
        found = msgspec.json.decode(body or b"{}")
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if value is not None}
        return msgspec.convert(found, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def flat_options(call: CreateNetwork) -> Mapping[str, Any]:
    """Docker's own options of a network, with those that `--opt` gave among them."""
    options = dict(call.options or {})
    generic = options.pop("com.docker.network.generic", None)
    if generic is None:
        return options
    if not isinstance(generic, dict):
        raise DriverError("Could not parse options: com.docker.network.generic is not an object")
    return {**options, **generic}

"""The network driver: networks, endpoints and their interfaces (spec/libnetwork.md 4).

Every call may come twice, its first answer lost. What takes away never fails for what is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence

from calico_libnetwork.agent import Agent
from calico_libnetwork.engine import Engine, EngineError
from calico_libnetwork.labels import LabelKeeper, Spawn
from calico_libnetwork.networks import (
    PROFILE,
    PROFILE_OPTION,
    SUBNET,
    Pools,
    Records,
    checked_id,
    parse_subnet,
    profile_name,
)
from calico_libnetwork.protocol import (
    ANY_V4,
    ANY_V6,
    CreateEndpoint,
    CreateNetwork,
    DriverError,
    Interface,
    Join,
    OfEndpoint,
    OfNetwork,
    Reply,
    flat_options,
)
from calico_libnetwork.settings import Settings
from libcalico.client.objects import AsyncClient
from libcalico.errors import CalicoError, ValidationError
from libcalico.net import bare_address
from libcalico.workload.endpoint import check_profile, ensure_profile, host_cidr
from libcalico.workload.ready import check_ready

log = logging.getLogger(__name__)

ENABLE = ("com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6")
INTERNAL = "com.docker.network.internal"
IPV4 = 4
FOREIGN_IPAM = "Non-Calico IPAM driver is used"
ROUTE_ON_LINK = 1
NAME_WAIT_S, NAME_RETRY_S = 5.0, 0.1
"""How long a new network's name is asked for: the engine knows it once the call that creates it has returned."""


class NetworkDriver:
    """The calls of the network driver."""

    def __init__(
        self,
        settings: Settings,
        client: AsyncClient,
        agent: Agent,
        engine: Engine,
        labels: LabelKeeper,
        spawn: Spawn,
    ) -> None:
        self._settings = settings
        self._client = client
        self._agent = agent
        self._engine = engine
        self._labels = labels
        self._spawn = spawn
        self.records = Records(client, settings.state_folder)
        self.pools = Pools(client)
        self._profiles: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {}
        self._joined: dict[str, list[str]] = {}
        """Endpoints by sandbox: when a container starts, the engine joins all of its networks before the sandbox is
        there to be looked into."""

    # --- networks

    async def create_network(self, call: CreateNetwork, body: bytes) -> Reply:
        """Remember a network; one without a subnet gets its profile as soon as its name is known."""
        checked_id(call.network)
        _check_options(call)
        _check_ipam(call)
        await check_ready(self._client)
        for subnet in call.subnets:
            await self.pools.of_subnet(subnet)
        await self.records.put(call, body)
        try:
            await self.pools.annotate(call)
        except (DriverError, CalicoError) as error:
            log.warning("network %s: its pool is not annotated, which only DC/OS's fork reads: %s", call.network, error)
        if self._settings.creates_profiles and not call.subnets and PROFILE_OPTION not in flat_options(call):
            self._spawn(self._make_profile_of(call.network))
        return {}

    async def delete_network(self, call: OfNetwork) -> Reply:
        """Forget a network; its profile and pool stay."""
        checked_id(call.network)
        self._profiles.pop(call.network, None)
        await self.pools.forget(call.network)
        await self.records.delete(call.network)
        return {}

    async def _make_profile_of(self, network: str) -> None:
        """Rules may be written for a network before its first container starts."""
        try:
            async with asyncio.timeout(NAME_WAIT_S):
                while (name := await self._docker_name(network)) is None:
                    await asyncio.sleep(NAME_RETRY_S)
                await ensure_profile(self._client, name)
        except (CalicoError, TimeoutError) as error:
            log.info(
                "network %s: its profile comes with its first endpoint: %s", network, error or "it has no name yet"
            )

    async def _docker_name(self, network: str) -> str | None:
        try:
            facts = await self._engine.network(network)
        except EngineError:
            return None
        return None if facts is None else profile_name(facts.name)

    # --- endpoints

    async def create_endpoint(self, call: CreateEndpoint) -> Reply:
        """Store the endpoint; it stays closed until its labels are known, where they are copied."""
        checked_id(call.endpoint)
        interface = call.interface or Interface()
        addresses = [bare_address(one) for one in (interface.address, interface.address_v6) if one]
        if not addresses:
            raise DriverError("No address assigned for endpoint")
        await self._agent.put(
            call.endpoint,
            await self._profile_of(checked_id(call.network), addresses),
            addresses,
            mac=interface.mac,
            creates_profile=self._settings.creates_profiles,
            is_closed=self._settings.copies_labels,
        )
        self._addresses[call.endpoint] = addresses
        return {"Interface": {}}

    async def delete_endpoint(self, call: OfEndpoint) -> Reply:
        """Remove the endpoint."""
        self._labels.forget(checked_id(call.endpoint))
        await self._agent.drop(call.endpoint)
        self._addresses.pop(call.endpoint, None)
        self._leave_sandbox(call.endpoint)
        return {}

    async def join(self, call: Join) -> Reply:
        """Make the interface, which the engine moves into the container and renames."""
        endpoint = checked_id(call.endpoint)
        wired = await self._agent.wire(endpoint, self._settings.mtu, call.sandbox)
        others = [other for other in self._joined.get(call.sandbox, ()) if other != endpoint]
        present = [*wired.present, *(one for other in others for one in self._addresses.get(other, ()))]
        further: Sequence[str] = ()
        if present:
            further = await self._further_pools(call.network, self._addresses.get(endpoint, []), present)
        if call.sandbox:
            self._joined[call.sandbox] = [*others, endpoint]
        gateways = [] if present else [gateway for gateway in (wired.gateway_ipv4, wired.gateway_ipv6) if gateway]
        if self._settings.copies_labels:
            self._labels.expect(call.network, endpoint)
        return {
            "InterfaceName": {"SrcName": wired.container_interface, "DstPrefix": self._settings.interface_prefix},
            "Gateway": "" if present else wired.gateway_ipv4,
            "GatewayIPv6": "" if present else wired.gateway_ipv6,
            "StaticRoutes": [_on_link(cidr) for cidr in (*map(host_cidr, gateways), *further)],
            "DisableGatewayService": bool(present),
        }

    async def leave(self, call: OfEndpoint) -> Reply:
        """Remove the interface."""
        await self._agent.unwire(checked_id(call.endpoint))
        self._leave_sandbox(call.endpoint)
        return {}

    def _leave_sandbox(self, endpoint: str) -> None:
        left = {sandbox: [one for one in found if one != endpoint] for sandbox, found in self._joined.items()}
        self._joined = {sandbox: found for sandbox, found in left.items() if found}

    async def _further_pools(self, network: str, own: Sequence[str], present: Sequence[str]) -> Sequence[str]:
        """What a container's further interface leads to: the IPv4 pools of its network, or where that has no subnet the
        pool of its address. A pool of another interface of the container would take that one's connections away."""
        record = await self.records.get(network)
        subnets = list(map(parse_subnet, record.subnets if record is not None else ()))
        if not subnets:
            pools = [await self.pools.of_address(one) for one in own]
            subnets = [parse_subnet(pool.spec.cidr) for pool in pools if pool is not None]
        used = [ipaddress.ip_address(one) for one in present]
        free = [one for one in subnets if one.version == IPV4 and not any(address in one for address in used)]
        if not free:  # refused now, the network would stay in the engine's memory, and with it no later start succeeds
            log.warning(
                "network %s: the container has a Calico interface already (%s); nothing reaches its further one: a"
                " further network needs an IPv4 pool of its own, and --subnet with its CIDR",
                network,
                ", ".join(present),
            )
        return list(map(str, free))

    async def _profile_of(self, network: str, addresses: Sequence[str]) -> str:
        """The profile of a network's endpoints (spec/libnetwork.md 4.9, 4.11)."""
        if network not in self._profiles:
            self._profiles[network] = await self._find_profile(network, addresses)
        return self._profiles[network]

    async def _find_profile(self, network: str, addresses: Sequence[str]) -> str:
        record = await self.records.get(network)
        if record is not None:
            if profile := flat_options(record).get(PROFILE_OPTION):
                return str(profile)
            if record.subnets:
                return (await self.pools.of_subnet(record.subnets[0])).metadata.name
        elif (pool := await self.pools.annotated(network)) is not None:
            return pool.metadata.annotations.get(PROFILE) or pool.metadata.name
        facts = await self._engine.network(network)
        if facts is not None:
            return profile_name(facts.name)
        pool = await self.pools.of_address(addresses[0])
        if pool is None:
            raise DriverError(SUBNET)
        return pool.metadata.name


def _check_options(call: CreateNetwork) -> None:
    wrong = []
    for name, value in flat_options(call).items():
        match name:
            case _ if name in ENABLE:
                if str(value).lower() not in ("true", "false"):
                    wrong.append(f"{name} must be true or false")
            case _ if name == INTERNAL:
                if value is not False:
                    wrong.append("networks of Calico cannot be internal: what they reach is a matter of policy")
            case _ if name == PROFILE_OPTION:
                wrong += _profile_problems(value)
            case _:
                wrong.append(f"Unknown option '{name}'")
    if wrong:
        raise DriverError(f"Could not parse options: {', '.join(wrong)}")


def _profile_problems(value: object) -> list[str]:
    if not isinstance(value, str):
        return [f"{PROFILE_OPTION} must be a profile's name"]
    try:
        check_profile(value)
    except ValidationError as error:
        return [f"{PROFILE_OPTION} {value[:80]!r} cannot be a profile's name: {error}"]
    return []


def _check_ipam(call: CreateNetwork) -> None:
    if any(data.gateway != ANY_V4 for data in call.ipv4 or ()):
        raise DriverError(
            f"{FOREIGN_IPAM}: add --ipam-driver calico-ipam, without --gateway."
            " Note: Docker before 1.12.3 is unsupported"
        )
    if any(data.gateway != ANY_V6 for data in call.ipv6 or ()):
        raise DriverError(f"{FOREIGN_IPAM} for IPv6: add --ipam-driver calico-ipam, without --gateway")


def _on_link(cidr: str) -> Reply:
    return {"Destination": cidr, "RouteType": ROUTE_ON_LINK, "NextHop": ""}

"""The plug-in put together: which method of which socket is whose."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from calico_libnetwork import protocol
from calico_libnetwork.agent import ORCHESTRATOR, Agent
from calico_libnetwork.engine import Engine, EngineError, configured_store
from calico_libnetwork.ipam_driver import GLOBAL_SPACE, LOCAL_SPACE, IpamDriver
from calico_libnetwork.labels import LabelKeeper
from calico_libnetwork.network_driver import NetworkDriver
from calico_libnetwork.protocol import Call, DriverError, Reply
from calico_libnetwork.server import Method, Server
from calico_libnetwork.settings import Scope, Settings
from libcalico.client.objects import AsyncClient
from libcalico.conventions import CLOSED
from libcalico.errors import CalicoError
from libcalico.model.keys import workload_endpoint_prefix
from libcalico.model.resources import WorkloadEndpoint
from libcalico.reconcile import Backoff
from libcalico.workload.names import stored_namespace

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Call)
RECOVERY = Backoff(0.5, 10.0)
OVERLAP_CHECKED = (27, 0)
"""Engines from this version on refuse pools of a driver that overlap others, unless they are of the global space."""


class Daemon:
    """Serves both sockets until it is cancelled."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._group = asyncio.TaskGroup()
        self._agent = Agent(settings.agent_socket, settings.namespace)
        self._engine = Engine(settings.engine_socket)
        self.labels = LabelKeeper(self._engine, self._agent, self._group.create_task, settings.label_wait_s)
        self._networks = NetworkDriver(
            settings, client, self._agent, self._engine, self.labels, self._group.create_task
        )
        self._ipam = IpamDriver(self._networks.pools, self._agent)
        both = _activated("NetworkDriver", "IpamDriver")
        folder, ipam = settings.plugin_folder, self._ipam_methods()
        self._servers = (
            Server(f"{folder}/calico.sock", {**both, **self._network_methods(), **ipam}),
            Server(f"{folder}/calico-ipam.sock", {**_activated("IpamDriver"), **ipam}),
        )

    async def run(self) -> None:
        """For ever. Raises `Unavailable` when another process serves a socket."""
        try:
            async with self._group as group:
                try:
                    for server in self._servers:
                        await server.start()
                    log.info("serving calico.sock and calico-ipam.sock in %s", self._settings.plugin_folder)
                    group.create_task(self._recover())
                    if self._settings.copies_labels:
                        group.create_task(self.labels.run())
                    await asyncio.Event().wait()
                finally:
                    for server in self._servers:
                        await server.close()
        finally:
            await self._engine.close()
            await self._agent.close()

    async def _recover(self) -> None:
        """Once, as soon as everybody answers."""
        failures = 0
        while True:
            try:
                await self.labels.recover(await self._closed_endpoints())
                return
            except (CalicoError, DriverError) as error:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "endpoints that a former process left closed are opened later: %s", error)
                await asyncio.sleep(RECOVERY.pause_s(failures))

    async def _closed_endpoints(self) -> list[str]:
        prefix = workload_endpoint_prefix(await self._agent.node(), ORCHESTRATOR)
        listed = await self._client.list(WorkloadEndpoint, stored_namespace(self._settings.namespace), prefix)
        return [one.spec.endpoint for one in listed.items if CLOSED in one.metadata.annotations]

    def _network_methods(self) -> dict[str, Method]:
        driver = self._networks
        methods = {
            "GetCapabilities": self._capabilities,
            "CreateNetwork": lambda body: driver.create_network(protocol.decode(body, protocol.CreateNetwork), body),
            "DeleteNetwork": _method(protocol.OfNetwork, driver.delete_network),
            "CreateEndpoint": _method(protocol.CreateEndpoint, driver.create_endpoint),
            "DeleteEndpoint": _method(protocol.OfEndpoint, driver.delete_endpoint),
            "EndpointOperInfo": _always({"Value": {}}),
            "Join": _method(protocol.Join, driver.join),
            "Leave": _method(protocol.OfEndpoint, driver.leave),
            "AllocateNetwork": _always({"Options": None}),
        }
        for name in (
            "FreeNetwork",
            "DiscoverNew",
            "DiscoverDelete",
            "ProgramExternalConnectivity",
            "RevokeExternalConnectivity",
        ):
            methods[name] = _always({})
        return {f"NetworkDriver.{name}": method for name, method in methods.items()}

    def _ipam_methods(self) -> dict[str, Method]:
        driver = self._ipam
        methods = {
            "GetCapabilities": _always({"RequiresMACAddress": False}),
            "GetDefaultAddressSpaces": self._address_spaces,
            "RequestPool": _method(protocol.RequestPool, driver.request_pool),
            "ReleasePool": _always({}),
            "RequestAddress": _method(protocol.RequestAddress, driver.request_address),
            "ReleaseAddress": _method(protocol.ReleaseAddress, driver.release_address),
        }
        return {f"IpamDriver.{name}": method for name, method in methods.items()}

    async def _capabilities(self, _body: bytes) -> Reply:
        return {"Scope": (await self._scope()).value}

    async def _scope(self) -> Scope:
        """Global where the engine shares its networks with others; `/info` is not answered while the engine starts."""
        if self._settings.scope is not Scope.AUTO:
            return self._settings.scope
        try:
            is_shared = await self._engine.has_cluster_store()
        except EngineError:
            is_shared = await asyncio.to_thread(configured_store)
        return Scope.GLOBAL if is_shared else Scope.LOCAL

    async def _address_spaces(self, _body: bytes) -> Reply:
        version = (0, 0)
        with contextlib.suppress(EngineError):
            version = await self._engine.version()
        is_local = await self._scope() is Scope.LOCAL
        local = GLOBAL_SPACE if is_local and version >= OVERLAP_CHECKED else LOCAL_SPACE
        return {"LocalDefaultAddressSpace": local, "GlobalDefaultAddressSpace": GLOBAL_SPACE}


def _method(kind: type[C], step: Callable[[C], Awaitable[Reply]]) -> Method:
    async def method(body: bytes) -> Reply:
        return await step(protocol.decode(body, kind))

    return method


def _always(found: Reply) -> Method:
    async def method(_body: bytes) -> Reply:
        return found

    return method


def _activated(*drivers: str) -> dict[str, Method]:
    return {"Plugin.Activate": _always({"Implements": list(drivers)})}

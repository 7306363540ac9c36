"""Preparing a node before the agent starts: its Node, the default pool and settings, tunnel addresses.

Does what DC/OS's start script has upstream's tools do (spec/dcos.md 3.1-3.3, spec/node-startup.md 3). Everything is
created only when it is missing; running it again changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.conventions import NODENAME_FILE, STATE_DIRECTORY
from libcalico.datastore.contract import Datastore
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import BadData, ResourceAlreadyExists, ResourceDoesNotExist
from libcalico.ipam.assignment import AssignError
from libcalico.ipam.service import IpamService
from libcalico.kernel.rtnl import Rtnl
from libcalico.model import (
    FelixConfiguration,
    IPPool,
    IPPoolSpec,
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    Profile,
    ProfileSpec,
    Rule,
)
from libcalico.model.resources import ClusterInformation
from libcalico.model.scalars import parse_net
from libcalico.net import bare_address

log = logging.getLogger(__name__)

NO = ("false", "0", "no", "n", "f")

POOL = "default-ipv4-ippool"
PROFILE = "calico"
DIRECTORIES = ("/var/run/calico", STATE_DIRECTORY, "/var/log/calico", "/etc/calico")
MODES = {"": "Never", "off": "Never", "never": "Never", "crosssubnet": "CrossSubnet", "cross-subnet": "CrossSubnet",
         "always": "Always"}  # fmt: skip
POOL_VARIABLES = {
    "CALICO_IPV4POOL_CIDR": "cidr",
    "CALICO_IPV4POOL_VXLAN": "vxlan_mode",
    "CALICO_IPV4POOL_IPIP": "ipip_mode",
    "CALICO_IPV4POOL_NAT_OUTGOING": "nat_outgoing",
    "CALICO_IPV4POOL_BLOCK_SIZE": "block_size",
}
DEFAULT_POOL = "192.168.0.0/16"
POLL_S = 1.0
LOST = (
    "the datastore is not initialised (ClusterInformation default is missing), but this host was prepared before (%s is"
    " there): waiting until etcd's data is restored. If it is lost for good, remove that file on one host: its startup"
    " begins with an empty datastore, and containers that run are cut off"
)

_replace = msgspec.structs.replace


async def run_startup(
    connect: Callable[[EtcdConfig], Datastore], etcd: EtcdConfig, host: str, environment: Mapping[str, str]
) -> int:
    """Prepare this node; returns the exit status."""
    datastore = connect(etcd)
    try:
        await Startup(AsyncClient(datastore), host, environment).run()
    finally:
        await datastore.close()
    log.info("Using node name: %s", host)
    return 0


class Startup:
    """The steps, in order."""

    def __init__(self, client: AsyncClient, host: str, environment: Mapping[str, str]) -> None:
        self._client = client
        self._host = host
        self._environment = environment
        self._nodename_file = Path(environment.get("CALICO_NODENAME_FILE") or NODENAME_FILE)

    async def run(self) -> None:
        """All steps. Raises `BadData` naming the variable for a setting that cannot be used."""
        new_node = not self._nodename_file.exists()
        for directory in DIRECTORIES:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        await self._wait_initialized()
        await self._client.ensure_initialized(cluster_type=self._environment.get("CLUSTER_TYPE", ""))
        await self._ensure_node()
        await self._ensure_pool()
        await self._ensure_settings()
        if new_node:
            await self._create_if_missing(_allow_all_profile())
        await self._ensure_tunnel_address()
        self._nodename_file.write_text(self._host)
        self._nodename_file.chmod(0o644)

    async def _wait_initialized(self) -> None:
        """On a host that was prepared before, a datastore without ClusterInformation has lost its data: agents that
        found it initialised again, and empty, would take every container of the cluster for gone."""
        waits = False
        while self._nodename_file.exists() and not await self._is_initialized():
            if not waits:
                log.warning(LOST, self._nodename_file)
            waits = True
            await asyncio.sleep(POLL_S)

    async def _is_initialized(self) -> bool:
        try:
            await self._client.get(ClusterInformation, "default")
        except ResourceDoesNotExist:
            return False
        return True

    async def _create_if_missing(self, resource: Any) -> None:
        try:
            await self._client.create(resource)
        except ResourceAlreadyExists:
            pass

    async def _ensure_node(self) -> None:
        wanted = self._address()
        await self._check_unique(wanted)
        try:
            node: Node = await self._client.get(Node, self._host)
        except ResourceDoesNotExist:
            if not wanted:
                log.warning("this node is stored without an address: set IP, or no host has routes to its workloads")
            spec = NodeSpec(bgp=NodeBGPSpec(ipv4_address=wanted)) if wanted else NodeSpec()
            await self._create_if_missing(Node(metadata=Metadata(name=self._host), spec=spec))
            return
        current = node.spec.bgp or NodeBGPSpec()
        if wanted and current.ipv4_address != wanted:
            log.info("this node's address changes from %s to %s", current.ipv4_address or "none", wanted)
            spec = _replace(node.spec, bgp=_replace(current, ipv4_address=wanted))
            await self._client.update(_replace(node, spec=spec))

    def _address(self) -> str:
        """IP as address/length; a bare address gets the length of the interface that has it."""
        text = self._environment.get("IP", "")
        if not text or text == "none":
            return ""
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            raise BadData(f"IP={text!r} is not an address such as 10.0.0.1 or 10.0.0.1/24") from None
        if "/" in text:
            return str(interface)
        with Rtnl() as rtnl:
            for entry in rtnl.addresses():
                if entry.address == str(interface.ip):
                    return entry.cidr
        log.warning("no interface of this host has the address %s", text)
        return str(interface)

    async def _check_unique(self, wanted: str) -> None:
        if not wanted or self._environment.get("DISABLE_NODE_IP_CHECK") == "true":
            return
        address = bare_address(wanted)
        for node in (await self._client.list(Node)).items:
            theirs = bare_address(node.spec.bgp.ipv4_address if node.spec.bgp else "")
            if node.metadata.name != self._host and theirs == address:
                raise BadData(
                    f"IP={address} is in use by node {node.metadata.name}: give this node another address, or set"
                    " DISABLE_NODE_IP_CHECK=true"
                )

    async def _ensure_pool(self) -> None:
        if self._environment.get("NO_DEFAULT_POOLS") == "true":
            return
        pools = (await self._client.list(IPPool)).items
        if any(":" not in pool.spec.cidr for pool in pools):
            self._warn_about_pool(pools)
            return
        await self._create_if_missing(IPPool(metadata=Metadata(name=POOL), spec=self._pool_spec()))

    def _pool_spec(self) -> IPPoolSpec:
        return IPPoolSpec(
            cidr=self._pool_cidr(),
            vxlan_mode=self._mode("CALICO_IPV4POOL_VXLAN"),
            ipip_mode=self._mode("CALICO_IPV4POOL_IPIP"),
            nat_outgoing=self._environment.get("CALICO_IPV4POOL_NAT_OUTGOING", "").lower() not in NO,
            block_size=self._block_size(),
        )

    def _pool_cidr(self) -> str:
        text = self._environment.get("CALICO_IPV4POOL_CIDR") or DEFAULT_POOL
        net = parse_net(text)
        if net is None or net.version != 4:
            raise BadData(f"CALICO_IPV4POOL_CIDR={text!r} is not an IPv4 network such as {DEFAULT_POOL}")
        return str(net)

    def _block_size(self) -> int:
        text = self._environment.get("CALICO_IPV4POOL_BLOCK_SIZE") or "26"
        if not text.isdecimal() or not 20 <= int(text) <= 32:
            raise BadData(f"CALICO_IPV4POOL_BLOCK_SIZE={text!r} is not a number between 20 and 32")
        return int(text)

    def _warn_about_pool(self, pools: tuple[IPPool, ...]) -> None:
        """The variables describe a pool that is to be made; one that stands is changed with calicoctl."""
        try:
            wanted = self._pool_spec()
        except BadData as error:
            log.warning("%s: no pool is made now, so it does not matter yet", error)
            return
        for pool in pools:
            if pool.metadata.name != POOL:
                continue
            for variable, attribute in POOL_VARIABLES.items():
                kept, asked = getattr(pool.spec, attribute), getattr(wanted, attribute)
                if self._environment.get(variable) and asked != kept:
                    log.warning("pool %s keeps %s: %s=%s does not change it", POOL, kept, variable, asked)

    def _mode(self, variable: str) -> str:
        text = self._environment.get(variable, "")
        mode = MODES.get(text.lower())
        if mode is None:
            raise BadData(f"{variable}={text!r} is not Never, CrossSubnet or Always")
        return mode

    async def _ensure_settings(self) -> None:
        pools = (await self._client.list(IPPool)).items
        spec: dict[str, Any] = {"reportingInterval": "0s", "logSeverityScreen": "Info"}
        if any(pool.spec.vxlan_mode != "Never" for pool in pools):
            spec["vxlanEnabled"] = True
        if any(pool.spec.ipip_mode != "Never" for pool in pools):
            spec["ipipEnabled"] = True
        await self._create_if_missing(FelixConfiguration(metadata=Metadata(name="default"), spec=spec))
        own = {"defaultEndpointToHostAction": "Return"}
        await self._create_if_missing(FelixConfiguration(metadata=Metadata(name=f"node.{self._host}"), spec=own))

    async def _ensure_tunnel_address(self) -> None:
        """A VXLAN address from a pool that uses VXLAN, kept as long as it is ours and valid."""
        pools = (await self._client.list(IPPool)).items
        usable = [
            p.spec.cidr
            for p in pools
            if p.spec.vxlan_mode != "Never" and not p.spec.disabled and ":" not in p.spec.cidr
        ]
        node: Node = await self._client.get(Node, self._host)
        handle = f"vxlan-tunnel-addr-{self._host}"
        ipam = IpamService(self._client.datastore, self._host)
        current = node.spec.ipv4_vxlan_tunnel_addr
        if current and await self._is_valid(ipam, current, handle, usable):
            return
        if current or not usable:
            try:
                await ipam.release_by_handle(handle)
            except ResourceDoesNotExist:
                pass
        address = await self._assign(ipam, handle, usable) if usable else ""
        if address != current:
            node = await self._client.get(Node, self._host)
            await self._client.update(_replace(node, spec=_replace(node.spec, ipv4_vxlan_tunnel_addr=address)))

    async def _is_valid(self, ipam: IpamService, address: str, handle: str, pools: list[str]) -> bool:
        if not any(ipaddress.ip_address(address) in ipaddress.ip_network(pool) for pool in pools):
            return False
        try:
            return (await ipam.get_assignment_attributes(address)).handle == handle
        except ResourceDoesNotExist:
            return False

    async def _assign(self, ipam: IpamService, handle: str, pools: list[str]) -> str:
        attributes = {"node": self._host, "type": "vxlanTunnelAddress"}
        assigned, _ = await ipam.auto_assign(num4=1, handle=handle, attributes=attributes, pools4=pools, use="Tunnel")
        if assigned is None or not assigned.addresses:
            raise AssignError(f"no VXLAN tunnel address: {assigned.shortfall if assigned else 'no pool'}")
        return bare_address(assigned.addresses[0])


def _allow_all_profile() -> Profile:
    allow = [Rule(action="Allow")]
    spec = ProfileSpec(ingress=allow, egress=allow, labels_to_apply={PROFILE: ""})
    return Profile(metadata=Metadata(name=PROFILE), spec=spec)

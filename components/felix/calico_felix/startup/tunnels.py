"""Addresses of this host's tunnel devices: assigned from the pools that use each kind, and shown by the Node.

`ensure_tunnel_addresses` is the one place that does it: `calico-node -allocate-tunnel-addrs` calls it once, the agent
whenever pools or its Node have changed. Order in time: an address is allocated before the Node shows it, and released
after the Node does not show it any more. Source: spec/node-startup.md 4."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Get
from libcalico.errors import (
    BadData,
    CalicoError,
    ParsingDatastoreEntry,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
)
from libcalico.ipam import plan
from libcalico.ipam.addresses import address_net
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model import FelixConfiguration, IPPool, IPPoolSpec, Node, NodeBGPSpec, NodeSpec, ipam_data
from libcalico.model.ipam_data import Attribute
from libcalico.model.keys import HandleKey, key_path
from libcalico.model.resources import NodeWireguardSpec
from libcalico.net import bare_address, parse_address
from libcalico.text import shown

log = logging.getLogger(__name__)

TRIES = 5
CONFLICT_PAUSE_S = 0.05
USE = "Tunnel"
HOST_ENCRYPTION = "wireguardHostEncryptionEnabled"

_replace = msgspec.structs.replace


class Kind(NamedTuple):
    """A row of the table: the attribute `type`, what its handle begins with, its family, the pools that count, and the
    Node's field."""

    name: str
    prefix: str
    version: int
    uses: Callable[[IPPoolSpec], bool]
    needs: Callable[[Node], bool]
    read: Callable[[NodeSpec], str]
    write: Callable[[NodeSpec, str], NodeSpec]

    def handle(self, host: str) -> str:
        """The handle of a host's address."""
        return f"{self.prefix}-{host}"


def _always(_value: object) -> bool:
    return True


def _is_ipip(spec: IPPoolSpec) -> bool:
    return spec.ipip_mode in ("Always", "CrossSubnet")


def _is_vxlan(spec: IPPoolSpec) -> bool:
    return spec.vxlan_mode in ("Always", "CrossSubnet")


def _read_ipip(spec: NodeSpec) -> str:
    return spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp is not None else ""


def _write_ipip(spec: NodeSpec, address: str) -> NodeSpec:
    changed = _replace(spec.bgp or NodeBGPSpec(), ipv4_ipip_tunnel_addr=address)
    return _replace(spec, bgp=None if changed == NodeBGPSpec() else changed)


def _read_wireguard(spec: NodeSpec, version: int) -> str:
    if spec.wireguard is None:
        return ""
    return spec.wireguard.interface_ipv4_address if version == 4 else spec.wireguard.interface_ipv6_address


def _write_wireguard(spec: NodeSpec, address: str, version: int) -> NodeSpec:
    current = spec.wireguard or NodeWireguardSpec()
    changed = _replace(current, **{f"interface_ipv{version}_address": address})
    return _replace(spec, wireguard=None if changed == NodeWireguardSpec() else changed)


KINDS = (
    Kind("wireguardTunnelAddress", "wireguard-tunnel-addr", 4, _always,
         lambda node: bool(node.status.wireguard_public_key),
         lambda spec: _read_wireguard(spec, 4), lambda spec, address: _write_wireguard(spec, address, 4)),
    Kind("wireguardV6TunnelAddress", "wireguard-v6-tunnel-addr", 6, _always,
         lambda node: bool(node.status.wireguard_public_key_v6),
         lambda spec: _read_wireguard(spec, 6), lambda spec, address: _write_wireguard(spec, address, 6)),
    Kind("ipipTunnelAddress", "ipip-tunnel-addr", 4, _is_ipip, _always, _read_ipip, _write_ipip),
    Kind("vxlanTunnelAddress", "vxlan-tunnel-addr", 4, _is_vxlan, _always,
         lambda spec: spec.ipv4_vxlan_tunnel_addr,
         lambda spec, address: _replace(spec, ipv4_vxlan_tunnel_addr=address)),
    Kind("vxlanV6TunnelAddress", "vxlan-v6-tunnel-addr", 6, _is_vxlan, _always,
         lambda spec: spec.ipv6_vxlan_tunnel_addr,
         lambda spec, address: _replace(spec, ipv6_vxlan_tunnel_addr=address)),
)  # fmt: skip


async def ensure_tunnel_addresses(
    client: AsyncClient, ipam: IpamService, host: str, pools: Sequence[IPPool] | None = None
) -> bool:
    """This host has an address of each kind that a pool wants, no other, and its Node shows them; was anything written?

    `pools`: those that count, None: the stored ones, of which each must be readable. Raises `BadData` for a pool or an
    address that is none, `CalicoError` when no address is free: then what this call has assigned is given back."""
    return await _Tunnels(client, ipam, host).run(await _pools(client) if pools is None else pools)


async def _pools(client: AsyncClient) -> Sequence[IPPool]:
    listed = await client.list(IPPool)
    if listed.unreadable:
        names = ", ".join(map(shown, listed.unreadable))
        raise BadData(f"these pools cannot be read: {names}: repair or delete them (calicoctl get ippool -o yaml)")
    return listed.items


class _Outcome(NamedTuple):
    """What becomes of one kind: the address, whether it was assigned now, and what is to be released of the former."""

    address: str
    is_new: bool = False
    leftover: Release | None = None


class _Tunnels:
    """One run."""

    def __init__(self, client: AsyncClient, ipam: IpamService, host: str) -> None:
        self._client = client
        self._ipam = ipam
        self._host = host

    async def run(self, pools: Sequence[IPPool]) -> bool:
        """See `ensure_tunnel_addresses`."""
        node = await self._client.get(Node, self._host)
        counts = await self._handle_counts()
        usable = [(pool.spec, found) for pool in pools if (found := self._usable(pool, node)) is not None]
        encrypts_host = await self._encrypts_host(node)
        outcomes: dict[Kind, _Outcome] = {}
        try:
            for kind in KINDS:
                wanted = kind.needs(node) and not (encrypts_host and kind.uses is _always)
                networks = [
                    one for spec, one in usable if wanted and kind.uses(spec) and one.network.version == kind.version
                ]
                outcomes[kind] = await self._settle(kind, kind.read(node.spec), networks)
            changed = await self._show(node, {kind: one.address for kind, one in outcomes.items()})
        except CalicoError:
            await self._give_back(outcomes)
            raise
        return await self._release(outcomes, counts) or changed

    def _usable(self, pool: IPPool, node: Node) -> plan.Pool | None:
        found = plan.pool_of(pool)
        if found is None or not found.enabled or USE not in found.uses:
            return None
        return found if plan.selects(found.node_selector, node.metadata.labels) else None

    async def _handle_counts(self) -> dict[str, int]:
        """How many addresses each of our handles has; one that is not stored has none."""
        handles = [kind.handle(self._host) for kind in KINDS]
        reads = [Get(key_path(HandleKey(handle)).encode()) for handle in handles]
        answers = (await self._client.datastore.txn([], reads)).responses
        counts = {}
        for handle, kvs in zip(handles, answers, strict=True):
            try:
                counts[handle] = sum(ipam_data.decode_handle(kvs[0].value).values()) if kvs else 0
            except ParsingDatastoreEntry:
                counts[handle] = -1  # released below, which searches this host's blocks
        return counts

    async def _encrypts_host(self, node: Node) -> bool:
        """Does WireGuard encrypt what hosts send too? Then its device has no address of its own."""
        if not (node.status.wireguard_public_key or node.status.wireguard_public_key_v6):
            return False
        try:
            found = await self._client.get(FelixConfiguration, "default")
        except ResourceDoesNotExist:
            return False
        return found.spec.get(HOST_ENCRYPTION) is True

    async def _settle(self, kind: Kind, current: str, pools: Sequence[plan.Pool]) -> _Outcome:
        """Keep the address, or find another one."""
        attribute = await self._attribute(kind, current) if current else None
        if not pools:
            return _Outcome("", leftover=_without_pool(kind, self._host, current, attribute))
        if not current or attribute is None:
            return await self._assign(kind, pools)
        if _is_ours(attribute, kind, self._host):
            inside = any(_is_inside(current, pool) for pool in pools)
            return _Outcome(current) if inside else await self._assign(kind, pools)
        if attribute.handle is None and not attribute.secondary:
            return await self._adopt(kind, current, pools)
        return await self._assign(kind, pools)

    async def _attribute(self, kind: Kind, address: str) -> Attribute | None:
        """What IPAM knows of the Node's address; None when it is not allocated."""
        found = parse_address(address)
        if found is None or found.family != kind.version:
            raise BadData(
                f"Node({self._host}): {shown(address)} is no IPv{kind.version} address for a tunnel ({kind.name}): take"
                " it out of the Node"
            )
        try:
            return await self._ipam.get_assignment_attributes(address)
        except ResourceDoesNotExist:
            return None

    async def _assign(self, kind: Kind, pools: Sequence[plan.Pool]) -> _Outcome:
        networks = [str(pool.network) for pool in pools]
        counts = {"num4": 1, "pools4": networks} if kind.version == 4 else {"num6": 1, "pools6": networks}
        both = await self._ipam.auto_assign(
            handle=kind.handle(self._host),
            attributes=_attributes(kind, self._host),
            use=USE,
            **counts,  # type: ignore[arg-type]
        )
        assigned = both[kind.version == 6]
        if assigned is None or not assigned.addresses:
            reason = assigned.shortfall if assigned is not None else "no pool"
            raise CalicoError(
                f"no address for {kind.name}: {reason}: make room in {', '.join(networks)}, or add a pool"
            )
        address = bare_address(assigned.addresses[0])
        log.info("%s of this node is %s", kind.name, address)
        return _Outcome(address, is_new=True)

    async def _adopt(self, kind: Kind, address: str, pools: Sequence[plan.Pool]) -> _Outcome:
        """One of the time before handles: it gets its handle, unless another was faster."""
        await self._ipam.release_ips([address])
        try:
            handle = kind.handle(self._host)
            await self._ipam.assign_ip(address, handle=handle, attributes=_attributes(kind, self._host), use=USE)
        except (ResourceAlreadyExists, BadData):
            return await self._assign(kind, pools)
        return _Outcome(address, is_new=True)

    async def _show(self, node: Node, addresses: Mapping[Kind, str]) -> bool:
        """The Node has these addresses; was it written?"""
        for attempt in range(TRIES):
            if attempt:
                await self._client.clock.sleep(CONFLICT_PAUSE_S * attempt)
                node = await self._client.get(Node, self._host)
            spec = node.spec
            for kind, address in addresses.items():
                if kind.read(spec) != address:
                    spec = kind.write(spec, address)
            if spec == node.spec:
                return False
            try:
                await self._client.update(_replace(node, spec=spec))
                return True
            except ResourceUpdateConflict:
                continue
        raise ResourceUpdateConflict(f"Node({self._host}): {TRIES} other writers were faster; start again")

    async def _give_back(self, outcomes: Mapping[Kind, _Outcome]) -> None:
        """What was assigned in this run, which has failed."""
        mine = [Release(one.address, kind.handle(self._host)) for kind, one in outcomes.items() if one.is_new]
        if not mine:
            return
        try:
            await self._ipam.release_ips(mine)
        except CalicoError as error:
            log.warning("%s stay assigned to this node: %s", ", ".join(one.address for one in mine), error)

    async def _release(self, outcomes: Mapping[Kind, _Outcome], counts: Mapping[str, int]) -> bool:
        """What our handles hold beside the Node's addresses, and what the Node had of the time before handles."""
        released = False
        for kind, outcome in outcomes.items():
            handle = kind.handle(self._host)
            kept = 1 if outcome.address and not outcome.is_new else 0
            if counts[handle] not in (kept, 0) or (counts[handle] and outcome.is_new):
                await self._ipam.release_held([handle], kept={outcome.address})
                released = True
                if outcome.leftover is not None and outcome.leftover.handle is not None:
                    continue
            if outcome.leftover is not None:
                await self._ipam.release_ips([outcome.leftover])
                released = True
        return released


def _without_pool(kind: Kind, host: str, current: str, attribute: Attribute | None) -> Release | None:
    """No pool wants this kind: what is released of the Node's address, beside all that the handle holds."""
    if attribute is None:
        return None
    handle = kind.handle(host)
    if attribute.handle == handle:
        return Release(current, handle)
    if attribute.handle is None and not attribute.secondary:
        return Release(current)
    log.warning("%s of this node, %s, belongs to %s: it stays assigned", kind.name, current, shown(attribute.handle))
    return None


def _counts(kind: Kind, spec: IPPoolSpec, pool: plan.Pool) -> bool:
    return pool.network.version == kind.version and kind.uses(spec)


def _attributes(kind: Kind, host: str) -> dict[str, str]:
    return {"node": host, "type": kind.name}


def _is_ours(attribute: Attribute, kind: Kind, host: str) -> bool:
    return dict(attribute.secondary) == _attributes(kind, host)


def _is_inside(address: str, pool: plan.Pool) -> bool:
    return plan.contains(pool.network, address_net(address))

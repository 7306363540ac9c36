"""The way to other hosts: block routes, borrowed addresses and tunnel ends (spec/felix.md 3.6-3.8).

Each block's routes are computed from that block alone, so that an address assigned anywhere costs one block.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from libcalico.calc.messages import NodeAddresses, Pools, Route, Vtep
from libcalico.calc.outbox import Pending
from libcalico.errors import BadData
from libcalico.model.ipam_data import Block
from libcalico.model.keys import BlockKey, Key
from libcalico.model.resources import IPPool, IPPoolSpec, Node
from libcalico.model.scalars import IPNetwork, parse_net
from libcalico.net import bare_address

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


VXLAN, IPIP, PLAIN = "vxlan", "ipip", "plain"
BLOCK_SIZES = {4: 26, 6: 122}
"""The length of blocks of a pool that says none."""
NEVER, CROSS_SUBNET = "Never", "CrossSubnet"


class NodeFacts(NamedTuple):
    """What routing needs of a node; empty text where it has none. `tunnels` and `macs` are those of VXLAN."""

    addresses: tuple[str, str]
    networks: tuple[IPNetwork | None, IPNetwork | None]
    tunnels: tuple[str, str]
    macs: tuple[str, str]
    ipip: str


class PoolFacts(NamedTuple):
    """What routing needs of a pool. `encapsulation`: `VXLAN`, `IPIP` or `PLAIN`."""

    network: IPNetwork
    encapsulation: str
    cross_subnet: bool
    nat_outgoing: bool
    load_balancer_only: bool
    block_size: int


def tunnel_mac(node: str) -> str:
    """The MAC of a node's VXLAN device unless the Node names one: `f` and five octets of SHA-1 of the name."""
    octets = b"f" + hashlib.sha1(node.encode()).digest()[:5]
    return ":".join(f"{octet:02x}" for octet in octets)


def node_facts(node: Node) -> NodeFacts:
    """The facts of a Node; addresses come from its BGP part, else from its address list."""
    name, spec = node.metadata.name, node.spec
    v4, v6 = (spec.bgp.ipv4_address, spec.bgp.ipv6_address) if spec.bgp is not None else ("", "")
    v4, v6 = v4 or _listed(node, 4), v6 or _listed(node, 6)
    return NodeFacts(
        addresses=(_address(v4, 4), _address(v6, 6)),
        networks=(_network(v4, 4), _network(v6, 6)),
        tunnels=(_address(spec.ipv4_vxlan_tunnel_addr, 4), _address(spec.ipv6_vxlan_tunnel_addr, 6)),
        macs=(_mac(spec.vxlan_tunnel_mac_addr, name), _mac(spec.vxlan_tunnel_mac_addr_v6, f"{name}-v6")),
        ipip=_address(spec.bgp.ipv4_ipip_tunnel_addr, 4) if spec.bgp is not None else "",
    )


def pool_facts(spec: IPPoolSpec) -> PoolFacts | None:
    """The facts of a pool; None when its network is none. Of two encapsulations, which validation refuses, VXLAN is
    taken."""
    network = parse_net(spec.cidr)
    if network is None:
        return None
    encapsulation, mode = PLAIN, NEVER
    if spec.vxlan_mode not in ("", NEVER):
        encapsulation, mode = VXLAN, spec.vxlan_mode
    elif spec.ipip_mode not in ("", NEVER) and network.version == 4:
        encapsulation, mode = IPIP, spec.ipip_mode
    only = spec.allowed_uses == ["LoadBalancer"]
    size = spec.block_size or BLOCK_SIZES[network.version]
    if not network.prefixlen <= size <= network.max_prefixlen:
        raise BadData(f"blockSize {size} is not the length of a block in {network}")
    return PoolFacts(network, encapsulation, mode == CROSS_SUBNET, spec.nat_outgoing, only, size)


def _listed(node: Node, version: int) -> str:
    for kind in ("CalicoNodeIP", "InternalIP", "ExternalIP"):
        for entry in node.spec.addresses:
            net = parse_net(entry.address)
            if entry.type == kind and net is not None and net.version == version:
                return entry.address
    return ""


def _address(text: str, version: int) -> str:
    """The address of this IP version; empty when the text, which anybody may have stored, is none."""
    try:
        address = ipaddress.ip_interface(text).ip if text else None
    except ValueError:
        return ""
    return str(address) if address is not None and address.version == version else ""


def _network(text: str, version: int) -> IPNetwork | None:
    net = parse_net(text)
    return net if net is not None and net.version == version else None


def _mac(text: str, name: str) -> str:
    """As the kernel tells it; what no device can have counts as not given."""
    return text.lower() if MAC.fullmatch(text) and not int(text[1], 16) & 1 and text.strip("0:") else tunnel_mac(name)


class RoutingChanges(NamedTuple):
    """What has changed since the last flush; None means "removed"."""

    routes: dict[str, Route | None]
    vteps: dict[tuple[str, int], Vtep | None]
    hosts: dict[str, NodeAddresses | None]
    pools: Pools | None


class Routing:
    """Pools, nodes and blocks in; routes and tunnel ends out.

    `programmed` are the encapsulations of the pools whose routes the agent writes; BIRD does the rest."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.programmed = frozenset((VXLAN, IPIP))
        self._routes: Pending[str, Route] = Pending()
        self._vteps: Pending[tuple[str, int], Vtep] = Pending()
        self._addresses: Pending[str, NodeAddresses] = Pending()
        self._pools_sent: Pools | None = None
        self._pools: dict[str, PoolFacts] = {}
        self._nodes: dict[str, NodeFacts] = {}
        self._blocks: dict[str, Block] = {}
        self._of_block: dict[str, set[str]] = {}
        self._blocks_of: dict[str, set[str]] = {}
        self._dirty: dict[str, None] = {}
        self._own_blocks: set[str] = set()
        """The blocks of this host's tunnel addresses."""
        self._taken: dict[str, str] = {}
        """Those of its tunnel addresses that IPAM says are another node's, and whose."""

    @property
    def pools(self) -> dict[str, PoolFacts]:
        """Pools by name."""
        return self._pools

    @property
    def own(self) -> NodeFacts | None:
        """This host."""
        return self._nodes.get(self._host)

    @property
    def node_count(self) -> int:
        """Nodes."""
        return len(self._nodes)

    @property
    def block_count(self) -> int:
        """Blocks."""
        return len(self._blocks)

    def is_node_used(self, name: str) -> bool:
        """Is this node there, and is it this host or does a block name it?"""
        return name in self._nodes and (name == self._host or name in self._blocks_of)

    def is_block_used(self, cidr: str) -> bool:
        """Is this block there, with addresses in use? IPAM deletes empty ones only."""
        block = self._blocks.get(cidr)
        return block is not None and any(index is not None for index in block.allocations)

    def stray_blocks(self) -> list[str]:
        """Blocks in which this host has addresses, and that no pool contains."""
        own = sorted(filter(self.is_block_used, self._blocks_of.get(self._host, ())))
        return [cidr for cidr in own if self._pool_of(ipaddress.ip_network(cidr)) is None]

    def update_pool(self, name: str, pool: IPPool | None) -> None:
        """A pool is there, has changed, or (None) is gone."""
        facts = None if pool is None else pool_facts(pool.spec)
        if self._pools.get(name) == facts:
            return
        if facts is None:
            self._pools.pop(name, None)
        else:
            self._pools[name] = facts
        self._dirty.update(dict.fromkeys(self._blocks))
        self._refresh_ends(self._host)

    def update_node(self, name: str, node: Node | None) -> None:
        """A node is there, has changed, or (None) is gone."""
        facts = None if node is None else node_facts(node)
        if self._nodes.get(name) == facts:
            return
        if facts is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = facts
        self._refresh_ends(name)
        self._dirty.update(dict.fromkeys(self._blocks if name == self._host else self._blocks_of.get(name, ())))

    def update_block(self, cidr: str, block: Block | None) -> None:
        """A block is there, has changed, or (None) is gone."""
        former = self._blocks.get(cidr)
        for node in () if former is None else _nodes_of(former):
            self._blocks_of[node].discard(cidr)
            if not self._blocks_of[node]:
                del self._blocks_of[node]
        if block is None:
            self._blocks.pop(cidr, None)
        else:
            self._blocks[cidr] = block
            for node in _nodes_of(block):
                self._blocks_of.setdefault(node, set()).add(cidr)
        self._dirty[cidr] = None

    def flush(self, attempt: Callable[[Key, Callable[[], None]], bool]) -> RoutingChanges:
        """What has changed since the last flush; a block with which `attempt` fails has no routes."""
        self._resolve(attempt)
        return RoutingChanges(
            self._routes.flush(), self._vteps.flush(), self._addresses.flush(), self._flush_pools()
        )  # fmt: skip

    def _resolve(self, attempt: Callable[[Key, Callable[[], None]], bool]) -> None:
        if not self._own_blocks.isdisjoint(self._dirty):
            self._refresh_ends(self._host)
        for cidr in self._dirty:
            fresh: dict[str, Route] = {}
            if not attempt(BlockKey(cidr), partial(self._collect_routes, cidr, fresh)):
                fresh.clear()
            for destination in self._of_block.pop(cidr, set()) - set(fresh):
                self._routes.remove(destination)
            for destination, route in fresh.items():
                self._routes.put(destination, route)
            if fresh:
                self._of_block[cidr] = set(fresh)
        self._dirty.clear()

    def _flush_pools(self) -> Pools | None:
        facts = [pool for pool in self._pools.values() if not pool.load_balancer_only]
        pools = Pools(
            frozenset(str(pool.network) for pool in facts),
            frozenset(str(pool.network) for pool in facts if pool.nat_outgoing),
            frozenset(pool.network.version for pool in self._pools.values() if pool.encapsulation == VXLAN),
            tuple(sorted(name for name, pool in self._pools.items() if pool.encapsulation == IPIP)),
        )
        if pools == self._pools_sent:
            return None
        self._pools_sent = pools
        return pools

    def _collect_routes(self, cidr: str, routes: dict[str, Route]) -> None:
        routes.update((route.destination, route) for route in self._routes_of(self._blocks.get(cidr)))

    def _refresh_ends(self, name: str) -> None:
        facts = self._nodes.get(name)
        if name == self._host and facts is not None:
            facts = self._without_taken(facts)
        for place, family in enumerate((4, 6)):
            if facts is not None and facts.tunnels[place] and facts.addresses[place]:
                vtep = Vtep(name, family, facts.tunnels[place], facts.macs[place], facts.addresses[place])
                self._vteps.put((name, family), vtep)
            else:
                self._vteps.remove((name, family))
        if facts is not None and any(facts.addresses):
            self._addresses.put(name, NodeAddresses(facts.addresses, facts.ipip))
        else:
            self._addresses.remove(name)

    def _without_taken(self, own: NodeFacts) -> NodeFacts:
        """With a tunnel address that is another node's this host would take packets that are not its own."""
        self._own_blocks.clear()
        holders = {one: self._holder_of(one) for one in (*own.tunnels, own.ipip) if one}
        self._taken = {one: node for one, node in holders.items() if node not in ("", self._host)}
        if not self._taken:
            return own
        v4, v6, ipip = ("" if one in self._taken else one for one in (*own.tunnels, own.ipip))
        return own._replace(tunnels=(v4, v6), ipip=ipip)

    def _holder_of(self, text: str) -> str:
        """The node to which IPAM has assigned an address; empty when nothing is known."""
        address = ipaddress.ip_address(text)
        pool = self._pool_of(ipaddress.ip_network(text))
        if pool is None:
            return ""
        network = ipaddress.ip_network(f"{text}/{pool.block_size}", strict=False)
        self._own_blocks.add(str(network))
        block = self._blocks.get(str(network))
        ordinal = int(address) - int(network.network_address)
        if block is None or ordinal >= len(block.allocations):
            return ""
        return _holder(block, block.allocations[ordinal])

    def taken_addresses(self) -> list[str]:
        """This host's tunnel addresses that are another node's, in words."""
        return [
            f"node {self._host}: its tunnel address {address} is assigned to node {other}: this host has no such tunnel"
            " until `calico-node -allocate-tunnel-addrs` has assigned and stored another one"
            for address, other in sorted(self._taken.items())
        ]

    def _routes_of(self, block: Block | None) -> list[Route]:
        """Of a block that nobody owns (any more), or that is no host's, those to the addresses in use alone."""
        if block is None:
            return []
        network = block.network
        pool = self._pool_of(network)
        if pool is None or pool.encapsulation not in self.programmed:
            return []
        kind, _, owner = (block.affinity or "").partition(":")
        owner = owner if kind == "host" else ""
        routes = []
        if owner and owner != self._host:
            routes += self._to_node(str(network), owner, pool)
        elif owner and network.num_addresses > 1:
            routes.append(Route(str(network), "blackhole"))
        for ordinal, index in enumerate(block.allocations):
            holder = _holder(block, index)
            if holder and holder not in (owner, self._host):
                routes += self._to_node(f"{block.address(ordinal)}/{network.max_prefixlen}", holder, pool)
        return routes

    def _to_node(self, destination: str, node: str, pool: PoolFacts) -> list[Route]:
        facts, own = self._nodes.get(node), self.own
        place = 0 if pool.network.version == 4 else 1
        if facts is None or not facts.addresses[place]:
            return []
        gateway, near = facts.addresses[place], own.networks[place] if own is not None else None
        is_near = near is not None and ipaddress.ip_address(gateway) in near
        if pool.encapsulation == PLAIN:
            is_near = is_near or (near is not None and near.num_addresses == 1)  # a network that does not say its size
            return [Route(destination, "same-subnet", node, gateway)] if is_near else []
        if pool.cross_subnet and is_near:
            return [Route(destination, "same-subnet", node, gateway)]
        if pool.encapsulation == IPIP:
            return [Route(destination, "ipip", node, gateway)]
        direct = bare_address(destination) == facts.tunnels[place] and _is_host(destination)
        return [Route(destination, "vxlan-direct" if direct else "vxlan", node, gateway)]

    def _pool_of(self, network: IPNetwork) -> PoolFacts | None:
        best: PoolFacts | None = None
        for pool in self._pools.values():
            wider = best is None or pool.network.prefixlen > best.network.prefixlen
            if wider and pool.network.version == network.version and pool.network.supernet_of(network):  # type: ignore[arg-type]
                best = pool
        return best


def _holder(block: Block, index: int | None) -> str:
    if index is None:
        return ""
    return dict(block.attributes[index].secondary).get("node", "")


def _nodes_of(block: Block) -> set[str]:
    nodes = {dict(attribute.secondary).get("node", "") for attribute in block.attributes}
    nodes.add((block.affinity or "").removeprefix("host:"))
    return nodes - {""}


def _is_host(destination: str) -> bool:
    return destination.endswith(("/32", "/128"))

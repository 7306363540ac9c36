"""The nftables table that the agent wants, built from the graph's messages. No I/O.

A set is a hash of addresses as long as all its members are single addresses, and an interval set otherwise: changing
one element of a big interval set costs milliseconds, of a hash microseconds. A chain that the kernel refused is
quarantined: it denies until its policy changes, and everything else goes on. So do all chains that use a set that the
kernel refused, until the set loses members.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from calico_felix.dataplane.owners import Owners
from libcalico.calc.messages import Flush, IPSet, IPSetDelta, Member, NodeAddresses, Pools, PortMember, Vtep
from libcalico.net import Address, Cidr, collapse, parse_cidrs
from libcalico.policy.ir import Direction, Policy, PolicyId, Rule
from libcalico.policy.nft import base, names, rules
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Chain, Map, Set

PORT_TYPES = {4: "ipv4_addr . inet_proto . inet_service", 6: "ipv6_addr . inet_proto . inet_service"}
DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)


class Ruleset:
    """Desired state. `table` is what the kernel should hold; `owners` says for which endpoint of each interface."""

    def __init__(self, host: str, options: NftOptions) -> None:
        self._host = host
        self.options = options
        self.table = base.base_table(options)
        self.policies: dict[PolicyId, Policy] = {}
        self.owners = Owners()
        self._members: dict[str, set[Member]] = {}
        self._chains_of: dict[str, set[str]] = {}
        self._peers: dict[tuple[str, int], str] = {}
        self._hosts: dict[str, str] = {}
        self.quarantined: dict[str, str] = {}
        self._refused_sets: dict[str, str] = {}
        self._list_users: dict[str, set[PolicyId]] = {}
        self._lists_of: dict[PolicyId, tuple[str, ...]] = {}

    def on_flush(self, flush: Flush) -> None:
        """Take in the graph's changes."""
        for set_id, ip_set in flush.sets.items():
            self._on_set(set_id, ip_set)
        for identity, policy in flush.policies.items():
            self._on_policy(identity, policy)
        self.owners.on_flush(flush)
        for interface in self.owners.touched | self.owners.users(flush.policies):
            self._render_interface(interface)
        if flush.pools is not None:
            self._on_pools(flush.pools)
        if flush.vteps:
            self._on_vteps(flush.vteps)
        if flush.hosts:
            self._on_hosts(flush.hosts)

    def quarantine(self, chain: str, why: str) -> bool:
        """Close a chain that the kernel refused; False when there is no such chain or it is closed already, or when it
        is one that all the host's packets go through."""
        if chain in self.quarantined or chain not in self.table.chains or self.table.chains[chain].hook:
            return False
        self.quarantined[chain] = why
        self.table.chains[chain] = self.table.chains[chain]._replace(rules=(f"counter {self.options.deny}",))
        return True

    def quarantine_set(self, name: str, why: str) -> bool:
        """Empty a set whose members the kernel refused, and close all chains that use it: without its members they
        would allow what they should not. False when it is closed already, or none of a policy's."""
        name = names.wanted_set(name)
        if name in self._list_users:
            return self._quarantine_list(name, why)
        set_id = next((one for one in self._members if name in _kernel_sets(one)), None)
        if set_id is None or set_id in self._refused_sets:
            return False
        self._refused_sets[set_id] = why
        self._empty(set_id)
        for identity, policy in self.policies.items():
            self._close_users(identity, policy)
        return True

    def _quarantine_list(self, name: str, why: str) -> bool:
        one = self.table.sets[name]
        self.table.sets[name] = one._replace(elements=frozenset())
        closed = [
            self.quarantine(chain, f"list {name}: {why}")
            for identity in self._list_users[name]
            for chain in (names.policy_chain(identity, direction) for direction in DIRECTIONS)
            if any(f"@{name}" in rule.split() for rule in self.table.chains[chain].rules)
        ]
        return bool(one.elements) or any(closed)

    def _empty(self, set_id: str) -> None:
        for name in _kernel_sets(set_id):
            self.table.sets[name] = self.table.sets[name]._replace(elements=frozenset())

    def _close_users(self, identity: PolicyId, policy: Policy) -> None:
        for direction, of_direction in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
            refused = next((one for one in self._refused_sets if _uses(of_direction, one)), None)
            if refused is not None:
                why = f"set {refused}: {self._refused_sets[refused]}"
                self.quarantine(names.policy_chain(identity, direction), why)

    def _on_set(self, set_id: str, ip_set: IPSet | IPSetDelta | None) -> None:
        """A set that was refused is tried again when it loses members: those that stay may be the bad ones."""
        self._take_set(set_id, ip_set)
        if set_id not in self._refused_sets:
            return
        if isinstance(ip_set, IPSetDelta) and not ip_set.removed:
            self._empty(set_id)
            return
        del self._refused_sets[set_id]
        if isinstance(ip_set, IPSetDelta):
            self._whole_set(set_id, self.table.sets[names.kernel_set(set_id, 4)].type == PORT_TYPES[4])
        for identity, policy in list(self.policies.items()):
            if _uses((*policy.ingress, *policy.egress), set_id):
                self._on_policy(identity, policy)

    def _whole_set(self, set_id: str, ports: bool) -> None:
        for family in (4, 6):
            members = self._members[set_id]
            rendered = _port_set(members, family) if ports else address_set(members, family)
            self.table.sets[names.kernel_set(set_id, family)] = rendered

    def _take_set(self, set_id: str, ip_set: IPSet | IPSetDelta | None) -> None:
        if ip_set is None:
            del self._members[set_id]
            for family in (4, 6):
                self.table.sets.pop(names.kernel_set(set_id, family), None)
        elif isinstance(ip_set, IPSet):
            self._members[set_id] = set(ip_set.members)
            self._whole_set(set_id, ip_set.ports)
        else:
            self._change_set(set_id, ip_set)

    def _change_set(self, set_id: str, delta: IPSetDelta) -> None:
        members = self._members[set_id]
        members -= delta.removed
        members |= delta.added
        for family in (4, 6):
            added, removed = ([m for m in part if m.family == family] for part in (delta.added, delta.removed))
            name = names.kernel_set(set_id, family)
            one = self.table.sets[name]
            if one.type == PORT_TYPES[family]:
                change = _port_set(added, family), _port_set(removed, family)
            elif not one.interval and _are_single(added):
                change = address_set(added, family), address_set(removed, family)
            elif added or removed:
                self.table.sets[name] = address_set(members, family)
                continue
            else:
                continue
            self.table.sets[name] = one._replace(elements=one.elements - change[1].elements | change[0].elements)

    def _on_policy(self, identity: PolicyId, policy: Policy | None) -> None:
        for direction in DIRECTIONS:
            name = names.policy_chain(identity, direction)
            self.table.chains.pop(name, None)
            self.quarantined.pop(name, None)
        if policy is None:
            self.policies.pop(identity, None)
            self._on_lists(identity, {})
            return
        self.policies[identity] = policy
        chains, lists = rules.render_policy(policy, self.options)
        self.table.chains.update({name: Chain(texts) for name, texts in chains.items()})
        self._on_lists(identity, lists)
        if self._refused_sets:
            self._close_users(identity, policy)

    def _on_lists(self, identity: PolicyId, lists: rules.Sets) -> None:
        """The sets that hold a policy's lists; those that no other policy uses go with it."""
        for name in self._lists_of.pop(identity, ()):
            _discard(self._list_users, name, identity)
            if name not in self._list_users:
                del self.table.sets[name]
        for name, one in lists.items():
            self._list_users.setdefault(name, set()).add(identity)
            self.table.sets[name] = one  # one that was refused is tried again
        if lists:
            self._lists_of[identity] = tuple(lists)

    def _render_interface(self, interface: str) -> None:
        for name in self._chains_of.pop(interface, set()):
            self.table.chains.pop(name, None)
            self.quarantined.pop(name, None)
        endpoint = self.owners.active(interface)
        for direction, dispatch in ((Direction.EGRESS, names.FROM_WORKLOAD), (Direction.INGRESS, names.TO_WORKLOAD)):
            chain = names.endpoint_chain(interface, direction)
            one = self.table.maps[dispatch]
            element = (f'"{interface}"', f"jump {chain}")  # never goto: docs/design/felix.md, "Review notes"
            if endpoint is None:
                self.table.maps[dispatch] = Map(one.type, one.elements - {element})
                continue
            self.table.maps[dispatch] = Map(one.type, one.elements | {element})
            chains = rules.endpoint_chains(interface, endpoint.policy, direction, self.policies, self.options)
            self.table.chains.update({name: Chain(texts) for name, texts in chains.items()})
            self._chains_of.setdefault(interface, set()).update(chains)

    def _on_pools(self, pools: Pools) -> None:
        for name, networks in ((base.ALL_POOLS, pools.networks), (base.MASQUERADE_POOLS, pools.masquerade)):
            for family in (4, 6):
                nets = [net for net in parse_cidrs(list(networks))[0] if net.family == family]
                self.table.sets[f"{name}-{family}"] = _interval_set(nets, family)
        options = self.options._replace(vxlan_families=pools.vxlan, ipip=bool(pools.ipip))
        if options != self.options:
            self.options = options
            self.table.chains.update(base.base_chains(options))
            self._render_hosts()

    def _on_hosts(self, hosts: Mapping[str, NodeAddresses | None]) -> None:
        for node, addresses in hosts.items():
            if addresses is None or not addresses.own[0]:
                self._hosts.pop(node, None)
            else:
                self._hosts[node] = addresses.own[0]
        self._render_hosts()

    def _render_hosts(self) -> None:
        """Without IPIP no rule asks who the hosts are."""
        hosts = frozenset(self._hosts.values()) if self.options.ipip else frozenset()
        self.table.sets[f"{base.ALL_HOSTS}-4"] = Set(base.ADDRESS_TYPES[4], False, hosts)

    def _on_vteps(self, vteps: dict[tuple[str, int], Vtep | None]) -> None:
        for key, vtep in vteps.items():
            if vtep is None or vtep.node == self._host:
                self._peers.pop(key, None)
            else:
                self._peers[key] = vtep.parent
        for family in (4, 6):
            peers = frozenset(parent for (_, of), parent in self._peers.items() if of == family)
            self.table.sets[f"{base.VXLAN_PEERS}-{family}"] = Set(base.ADDRESS_TYPES[family], False, peers)


def _discard(sets: dict[Any, set[Any]], name: object, key: object) -> None:
    sets[name].discard(key)
    if not sets[name]:
        del sets[name]


def _kernel_sets(set_id: str) -> tuple[str, str]:
    return names.kernel_set(set_id, 4), names.kernel_set(set_id, 6)


def _uses(of_direction: Iterable[Rule], set_id: str) -> bool:
    return any(
        set_id in part
        for rule in of_direction
        for side in (rule.source, rule.destination)
        for part in (side.sets, side.not_sets, side.port_sets, side.not_port_sets)
    )


def _port_set(members: Iterable[Member], family: int) -> Set:
    """A number that is no port's is in no packet, and none of a set's."""
    elements = frozenset(
        f"{Address(family, member.number)} . {member.protocol} . {member.port}"
        for member in members
        if isinstance(member, PortMember) and member.family == family and 0 <= member.port <= rules.LAST_PORT
    )
    return Set(PORT_TYPES[family], False, elements)


def address_set(members: Iterable[Member], family: int) -> Set:
    """A kernel set of the networks of one family."""
    nets = [member for member in members if isinstance(member, Cidr) and member.family == family]
    return Set(base.ADDRESS_TYPES[family], False, frozenset(nets)) if _are_single(nets) else _interval_set(nets, family)


def _are_single(members: Iterable[Member]) -> bool:
    return all(isinstance(member, Cidr) and member.is_single for member in members)


def _interval_set(nets: Iterable[Cidr], family: int) -> Set:
    """Without overlaps, which nftables refuses; everything is two halves, which it takes."""
    found = collapse(nets)
    if found and found[0].length == 0:
        found = [Cidr(family, 0, 1), Cidr(family, 1 << (31 if family == 4 else 127), 1)]
    return Set(base.ADDRESS_TYPES[family], True, frozenset(found))

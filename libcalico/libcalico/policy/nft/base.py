"""The fixed chains around the policies: hooks, dispatch, protections that are always on (spec/felix.md 2.10-2.12).

Without any endpoint this is the guard: every packet from or to an interface with a workload's prefix is dropped.
"""

from __future__ import annotations

from libcalico.conventions import IPIP_DEVICE, VXLAN_DEVICES
from libcalico.policy.nft.names import FROM_WORKLOAD, TO_WORKLOAD, Identity
from libcalico.policy.nft.rules import NftOptions
from libcalico.policy.nft.table import Chain, Map, Set, Table

MASQUERADE_POOLS = "masq-ipam-pools"
ALL_POOLS = "network-ip-pools"
VXLAN_PEERS = "all-vxlan-net"
ALL_HOSTS = "all-hosts-net"
NEIGHBOUR_DISCOVERY = "icmpv6 type { 130, 131, 132, 133, 135, 136 }"
NEIGHBOUR_RATE = "neighbour-rate"
NEIGHBOUR_LIMIT = "limit rate 10/second burst 30 packets"
"""Of each workload interface: with so many sources in 5 s the kernel's neighbour table (1024 entries) is far from full,
and a container that is born or renews its neighbours sends a tenth of it."""
LOOPBACK = {4: "127.0.0.0/8", 6: "::1"}
ESTABLISHED = "ct state established,related counter accept"
ADDRESS_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
FAMILIES = ((4, "ip"), (6, "ip6"))


def base_table(options: NftOptions) -> Table:
    """The table without endpoints and policies."""
    table = Table()
    for name in (FROM_WORKLOAD, TO_WORKLOAD):
        table.maps[name] = Map("ifname : verdict")
    for family, _ in FAMILIES:
        for name in (MASQUERADE_POOLS, ALL_POOLS):
            table.sets[f"{name}-{family}"] = Set(ADDRESS_TYPES[family], interval=True)
        table.sets[f"{VXLAN_PEERS}-{family}"] = Set(ADDRESS_TYPES[family])
    table.sets[f"{ALL_HOSTS}-4"] = Set(ADDRESS_TYPES[4])
    table.sets[NEIGHBOUR_RATE] = Set("ifname", options="size 65535; flags dynamic; timeout 1m;")
    table.chains.update(base_chains(options))
    return table


def base_chains(options: NftOptions) -> dict[str, Chain]:
    """The chains of it: those that packets come to first."""
    return {**_raw(options), **_forward(options), **_input(options), **_nat(options)}


def guard_text() -> str:
    """Commands that put the guard in place of a table that is not there."""
    return base_table(NftOptions()).render_replace()


def _note(why: str) -> str:
    return f'comment "{Identity("base", "", "", why).text}"'


def _each_prefix(options: NftOptions, direction: str, rest: str) -> list[str]:
    return [f'{direction} "{prefix}*" {rest}' for prefix in options.interface_prefixes]


def _neighbour_discovery(options: NftOptions) -> list[str]:
    """Accepted before any policy, so within limits: a flood of them would fill the host's neighbour table."""
    within = f"{NEIGHBOUR_DISCOVERY} update @{NEIGHBOUR_RATE} {{ iifname {NEIGHBOUR_LIMIT} }} counter accept"
    beyond = f"{NEIGHBOUR_DISCOVERY} counter drop {_note('too much neighbour discovery')}"
    return [*_each_prefix(options, "iifname", within), *_each_prefix(options, "iifname", beyond)]


def _raw(options: NftOptions) -> dict[str, Chain]:
    # route_localnet, which services on 127.0.0.0/8 behind DNAT need, lets packets from workloads reach all of it
    loopback = [
        f"{word} daddr {LOOPBACK[family]} counter drop {_note('loopback of the host')}" for family, word in FAMILIES
    ]
    guarded = [rule for rest in loopback for rule in _each_prefix(options, "iifname", rest)]
    prerouting = _each_prefix(
        options, "iifname", f"fib saddr . mark . iif oif 0 counter {options.deny} {_note('source address')}"
    )
    notrack = [
        f"meta nfproto ipv{family} udp dport {options.vxlan_port} notrack" for family in sorted(options.vxlan_families)
    ]
    return {
        "raw-prerouting": Chain(
            (*guarded, *notrack, *prerouting), "type filter hook prerouting priority raw; policy accept;"
        ),
        "raw-output": Chain(tuple(notrack), "type filter hook output priority raw; policy accept;"),
    }


def _forward(options: NftOptions) -> dict[str, Chain]:
    unknown = f"counter {options.deny} {_note('unknown workload interface')}"
    egress = [ESTABLISHED, f"iifname vmap @{FROM_WORKLOAD}", *_each_prefix(options, "iifname", unknown)]
    ingress = [ESTABLISHED, f"oifname vmap @{TO_WORKLOAD}", *_each_prefix(options, "oifname", unknown)]
    return {
        "forward-egress": Chain(tuple(egress), "type filter hook forward priority filter - 1; policy accept;"),
        "forward-ingress": Chain(tuple(ingress), "type filter hook forward priority filter; policy accept;"),
    }


def _input(options: NftOptions) -> dict[str, Chain]:
    unknown = f"counter {options.deny} {_note('unknown workload interface')}"
    egress = [
        ESTABLISHED,
        *_neighbour_discovery(options),
        f"iifname vmap @{FROM_WORKLOAD}",
        *_each_prefix(options, "iifname", unknown),
    ]
    host = [*_ipip_input(options), *_vxlan_input(options)]
    if options.endpoint_to_host == "drop":
        host += [
            ESTABLISHED,
            *_each_prefix(options, "iifname", f"{NEIGHBOUR_DISCOVERY} counter accept"),
            *_each_prefix(options, "iifname", f"counter {options.deny} {_note('endpoint to host')}"),
        ]
    return {
        "input-egress": Chain(tuple(egress), "type filter hook input priority filter - 1; policy accept;"),
        "input-host": Chain(tuple(host), "type filter hook input priority filter; policy accept;"),
    }


def _ipip_input(options: NftOptions) -> list[str]:
    if not options.ipip:
        return []
    known = f"meta nfproto ipv4 meta l4proto 4 ip saddr @{ALL_HOSTS}-4 fib daddr type local counter accept"
    return [known, f"meta nfproto ipv4 meta l4proto 4 counter {options.deny} {_note('ipip from a stranger')}"]


def _vxlan_input(options: NftOptions) -> list[str]:
    rules = []
    for family, word in FAMILIES:
        if family in options.vxlan_families:
            known = f"{word} saddr @{VXLAN_PEERS}-{family}"
            port = f"meta nfproto ipv{family} udp dport {options.vxlan_port} fib daddr type local"
            rules += [f"{port} {known} counter accept", f"{port} counter drop {_note('vxlan from a stranger')}"]
    return rules


def _ports_beside(port: int) -> str:
    """The wider of the ranges below and above VXLAN's port: an answer to that port would escape conntrack."""
    below, above = (1024, port - 1), (port + 1, 65535)
    first, last = max(below, above, key=lambda one: one[1] - one[0])
    return f"{first}-{last}"


def _nat(options: NftOptions) -> dict[str, Chain]:
    rules = []
    for family, word in FAMILIES:
        match = f"{word} saddr @{MASQUERADE_POOLS}-{family} {word} daddr != @{ALL_POOLS}-{family}"
        if options.nat_port_range:
            rules += [f"{match} meta l4proto {{ tcp, udp }} counter masquerade to :{options.nat_port_range}"]
        rules.append(f"{match} counter masquerade")
    for family in sorted(options.vxlan_families):
        foreign = _foreign_source(family, VXLAN_DEVICES[family])
        rules.append(f"{foreign} meta l4proto udp counter masquerade to :{_ports_beside(options.vxlan_port)}")
        rules.append(f"{foreign} counter masquerade")
    if options.ipip:
        rules.append(f"{_foreign_source(4, IPIP_DEVICE)} counter masquerade")
    return {"nat-postrouting": Chain(tuple(rules), "type nat hook postrouting priority srcnat; policy accept;")}


def _foreign_source(family: int, device: str) -> str:
    """Matches what the host itself sends through a tunnel with an address that the tunnel does not have."""
    return f'meta nfproto ipv{family} oifname "{device}" fib saddr type local fib saddr . oif type != local'

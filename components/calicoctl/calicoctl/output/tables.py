"""The tables of `get`: which columns each kind has, and how they are padded (spec/calicoctl.md 4.2, 4.3).

The bytes are a contract (scripts cut columns), so they are laid out by hand: each column is as wide as its
widest cell plus three blanks, the last column is padded too, and a blank line ends a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from libcalico.model.numbers import go_number

Object = dict[str, Any]
Cell = Callable[[Object], str]

CUT_NETS_AT = 80
MINIMUM_CELL_WIDTH = 5
COLUMN_GAP = 3


class KindTable(NamedTuple):
    """`columns` has every heading the kind knows; `ps` and `wide` name those of the two fixed formats."""

    columns: dict[str, Cell]
    ps: tuple[str, ...]
    wide: tuple[str, ...]


def field(path: str, default: Any = "") -> Cell:
    """A cell that prints the member at a dotted path; lists are joined with commas, booleans in lower case."""

    def cell(item: Object) -> str:
        return show(lookup(item, path, default))

    return cell


def lookup(item: Object, path: str, default: Any = "") -> Any:
    """The member at a dotted path, or `default` when any part of the path is missing."""
    value: Any = item
    for name in path.split("."):
        if not isinstance(value, dict) or value.get(name) is None:
            return default
        value = value[name]
    return value


def show(value: Any) -> str:
    """One value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(show(entry) for entry in value)
    if isinstance(value, float):
        return go_number(value)
    return str(value)


def _order(item: Object) -> str:
    order = lookup(item, "spec.order", None)
    return "<nil>" if order is None else go_number(order)


def _nets(item: Object) -> str:
    joined = ",".join(lookup(item, "spec.nets", []))
    return joined if len(joined) <= CUT_NETS_AT else joined[: CUT_NETS_AT - 3] + "..."


def _labels(item: Object) -> str:
    labels = lookup(item, "spec.labelsToApply", {})
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def _workload(item: Object) -> str:
    return str(lookup(item, "spec.workload") or lookup(item, "spec.pod"))


def _nats(item: Object) -> str:
    return ",".join(nat.get("externalIP", "") for nat in lookup(item, "spec.ipNATs", []))


def _node_as_number(item: Object) -> str:
    if not isinstance(lookup(item, "spec.bgp", None), dict):
        return ""
    own = lookup(item, "spec.bgp.asNumber", None)
    return f"({item.get('globalASNumber', '64512')})" if own is None else str(own)


def _peer_node(item: Object) -> str:
    if lookup(item, "spec.node"):
        return str(lookup(item, "spec.node"))
    if lookup(item, "spec.nodeSelector"):
        return str(lookup(item, "spec.nodeSelector"))
    return "(global)"


def _count(path: str) -> Cell:
    return lambda item: str(len(lookup(item, path, [])))


def _kind(columns: dict[str, Cell], ps: str, wide: str = "") -> KindTable:
    return KindTable({"NAME": field("metadata.name"), **columns}, tuple(ps.split()), tuple((wide or ps).split()))


_POLICY = {"TIER": field("spec.tier", "default"), "ORDER": _order, "SELECTOR": field("spec.selector")}
_POLICY_TABLE = _kind(_POLICY, "NAME TIER", "NAME TIER ORDER SELECTOR")
_NET_SET = _kind({"NETS": _nets}, "NAME", "NAME NETS")

TABLES: dict[str, KindTable] = {
    "BGPConfiguration": _kind(
        {
            "LOGSEVERITY": field("spec.logSeverityScreen", "-"),
            "MESHENABLED": field("spec.nodeToNodeMeshEnabled", "-"),
            "ASNUMBER": field("spec.asNumber", "-"),
        },
        "NAME LOGSEVERITY MESHENABLED ASNUMBER",
    ),
    "BGPFilter": _kind(
        {
            "NUMEXPORTV4": _count("spec.exportV4"),
            "NUMIMPORTV4": _count("spec.importV4"),
            "NUMEXPORTV6": _count("spec.exportV6"),
            "NUMIMPORTV6": _count("spec.importV6"),
        },
        "NAME NUMEXPORTV4 NUMIMPORTV4 NUMEXPORTV6 NUMIMPORTV6",
    ),
    "BGPPeer": _kind(
        {"PEERIP": field("spec.peerIP"), "NODE": _peer_node, "ASN": field("spec.asNumber", 0)},
        "NAME PEERIP NODE ASN",
    ),
    "ClusterInformation": _kind(
        {
            "CLUSTERGUID": field("spec.clusterGUID"),
            "CLUSTERTYPE": field("spec.clusterType"),
            "CALICOVERSION": field("spec.calicoVersion"),
            "DATASTOREREADY": field("spec.datastoreReady"),
        },
        "NAME CLUSTERGUID CLUSTERTYPE CALICOVERSION DATASTOREREADY",
    ),
    "FelixConfiguration": _kind({}, "NAME"),
    "GlobalNetworkPolicy": _POLICY_TABLE,
    "GlobalNetworkSet": _NET_SET,
    "HostEndpoint": _kind(
        {
            "NODE": field("spec.node"),
            "INTERFACE": field("spec.interfaceName"),
            "IPS": field("spec.expectedIPs"),
            "PROFILES": field("spec.profiles"),
        },
        "NAME NODE",
        "NAME NODE INTERFACE IPS PROFILES",
    ),
    "IPPool": _kind(
        {
            "CIDR": field("spec.cidr"),
            "NAT": field("spec.natOutgoing", False),
            "IPIPMODE": field("spec.ipipMode", "Never"),
            "VXLANMODE": field("spec.vxlanMode", "Never"),
            "DISABLED": field("spec.disabled", False),
            "DISABLEBGPEXPORT": field("spec.disableBGPExport", False),
            "SELECTOR": field("spec.nodeSelector"),
            "ASSIGNMENTMODE": field("spec.assignmentMode", "Automatic"),
        },
        "NAME CIDR SELECTOR",
        "NAME CIDR NAT IPIPMODE VXLANMODE DISABLED DISABLEBGPEXPORT SELECTOR ASSIGNMENTMODE",
    ),
    "IPReservation": _kind({"CIDRS": field("spec.reservedCIDRs")}, "NAME", "NAME CIDRS"),
    "KubeControllersConfiguration": _kind({}, "NAME"),
    "NetworkPolicy": _POLICY_TABLE,
    "NetworkSet": _NET_SET,
    "Node": _kind(
        {
            "ASN": _node_as_number,
            "IPV4": field("spec.bgp.ipv4Address"),
            "IPV6": field("spec.bgp.ipv6Address"),
        },
        "NAME",
        "NAME ASN IPV4 IPV6",
    ),
    "Profile": _kind({"LABELS": _labels}, "NAME", "NAME LABELS"),
    "StagedGlobalNetworkPolicy": _POLICY_TABLE,
    "StagedNetworkPolicy": _POLICY_TABLE,
    "StagedKubernetesNetworkPolicy": _kind({"PODSELECTOR": field("spec.podSelector")}, "NAME", "NAME PODSELECTOR"),
    "Tier": _kind({"ORDER": _order}, "NAME ORDER"),
    "WorkloadEndpoint": _kind(
        {
            "WORKLOAD": _workload,
            "NODE": field("spec.node"),
            "NETWORKS": field("spec.ipNetworks"),
            "INTERFACE": field("spec.interfaceName"),
            "PROFILES": field("spec.profiles"),
            "NATS": _nats,
            "ORCHESTRATOR": field("spec.orchestrator"),
        },
        "WORKLOAD NODE NETWORKS INTERFACE",
        "NAME WORKLOAD NODE NETWORKS INTERFACE PROFILES NATS",
    ),
}


def headings(kind: str, namespaced: bool) -> list[str]:
    """Every heading that `custom-columns` may name for a kind."""
    return list(TABLES[kind].columns) + (["NAMESPACE"] if namespaced else [])


def render(kind: str, columns: Sequence[str], items: Sequence[Object]) -> str:
    """A whole table with its header and the blank line after it."""
    cells = {**TABLES[kind].columns, "NAMESPACE": field("metadata.namespace")}
    rows = [list(columns)] + [[cells[name](item) for name in columns] for item in items]
    longest = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    widths = [max(MINIMUM_CELL_WIDTH, length + COLUMN_GAP) for length in longest]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines) + "\n\n"

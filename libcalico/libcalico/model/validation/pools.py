"""The checks of one IPPool (spec/resources.md 6.1); those against other pools and blocks are the client's."""

from __future__ import annotations

from collections.abc import Iterator

from libcalico.errors import FieldError
from libcalico.model import scalars
from libcalico.model.resources import IPPool, IPPoolSpec
from libcalico.model.validation.common import LONGEST_SELECTOR, is_selector, is_too_long, tag
from libcalico.model.validation.rules import go_list

MOST_USES = 10
Errors = Iterator[FieldError]


def pool_errors(pool: IPPool) -> Errors:
    """Every bad field; the errors that upstream's client finds hide those of its validator."""
    spec = pool.spec
    first = list(structure_errors(spec))
    if first:
        yield from first
        return
    for field, value, name in (("VXLANMode", spec.vxlan_mode, "vxlanMode"), ("IPIPMode", spec.ipip_mode, "ipIpMode")):
        if value not in ("Never", "Always", "CrossSubnet"):
            yield tag(field, value, name)
    for field, value in (("NodeSelector", spec.node_selector), ("NamespaceSelector", spec.namespace_selector)):
        if value and not is_selector(value):
            yield tag(field, value, "selector")
    if spec.assignment_mode not in (None, "Automatic", "Manual"):
        yield tag("AssignmentMode", str(spec.assignment_mode), "assignmentMode")
    for field, value in (("nodeSelector", spec.node_selector), ("namespaceSelector", spec.namespace_selector)):
        if "global(" in value:
            name = field[:1].upper() + field[1:]
            reason = f"global() selector is not valid for IPPool {field} - use all() instead"
            yield FieldError(f"IPpool.{name}", value, reason)
        if is_too_long(value):
            yield FieldError(f"spec.{field}", None, f"may not be more than {LONGEST_SELECTOR} bytes")
    if not spec.cidr:
        yield FieldError("IPpool.CIDR", "", "IPPool CIDR must be specified")
    if scalars.parse_net(spec.cidr) is None:
        yield FieldError("IPpool.CIDR", spec.cidr, "IPPool CIDR must be a valid subnet")
    yield from _uses(spec)


def structure_errors(spec: IPPoolSpec) -> Errors:
    """What upstream's client checks of one pool: sizes, encapsulation, link-local ranges."""
    net = scalars.parse_net(spec.cidr)
    if net is None:
        return
    if spec.ipip_mode not in ("", "Never") and net.version == 6:
        yield FieldError("IPPool.Spec.IPIPMode", spec.ipip_mode, "IPIP is not supported on an IPv6 IP pool")
    if spec.ipip_mode not in ("", "Never") and spec.vxlan_mode not in ("", "Never"):
        reason = "Cannot enable both VXLAN and IPIP on the same IPPool"
        yield FieldError("IPPool.Spec.VXLANMode", spec.vxlan_mode, reason)
    low, high = (20, 32) if net.version == 4 else (116, 128)
    if not low <= spec.block_size <= high:
        reason = f"IPv{net.version} block size must be between {low} and {high}"
        yield FieldError("IPPool.Spec.BlockSize", str(spec.block_size), reason)
    if not spec.disabled and (net.prefixlen > spec.block_size or scalars.is_mapped(spec.cidr)):
        reason = (
            "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size."
        )
        yield FieldError("IPPool.Spec.CIDR", spec.cidr, reason)
    local = scalars.parse_net("169.254.0.0/16" if net.version == 4 else "fe80::/10")
    assert local is not None
    if net.overlaps(local):
        reason = f"IPPool CIDR overlaps with IPv{net.version} Link Local range {local}"
        yield FieldError("IPPool.Spec.CIDR", spec.cidr, reason)


def _uses(spec: IPPoolSpec) -> Errors:
    uses = spec.allowed_uses
    if len(uses) > MOST_USES:
        yield FieldError("spec.allowedUses", None, f"must have at most {MOST_USES} items")
    for use in uses:
        if use not in ("Workload", "Tunnel", "LoadBalancer"):
            yield FieldError("IPpool.AllowedUses", go_list(uses), f"unknown use: {use}")
    if "LoadBalancer" in uses:
        for use in uses:
            if use in ("Workload", "Tunnel"):
                reason = f"LoadBalancer cannot be used at the same time as: {use}"
                yield FieldError("IPpool.AllowedUses", go_list(uses), reason)
        if spec.node_selector not in ("", "all()"):
            reason = "IP Pool with AllowedUse LoadBalancer must have node selector set to all()"
            yield FieldError("IPpool.NodeSelector", spec.cidr, reason)
        if spec.disable_bgp_export:
            reason = "IP Pool with AllowedUse LoadBalancer must have DisableBGPExport set to true"
            yield FieldError("IPpool.DisableBGPExport", spec.cidr, reason)
        if spec.ipip_mode not in ("", "Never") or spec.vxlan_mode not in ("", "Never"):
            reason = "Neither IPIPMode nor VXLANMode can be enabled on AllowedUses LoadBalancer IP pool"
            yield FieldError("IPpool.IPIPMode", spec.ipip_mode, reason)
    if spec.namespace_selector and "Tunnel" in uses:
        reason = (
            "IP Pool with AllowedUse Tunnel cannot have namespaceSelector specified"
            " - tunnel IPs are not namespaced resources"
        )
        yield FieldError("IPpool.NamespaceSelector", spec.namespace_selector, reason)

"""What upstream's client fills in on write and on read (spec/resources.md 4-9, spec/datastore.md 1.2). Pure.

`before_create`/`before_update` run before validation, `for_storage` after it, `after_read` on everything that comes
out of the datastore.
"""

from __future__ import annotations

from typing import Any

import msgspec

from libcalico.model.bgp import BGPConfiguration, BGPConfigurationSpec, CalicoNodeStatus
from libcalico.model.keys import workload_endpoint_name
from libcalico.model.resources import (
    FelixConfiguration,
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Resource,
    Tier,
    WorkloadEndpoint,
)

METADATA_ANNOTATION = "projectcalico.org/metadata"
TIER_LABEL = "projectcalico.org/tier"
NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
DEFAULT_TIER = "default"
DEFAULT_TIER_ORDER = 1_000_000
DEFAULT_BLOCK_SIZE = {4: 26, 6: 122}
FELIX_DEFAULTS = {
    "nftablesMode": "Auto",
    "bpfLogLevel": "",
    "bpfConnectTimeLoadBalancing": "TCP",
    "bpfHostNetworkedNATWithoutCTLB": "Enabled",
    "floatingIPs": "Disabled",
}
Policy = NetworkPolicy | GlobalNetworkPolicy

_replace = msgspec.structs.replace


def before_write(resource: Resource) -> Resource:
    """Defaults that are filled in before an object is validated."""
    match resource:
        case NetworkPolicy() | GlobalNetworkPolicy():
            return _policy(resource)
        case IPPool():
            return _pool(resource)
        case Tier():
            return _tier(resource)
        case FelixConfiguration():
            return _felix(resource)
        case WorkloadEndpoint():
            return _endpoint_name(resource)
        case BGPConfiguration():
            return _bgp(resource)
    return resource


def _policy(policy: Policy) -> Policy:
    spec = policy.spec
    types = spec.types or default_types(bool(spec.ingress), bool(spec.egress))
    return _replace(policy, spec=_replace(spec, tier=spec.tier or DEFAULT_TIER, types=types))


def default_types(ingress: bool, egress: bool) -> list[str]:
    """The directions of a policy that names none: egress alone only when that is all it has rules for."""
    if not egress:
        return ["Ingress"]
    return ["Ingress", "Egress"] if ingress else ["Egress"]


def _tier(tier: Tier) -> Tier:
    spec = tier.spec
    order = DEFAULT_TIER_ORDER if spec.order is None else spec.order
    return _replace(
        tier,
        spec=_replace(spec, order=order, default_action="Deny" if spec.default_action is None else spec.default_action),
    )


def _pool(pool: IPPool) -> IPPool:
    spec = pool.spec
    block_size = spec.block_size or _block_size(spec.cidr)
    filled = _replace(
        spec,
        vxlan_mode=spec.vxlan_mode or "Never",
        ipip_mode=spec.ipip_mode or "Never",
        block_size=block_size,
        node_selector=spec.node_selector or "all()",
        allowed_uses=spec.allowed_uses or ["Workload", "Tunnel"],
        assignment_mode="Automatic" if spec.assignment_mode is None else spec.assignment_mode,
    )
    return _replace(pool, spec=filled)


def _block_size(cidr: str) -> int:
    """Of a pool that does not say; 0 for one whose range cannot be read."""
    from libcalico.model.scalars import parse_net

    net = parse_net(cidr)
    return DEFAULT_BLOCK_SIZE[net.version] if net is not None else 0


def _felix(configuration: FelixConfiguration) -> FelixConfiguration:
    spec = {**FELIX_DEFAULTS, **configuration.spec}
    legacy = configuration.spec.get("bpfConnectTimeLoadBalancingEnabled")
    if legacy is not None:
        spec["bpfConnectTimeLoadBalancing"] = "Enabled" if legacy else "Disabled"
        spec["bpfHostNetworkedNATWithoutCTLB"] = "Disabled"
    return _replace(configuration, spec=spec)


def _bgp(configuration: BGPConfiguration) -> BGPConfiguration:
    spec = configuration.spec
    aggregation = spec.service_load_balancer_aggregation
    filled = _replace(
        spec,
        log_severity_screen=spec.log_severity_screen or "Info",
        service_load_balancer_aggregation="Enabled" if aggregation is None else aggregation,
    )
    return _replace(configuration, spec=filled)


def _endpoint_name(endpoint: WorkloadEndpoint) -> WorkloadEndpoint:
    if endpoint.metadata.name:
        return endpoint
    return _replace(endpoint, metadata=_replace(endpoint.metadata, name=endpoint_name(endpoint)))


def endpoint_name(endpoint: WorkloadEndpoint) -> str:
    """The name that an endpoint's spec demands; raises `ValidationError` naming the part that is missing."""
    spec = endpoint.spec
    workload = {"k8s": spec.pod, "cni": spec.container_id}.get(spec.orchestrator, spec.workload)
    return workload_endpoint_name(spec.node, spec.orchestrator, workload, spec.endpoint)


def for_storage(resource: Resource) -> Resource:
    """The stored form: labels and annotations that the client adds after validation."""
    metadata = resource.metadata
    match resource:
        case NetworkPolicy() | GlobalNetworkPolicy():
            labels = {**metadata.labels, TIER_LABEL: resource.spec.tier or DEFAULT_TIER}
            annotations = {**metadata.annotations, METADATA_ANNOTATION: name_note(metadata.name)}
            return _replace(resource, metadata=_replace(metadata, labels=labels, annotations=annotations))
        case WorkloadEndpoint():
            labels = {
                **metadata.labels,
                NAMESPACE_LABEL: metadata.namespace,
                ORCHESTRATOR_LABEL: resource.spec.orchestrator,
            }
            return _replace(resource, metadata=_replace(metadata, labels=labels))
        case BGPConfiguration():
            return _replace(resource, spec=_without_empty_lists(resource.spec))
        case CalicoNodeStatus():
            return _replace(resource, spec=_replace(resource.spec, classes=resource.spec.classes or None))
    return resource


def _without_empty_lists(spec: BGPConfigurationSpec) -> BGPConfigurationSpec:
    advertised = [_replace(prefix, communities=prefix.communities or None) for prefix in spec.prefix_advertisements]
    return _replace(spec, prefix_advertisements=advertised)


def name_note(name: str) -> str:
    """The value of the annotation that keeps a policy's name."""
    import json

    return json.dumps({"name": name}, separators=(",", ":"))


def after_read(resource: Resource) -> Resource:
    """The form that callers see: names without storage's decoration, labels and members that storage may lack."""
    match resource:
        case NetworkPolicy() | GlobalNetworkPolicy():
            return _read_policy(resource)
        case IPPool():
            return _pool(resource)
    return resource


def _read_policy(policy: Policy) -> Policy:
    metadata = policy.metadata
    annotations = dict(metadata.annotations)
    name = _annotated_name(annotations.pop(METADATA_ANNOTATION, ""))
    if not name:
        name = metadata.name
        if policy.spec.tier in ("", DEFAULT_TIER):
            name = name.removeprefix("default.")
    labels = {TIER_LABEL: DEFAULT_TIER, **metadata.labels}
    fresh = _replace(metadata, name=name, labels=labels, annotations=annotations)
    return _replace(policy, metadata=fresh)


def _annotated_name(note: str) -> str:
    if not note:
        return ""
    import json

    try:
        value: Any = json.loads(note)
    except (ValueError, RecursionError):
        return ""
    name = value.get("name", "") if isinstance(value, dict) else ""
    return name if isinstance(name, str) else ""

"""What the calculation graph would say: short ways to write endpoints and flushes in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from libcalico.calc.messages import Endpoint, Flush, IPSet, IPSetDelta, NodeAddresses, Pools, Route, Vtep
from libcalico.model.keys import ResourceKey
from libcalico.net import parse_cidrs
from libcalico.policy.ir import EndpointPolicy, Policy, PolicyId

NO_POLICY = EndpointPolicy((), ())


def endpoint(
    name: str, *addresses: str, interface: str = "", revision: int = 1, policy: EndpointPolicy = NO_POLICY
) -> Endpoint:
    """An endpoint on the interface `cali<name>`, unless another one is given."""
    key = ResourceKey("WorkloadEndpoint", name, "default")
    nets = tuple(parse_cidrs(list(addresses))[0])
    return Endpoint(key, interface or f"cali{name}", "", nets, policy, revision)


def vtep(node: str, address: str, mac: str, parent: str) -> Vtep:
    """The VXLAN end of a node, of the family of its address."""
    return Vtep(node, 6 if ":" in address else 4, address, mac, parent)


def node(v4: str = "", v6: str = "", ipip: str = "") -> NodeAddresses:
    """A node's addresses."""
    return NodeAddresses((v4, v6), ipip)


def flush(
    *endpoints: Endpoint,
    gone: Iterable[Endpoint] = (),
    routes: Mapping[str, Route | None] | None = None,
    vteps: Iterable[Vtep] = (),
    vteps_gone: Iterable[Vtep] = (),
    policies: Mapping[PolicyId, Policy | None] | None = None,
    sets: Mapping[str, IPSet | IPSetDelta | None] | None = None,
    pools: Pools | None = None,
    hosts: Mapping[str, NodeAddresses | None] | None = None,
    revision: int = 1,
) -> Flush:
    """A flush that brings `endpoints` and takes `gone` away, and so on."""
    changes: dict[ResourceKey, Endpoint | None] = {one.key: one for one in endpoints}
    changes |= {one.key: None for one in gone}
    ends: dict[tuple[str, int], Vtep | None] = {(one.node, one.family): one for one in vteps}
    ends |= {(one.node, one.family): None for one in vteps_gone}
    return Flush(
        dict(sets or {}), dict(policies or {}), changes, dict(routes or {}), ends, pools, None, revision,
        dict(hosts or {}),
    )  # fmt: skip

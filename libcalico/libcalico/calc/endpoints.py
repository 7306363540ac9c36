"""Workload endpoints and network sets: what they bring to IP sets, and what of this host's endpoints is enforced
(spec/felix.md 2.3, 3.4)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from libcalico.calc.messages import Endpoint
from libcalico.calc.outbox import Pending
from libcalico.calc.policies import ActivePolicies
from libcalico.calc.profiles import Profiles
from libcalico.calc.report import Report
from libcalico.calc.sets import Contribution, SetMembers
from libcalico.conventions import CLOSED
from libcalico.errors import BadData
from libcalico.model import scalars
from libcalico.model.keys import ResourceKey, split_workload_endpoint_name
from libcalico.model.resources import GlobalNetworkSet, NetworkSet, WorkloadEndpoint, WorkloadEndpointPort
from libcalico.net import Cidr, bare_address, parse_cidrs
from libcalico.policy.compile import PROTOCOLS
from libcalico.policy.ir import EndpointPolicy, TierPolicies
from libcalico.selector.translate import NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL
from libcalico.text import shown

FORGED_PREFIXES = ("pcns.", "pcsa.")
MOST_SHARED = 4096
"""Labels, and lists of profiles, that are remembered to be shared."""


class _Local(NamedTuple):
    """What is enforced of an endpoint of this host."""

    interface: str
    mac: str
    nets: tuple[Cidr, ...]
    profiles: tuple[str, ...]
    revision: int
    is_closed: bool


class Endpoints:
    """Workload endpoints of all hosts, and those of this one in full."""

    def __init__(
        self, host: str, sets: SetMembers, policies: ActivePolicies, profiles: Profiles, report: Report
    ) -> None:
        self._host = host
        self._sets = sets
        self._policies = policies
        self._profiles = profiles
        self._report = report
        self._count = 0
        self._shared = _Shared()
        self._local: dict[ResourceKey, _Local] = {}
        self._out: Pending[ResourceKey, Endpoint] = Pending()

    def update(self, key: ResourceKey, endpoint: WorkloadEndpoint | None, revision: int) -> None:
        """An endpoint is there, has changed, or (None) is gone; one without addresses counts as absent."""
        nets = () if endpoint is None else _addresses(endpoint)
        was_there = self._sets.has_item(key)
        if endpoint is None or not nets:
            self._count -= was_there
            self._sets.remove_item(key)
            self._drop_local(key)
            return
        spec = endpoint.spec
        labels = self._shared.labels(_labels(key, endpoint))
        profiles = self._shared.profiles(tuple(spec.profiles))
        self._sets.update_item(key, labels, profiles, Contribution(nets, _named_ports(spec.ports)))
        self._count += not was_there
        if _node_of(key, endpoint) == self._host:
            former = self._local.get(key)
            self._local[key] = _Local(
                spec.interface_name, spec.mac, nets, profiles, revision, CLOSED in endpoint.metadata.annotations
            )
            self._profiles.rename_users(() if former is None else former.profiles, profiles)
            self._policies.update_endpoint(key, labels, profiles)

    def sole_interface(self, key: ResourceKey) -> str:
        """The interface of a local endpoint; empty when it is none, or when another one has its interface or an
        address of it."""
        own = self._local.get(key)
        if own is None:
            return ""
        for other, endpoint in self._local.items():
            same = endpoint.interface == own.interface
            if other != key and (same or not set(own.nets).isdisjoint(endpoint.nets)):
                return ""
        return own.interface

    def flush(self) -> dict[ResourceKey, Endpoint | None]:
        """Local endpoints that have changed, or whose policies have, since the last flush."""
        for key, tiers in self._policies.take_dirty().items():
            if not self._report.attempt(key, partial(self._put, key, tiers)):
                self._out.remove(key)
        return self._out.flush()

    def __len__(self) -> int:
        return self._count

    def _drop_local(self, key: ResourceKey) -> None:
        former = self._local.pop(key, None)
        if former is not None:
            self._policies.remove_endpoint(key)
            self._profiles.rename_users(former.profiles, ())
            self._out.remove(key)

    def _put(self, key: ResourceKey, tiers: tuple[TierPolicies, ...]) -> None:
        own = self._local[key]
        policy = EndpointPolicy((), ()) if own.is_closed else EndpointPolicy(tiers, own.profiles)
        self._out.put(key, Endpoint(key, own.interface, own.mac, own.nets, policy, own.revision))


class _Shared:
    """Labels and lists of profiles, kept once for all endpoints that have the same: of 100,000 most have another's."""

    __slots__ = ("_labels", "_profiles")

    def __init__(self) -> None:
        self._labels: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._profiles: dict[tuple[str, ...], tuple[str, ...]] = {}

    def labels(self, found: dict[str, str]) -> dict[str, str]:
        """The same labels; nobody changes them."""
        if len(self._labels) > MOST_SHARED:
            self._labels.clear()
        return self._labels.setdefault(tuple(found.items()), found)

    def profiles(self, found: tuple[str, ...]) -> tuple[str, ...]:
        """The same profiles."""
        if len(self._profiles) > MOST_SHARED:
            self._profiles.clear()
        return self._profiles.setdefault(found, found)


class NetworkSets:
    """Network sets of both kinds."""

    def __init__(self, sets: SetMembers, report: Report) -> None:
        self._sets = sets
        self._report = report

    def update(self, key: ResourceKey, found: NetworkSet | GlobalNetworkSet | None, _revision: int) -> None:
        """A network set is there, has changed, or (None) is gone."""
        if found is None:
            self._sets.remove_item(key)
            return
        labels, parents = found.metadata.labels, ()
        if key.namespace:
            labels = {**labels, NAMESPACE_LABEL: key.namespace}
            parents = (f"kns.{key.namespace}",)  # type: ignore[assignment]
        nets, refused = parse_cidrs(found.spec.nets)
        if refused:
            text = f"{len(refused)} of its nets cannot be read, first {shown(refused[0])!r}: they match nothing"
            self._report.note(key, text, "is used without them")
        self._sets.update_item(key, labels, parents, Contribution(frozenset(nets)))


def _addresses(endpoint: WorkloadEndpoint) -> tuple[Cidr, ...]:
    """Its addresses: whatever the length that is written, each is one host. Raises `BadData` for an endpoint that
    cannot be used; one without addresses is not looked at."""
    spec = endpoint.spec
    if not spec.ip_networks:
        return ()
    if not scalars.INTERFACE.fullmatch(spec.interface_name):
        raise BadData(f"interfaceName {shown(spec.interface_name)!r} is not an interface's name")
    if spec.allow_spoofed_source_prefixes:
        raise BadData("allowSpoofedSourcePrefixes needs WorkloadSourceSpoofing=Any, which is not set")
    nets, bad = parse_cidrs(spec.ip_networks)
    if bad:
        raise BadData(f"ipNetworks: {shown(bad[0])!r} is not an address")
    if all(net.is_single for net in nets):
        return tuple(nets)
    return tuple(parse_cidrs([bare_address(net) for net in spec.ip_networks])[0])


def _named_ports(ports: list[WorkloadEndpointPort]) -> tuple[tuple[str, int, int], ...]:
    return tuple((p.name, number, p.port) for p in ports if p.name and (number := _protocol(p.protocol)))


def _protocol(protocol: int | str) -> int:
    return protocol if isinstance(protocol, int) else PROTOCOLS.get(protocol.lower(), 0)


def _node_of(key: ResourceKey, endpoint: WorkloadEndpoint) -> str:
    """The name decides whose endpoint it is."""
    parts = split_workload_endpoint_name(key.name)
    return parts[0] if parts is not None else endpoint.spec.node


def _labels(key: ResourceKey, endpoint: WorkloadEndpoint) -> dict[str, str]:
    labels = endpoint.metadata.labels
    if any(name.startswith(FORGED_PREFIXES) for name in labels):
        labels = {name: value for name, value in labels.items() if not name.startswith(FORGED_PREFIXES)}
    labels = {NAMESPACE_LABEL: key.namespace, **labels}
    if endpoint.spec.service_account_name:
        labels[SERVICE_ACCOUNT_LABEL] = endpoint.spec.service_account_name
    return labels

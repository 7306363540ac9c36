"""What is checked of an object before it is written (spec/resources.md 1.4 and each kind's section). Pure.

What a check depends on beside the object is read before by `objects`, and is in `Known`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, cast

import msgspec

from libcalico.client import peer_rules, pool_rules
from libcalico.conventions import BUILT_IN_PROFILE
from libcalico.datastore.contract import KeyValue
from libcalico.errors import (
    CalicoError,
    FieldError,
    OperationNotSupported,
    ResourceDoesNotExist,
    ValidationError,
)
from libcalico.model import defaults
from libcalico.model.base import Metadata
from libcalico.model.bgp import BGPPeer
from libcalico.model.keys import ResourceKey
from libcalico.model.kinds import KINDS
from libcalico.model.resources import (
    ClusterInformation,
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Profile,
    Resource,
    WorkloadEndpoint,
)
from libcalico.model.validation.objects import validate

R = TypeVar("R", bound=Resource)

_replace = msgspec.structs.replace


class Known(NamedTuple):
    """What is stored and matters to an object's checks: is its tier there, the other pools, the pairs of blocks and of
    the filters that it names."""

    has_tier: bool = True
    pools: Sequence[IPPool] = ()
    blocks: Sequence[KeyValue] = ()
    filters: Sequence[KeyValue] = ()


def key_of(resource: Resource) -> ResourceKey:
    """The key of an object's own name."""
    kind = type(resource).__name__
    namespace = resource.metadata.namespace if KINDS[kind].namespaced else ""
    return ResourceKey(kind, resource.metadata.name, namespace)


def with_defaults(resource: R) -> R:
    """The object as it is checked and written; raises `ValidationError` for an endpoint whose name is not its own."""
    if isinstance(resource, WorkloadEndpoint):
        _check_endpoint_name(resource)
    return cast("R", defaults.before_write(resource))


def needs_tier(filled: Resource) -> bool:
    """Does its check ask for its tier? An object that was read before was checked before."""
    return isinstance(filled, (NetworkPolicy, GlobalNetworkPolicy)) and not filled.metadata.resource_version


def checked(filled: R, former: IPPool | None, known: Known) -> R:
    """The object in the form that is written, every rule of its kind met, or an error. `former`: a pool as it is."""
    if isinstance(filled, (NetworkPolicy, GlobalNetworkPolicy)) and needs_tier(filled) and not known.has_tier:
        raise ResourceDoesNotExist(ResourceKey("Tier", filled.spec.tier))
    if isinstance(filled, IPPool):
        errors = pool_rules.client_errors(filled, former, known.pools)
        if errors:
            raise ValidationError(errors)
        filled = cast("R", pool_rules.canonical(filled))
    if isinstance(filled, BGPPeer) and (missing := peer_rules.missing_filters(filled, known.filters)):
        raise ValidationError(missing)
    errors = validate(filled)
    if isinstance(filled, IPPool) and not errors and former is None:
        errors = pool_rules.block_size_errors(filled, known.blocks)
    if errors:
        raise ValidationError(errors)
    if isinstance(filled, ClusterInformation) and filled.metadata.name != "default":
        raise CalicoError('Cannot create a Cluster Information resource with a name other than "default"')
    return filled


def is_built_in(resource: Resource) -> bool:
    """Is it the profile that is always there and never stored?"""
    return isinstance(resource, Profile) and resource.metadata.name == BUILT_IN_PROFILE


def as_new(resource: R) -> R:
    """The input of a create: only name, namespace, labels and annotations of the metadata count."""
    metadata = resource.metadata
    fresh = Metadata(
        name=metadata.name,
        generate_name="" if metadata.name else metadata.generate_name,
        namespace=metadata.namespace,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )
    return _replace(resource, metadata=fresh)


def built_in_refusal(operation: str, participle: str) -> OperationNotSupported:
    """The error for a change of the built-in profile."""
    reason = f'The profile "{BUILT_IN_PROFILE}" is a default provided by Calico and cannot be {participle}'
    return OperationNotSupported(operation, BUILT_IN_PROFILE, reason)


def _check_endpoint_name(endpoint: WorkloadEndpoint) -> None:
    expected = defaults.endpoint_name(endpoint)
    name = endpoint.metadata.name
    if name and name != expected:
        reason = (
            "the WorkloadEndpoint name does not match the primary identifiers assigned in the Spec:"
            f" expected name {expected}"
        )
        raise ValidationError([FieldError("Name", name, reason)])


def require_for_create(resource: Resource) -> None:
    """Raise `ValidationError` for metadata that a new object must, or must not, have."""
    metadata = resource.metadata
    if not metadata.name:
        extra = " (GenerateName is not supported)" if metadata.generate_name else ""
        raise ValidationError([FieldError("Metadata.Name", "", f"field must be set for a Create request{extra}")])
    if metadata.resource_version:
        reason = "field must not be set for a Create request"
        raise ValidationError([FieldError("Metadata.ResourceVersion", metadata.resource_version, reason)])
    _require_namespace(resource)


def require_for_update(resource: Resource) -> None:
    """Raise `ValidationError` for metadata without what a stored object has."""
    metadata = resource.metadata
    _require_namespace(resource)
    for field, value in (
        ("Metadata.ResourceVersion", metadata.resource_version),
        ("Metadata.CreationTimestamp", metadata.creation_timestamp or ""),
        ("Metadata.UID", metadata.uid),
    ):
        if not value:
            raise ValidationError([FieldError(field, value, "field must be set for an Update request")])


def _require_namespace(resource: Resource) -> None:
    if KINDS[type(resource).__name__].namespaced and not resource.metadata.namespace:
        reason = "namespace is not specified on namespaced resource"
        raise ValidationError([FieldError("Metadata.Namespace", "", reason)])
    if "/" in resource.metadata.namespace:
        reason = "a namespace cannot contain '/': nobody would find what is stored under it"
        raise ValidationError([FieldError("Metadata.Namespace", resource.metadata.namespace, reason)])


def revision_of(text: str) -> int:
    """The datastore revision that a resource version means; raises `ValidationError`."""
    if not (text.isascii() and text.isdigit()):
        raise ValidationError([FieldError("ResourceVersion", text, "")])
    return int(text)

"""Typed v3 objects on a datastore: what upstream's client library promises (spec/resources.md 1.4, datastore.md 3).

`create`, `update`, `delete`, `get` and `list` are upstream's typed client; `apply` and `replace` are what its
command line builds on them. Errors are those of `libcalico.errors` with upstream's texts.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from libcalico.client import initialise, peer_rules, policy_names, pool_rules
from libcalico.client.node_removal import retire_node
from libcalico.client.policy_names import POLICY_KINDS, Place
from libcalico.clock import Clock, SystemClock, rfc3339
from libcalico.conventions import BUILT_IN_PROFILE
from libcalico.datastore.contract import Compare, Datastore, Delete, Get, KeyValue, Put, Target
from libcalico.errors import (
    CalicoError,
    FieldError,
    OperationNotSupported,
    ParsingDatastoreEntry,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
    ValidationError,
)
from libcalico.model import codec, defaults
from libcalico.model.base import API_VERSION, Metadata
from libcalico.model.bgp import BGPPeer
from libcalico.model.keys import ResourceKey, key_path, list_prefix, parse_key, parse_path
from libcalico.model.kinds import KINDS
from libcalico.model.resources import (
    ClusterInformation,
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Node,
    Profile,
    ProfileSpec,
    Resource,
    Rule,
    WorkloadEndpoint,
)
from libcalico.model.validation.objects import FIXED_TIERS, validate

R = TypeVar("R", bound=Resource)
CONFLICT_TRIES = 5
CONFLICT_PAUSE_S = 1.0

_replace = msgspec.structs.replace


class ResourceList(NamedTuple):
    """Objects in key order, read at `revision`. `unreadable` names the stored ones that cannot be read."""

    items: tuple[Any, ...]
    revision: int
    unreadable: tuple[str, ...] = ()


def built_in_profile() -> Profile:
    """The profile that is always there and never stored: everything is allowed."""
    allow = [Rule(action="Allow")]
    return Profile(
        kind="Profile",
        api_version=API_VERSION,
        metadata=Metadata(name=BUILT_IN_PROFILE, resource_version="1"),
        spec=ProfileSpec(ingress=allow, egress=allow),
    )


class AsyncClient:
    """The asyncio client that services use; `libcalico.Client` is the same for scripts.

    `warn` takes what a caller should know although the call succeeded; it is logged unless it is set."""

    def __init__(self, datastore: Datastore, clock: Clock | None = None) -> None:
        self.datastore = datastore
        self.clock = clock or SystemClock()
        self.warn: Callable[[str], None] = logging.getLogger(__name__).warning

    async def get(self, kind: str, name: str, namespace: str = "") -> Any:
        """One object; raises `ResourceDoesNotExist`, or `ParsingDatastoreEntry` for a damaged one."""
        if kind == "Profile" and name == BUILT_IN_PROFILE:
            return built_in_profile()
        _place, stored = await self._find(ResourceKey(kind, name, namespace))
        return _read(stored)

    async def list(self, kind: str, namespace: str = "", name_prefix: str = "") -> ResourceList:
        """All objects of a kind, of one namespace, or whose names begin so; damaged ones are only named."""
        result = await self.datastore.range((list_prefix(kind, namespace) + name_prefix).encode())
        items: list[Any] = []
        unreadable = []
        for kv in result.kvs:
            try:
                items += _read_of_kind(kv, kind)
            except (ParsingDatastoreEntry, UnicodeDecodeError):
                unreadable.append(kv.key.decode("utf-8", "backslashreplace"))
        if kind == "Profile" and not name_prefix:
            items.append(built_in_profile())
            items.sort(key=lambda item: item.metadata.name)
        elif kind == "Tier":
            items = [defaults.before_write(item) for item in items]  # a stored tier without order has the default one
            items.sort(key=lambda item: (item.spec.order, item.metadata.name))
        return ResourceList(tuple(items), result.revision, tuple(unreadable))

    async def create(self, resource: R) -> R:
        """Store a new object; returns it as stored, with uid, time and resource version."""
        kind = type(resource).__name__
        if kind == "Profile" and resource.metadata.name == BUILT_IN_PROFILE:
            reason = f"the profile {BUILT_IN_PROFILE!r} is provided by Calico and always there"
            raise ResourceAlreadyExists(BUILT_IN_PROFILE, reason)
        filled: Any = await self._checked(resource, None)
        _require_for_create(filled)
        if isinstance(filled, Node):
            await initialise.ensure_initialized(self.datastore, self.clock)
        metadata = _replace(
            filled.metadata,
            uid=filled.metadata.uid or str(uuid.uuid4()),
            creation_timestamp=filled.metadata.creation_timestamp or rfc3339(self.clock.now()),
        )
        key = _key_of(filled)
        path = key_path(key).encode()
        stored = codec.encode(defaults.for_storage(_replace(filled, metadata=metadata)))
        revision = await self._store_new(key, path, stored)
        return _read(KeyValue(path, stored, 0, revision, 1))  # type: ignore[no-any-return]

    async def _store_new(self, key: ResourceKey, path: bytes, stored: bytes) -> int:
        """Write an object that must not be there, under no key that one of its name may have; the revision."""
        compares: tuple[Compare, ...] = (Compare(path, Target.VERSION, 0),)
        for _attempt in range(CONFLICT_TRIES):
            if key.kind in POLICY_KINDS:
                place = await policy_names.find(self.datastore, key)
                if place.found is not None:
                    raise ResourceAlreadyExists(key)
                compares = place.compares
            answer = await self.datastore.txn(compares, [Put(path, stored)], [Get(path)])
            if answer.succeeded:
                return answer.revision
            if answer.responses[0]:
                raise ResourceAlreadyExists(key)
        raise ResourceUpdateConflict(key)

    async def update(self, resource: R, under: str = "") -> R:
        """Write over the version that the object was read as; raises `ResourceUpdateConflict` if it has moved on.

        `under` is the name that it was read by, if that is not its own: the one that an old policy is stored under."""
        kind = type(resource).__name__
        if kind == "Profile" and resource.metadata.name == BUILT_IN_PROFILE:
            raise _built_in("Update", "updated")
        key = _key_of(resource)
        former = place = None
        if isinstance(resource, IPPool) or kind in POLICY_KINDS:
            place, former = await self._find(key._replace(name=under or key.name))
        filled: Any = await self._checked(resource, former and _read(former))
        _require_for_update(filled)
        path = former.key if former else key_path(key).encode()
        stored = codec.encode(policy_names.in_stored_form(filled, former) if former else defaults.for_storage(filled))
        revision = _revision(filled.metadata.resource_version)
        answer = await self.datastore.txn(
            [Compare(path, Target.MOD_REVISION, revision)], [Put(path, stored)], [Get(path)]
        )
        if not answer.succeeded:
            if not answer.responses[0]:
                raise ResourceDoesNotExist(key)
            raise ResourceUpdateConflict(key)
        self._name_twin(key, place, "changed")
        return _read(KeyValue(path, stored, 0, answer.revision, 0))  # type: ignore[no-any-return]

    async def delete(self, kind: str, name: str, namespace: str = "", resource_version: str = "") -> Any:
        """Delete and return an object; with a resource version only if it is still that one.

        An IPPool is disabled and its blocks' affinities are released first; a Node takes its endpoints, addresses
        and per-node configuration with it (spec/resources.md 6.1, 7.1)."""
        key = _possible(ResourceKey(kind, name, namespace))
        await self._check_delete(kind, name)
        if kind == "IPPool":
            await self._retire_pool(name, resource_version)
            resource_version = ""
        if kind == "Node":
            await retire_node(self, name)
        place, stored = await self._find(key)
        compares = []
        if resource_version:
            compares.append(Compare(stored.key, Target.MOD_REVISION, _revision(resource_version)))
        answer = await self.datastore.txn(compares, [Delete(stored.key)], [Get(stored.key)])
        if not answer.responses[0]:
            raise ResourceDoesNotExist(key)
        if not answer.succeeded:
            raise ResourceUpdateConflict(key)
        self._name_twin(key, place, "deleted")
        return _try_read(answer.responses[0][0])

    async def apply(self, resource: R) -> R:
        """Create, or replace what is there."""
        try:
            return await self.create(as_new(resource))
        except (ResourceAlreadyExists, OperationNotSupported):
            return await self.replace(resource)

    async def replace(self, resource: R) -> R:
        """Write over what is there: its metadata stays, but labels and annotations are the new ones.

        A resource version in the input must be the stored one; without one, conflicts are retried."""
        kind, name = type(resource).__name__, resource.metadata.name
        if kind == "Profile" and name == BUILT_IN_PROFILE:
            raise _built_in("Update", "updated")
        if isinstance(resource, WorkloadEndpoint) and not name:
            name = defaults.endpoint_name(resource)
        last: CalicoError | None = None
        for attempt in range(CONFLICT_TRIES):
            if attempt:
                await self.clock.sleep(CONFLICT_PAUSE_S)
            current = await self.get(kind, name, resource.metadata.namespace)
            given = resource.metadata.resource_version
            if given and given != current.metadata.resource_version:
                raise ResourceUpdateConflict(_key_of(current))
            metadata = _replace(
                current.metadata, labels=resource.metadata.labels, annotations=resource.metadata.annotations
            )
            try:
                return await self.update(_replace(resource, metadata=metadata), under=name)
            except ResourceUpdateConflict as error:
                if given:
                    raise
                last = error
        raise CalicoError(f"failed to update the resource: {last}")

    async def ensure_initialized(self, version: str = "", cluster_type: str = "") -> None:
        """ClusterInformation and the fixed tiers are there (spec/datastore.md 6)."""
        await initialise.ensure_initialized(self.datastore, self.clock, version, cluster_type)

    async def _find(self, key: ResourceKey) -> tuple[Place, KeyValue]:
        """Where the object of this name is, and what is stored there."""
        place = await policy_names.find(self.datastore, _possible(key))
        if place.found is None:
            raise ResourceDoesNotExist(key)
        return place, place.found

    def _name_twin(self, key: ResourceKey, place: Place | None, participle: str) -> None:
        if place is not None and place.twin is not None:
            self.warn(
                f"{key}: another policy of this name is stored as {place.twin.name} by an older release: it stays as"
                f" it is and is enforced too; only the one stored as {key.name} was {participle}"
            )

    async def _checked(self, resource: Resource, former: Any) -> Resource:
        """Defaults filled in and every rule of the kind met, or an error."""
        if isinstance(resource, WorkloadEndpoint):
            _check_endpoint_name(resource)
        filled = defaults.before_write(resource)
        if isinstance(filled, (NetworkPolicy, GlobalNetworkPolicy)) and not filled.metadata.resource_version:
            await self._require_tier(filled.spec.tier)
        if isinstance(filled, IPPool):
            pools = () if former is not None else (await self.list("IPPool")).items
            errors = pool_rules.client_errors(filled, former, pools)
            if errors:
                raise ValidationError(errors)
            filled = pool_rules.canonical(filled)
        if isinstance(filled, BGPPeer) and (missing := await peer_rules.missing_filters(self.datastore, filled)):
            raise ValidationError(missing)
        errors = validate(filled)
        if isinstance(filled, IPPool) and not errors and former is None:
            errors = await pool_rules.block_size_errors(self.datastore, filled)
        if errors:
            raise ValidationError(errors)
        if isinstance(filled, ClusterInformation) and filled.metadata.name != "default":
            raise CalicoError('Cannot create a Cluster Information resource with a name other than "default"')
        return filled

    async def _require_tier(self, tier: str) -> None:
        key = ResourceKey("Tier", tier)
        if await self.datastore.get(key_path(key).encode()) is None and tier != defaults.DEFAULT_TIER:
            raise ResourceDoesNotExist(key)

    async def _check_delete(self, kind: str, name: str) -> None:
        if kind == "Profile" and name == BUILT_IN_PROFILE:
            raise _built_in("Delete", "deleted")
        if kind != "Tier":
            return
        if name in FIXED_TIERS:
            raise OperationNotSupported("Delete", name, f"Cannot delete {name} tier")
        for policies in POLICY_KINDS:
            result = await self.datastore.range(list_prefix(policies).encode())
            for kv in result.kvs:
                if _tier_of(kv) == name:
                    raise OperationNotSupported("delete", name, "Cannot delete a non-empty tier")

    async def _retire_pool(self, name: str, resource_version: str) -> None:
        from libcalico.ipam.service import IpamService

        pool = await self.get("IPPool", name)
        if resource_version and resource_version != pool.metadata.resource_version:
            raise ResourceUpdateConflict(_key_of(pool))
        if not pool.spec.disabled:
            await self.update(_replace(pool, spec=_replace(pool.spec, disabled=True)))
            await self.clock.sleep(pool_rules.SETTLE_S)
        await IpamService(self.datastore, "", self.clock).release_pool_affinities(pool.spec.cidr)


def _key_of(resource: Any) -> ResourceKey:
    kind = type(resource).__name__
    namespace = resource.metadata.namespace if KINDS[kind].namespaced else ""
    return ResourceKey(kind, resource.metadata.name, namespace)


def _possible(key: ResourceKey) -> ResourceKey:
    """The key, if an object can have it: `a/b` names no Profile, whatever is stored under that path."""
    if parse_path(key_path(key)) != key:
        raise ResourceDoesNotExist(key)
    return key


def _read(stored: KeyValue) -> Any:
    key = parse_key(stored.key)
    assert isinstance(key, ResourceKey)
    found = codec.decode(key, stored.value, stored.mod_revision)
    return codec.parsed(key, stored.value, lambda: defaults.after_read(found))


def _read_of_kind(stored: KeyValue, kind: str) -> list[Any]:
    """The object in a list; an empty one when the key is not one of the kind's."""
    key = parse_path(stored.key.decode())
    return [_read(stored)] if isinstance(key, ResourceKey) and key.kind == kind else []


def _try_read(stored: KeyValue) -> Any:
    try:
        return _read(stored)
    except ParsingDatastoreEntry:
        return None


def _tier_of(stored: KeyValue) -> str:
    tier = codec.spec_member(stored.value, "tier")
    return tier if isinstance(tier, str) and tier else defaults.DEFAULT_TIER


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


def _built_in(operation: str, participle: str) -> OperationNotSupported:
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


def _require_for_create(resource: Resource) -> None:
    metadata = resource.metadata
    if not metadata.name:
        extra = " (GenerateName is not supported)" if metadata.generate_name else ""
        raise ValidationError([FieldError("Metadata.Name", "", f"field must be set for a Create request{extra}")])
    if metadata.resource_version:
        reason = "field must not be set for a Create request"
        raise ValidationError([FieldError("Metadata.ResourceVersion", metadata.resource_version, reason)])
    _require_namespace(resource)


def _require_for_update(resource: Resource) -> None:
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


def _revision(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValidationError([FieldError("ResourceVersion", text, "")])
    return int(text)

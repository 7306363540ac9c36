"""Typed v3 objects on a datastore: what upstream's client library promises (spec/resources.md 1.4, datastore.md 3).

`create`, `update`, `delete`, `get` and `list` are upstream's typed client; `apply` and `replace` are what its
command line builds on them. Errors are those of `libcalico.errors` with upstream's texts; every call may raise
`DatastoreError` too.

A write is two requests to the datastore at most, if no other writer interferes: one reads all that it depends on, at
one revision, and one compares and swaps. What depends on nothing but its own key is one request. Deleting a Node or an
IPPool takes more, since addresses and blocks go with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import overload

import msgspec

from libcalico.client import checks, facts, initialise, policy_names, pool_rules
from libcalico.client.checks import key_of
from libcalico.client.node_removal import retire_node
from libcalico.client.policy_names import POLICY_KINDS, Place
from libcalico.client.reading import AsyncReader, R, kind_name, possible, read, read_as
from libcalico.clock import Clock, SystemClock, rfc3339
from libcalico.conventions import BUILT_IN_PROFILE
from libcalico.datastore.contract import Compare, Datastore, Delete, Get, KeyValue, Put, Target
from libcalico.errors import (
    CalicoError,
    OperationNotSupported,
    ParsingDatastoreEntry,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
)
from libcalico.model import codec, defaults
from libcalico.model.keys import ResourceKey, key_path, list_prefix
from libcalico.model.resources import (
    ClusterInformation,
    IPPool,
    Node,
    Resource,
    WorkloadEndpoint,
)
from libcalico.model.validation.objects import FIXED_TIERS

CONFLICT_TRIES = 5
CONFLICT_PAUSE_S = 1.0

_replace = msgspec.structs.replace


class AsyncClient(AsyncReader):
    """The asyncio client that services use; `libcalico.Client` is the same for scripts.

    A kind is given as its struct, `IPPool`, and what comes back is then known to be one; as text (`"IPPool"`,
    `"pool"`) it is any `Resource`. `warn` takes what a caller should know although the call succeeded; it is logged
    unless it is set."""

    def __init__(self, datastore: Datastore, clock: Clock | None = None) -> None:
        super().__init__(datastore)
        self.clock = clock or SystemClock()
        self.warn: Callable[[str], None] = _log_warning

    async def create(self, resource: R) -> R:
        """Store a new object; returns it as stored, with uid, time and resource version.

        Raises `ResourceAlreadyExists`, `ValidationError`, or `ResourceDoesNotExist` for a policy's tier."""
        if checks.is_built_in(resource):
            reason = f"the profile {BUILT_IN_PROFILE!r} is provided by Calico and always there"
            raise ResourceAlreadyExists(BUILT_IN_PROFILE, reason)
        filled = checks.with_defaults(resource)
        key = key_of(filled)
        found = await facts.read(self.datastore, filled, (key,) if key.kind in POLICY_KINDS else ())
        filled = checks.checked(filled, None, found.known)
        checks.require_for_create(filled)
        if isinstance(filled, Node):
            await initialise.ensure_initialized(self.datastore, self.clock)
        return await self._store_new(filled, found.places.get(key) or policy_names.unseen(key))

    async def _store_new(self, filled: R, place: Place) -> R:
        """Write an object that must not be there, under no key that one of its name may have."""
        key = key_of(filled)
        path = key_path(key).encode()
        metadata = _replace(
            filled.metadata,
            uid=filled.metadata.uid or str(uuid.uuid4()),
            creation_timestamp=filled.metadata.creation_timestamp or rfc3339(self.clock.now()),
        )
        stored = codec.encode(defaults.for_storage(_replace(filled, metadata=metadata)))
        for _attempt in range(CONFLICT_TRIES):
            if place.found is not None:
                raise ResourceAlreadyExists(key)
            answer = await self.datastore.txn(place.compares, [Put(path, stored)], [Get(path)])
            if answer.succeeded:
                return read_as(type(filled), KeyValue(path, stored, 0, answer.revision, 1))
            if answer.responses[0]:
                raise ResourceAlreadyExists(key)
            place = await policy_names.find(self.datastore, key)
        raise ResourceUpdateConflict(key)

    async def update(self, resource: R, under: str = "") -> R:
        """Write over the version that the object was read as; raises `ResourceUpdateConflict` if it has moved on.

        `under` is the name that it was read by, if that is not its own: the one that an old policy is stored under."""
        if checks.is_built_in(resource):
            raise checks.built_in_refusal("Update", "updated")
        key = key_of(resource)
        place = None
        if isinstance(resource, IPPool) or key.kind in POLICY_KINDS:
            place, _stored = await self._find(key._replace(name=under or key.name))
        return await self._write_over(resource, place)

    async def _write_over(self, resource: R, place: Place | None) -> R:
        """Write over the version that an object was read as. `place`: where it is, if that was read."""
        key = key_of(resource)
        former = None if place is None else place.found
        former_pool = read_as(IPPool, former) if former is not None and isinstance(resource, IPPool) else None
        filled = checks.with_defaults(resource)
        found = await facts.read(self.datastore, filled, is_new=former is None)
        filled = checks.checked(filled, former_pool, found.known)
        checks.require_for_update(filled)
        path = former.key if former else key_path(key).encode()
        stored = codec.encode(policy_names.in_stored_form(filled, former) if former else defaults.for_storage(filled))
        revision = checks.revision_of(filled.metadata.resource_version)
        answer = await self.datastore.txn(
            [Compare(path, Target.MOD_REVISION, revision)], [Put(path, stored)], [Get(path)]
        )
        if not answer.succeeded:
            if not answer.responses[0]:
                raise ResourceDoesNotExist(key)
            raise ResourceUpdateConflict(key)
        self._name_twin(key, place, "changed")
        return read_as(type(resource), KeyValue(path, stored, 0, answer.revision, 0))

    @overload
    async def delete(self, kind: type[R], name: str, namespace: str = "", resource_version: str = "") -> R | None: ...
    @overload
    async def delete(
        self, kind: str, name: str, namespace: str = "", resource_version: str = ""
    ) -> Resource | None: ...
    async def delete(
        self, kind: type[R] | str, name: str, namespace: str = "", resource_version: str = ""
    ) -> R | Resource | None:
        """Delete and return an object (None: a damaged one); with a resource version only if it is still that one.

        An IPPool is disabled and its blocks' affinities are released first; a Node takes its endpoints, addresses
        and per-node configuration with it (spec/resources.md 6.1, 7.1). Raises `ResourceDoesNotExist`,
        `ResourceUpdateConflict`, or `OperationNotSupported` for what must stay."""
        key = possible(ResourceKey(kind_name(kind), name, namespace))
        await self._check_delete(key.kind, name)
        if key.kind == "IPPool":
            await self._retire_pool(name, resource_version)
            resource_version = ""
        if key.kind == "Node":
            await retire_node(self, name)
        place, path, compares = None, key_path(key).encode(), []
        if resource_version or key.kind in POLICY_KINDS:
            place, stored = await self._find(key)
            path = stored.key
        if resource_version:
            compares.append(Compare(path, Target.MOD_REVISION, checks.revision_of(resource_version)))
        answer = await self.datastore.txn(compares, [Delete(path)], [Get(path)])
        if not answer.responses[0]:
            raise ResourceDoesNotExist(key)
        if not answer.succeeded:
            raise ResourceUpdateConflict(key)
        self._name_twin(key, place, "deleted")
        return _try_read(answer.responses[0][0])

    async def apply(self, resource: R) -> R:
        """Create, or replace what is there. Raises what `create` and `replace` raise."""
        if checks.is_built_in(resource):
            raise checks.built_in_refusal("Update", "updated")
        filled = checks.with_defaults(checks.as_new(resource))
        key, named = key_of(filled), _named_key(resource)
        is_node = isinstance(filled, Node)
        found = await facts.read(self.datastore, filled, (key, named), initial=is_node)
        filled = checks.checked(filled, None, found.known)
        checks.require_for_create(filled)
        if is_node:
            await initialise.ensure_initialized(self.datastore, self.clock, known=found.initial)
        if found.places[key].found is not None:
            return await self._replace_at(resource, possible(named), found.places[named])
        try:
            return await self._store_new(filled, found.places[key])
        except ResourceAlreadyExists:
            return await self.replace(resource)

    async def replace(self, resource: R) -> R:
        """Write over what is there: its metadata stays, but labels and annotations are the new ones.

        A resource version in the input must be the stored one; without one, conflicts are retried."""
        if checks.is_built_in(resource):
            raise checks.built_in_refusal("Update", "updated")
        key = possible(_named_key(resource))
        return await self._replace_at(resource, key, await policy_names.find(self.datastore, key))

    async def _replace_at(self, resource: R, key: ResourceKey, place: Place) -> R:
        last: CalicoError | None = None
        for attempt in range(CONFLICT_TRIES):
            if attempt:
                await self.clock.sleep(CONFLICT_PAUSE_S)
                place = await policy_names.find(self.datastore, key)
            if place.found is None:
                raise ResourceDoesNotExist(key)
            current = read(place.found)
            given = resource.metadata.resource_version
            if given and given != current.metadata.resource_version:
                raise ResourceUpdateConflict(key_of(current))
            metadata = _replace(
                current.metadata, labels=resource.metadata.labels, annotations=resource.metadata.annotations
            )
            try:
                return await self._write_over(_replace(resource, metadata=metadata), place)
            except ResourceUpdateConflict as error:
                if given:
                    raise
                last = error
        raise CalicoError(f"failed to update the resource: {last}")

    async def ensure_initialized(self, version: str = "", cluster_type: str = "") -> ClusterInformation:
        """ClusterInformation and the fixed tiers are there (spec/datastore.md 6); returns the former."""
        return await initialise.ensure_initialized(self.datastore, self.clock, version, cluster_type)

    def _name_twin(self, key: ResourceKey, place: Place | None, participle: str) -> None:
        if place is not None and place.twin is not None:
            self.warn(
                f"{key}: another policy of this name is stored as {place.twin.name} by an older release: it stays as"
                f" it is and is enforced too; only the one stored as {key.name} was {participle}"
            )

    async def _check_delete(self, kind: str, name: str) -> None:
        if kind == "Profile" and name == BUILT_IN_PROFILE:
            raise checks.built_in_refusal("Delete", "deleted")
        if kind != "Tier":
            return
        if name in FIXED_TIERS:
            raise OperationNotSupported("Delete", name, f"Cannot delete {name} tier")
        policies = [Get(list_prefix(policies).encode(), prefix=True) for policies in POLICY_KINDS]
        answer = await self.datastore.txn([], policies)
        if any(_tier_of(kv) == name for kvs in answer.responses for kv in kvs):
            raise OperationNotSupported("delete", name, "Cannot delete a non-empty tier")

    async def _retire_pool(self, name: str, resource_version: str) -> None:
        from libcalico.ipam.service import IpamService

        place, stored = await self._find(ResourceKey("IPPool", name))
        pool = read_as(IPPool, stored)
        if resource_version and resource_version != pool.metadata.resource_version:
            raise ResourceUpdateConflict(key_of(pool))
        if not pool.spec.disabled:
            await self._write_over(_replace(pool, spec=_replace(pool.spec, disabled=True)), place)
            await self.clock.sleep(pool_rules.SETTLE_S)
        await IpamService(self.datastore, "", self.clock).release_pool_affinities(pool.spec.cidr)


def _named_key(resource: Resource) -> ResourceKey:
    """The key of the name that a user gives an object, which may be one that a policy is stored under."""
    metadata = resource.metadata
    name = metadata.name
    if isinstance(resource, WorkloadEndpoint) and not name:
        name = defaults.endpoint_name(resource)
    return ResourceKey(type(resource).__name__, name, metadata.namespace)


def _log_warning(text: str) -> None:
    import logging

    logging.getLogger(__name__).warning(text)


def _try_read(stored: KeyValue) -> Resource | None:
    try:
        return read(stored)
    except ParsingDatastoreEntry:
        return None


def _tier_of(stored: KeyValue) -> str:
    tier = codec.spec_member(stored.value, "tier")
    return tier if isinstance(tier, str) and tier else defaults.DEFAULT_TIER

"""First contact with a cluster: ClusterInformation and the fixed tiers (spec/datastore.md 6)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import msgspec

from libcalico.clock import Clock, rfc3339
from libcalico.datastore.contract import Compare, Datastore, Get, KeyValue, Put, Target
from libcalico.errors import CalicoError, ParsingDatastoreEntry, ResourceUpdateConflict
from libcalico.model import codec
from libcalico.model.base import Metadata
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.resources import ClusterInformation, ClusterInformationSpec, Resource, Tier, TierSpec
from libcalico.model.validation.objects import FIXED_TIERS

TRIES = 10
CONFLICT_PAUSE_S = 1.0
KEY = ResourceKey("ClusterInformation", "default")
TIER_KEYS = tuple(ResourceKey("Tier", name) for name in FIXED_TIERS)
KEYS = (KEY, *TIER_KEYS)

_replace = msgspec.structs.replace


def lookups() -> list[Get]:
    """The keys to read for `ensure_initialized`."""
    return [Get(_path(key)) for key in KEYS]


async def ensure_initialized(
    datastore: Datastore,
    clock: Clock,
    version: str = "",
    cluster_type: str = "",
    known: Sequence[tuple[KeyValue, ...]] | None = None,
) -> ClusterInformation:
    """Create what is missing, fill in what is empty; an explicit `datastoreReady: false` stays. Returns what is stored.

    `known` is what its `lookups` found, if they were made. One request reads everything, one more writes what is to be
    changed, if anything is. A damaged ClusterInformation is raised as `ParsingDatastoreEntry` after the tiers were
    created; `ResourceUpdateConflict` after ten conflicts with other writers."""
    if known is None:
        known = (await datastore.txn([], lookups())).responses
    for attempt in range(TRIES):
        if attempt > 1:  # the first conflict has brought the values of now
            await clock.sleep(CONFLICT_PAUSE_S)
        stored = [kvs[0] if kvs else None for kvs in known]
        damage: CalicoError | None = None
        writes: dict[ResourceKey, Resource] = {}
        try:
            current = _current(stored[0], clock)
            wanted = _replace(current, spec=_filled(current.spec, version, cluster_type))
            if stored[0] is None or wanted != current:
                writes[KEY] = wanted
        except ParsingDatastoreEntry as error:
            damage = error
        for key, tier in zip(TIER_KEYS, stored[1:], strict=True):
            if tier is None:
                writes[key] = _fixed_tier(key.name, clock)
        known = await _write(datastore, writes, dict(zip(KEYS, stored, strict=True)))
        if known is None:
            if damage is not None:
                raise damage
            return wanted
    raise ResourceUpdateConflict(KEY)


async def _write(
    datastore: Datastore, writes: Mapping[ResourceKey, Resource], stored: Mapping[ResourceKey, KeyValue | None]
) -> Sequence[tuple[KeyValue, ...]] | None:
    """Write over what was read. None when that is done, else what is stored now."""
    if not writes:
        return None
    revisions = {key: kv.mod_revision if kv is not None else 0 for key, kv in stored.items()}
    compares = [Compare(_path(key), Target.MOD_REVISION, revisions[key]) for key in writes]
    puts = [Put(_path(key), codec.encode(value)) for key, value in writes.items()]
    answer = await datastore.txn(compares, puts, lookups())
    return None if answer.succeeded else answer.responses


def _current(stored: KeyValue | None, clock: Clock) -> ClusterInformation:
    """The stored ClusterInformation, or an empty one that is new; raises `ParsingDatastoreEntry`."""
    if stored is None:
        return ClusterInformation(metadata=_new_metadata(KEY.name, clock))
    decoded = codec.decode(KEY, stored.value)
    assert isinstance(decoded, ClusterInformation)
    return _replace(decoded, kind="", api_version="")


def _filled(spec: ClusterInformationSpec, version: str, cluster_type: str) -> ClusterInformationSpec:
    types = [word for word in spec.cluster_type.split(",") if word]
    types += [word for word in cluster_type.split(",") if word and word not in types]
    return _replace(
        spec,
        cluster_guid=spec.cluster_guid or uuid.uuid4().hex,
        cluster_type=",".join(types),
        calico_version=version or spec.calico_version,
        datastore_ready=True if spec.datastore_ready is None else spec.datastore_ready,
    )


def _fixed_tier(name: str, clock: Clock) -> Tier:
    order, action = FIXED_TIERS[name]
    return Tier(metadata=_new_metadata(name, clock), spec=TierSpec(order=order, default_action=action))


def _path(key: ResourceKey) -> bytes:
    return key_path(key).encode()


def _new_metadata(name: str, clock: Clock) -> Metadata:
    return Metadata(name=name, uid=str(uuid.uuid4()), creation_timestamp=rfc3339(clock.now()))

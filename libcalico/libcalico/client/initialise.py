"""First contact with a cluster: ClusterInformation and the fixed tiers (spec/datastore.md 6)."""

from __future__ import annotations

import uuid

import msgspec

from libcalico.clock import Clock, rfc3339
from libcalico.datastore.contract import Compare, Datastore, Put, Target
from libcalico.errors import CalicoError, DatastoreError, ResourceUpdateConflict
from libcalico.model import codec
from libcalico.model.base import Metadata
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.resources import ClusterInformation, ClusterInformationSpec, Tier, TierSpec
from libcalico.model.validation.objects import FIXED_TIERS

TRIES = 10
CONFLICT_PAUSE_S = 1.0
KEY = ResourceKey("ClusterInformation", "default")

_replace = msgspec.structs.replace


async def ensure_initialized(datastore: Datastore, clock: Clock, version: str = "", cluster_type: str = "") -> None:
    """Create what is missing, fill in what is empty; an explicit `datastoreReady: false` stays. All steps are tried,
    then the first error is raised; a datastore that cannot be reached is waited for once, not at each step."""
    first: CalicoError | None = None
    try:
        await _ensure_cluster_information(datastore, clock, version, cluster_type)
    except DatastoreError:
        raise
    except CalicoError as error:
        first = error
    for name, (order, action) in FIXED_TIERS.items():
        try:
            await _create_tier(datastore, clock, name, order, action)
        except DatastoreError:
            raise
        except CalicoError as error:
            first = first or error
    if first is not None:
        raise first


async def _ensure_cluster_information(datastore: Datastore, clock: Clock, version: str, cluster_type: str) -> None:
    path = key_path(KEY).encode()
    for attempt in range(TRIES):
        if attempt:
            await clock.sleep(CONFLICT_PAUSE_S)
        stored = await datastore.get(path)
        if stored is None:
            current = ClusterInformation(metadata=_new_metadata("default", clock))
        else:
            found = codec.decode(KEY, stored.value)
            assert isinstance(found, ClusterInformation)
            current = _replace(found, kind="", api_version="")
        wanted = _replace(current, spec=_filled(current.spec, version, cluster_type))
        if stored is not None and wanted == current:
            return
        revision = 0 if stored is None else stored.mod_revision
        compare = Compare(path, Target.MOD_REVISION, revision)
        if (await datastore.txn([compare], [Put(path, codec.encode(wanted))])).succeeded:
            return
    raise ResourceUpdateConflict(KEY)


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


async def _create_tier(datastore: Datastore, clock: Clock, name: str, order: int, action: str) -> None:
    path = key_path(ResourceKey("Tier", name)).encode()
    tier = Tier(metadata=_new_metadata(name, clock), spec=TierSpec(order=order, default_action=action))
    await datastore.txn([Compare(path, Target.VERSION, 0)], [Put(path, codec.encode(tier))])


def _new_metadata(name: str, clock: Clock) -> Metadata:
    return Metadata(name=name, uid=str(uuid.uuid4()), creation_timestamp=rfc3339(clock.now()))

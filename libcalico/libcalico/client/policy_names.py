"""Under which key a policy is stored: its name, or `default.` and its name (spec/datastore.md 1.2).

Upstream 3.14 to 3.31 stores the policy `web` of the default tier under `default.web`, 3.32 and later under `web`. A
policy is its name, not its key: by name N an operation means the object under N, else the one under `default.N`
if the read rules give that object the name N. A write goes to the key where the object was found and keeps its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from libcalico.datastore.contract import Compare, Datastore, Get, KeyValue, Target
from libcalico.errors import ParsingDatastoreEntry
from libcalico.model import codec, defaults
from libcalico.model.keys import ResourceKey, key_path, parse_key
from libcalico.model.resources import Resource

POLICY_KINDS = ("NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy")
OLD_PREFIX = "default."

_replace = msgspec.structs.replace


class Place(NamedTuple):
    """Where an object of that name is. `twin`: a second one of the same name stands under the old key. `compares` hold
    as long as an object that is not there is still not there (an existing object's own revision is not among them)."""

    found: KeyValue | None
    twin: ResourceKey | None = None
    compares: tuple[Compare, ...] = ()


def old_key(key: ResourceKey) -> ResourceKey | None:
    """The key that an older release stores the object of this name under; None for kinds that have but one."""
    if key.kind not in POLICY_KINDS or not key.name:
        return None
    return key._replace(name=OLD_PREFIX + key.name)


def lookups(key: ResourceKey) -> list[Get]:
    """The keys to read for `place_of`."""
    older = old_key(key)
    return [Get(_path(one)) for one in ((key,) if older is None else (key, older))]


def place_of(key: ResourceKey, answers: Sequence[tuple[KeyValue, ...]]) -> Place:
    """Where the object of this name is, whichever key it is stored under, from what its `lookups` found."""
    older = old_key(key)
    own = answers[0][0] if answers[0] else None
    if older is None:
        return Place(own) if own is not None else unseen(key)
    old = answers[1][0] if answers[1] else None
    same = old is not None and _name_of(old) == key.name
    if own is not None:
        return Place(own, older if same else None)
    compares = (
        Compare(_path(key), Target.MOD_REVISION, 0),
        Compare(_path(older), Target.MOD_REVISION, 0 if old is None else old.mod_revision),
    )
    return Place(old if same else None, None, compares)


def unseen(key: ResourceKey) -> Place:
    """The place of an object of a kind with one key that nobody has read: taken as free."""
    return Place(None, None, (Compare(_path(key), Target.VERSION, 0),))


async def find(datastore: Datastore, key: ResourceKey) -> Place:
    """Where the object of this name is, whichever key it is stored under, with one request."""
    if old_key(key) is None:
        stored = await datastore.get(_path(key))
        return unseen(key) if stored is None else Place(stored)
    return place_of(key, (await datastore.txn([], lookups(key))).responses)


def _path(key: ResourceKey) -> bytes:
    """Nothing is stored under a name that is no Unicode, and validation refuses it: reading it is no error."""
    return key_path(key).encode("utf-8", "surrogatepass")


def _name_of(stored: KeyValue) -> str:
    """The name that the read rules give a stored policy; empty for one that cannot be read."""
    try:
        key = parse_key(stored.key)
        return defaults.after_read(codec.decode(key, stored.value)).metadata.name if key is not None else ""
    except ParsingDatastoreEntry:
        return ""


def in_stored_form(resource: Resource, stored: KeyValue) -> Resource:
    """An object to be written over a stored one: a policy keeps the name and the annotation that it is stored with.

    One that would get another name by the read rules, since it leaves the default tier or comes into it, gets the
    annotation that keeps its name: a policy that moves to another tier is still the same policy."""
    filled = defaults.for_storage(resource)
    if type(resource).__name__ not in POLICY_KINDS:
        return filled
    key = parse_key(stored.key)
    assert isinstance(key, ResourceKey)
    former = codec.decode(key, stored.value)
    annotations = {**resource.metadata.annotations}
    annotations.pop(defaults.METADATA_ANNOTATION, None)
    if defaults.METADATA_ANNOTATION in former.metadata.annotations:
        annotations[defaults.METADATA_ANNOTATION] = former.metadata.annotations[defaults.METADATA_ANNOTATION]
    kept = _replace(filled, metadata=_replace(filled.metadata, name=key.name, annotations=annotations))
    name = defaults.after_read(former).metadata.name
    if defaults.after_read(kept).metadata.name == name:
        return kept
    annotations[defaults.METADATA_ANNOTATION] = defaults.name_note(name)
    return _replace(kept, metadata=_replace(kept.metadata, annotations=annotations))

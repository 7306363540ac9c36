"""Reading typed v3 objects: what `get` and `list` need, which is a part of what writing does.

A program that only reads loads neither validation nor defaults for writing: `objects` puts the writes on top.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar, overload

from libcalico.client import policy_names
from libcalico.client.policy_names import Place
from libcalico.conventions import BUILT_IN_PROFILE
from libcalico.datastore.contract import Datastore, KeyValue
from libcalico.errors import BadData, ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.model import codec, defaults
from libcalico.model.base import API_VERSION, Metadata
from libcalico.model.keys import ResourceKey, key_path, list_prefix, parse_key, parse_path
from libcalico.model.kinds import kind_of_word
from libcalico.model.resources import STRUCTS, Profile, ProfileSpec, Resource, Rule

R = TypeVar("R", bound=Resource)


class ResourceList(NamedTuple, Generic[R]):
    """Objects in key order, read at `revision`. `unreadable` names the stored ones that cannot be read."""

    items: tuple[R, ...]
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


def kind_name(kind: type[R] | str) -> str:
    """The name of a kind, given as its struct, as its name or by a word of the command line (`pool`, `ippools`).

    Raises `BadData`, also for kinds that are stored but have no struct here."""
    word = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    name = word if word in STRUCTS else kind_of_word(word)
    if name not in STRUCTS:
        raise no_kind(kind)
    return name


def no_kind(kind: object) -> BadData:
    """The error for a kind that is not there."""
    return BadData(f"there is no kind {kind!r}: the kinds are {', '.join(sorted(STRUCTS))}")


class AsyncReader:
    """Reads the objects of a datastore. A kind is given as its struct, `IPPool`, and what comes back is then known to
    be one; as text (`"IPPool"`, `"pool"`) it is any `Resource`."""

    def __init__(self, datastore: Datastore) -> None:
        self.datastore = datastore

    @overload
    async def get(self, kind: type[R], name: str, namespace: str = "") -> R: ...
    @overload
    async def get(self, kind: str, name: str, namespace: str = "") -> Resource: ...
    async def get(self, kind: type[R] | str, name: str, namespace: str = "") -> R | Resource:
        """One object; raises `ResourceDoesNotExist`, or `ParsingDatastoreEntry` for a damaged one."""
        key = ResourceKey(kind_name(kind), name, namespace)
        if key.kind == "Profile" and name == BUILT_IN_PROFILE:
            return built_in_profile()
        return read((await self._find(key))[1])

    @overload
    async def list(self, kind: type[R], namespace: str = "", name_prefix: str = "") -> ResourceList[R]: ...
    @overload
    async def list(self, kind: str, namespace: str = "", name_prefix: str = "") -> ResourceList[Resource]: ...
    async def list(
        self, kind: type[R] | str, namespace: str = "", name_prefix: str = ""
    ) -> ResourceList[R] | ResourceList[Resource]:
        """All objects of a kind, of one namespace, or whose names begin so; damaged ones are only named."""
        name = kind_name(kind)
        result = await self.datastore.range((list_prefix(name, namespace) + name_prefix).encode())
        items: list[Any] = []
        unreadable = []
        for kv in result.kvs:
            try:
                items += _read_of_kind(kv, name)
            except (ParsingDatastoreEntry, UnicodeDecodeError):
                unreadable.append(kv.key.decode("utf-8", "backslashreplace"))
        if name == "Profile" and not name_prefix:
            items.append(built_in_profile())
            items.sort(key=lambda item: item.metadata.name)
        elif name == "Tier":
            items = [defaults.before_write(item) for item in items]  # a stored tier without order has the default one
            items.sort(key=lambda item: (item.spec.order, item.metadata.name))
        return ResourceList(tuple(items), result.revision, tuple(unreadable))

    async def _find(self, key: ResourceKey) -> tuple[Place, KeyValue]:
        """Where the object of this name is, and what is stored there; raises `ResourceDoesNotExist`."""
        place = await policy_names.find(self.datastore, possible(key))
        if place.found is None:
            raise ResourceDoesNotExist(key)
        return place, place.found


def possible(key: ResourceKey) -> ResourceKey:
    """The key, if an object can have it: `a/b` names no Profile, whatever is stored under that path."""
    if parse_path(key_path(key)) != key:
        raise ResourceDoesNotExist(key)
    return key


def read(stored: KeyValue) -> Resource:
    """What is stored, as a client reads it; raises `ParsingDatastoreEntry`."""
    key = parse_key(stored.key)
    assert isinstance(key, ResourceKey)
    decoded = codec.decode(key, stored.value, stored.mod_revision)
    return codec.parsed(key, stored.value, lambda: defaults.after_read(decoded))


def read_as(kind: type[R], stored: KeyValue) -> R:
    """The object; its kind is that of its key."""
    resource = read(stored)
    assert isinstance(resource, kind)
    return resource


def _read_of_kind(stored: KeyValue, kind: str) -> list[Resource]:
    """The object in a list; an empty one when the key is not one of the kind's."""
    key = parse_path(stored.key.decode())
    return [read(stored)] if isinstance(key, ResourceKey) and key.kind == kind else []

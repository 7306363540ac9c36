"""Objects to bytes and back, exactly as upstream's Go clients store them (spec/datastore.md 2).

Compact JSON, members in Go's order, map keys sorted, empty members left out, `<`, `>`, `&` escaped; in rules of
policies and profiles `source` and `destination` are written even when empty.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from typing import Any, TypeVar

import msgspec

from libcalico.errors import BadData, ParsingDatastoreEntry
from libcalico.model.base import API_VERSION, Metadata
from libcalico.model.felix_fields import ORDER
from libcalico.model.keys import Key, ResourceKey, key_path
from libcalico.model.numbers import json_number, plain
from libcalico.model.resources import STRUCTS, Resource

RULE_ORDER = {
    name: place
    for place, name in enumerate(
        (
            "action",
            "ipVersion",
            "protocol",
            "icmp",
            "notProtocol",
            "notICMP",
            "source",
            "destination",
            "http",
            "metadata",
        )
    )
}
RULE_KINDS = ("NetworkPolicy", "GlobalNetworkPolicy", "Profile")
LIST_MEMBERS = frozenset(("apiversion", "kind", "metadata", "items"))
LIST_METADATA = frozenset(("selflink", "resourceversion", "continue", "remainingitemcount"))
ALWAYS_STATUS = ("Node", "Tier")
_ENCODER = msgspec.json.Encoder()
T = TypeVar("T")


@functools.cache
def _decoder(kind: str) -> msgspec.json.Decoder[Resource]:
    """A kind's decoder, made when the first of its objects is read: a program reads a few kinds of them."""
    return msgspec.json.Decoder(STRUCTS[kind])


def parsed(key: Key, value: bytes, read: Callable[[], T]) -> T:
    """What `read` makes of a stored value. Whatever it raises concerns this value alone: `ParsingDatastoreEntry`."""
    try:
        return read()
    except Exception as error:
        raise _unreadable(key, value, error) from None


def _unreadable(key: Key, value: bytes, error: Exception) -> ParsingDatastoreEntry:
    known = isinstance(error, (BadData, ValueError, RecursionError))  # msgspec's are ValueErrors
    cause = error if known else f"it has another shape ({type(error).__name__}: {error})"
    return ParsingDatastoreEntry(key_path(key), value, cause)


def decode(key: Key, value: bytes, revision: int = 0) -> Resource:
    """The object stored under a v3 key, which names it whatever its metadata says. `revision` becomes its resource
    version.

    Raises `ParsingDatastoreEntry` when the bytes are not an object of that kind."""
    assert isinstance(key, ResourceKey)
    try:
        found = _decode_exactly(key.kind, value)
        if found is None:
            from libcalico.model.lenient import fold_struct  # most programs never read what needs it

            found = fold_struct(STRUCTS[key.kind], msgspec.json.decode(value), strict=False)
    except Exception as error:  # as `parsed` does: this is the place that every object of every agent passes
        raise _unreadable(key, value, error) from None
    metadata = found.metadata
    if revision or metadata.resource_version or metadata.self_link or _is_misnamed(metadata, key):
        metadata = msgspec.structs.replace(
            metadata,
            name=key.name,
            namespace=key.namespace,
            resource_version=str(revision) if revision else "",
            self_link="",
        )
    elif found.kind == key.kind and found.api_version == API_VERSION:
        return found
    return msgspec.structs.replace(found, kind=key.kind, api_version=API_VERSION, metadata=metadata)


def _is_misnamed(metadata: Metadata, key: ResourceKey) -> bool:
    return metadata.name != key.name or metadata.namespace != key.namespace


def spec_member(value: bytes, name: str) -> Any:
    """A member of a stored object's spec, for kinds that have no struct here; None when it has none."""
    try:
        return msgspec.json.decode(value)["spec"].get(name)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return None


def _decode_exactly(kind: str, value: bytes) -> Resource | None:
    """The fast way; None when the value must be read as tolerantly as Go does. A FelixConfiguration always must: its
    spec is a table of names here, no struct that refuses."""
    try:
        return None if kind == "FelixConfiguration" else _decoder(kind).decode(value)
    except msgspec.ValidationError:
        return None


def encode(resource: Resource) -> bytes:
    """The bytes to store: kind and version forced, resource version never written."""
    bare = msgspec.structs.replace(resource.metadata, resource_version="", self_link="")
    tree = to_json(msgspec.structs.replace(resource, metadata=bare))
    spec = tree.get("spec", {})
    for rules in (spec.get("ingress"), spec.get("egress")):
        if rules and tree["kind"] in RULE_KINDS:
            rules[:] = [_stored_rule(rule) for rule in rules]
    order = spec.get("order")
    if isinstance(order, float):
        spec["order"] = msgspec.Raw(json_number(order).encode())
    return escape(_ENCODER.encode(tree))


def _stored_rule(rule: dict[str, Any]) -> dict[str, Any]:
    whole = {"source": {}, "destination": {}, **rule}
    return {name: whole[name] for name in sorted(whole, key=RULE_ORDER.__getitem__)}


def escape(text: bytes) -> bytes:
    """JSON bytes with the characters escaped that Go escapes for the sake of HTML."""
    for raw, escaped in (
        (b"<", b"\\u003c"),
        (b">", b"\\u003e"),
        (b"&", b"\\u0026"),
        (b"\xe2\x80\xa8", b"\\u2028"),
        (b"\xe2\x80\xa9", b"\\u2029"),
    ):
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def to_json(resource: Resource) -> dict[str, Any]:
    """The object JSON-shaped, members in Go's order, as `get -o json` shows it."""
    tree = msgspec.to_builtins(resource)
    kind = type(resource).__name__
    shown = {"kind": kind, "apiVersion": API_VERSION, "metadata": _sorted_maps(tree.get("metadata", {}))}
    shown["metadata"] = _metadata_order(shown["metadata"])
    spec = tree.get("spec", {})
    if kind == "FelixConfiguration":
        spec = {name: spec[name] for name in sorted(spec, key=lambda name: ORDER.get(name, len(ORDER)))}
    shown["spec"] = _sorted_maps(spec)
    if kind in RULE_KINDS:
        for rule in (*shown["spec"].get("ingress", ()), *shown["spec"].get("egress", ())):
            for side in ("source", "destination"):
                if not rule.get(side, True):
                    del rule[side]
    status = tree.get("status")
    if status is not None or kind in ALWAYS_STATUS:
        shown["status"] = status or {}
    return shown


_METADATA_ORDER = {field.encode_name: place for place, field in enumerate(msgspec.structs.fields(Metadata))}


def _metadata_order(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in sorted(metadata, key=_METADATA_ORDER.__getitem__)}


def _sorted_maps(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        names = sorted(value) if name in ("labels", "annotations", "labelsToApply", "bpfLogFilters") else list(value)
        return {key: _sorted_maps(value[key], key) for key in names}
    if isinstance(value, list):
        return [_sorted_maps(entry) for entry in value]
    return plain(value) if isinstance(value, float) else value


def from_input(document: Any, kinds: Container[str] = STRUCTS) -> Resource:
    """The object that a user's document describes, strictly read; `kinds` are those that it may be of.

    Raises `BadData` with upstream's words: unknown kind or version, unknown member, wrong type."""
    from libcalico.model.lenient import Place, WrongText, WrongType, fold_struct

    kind = document.get("kind") if isinstance(document, dict) else None
    version = document.get("apiVersion") if isinstance(document, dict) else None
    if isinstance(document, dict) and not kind:
        raise WrongText("json: cannot unmarshal object into Go value of type []unstructured.Unstructured")
    for name, value in (("kind", kind), ("apiVersion", version)):
        if isinstance(value, (dict, list)):
            raise WrongType(Place("TypeMeta", name), "string", value)
    if version != API_VERSION or not isinstance(kind, str) or kind not in kinds:
        raise BadData(f"unknown resource type ({_word(kind)}) and/or version ({_word(version)})")
    found: Resource = fold_struct(STRUCTS[kind], document, strict=True)
    metadata = msgspec.structs.replace(found.metadata, self_link="")
    return msgspec.structs.replace(found, kind=kind, api_version=API_VERSION, metadata=metadata)


def check_list(document: dict[str, Any], kinds: Container[str] = STRUCTS) -> None:
    """Refuse a `...List` of a user's file whose kind, version or members are none of ours; its items are not read."""
    from libcalico.model.lenient import Place, UnknownField, WrongType

    kind, version = document.get("kind"), document.get("apiVersion")
    if version != API_VERSION or not isinstance(kind, str) or kind.removesuffix("List") not in kinds:
        raise BadData(f"unknown resource type ({_word(kind)}) and/or version ({_word(version)})")
    for name in sorted(document):
        if name.lower() not in LIST_MEMBERS:
            raise UnknownField(name)
    metadata = document.get("metadata")
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise WrongType(Place(kind, "metadata"), "v1.ListMeta", metadata)
    for name in sorted(metadata):
        if name.lower() not in LIST_METADATA:
            raise UnknownField(name)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""

"""patch and label: changing part of one object (spec/calicoctl.md 5)."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from calicoctl import session
from calicoctl.failures import CommandFailed, failed_by
from calicoctl.words import kind_of, namespace_for
from libcalico.client import Client
from libcalico.errors import BadData, CalicoError, ResourceDoesNotExist
from libcalico.model import ResourceKey, from_input, to_json
from libcalico.model.fold import UnknownField


def patch(arguments: dict[str, Any]) -> int:
    """Merge a JSON patch into the stored object."""
    kind = kind_of(arguments["<KIND>"])
    namespace = namespace_for(kind, "", arguments)
    with session.connect(arguments) as client:
        session.check_version(client, arguments)
        try:
            _patch_one(client, kind, arguments["<NAME>"], namespace, arguments)
        except UnknownField as error:
            raise CommandFailed(str(error)) from None
        except CalicoError as error:
            raise CommandFailed(f"hit error: {error}") from None
    print(f"Successfully patched 1 '{kind}' resource")
    return 0


def _patch_one(client: Client, kind: str, name: str, namespace: str, arguments: dict[str, Any]) -> None:
    current = client.get(kind, name, namespace)
    try:
        change = json.loads(arguments["--patch"])
    except ValueError:
        raise BadData("performing strategic merge patch: invalid JSON document") from None
    document = to_json(current)
    if arguments["--type"] == "json":
        patched = apply_operations(document, change)
    elif isinstance(change, dict):
        patched = merge(document, change)
    else:
        raise BadData("performing strategic merge patch: invalid JSON document")
    try:
        resource = from_input(patched)
    except UnknownField:
        raise
    except BadData as error:
        raise BadData(
            f"creating resource from patched data: error unmarshaling JSON: while decoding JSON: json: {error}"
        ) from None
    try:
        if kind == "ClusterInformation":
            raise BadData("operation apply or replace is not supported on ClusterInformation")
        if resource.metadata.name != current.metadata.name:
            raise ResourceDoesNotExist(ResourceKey(kind, resource.metadata.name, namespace))
        client.update(msgspec.structs.replace(resource, metadata=_kept_metadata(resource, current)))
    except CalicoError as error:
        raise BadData(f"updating existing resource: {error}") from None


def _kept_metadata(resource: Any, current: Any) -> Any:
    metadata = resource.metadata
    return msgspec.structs.replace(current.metadata, labels=metadata.labels, annotations=metadata.annotations)


def merge(target: Any, change: Any) -> Any:
    """RFC 7386: objects are merged, null removes, anything else replaces."""
    if not isinstance(change, dict):
        return change
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def apply_operations(document: Any, operations: Any) -> Any:
    """RFC 6902 with the operations add, replace and remove."""
    if not isinstance(operations, list):
        raise BadData("a json patch is a list of operations")
    for operation in operations:
        if not isinstance(operation, dict) or operation.get("op") not in ("add", "replace", "remove"):
            raise BadData(f"json patch operation {operation!r}: op must be add, replace or remove")
        parts = [part.replace("~1", "/").replace("~0", "~") for part in str(operation.get("path", "")).split("/")[1:]]
        if not parts:
            raise BadData("json patch: the whole document cannot be replaced")
        document = _changed(document, parts, operation)
    return document


def _changed(target: Any, parts: list[str], operation: dict[str, Any]) -> Any:
    name, rest = parts[0], parts[1:]
    copy: Any = list(target) if isinstance(target, list) else dict(target or {})
    place: Any = name
    if isinstance(copy, list):
        place = len(copy) if name == "-" else int(name) if name.isdigit() else -1
        if not 0 <= place <= len(copy):
            raise BadData(f"json patch: there is no entry {name}")
    if rest:
        inner = copy[place] if isinstance(copy, list) else copy.get(place)
        copy[place] = _changed(inner, rest, operation)
    elif operation["op"] == "remove":
        if (isinstance(copy, dict) and place not in copy) or (isinstance(copy, list) and place >= len(copy)):
            raise BadData(f"json patch: there is no {name} to remove")
        del copy[place]
    elif isinstance(copy, list) and operation["op"] == "add":
        copy.insert(place, operation.get("value"))
    else:
        copy[place] = operation.get("value")
    return copy


def label(arguments: dict[str, Any]) -> int:
    """Add, change or remove one label."""
    word, name = arguments["<KIND>"], arguments["<NAME>"]
    try:
        kind = kind_of(word)
    except BadData as error:
        raise failed_by(error, f"failed to get {word} {name}, error {error}") from None
    namespace = namespace_for(kind, "", arguments)
    key, equals, value = arguments["<LABEL>"].partition("=")
    if not arguments["--remove"] and not equals:
        raise CommandFailed(f"invalid label {arguments['<LABEL>']}")
    with session.connect(arguments) as client:
        session.check_version(client, arguments)
        try:
            current = client.get(kind, name, namespace)
        except ResourceDoesNotExist:
            raise CommandFailed(f"{word} {name} not found") from None
        labels, sentence = _changed_labels(dict(current.metadata.labels), key, value, word, name, arguments)
        changed = msgspec.structs.replace(current.metadata, labels=labels)
        try:
            if kind == "ClusterInformation":
                raise BadData("operation apply or replace is not supported on ClusterInformation")
            client.update(msgspec.structs.replace(current, metadata=changed))
        except CalicoError:
            print(f"failed to update {word} {name}, label not changed", file=sys.stderr)
            return 1
    print(sentence)
    return 0


def _changed_labels(
    labels: dict[str, str], key: str, value: str, word: str, name: str, arguments: dict[str, Any]
) -> tuple[dict[str, str], str]:
    if arguments["--remove"]:
        if key not in labels:
            raise CommandFailed(f"cannot remove label of {word} {name}, key {key} does not exist")
        del labels[key]
        return labels, f"Successfully removed label {key} from {word} {name}"
    former = labels.get(key)
    if former is not None and former != value and not arguments["--overwrite"]:
        raise CommandFailed(
            f"failed to update label of {word} {name}, key {key} is already present."
            " please use '--overwrite' to set a new value"
        )
    labels[key] = value
    verb = "set" if former is None else "updated"
    return labels, f"Successfully {verb} label {key} on {word} {name}"

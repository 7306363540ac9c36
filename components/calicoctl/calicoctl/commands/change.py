"""patch and label: changing part of one object (spec/calicoctl.md 5)."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from calicoctl import cluster
from calicoctl.failures import CommandFailed, failed_by
from calicoctl.operands import kind_of, namespace_for, refuse_read_only
from calicoctl.session import Session
from libcalico.errors import BadData, CalicoError, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.manifest.kinds import TYPED
from libcalico.model import ResourceKey, from_input, to_json
from libcalico.model.lenient import UnknownField
from libcalico.text import shown


def patch(arguments: dict[str, Any]) -> int:
    """Merge a JSON patch into the stored object."""
    kind = kind_of(arguments["<KIND>"])
    namespace = namespace_for(kind, "", arguments)
    with cluster.connect(arguments) as client:
        try:
            _patch_one(client, kind, arguments["<NAME>"], namespace, arguments)
        except UnknownField as error:
            raise CommandFailed(str(error)) from None
        except CalicoError as error:
            raise failed_by(error, f"hit error: {error}") from None
    print(f"Successfully patched 1 '{kind}' resource")
    return 0


def _patch_one(client: Session, kind: str, name: str, namespace: str, arguments: dict[str, Any]) -> None:
    current = client.get(kind, name, namespace)
    try:
        change = json.loads(arguments["--patch"], parse_constant=_no_number, parse_float=_number, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise _invalid_patch(f"the patch is no JSON: {error}") from None
    document = to_json(current)
    if arguments["--type"] == "json":
        patched = apply_operations(document, change)
    elif isinstance(change, dict):
        patched = merge(document, change)
    else:
        raise _invalid_patch('the patch must be an object, such as {"metadata": {"labels": {"a": "b"}}}')
    try:
        resource = from_input(patched, TYPED)
    except UnknownField:
        raise
    except BadData as error:
        raise BadData(
            f"creating resource from patched data: error unmarshaling JSON: while decoding JSON: json: {error}"
        ) from None
    try:
        refuse_read_only(kind, name, namespace, "apply or replace")
        if resource.metadata.name != current.metadata.name:
            raise ResourceDoesNotExist(ResourceKey(kind, resource.metadata.name, namespace))
        if resource.metadata.resource_version not in ("", current.metadata.resource_version):
            raise ResourceUpdateConflict(ResourceKey(kind, name, namespace))
        client.update(msgspec.structs.replace(resource, metadata=_kept_metadata(resource, current)), under=name)
    except CalicoError as error:
        raise BadData(f"updating existing resource: {error}") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> int | float:
    """A number within Go's range; a whole one beyond 64 bits becomes a float, as in Go."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]}{'...' if text[20:] else ''} is too large")
    return int(text) if text.lstrip("-").isdigit() and abs(value) < 2.0**63 else value


def _invalid_patch(reason: str) -> BadData:
    error = BadData("performing strategic merge patch: invalid JSON document")
    error.add_note(reason)
    return error


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


def apply_operations(document: dict[str, Any], operations: Any) -> Any:
    """RFC 6902, by the library `jsonpatch`. Labels and annotations, which are not shown when there are none, can be
    added to all the same. Raises `BadData`."""
    import jsonpatch
    import jsonpointer

    if not isinstance(operations, list):
        raise BadData("a json patch is a list of operations")
    target = {**document, "metadata": {"labels": {}, "annotations": {}, **document["metadata"]}}
    for operation in operations:
        path = operation.get("path") if isinstance(operation, dict) else None
        if not isinstance(path, str) or not path.startswith("/"):
            raise BadData(f"json patch: path {path!r} must be text that begins with '/': the whole cannot be replaced")
        try:
            target = jsonpatch.apply_patch(target, [operation])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
            raise BadData(f"json patch: {shown(path)}: {' '.join(str(error).split())}") from None
        except (LookupError, TypeError, ValueError, AttributeError):  # what the library does not check
            raise BadData(f"json patch: {shown(path)}: there is nothing that could be changed like this") from None
    return target


def label(arguments: dict[str, Any]) -> int:
    """Add, change or remove one label."""
    word, name = arguments["<KIND>"], arguments["<NAME>"]
    try:
        kind = kind_of(word)
    except BadData as error:
        raise failed_by(error, f"failed to get {word} {name}, error {error}") from None
    namespace = namespace_for(kind, "", arguments)
    key, value = _label(arguments)
    with cluster.connect(arguments) as client:
        try:
            current = client.get(kind, name, namespace)
        except ResourceDoesNotExist:
            raise CommandFailed(f"{word} {name} not found") from None
        labels, sentence = _changed_labels(dict(current.metadata.labels), key, value, word, name, arguments)
        changed = msgspec.structs.replace(current.metadata, labels=labels)
        try:
            refuse_read_only(kind, name, namespace, "apply or replace")
            client.update(msgspec.structs.replace(current, metadata=changed), under=name)
        except CalicoError as error:
            failure = failed_by(error, f"failed to update {word} {name}, label not changed")
            failure.add_note(str(error))
            raise failure from None
    print(sentence)
    return 0


def _label(arguments: dict[str, Any]) -> tuple[str, str]:
    """Key and value to set; the whole word is the key of a label to remove."""
    text = arguments["<LABEL>"]
    if arguments["--remove"]:
        return text, ""
    if text.count("=") != 1:
        failure = CommandFailed(f"invalid label {text}")
        failure.add_note("write key=value, or key --remove")
        raise failure
    key, _, value = text.partition("=")
    return key, value


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

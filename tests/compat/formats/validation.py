"""`validation.jsonl`: one object a line, accepted or refused by upstream (vectors/VALIDATION.md).

Each case goes the way of `calicoctl create`: file text, kind, namespace, client, store in memory. A case has one right
answer, or two: that of the recorded release and that of the `next` one. One of them must be met whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from calicoctl.operands import namespace_for, refuse_read_only
from libcalico.client.checks import as_new
from libcalico.client.initialise import ensure_initialized
from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import CalicoError, OperationNotSupported, ValidationError
from libcalico.manifest.yaml_input import load_objects
from libcalico.model import ClusterInformation, Resource, from_input
from libcalico.model.kinds import KINDS
from libcalico.model.resources import STRUCTS
from tests.compat.contract import Options, Result, Shape, json_lines, judged, show, unknown_members
from tests.compat.error_fields import missing_fields
from tests.compat.formats.resources import json_text

STANDING_FIELDS = ("uid", "creationTimestamp")
ANSWER: dict[str, Shape] = dict.fromkeys(
    ("valid", "error", "stage", "fields", "type", "key", "stored", "error~", "unstable")
)
CASE: Shape = {
    **ANSWER, "id": None, "note": None, "source": None, "decided": None, "op": None, "via": None, "given": None,
    "resource": None, "raw": None, "next": ANSWER, "ours": {**ANSWER, "next": ANSWER},
}  # fmt: skip
OPERATIONS = ("create", "apply", "replace", "delete", "client")


def claims(_path: Path, head: bytes) -> bool:
    """Lines with `id`, `valid` and `stage`."""
    first = head.split(b"\n", 1)[0]
    return b'"id"' in first and b'"valid"' in first and b'"stage"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every line."""
    with asyncio.Runner() as runner:
        for place, case, problem in json_lines(path):
            name = f"{case['id']} {case['note']}" if "id" in case and "note" in case else place
            if options.only not in name:
                continue
            skipped = "" if problem else _foreign_kind(case)
            if problem:
                yield Result(name, (problem,))
            elif skipped:
                yield Result(name, skipped=skipped)
            else:
                yield judged(name, lambda case=case: runner.run(_play(case)))  # type: ignore[misc]


def _foreign_kind(case: dict[str, Any]) -> str:
    for document in [case.get("resource"), *case.get("given", ()), *_raw_objects(case.get("raw", ""))]:
        kind = document.get("kind") if isinstance(document, dict) else None
        if isinstance(kind, str) and kind in KINDS and kind not in STRUCTS:
            return f"needs {kind}"
    return ""


def _raw_objects(text: str) -> list[Any]:
    try:
        return load_objects(text)
    except CalicoError:
        return []


def answers(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The right answers: the case, and the case with `next` put over it; `ours` is put over it before."""
    case = {**case, **case.get("ours", {})}
    later = case.get("next")
    if not later:
        return [case]
    replaced = {"fields", "type"} if {"fields", "type"} & later.keys() else set()
    return [case, {**{name: value for name, value in case.items() if name not in replaced}, **later}]


async def _play(case: dict[str, Any]) -> list[str]:
    found = unknown_members(case, CASE)
    operation = case.get("op", "create")
    if operation not in OPERATIONS or case.get("via", "client") != "client":
        return [*found, f"unknown op {operation!r} or via {case.get('via')!r}"]
    store = MemoryDatastore()
    client = AsyncClient(store)
    await ensure_initialized(store, SystemClock())
    for document in case.get("given", ()):
        await client.create(as_new(_placed(from_input(document))))
    text = case["raw"] if "raw" in case else json_text(case["resource"])
    error: CalicoError | None = None
    try:
        await _write(client, case, text)
    except CalicoError as refusal:
        error = refusal
    stored = {kv.key.decode(): kv.value for kv in (await store.range(b"/calico/")).kvs}
    judgements = [_differences(answer, error, stored) for answer in answers(case)]
    return found if [] in judgements else found + [text for one in judgements for text in one]


def _differences(answer: dict[str, Any], error: CalicoError | None, stored: dict[str, bytes]) -> list[str]:
    """Against one answer."""
    if "error~" in answer:
        text = str(error).lower()
        lacking = [word for word in answer["error~"] if word.lower() not in text]
        return (
            ["accepted, but it is not valid"] if error is None else [f"error {text!r} lacks {lacking}"] * bool(lacking)
        )
    if answer["valid"]:
        return [f"refused, but it is valid: {error}"] if error is not None else _stored_differences(answer, stored)
    if error is None:
        return [f"accepted, but it is not valid: {answer['error']}"]
    if answer["stage"] == "decode":
        return []
    found = [(field.field, field.reason) for field in error.fields] if isinstance(error, ValidationError) else []
    missing = missing_fields([(field, reason) for field, _value, reason in answer.get("fields") or ()], found)
    return [f"errors lack {missing}: {error}"] if missing else []


def _stored_differences(answer: dict[str, Any], stored: dict[str, bytes]) -> list[str]:
    if "stored" not in answer:
        return []
    if answer["key"] not in stored:
        return [f"not stored under {answer['key']}, there are {sorted(stored)}"]
    found = json.loads(stored[answer["key"]])
    for name in STANDING_FIELDS:
        found["metadata"].pop(name, None)
    same = json.dumps(_bare(found)) == json.dumps(_bare(answer["stored"]))
    return [] if same else [f"stored {show(found, 4000)}, expected {show(answer['stored'], 4000)}"]


def _bare(value: Any) -> Any:
    """Less what only one of the releases writes: empty ends of rules, and one more Felix default."""
    if isinstance(value, dict):
        return {
            name: _bare(member)
            for name, member in value.items()
            if not (name in ("source", "destination") and member == {}) and name != "nftablesFlowTableOffload"
        }
    if isinstance(value, list):
        return [_bare(entry) for entry in value]
    return value


async def _write(client: AsyncClient, case: dict[str, Any], text: str) -> None:
    for document in load_objects(text):
        await _write_one(client, case.get("op", "create"), from_input(document))


async def _write_one(client: AsyncClient, operation: str, resource: Resource) -> Resource | None:
    if operation == "client":
        kind = type(resource).__name__
        if kind == "ClusterInformation":
            await client.delete(kind, "default")
        return await client.create(resource)
    placed = _placed(resource)
    _refuse_cluster_information(placed, operation)
    if operation == "delete":
        metadata = placed.metadata
        gone = await client.delete(type(placed).__name__, metadata.name, metadata.namespace, metadata.resource_version)
        return gone
    if operation == "apply":
        return await client.apply(placed)
    if operation == "replace":
        refuse_read_only(type(placed).__name__, placed.metadata.name, placed.metadata.namespace, "apply or replace")
        return await client.replace(placed)
    refuse_read_only(type(placed).__name__, placed.metadata.name, placed.metadata.namespace, "create or apply")
    fresh = as_new(placed)
    version = placed.metadata.resource_version
    return await client.create(
        msgspec.structs.replace(fresh, metadata=msgspec.structs.replace(fresh.metadata, resource_version=version))
    )


def _refuse_cluster_information(resource: Resource, operation: str) -> None:
    """The command line does not let it be changed."""
    if isinstance(resource, ClusterInformation):
        raise OperationNotSupported(operation, "ClusterInformation")


def _placed(resource: Resource) -> Resource:
    metadata = resource.metadata
    namespace = namespace_for(type(resource).__name__, metadata.namespace, {})
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(metadata, namespace=namespace))

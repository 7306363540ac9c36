"""`validation.jsonl`: one object a line, accepted or refused by upstream (vectors/VALIDATION.md).

Each case goes the way of `calicoctl create`: file text, kind, namespace, client, store in memory. Compared are
acceptance (that of this release or of `next`), the errors that bind, and the stored object. Not compared: tags of
single-field checks that `next` no longer makes, and integers that upstream overflows on its way through a float64.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from calicoctl.commands.files import _refuse_read_only
from calicoctl.words import namespace_for
from libcalico.clock import SystemClock
from libcalico.datastore.initialise import ensure_initialized
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.resources import AsyncClient, as_new
from libcalico.errors import CalicoError, OperationNotSupported, ValidationError
from libcalico.model import ClusterInformation, Resource, from_input
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.kinds import KINDS
from libcalico.model.resources import STRUCTS
from libcalico.model.yaml_input import load_objects
from tests.compat.contract import Options, Result
from tests.compat.error_fields import missing_fields
from tests.compat.formats.resources import json_text

STANDING_FIELDS = ("uid", "creationTimestamp")


def claims(_path: Path, head: bytes) -> bool:
    """Lines with `id`, `valid` and `stage`."""
    first = head.split(b"\n", 1)[0]
    return b'"id"' in first and b'"valid"' in first and b'"stage"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every line."""
    with asyncio.Runner() as runner, path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            case = json.loads(line)
            name = f"{case['id']} {case['note']}"
            if options.only in name:
                skipped = _foreign_kind(case)
                yield Result(name, "" if skipped else runner.run(_play(case)), skipped)


def _foreign_kind(case: dict[str, Any]) -> str:
    for document in [case.get("resource"), *case.get("given", ()), *_raw_objects(case.get("raw", ""))]:
        kind = document.get("kind") if isinstance(document, dict) else None
        if isinstance(kind, str) and kind in KINDS and kind not in STRUCTS:
            return f"kind {kind} is not there"
    return ""


def _raw_objects(text: str) -> list[Any]:
    try:
        return load_objects(text)
    except CalicoError:
        return []


async def _play(case: dict[str, Any]) -> str:
    store = MemoryDatastore()
    client = AsyncClient(store)
    await ensure_initialized(store, SystemClock())
    for document in case.get("given", ()):
        await client.create(as_new(_placed(from_input(document))))
    text = case["raw"] if "raw" in case else json_text(case["resource"])
    try:
        resource = await _write(client, case, text)
    except CalicoError as error:
        return _refusal_problem(case, error)
    except Exception as error:  # one crash must not hide the other cases
        return f"crash: {error!r}"
    return await _acceptance_problem(case, store, resource)


async def _write(client: AsyncClient, case: dict[str, Any], text: str) -> Resource | None:
    written: Resource | None = None
    for document in load_objects(text):
        written = await _write_one(client, case.get("op", "create"), from_input(document))
    return written


async def _write_one(client: AsyncClient, operation: str, resource: Resource) -> Resource:
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
        _refuse_read_only(placed, "apply or replace")
        return await client.replace(placed)
    _refuse_read_only(placed, "create or apply")
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


def _refusal_problem(case: dict[str, Any], error: CalicoError) -> str:
    later = case.get("next", {})
    if case["valid"] and later.get("valid", True):
        return f"refused, but it is valid: {error}"
    wanted = case if not case["valid"] else later
    if wanted["stage"] == "decode":
        return ""
    document = case.get("resource")
    kind = document.get("kind", "") if isinstance(document, dict) else ""
    found = [(field.field, field.reason) for field in error.fields] if isinstance(error, ValidationError) else []
    binding = [(field, reason) for field, _value, reason in wanted.get("fields", ())]
    if later and not later["valid"]:
        binding = [pair for pair in binding if not _no_longer_checked(pair, later)]
    missing = missing_fields(kind, binding, found)
    return f"errors lack {missing}: {error}" if missing else ""


def _no_longer_checked(pair: tuple[str, str], later: dict[str, Any]) -> bool:
    field, reason = pair
    names = {name.lower().rpartition(".")[2] for name, _value, _reason in later.get("fields", ())}
    return "because of Tag" in reason and field.lower() not in names


async def _acceptance_problem(case: dict[str, Any], store: MemoryDatastore, written: Resource | None) -> str:
    later = case.get("next", {})
    if not case["valid"] and not later.get("valid", False):
        return f"accepted, but it is not valid: {case['error']}"
    wanted = case if case["valid"] else later
    if "stored" not in wanted or written is None:
        return ""
    key = wanted["key"]
    found = await store.get(key.encode())
    if found is None:
        ours = key_path(ResourceKey(type(written).__name__, written.metadata.name, written.metadata.namespace))
        return f"not stored under {key} but perhaps under {ours}"
    stored = json.loads(found.value)
    for name in STANDING_FIELDS:
        stored["metadata"].pop(name, None)
    return (
        ""
        if _same(stored, wanted["stored"])
        else f"stored {json.dumps(stored)}, expected {json.dumps(wanted['stored'])}"
    )


def _same(found: Any, wanted: Any) -> bool:
    """Equal, member order included, but for what only the newer release does: rules without empty ends, one more
    Felix default."""
    return json.dumps(_bare(found)) == json.dumps(_bare(wanted))


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _bare(member)
            for name, member in value.items()
            if not (name in ("source", "destination") and member == {}) and name != "nftablesFlowTableOffload"
        }
    if isinstance(value, list):
        return [_bare(entry) for entry in value]
    return (1 << 63) - 1 if value == -(1 << 63) else value

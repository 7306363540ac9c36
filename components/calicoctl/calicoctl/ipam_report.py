"""The report file of `ipam check`, as upstream writes and reads it (spec/calicoctl.md 6.2, 6.3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calicoctl import stdio
from calicoctl.failures import CommandFailed
from libcalico.ipam.audit import Allocation, Audit

OPTIONAL = (("pod", "pod"), ("namespace", "namespace"), ("type", "type"), ("creationTimestamp", "timestamp"))


class Leak(NamedTuple):
    """An allocation as it was when it was found leaked; another one of the same address is another leak."""

    address: str
    handle: str
    sequence: int


class StaleHandle(NamedTuple):
    """A handle that no address names, as of a revision."""

    handle: str
    revision: int


class Report(NamedTuple):
    """What a release needs of a report."""

    file: str
    version: str
    cluster: str
    cluster_revision: str
    leaks: frozenset[Leak]
    handles: frozenset[StaleHandle]


def encode(audit: Audit, version: str) -> str:
    """The text of a report; `version` is the release that its reader must have."""
    spec = audit.cluster.spec
    allocations: dict[str, list[dict[str, Any]]] = {}
    for allocation in audit.allocations:
        allocations.setdefault(allocation.address, []).append(_allocation(allocation))
    named = audit.named_handles
    stale = [
        {"ID": handle, "UID": None, "Revision": str(revision)}
        for handle, revision in audit.handles.items()
        if handle not in named
    ]
    document = {
        "version": version,
        "clusterGUID": spec.cluster_guid,
        "datastoreLocked": spec.datastore_ready is False,
        "clusterInformationRevision": audit.cluster.metadata.resource_version,
        "clusterType": spec.cluster_type,
        "allocations": {address: allocations[address] for address in sorted(allocations)},
        **({"leakedHandles": stale} if stale else {}),
    }
    return json.dumps(document, indent=2)


def _allocation(allocation: Allocation) -> dict[str, Any]:
    attributes = dict(allocation.attribute.secondary)
    shown: dict[str, Any] = {"ip": allocation.address}
    if allocation.handle:
        shown["handle"] = allocation.handle
    shown["sequenceNumber"] = allocation.sequence
    shown |= {member: attributes[name] for member, name in OPTIONAL if attributes.get(name)}
    if allocation.node:
        shown["node"] = allocation.node
    shown["inUse"] = bool(allocation.owners)
    if allocation.borrowed:
        shown["borrowed"] = True
    if allocation.is_cooling:
        shown["coolingDown"] = True
    return {**shown, "owners": list(allocation.owners)}


def read(file: str) -> Report:
    """A report; raises `CommandFailed` naming the file and what is wrong with it."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise CommandFailed(f"open {file}: {stdio.reason(error)}") from None
    try:
        return _decode(file, json.loads(text))
    except KeyError as error:
        what = f"member {error} is missing"
    except ValueError as error:
        what = str(error)
    except (AttributeError, TypeError, RecursionError):
        what = "its members are not those of a report"
    raise CommandFailed(f"{file} is no report of 'ipam check': {what}")


def _decode(file: str, document: dict[str, Any]) -> Report:
    entries = [entry for entries in (document.get("allocations") or {}).values() for entry in entries]
    leaks = [entry for entry in entries if not entry.get("inUse") and not entry.get("coolingDown")]
    return Report(
        file,
        str(document.get("version", "")),
        str(document.get("clusterGUID", "")),
        str(document.get("clusterInformationRevision", "")),
        frozenset(Leak(str(e["ip"]), str(e.get("handle") or ""), int(e.get("sequenceNumber") or 0)) for e in leaks),
        frozenset(StaleHandle(str(h["ID"]), int(h["Revision"])) for h in document.get("leakedHandles") or ()),
    )


def common(reports: Sequence[Report]) -> tuple[list[Leak], list[StaleHandle]]:
    """What every report calls leaked, unchanged from one to the next."""
    return _in_all(report.leaks for report in reports), _in_all(report.handles for report in reports)


def _in_all(groups: Iterable[frozenset[Any]]) -> list[Any]:
    first, *others = groups
    return sorted(first.intersection(*others))

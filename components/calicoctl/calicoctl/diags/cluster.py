"""What is collected of a cluster: every object, addresses, agents' reports and etcd itself (spec/calicoctl.md 7.7)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from calicoctl.commands import ipam, ipam_check
from calicoctl.diags import findings
from calicoctl.diags.collect import Wanted, in_thread
from calicoctl.diags.findings import Finding
from calicoctl.diags.node import etcd_text, see_etcd
from calicoctl.output import documents
from calicoctl.session import Session
from libcalico.errors import CalicoError, ResourceDoesNotExist
from libcalico.model import to_json
from libcalico.model.keys import FELIX_STATUS, parse_key
from libcalico.model.resources import STRUCTS

ROOT = "/calico/"
REPORT_TTL_S = 90.0
MOST_KEYS = 100_000


class Seen(NamedTuple):
    """One cluster, as far as etcd has answered."""

    objects: dict[str, list[dict[str, Any]]]
    damaged: list[str]
    unknown: list[str]
    reports: dict[str, str]
    texts: dict[str, str]
    failure: str = ""


def see(connect: Callable[[], Session]) -> Seen:
    """Everything that a client sees. After the first request that etcd does not answer, nothing more is asked."""
    seen = Seen({}, [], [], {}, {})
    try:
        with connect() as client:
            for kind in sorted(STRUCTS):
                found = client.list_at_revision(kind)
                seen.objects[kind] = [to_json(item) for item in found.items]
                seen.damaged.extend(found.unreadable)
            _see_keys(client, seen)
            _see_addresses(client, seen)
    except CalicoError as error:
        return seen._replace(failure=str(error))
    return seen


def _see_addresses(client: Session, seen: Seen) -> None:
    """How pools are used, and what contradicts itself; a cluster that was never made ready has neither."""
    try:
        seen.texts["ipam_blocks"] = ipam.usage(client, with_blocks=True)
        lines = ipam_check.lines(client.ipam.check(), shows_all=False, shows_problems=True)
        seen.texts["ipam_check"] = "\n".join(lines) + "\n"
    except ResourceDoesNotExist as error:
        seen.texts["ipam_check"] = f"not checked: {error}\n"


def _see_keys(client: Session, seen: Seen) -> None:
    """The names of keys that are none of ours, and the agents' heartbeats."""
    for name in client.key_names(ROOT, MOST_KEYS):
        if parse_key(name) is None:
            seen.unknown.append(name.decode("utf-8", "backslashreplace"))
    for path, value in client.values(FELIX_STATUS):
        host, _, last = path.removeprefix(FELIX_STATUS).partition("/")
        if last == "status":
            seen.reports[host] = value


def wanted(config: str, seen: Seen) -> Iterator[Wanted]:
    """The files of the archive."""

    def text(of: Callable[[], str]) -> Callable[[], Any]:
        return lambda: in_thread(of)

    yield Wanted("etcd", "the endpoints of etcd, as seen from here", ask=text(lambda: etcd_text(see_etcd(config))))
    for kind, objects in seen.objects.items():
        made = {"kind": f"{kind}List", "apiVersion": "projectcalico.org/v3", "items": objects}
        yield Wanted(f"resources/{kind}.yaml", f"all {kind} objects", ask=text(partial(documents.to_yaml, made)))
    for name, content in seen.texts.items():
        yield Wanted(name, f"addresses: {name.replace('_', ' ')}", ask=text(partial(str, content)))
    keys = "\n".join([*seen.unknown, *seen.damaged]) + "\n"
    yield Wanted(
        "unknown_keys", "keys that are none of ours, and objects that cannot be read", ask=text(partial(str, keys))
    )
    reports = "".join(f"{host}: {value}\n" for host, value in sorted(seen.reports.items()))
    yield Wanted("agents", "what the agents reported last", ask=text(partial(str, reports)))


def what_is_wrong(seen: Seen, now_s: float) -> Iterator[Finding]:
    """Everything that looks wrong in it."""
    if seen.failure:
        yield Finding(f"the datastore does not answer, or not all: {seen.failure}", "etcd")
    pools, nodes = seen.objects.get("IPPool", []), seen.objects.get("Node", [])
    yield from findings.nodes(nodes, pools)
    if seen.reports:
        known = [node["metadata"]["name"] for node in nodes]
        yield from findings.heartbeats(known, _times(seen.reports), now_s, REPORT_TTL_S)
    yield from findings.unknown(seen.unknown, seen.damaged)
    information = seen.objects.get("ClusterInformation", [])
    if information and information[0]["spec"].get("datastoreReady") is False:
        yield Finding("the datastore is locked (datastoreReady is false)", "resources/ClusterInformation.yaml")
    if not seen.failure and not any(not pool["spec"].get("disabled") for pool in pools):
        yield Finding("there is no IP pool in use: no container gets an address", "resources/IPPool.yaml")
    last = seen.texts.get("ipam_check", "").strip().rpartition("\n")[2]
    if last and " found 0 problems" not in last:
        yield Finding(f"addresses: {last}", "ipam_check")


def _times(reports: dict[str, str]) -> dict[str, float]:
    found = {}
    for host, value in reports.items():
        try:
            found[host] = datetime.fromisoformat(json.loads(value)["time"]).timestamp()
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return found

"""`golden/resources.json`: what create, apply and replace store, print and refuse (vectors/golden/README.md).

Each entry starts from the four keys of an initialised cluster. Stored values are compared byte for byte after
masking uid, time and GUID; so are the outputs and, with member order, the object that `get -o json` shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calicoctl.testing import Outcome, run_calicoctl
from libcalico.client.blocking import Client
from libcalico.datastore.memory import MemoryDatastore
from libcalico.model.keys import parse_path
from tests.compat.calicoctl_player import all_keys, lacking, put_all
from tests.compat.contract import Options, Result, Shape, judged, text_of, unknown_members
from tests.compat.texts import mask, put_over, stream_problem

SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
ENTRY: Shape = {
    "name": None, "note": None, "source": None, "decided": None, "needs": None, "command": None, "args": None,
    "requires": None, "input": None, "exit": None, "stdout": None, "stderr": None, "stdout_normalised": None,
    "stderr_normalised": None, "get": None,
    "etcd": [{"key": None, "raw": None, "value": None, "uid_and_time_kept": None}],
    "ours": {"stdout": None, "stderr": None, "stdout~": None, "stderr~": None, "exit": None, "etcd": None,
             "get": None},
}  # fmt: skip

ABSENT: dict[str, Any] = {"name": "without a name", "args": [], "requires": [], "stdout": "", "stderr": "", "etcd": []}
"""What an entry means that lacks a member which may be missing."""


def claims(_path: Path, head: bytes) -> bool:
    """An object that begins with `meta` and has `cluster_initialisation`."""
    return b'"cluster_initialisation"' in head


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every entry, and the keys that the first write to an empty cluster makes."""
    golden = json.loads(text_of(path))
    problems = unknown_members(golden, {"meta": None, "cluster_initialisation": None, "entries": None})
    if problems:
        yield Result("file", tuple(problems))
    written = golden["cluster_initialisation"]["after_first_write"]
    if options.only in "cluster_initialisation":
        yield judged("cluster_initialisation", lambda: _initialisation(written))
    for given in golden["entries"]:
        entry = {**ABSENT, **given}
        if options.only in entry["name"]:
            kinds = dict.fromkeys(kind for one in [entry["input"], *entry["requires"]] for kind in _kinds(one))
            skipped = lacking([*entry.get("needs", ()), *kinds])
            if skipped:
                yield Result(entry["name"], skipped=skipped)
            else:
                yield judged(entry["name"], lambda entry=entry: _play(written[:4], entry))  # type: ignore[misc]


def _kinds(document: Any) -> list[str]:
    """The kinds of a document that exist somewhere; a made-up one is refused by every program."""
    from libcalico.model.kinds import KINDS

    if not isinstance(document, dict):
        return []
    kind = document.get("kind")
    own = [kind] if isinstance(kind, str) and kind in KINDS else []
    items = document.get("items")
    return own + [found for item in (items if isinstance(items, list) else []) for found in _kinds(item)]


def _initialisation(wanted: list[dict[str, Any]]) -> list[str]:
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        client.ensure_initialized()
        keys = all_keys(client, store)
    written = sorted(keys, key=lambda key: keys[key][1])
    if written != [item["key"] for item in wanted[:4]]:
        return [f"wrote {written}"]
    return [text for item in wanted[:4] if (text := _raw_problem(item, keys[item["key"]][0]))]


def _play(start: list[dict[str, Any]], entry: dict[str, Any]) -> list[str]:
    found = unknown_members(entry, ENTRY)
    wanted = put_over(entry)
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        put_all(client, store, start)
        for number, document in enumerate(entry["requires"]):
            made = _command(store, ["create", "-f", "required.json"], {"required.json": document})
            if made.status:
                found.append(f"required object {number} was refused: {made.stderr}")
        before = all_keys(client, store)
        outcome = _command(
            store, [entry["command"], "-f", "input.json", *entry["args"]], {"input.json": entry["input"]}
        )
        after = all_keys(client, store)
        if outcome.status != wanted["exit"]:
            found.append(f"exit {outcome.status}, expected {wanted['exit']}")
        for stream, text in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            problem = stream_problem(stream, text, wanted)
            found += [problem] if problem else []
        found += _key_differences(wanted, before, after)
        return found + _get_differences(store, wanted)


def _command(store: MemoryDatastore, argv: list[str], documents: dict[str, Any]) -> Outcome:
    return run_calicoctl(store, argv, {name: json_text(value) for name, value in documents.items()})


def json_text(document: Any) -> str:
    """JSON in ASCII, but characters beyond the basic plane as they are: upstream's reader refuses surrogate pairs."""
    return SURROGATES.sub(lambda pair: str(json.loads(f'"{pair[0]}"')), json.dumps(document))


def _key_differences(
    entry: dict[str, Any], before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> list[str]:
    written = {key: text for key, (text, revision) in after.items() if key not in before or before[key][1] != revision}
    wanted = {item["key"]: item for item in entry["etcd"]}
    found = [f"{key} was deleted" for key in sorted(before.keys() - after.keys())]
    found += [f"{key}: wrote {written[key]!r}, expected nothing" for key in sorted(written.keys() - wanted.keys())]
    for key, item in wanted.items():
        if key not in written:
            found.append(f"{key}: wrote nothing, expected {item['raw']!r}")
            continue
        problem = _raw_problem(item, written[key])
        found += [problem] if problem else []
        if item.get("uid_and_time_kept") and _uid_and_time(written[key]) != _uid_and_time(before[key][0]):
            found.append(f"{key}: uid or time did not stay")
    return found


def _uid_and_time(text: str) -> tuple[str, str]:
    metadata = json.loads(text)["metadata"]
    return metadata["uid"], metadata["creationTimestamp"]


def _raw_problem(item: dict[str, Any], text: str) -> str:
    found, wanted = mask(text), mask(item["raw"])
    return "" if found == wanted else f"{item['key']}: stored {found!r}, expected {wanted!r}"


def _get_differences(store: MemoryDatastore, entry: dict[str, Any]) -> list[str]:
    wanted = entry.get("get")
    if not wanted:
        return []
    key = parse_path(entry["etcd"][-1]["key"]) if entry["etcd"] else None
    argv = ["get", wanted["kind"], wanted["metadata"]["name"], "-o", "json"]
    namespace = getattr(key, "namespace", "")
    outcome = run_calicoctl(store, [*argv, "-n", namespace] if namespace else argv, {})
    if outcome.status:
        return [f"get: exit {outcome.status}: {outcome.stderr!r}"]
    found, expected = json.dumps(json.loads(mask(outcome.stdout))), json.dumps(wanted)
    return [] if found == expected else [f"get shows {found}, expected {expected}"]

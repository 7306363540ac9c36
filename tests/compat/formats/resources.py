"""`golden/resources.json`: what create, apply and replace store, print and refuse (vectors/golden/README.md).

Each entry starts from the four keys of an initialised cluster. Stored values are compared byte for byte after
masking uid, time and GUID; so are the outputs and, with member order, the object that `get -o json` shows. For
refusals the errors that bind are compared (`tests/compat/error_fields.py`). Where the product decides otherwise
(spec/calicoctl.md 3.3): no "Partial success" when nothing was replaced, and no Go dump of the object in a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libcalico.client import Client
from libcalico.datastore.memory import MemoryDatastore
from libcalico.model.keys import parse_path
from libcalico.model.resources import STRUCTS
from tests.compat.calicoctl_player import Outcome, all_keys, put_all, run_calicoctl
from tests.compat.contract import Options, Result
from tests.compat.error_fields import missing_fields, parse_fields

MASKS = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r'("resourceVersion": ?")\d+"'), r'\1<rv>"'),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<guid>"),
    (re.compile(r"(?<=not supported on )(&\{\{.*\}\}|[A-Za-z]+\([^()]*\))(?=: kubernetes)"), "<object>"),
)
SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
EMPTY_SUCCESS = re.compile(r"Partial success: replaced the first (\d+) out of \1 .*\n")


def claims(_path: Path, head: bytes) -> bool:
    """An object that begins with `meta` and has `cluster_initialisation`."""
    return b'"cluster_initialisation"' in head


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every entry, and the keys that the first write to an empty cluster makes."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    start = golden["cluster_initialisation"]["after_first_write"][:4]
    if options.only in "cluster_initialisation":
        yield Result("cluster_initialisation", _initialisation(golden["cluster_initialisation"]["after_first_write"]))
    for entry in golden["entries"]:
        if options.only in entry["name"]:
            skipped = _foreign_kind(entry)
            yield Result(entry["name"], "" if skipped else _play(start, entry), skipped)


def mask(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return text


def _foreign_kind(entry: dict[str, Any]) -> str:
    for document in [entry["input"], *entry["requires"]]:
        kind = document.get("kind", "") if isinstance(document, dict) else ""
        if kind and kind not in STRUCTS:
            return f"kind {kind} is not there"
    return ""


def _initialisation(wanted: list[dict[str, Any]]) -> str:
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        client.ensure_initialized()
        keys = all_keys(client, store)
    written = sorted(keys, key=lambda key: keys[key][1])
    if written != [item["key"] for item in wanted[:4]]:
        return f"wrote {written}"
    return next(filter(None, (_raw_problem(item, keys[item["key"]][0]) for item in wanted[:4])), "")


def _play(start: list[dict[str, Any]], entry: dict[str, Any]) -> str:
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        put_all(client, store, start)
        for number, document in enumerate(entry["requires"]):
            made = _command(store, ["create", "-f", "required.json"], {"required.json": document})
            if made.status:
                return f"required object {number} was refused: {made.stderr}"
        before = all_keys(client, store)
        outcome = _command(
            store, [entry["command"], "-f", "input.json", *entry["args"]], {"input.json": entry["input"]}
        )
        after = all_keys(client, store)
        written = {key: value for key, value in after.items() if before.get(key) != value}
        return (
            _output_problem(entry, outcome)
            or _keys_problem(entry, before, {key: text for key, (text, _revision) in written.items()})
            or _get_problem(store, entry)
        )


def _command(store: MemoryDatastore, argv: list[str], documents: dict[str, Any]) -> Outcome:
    return run_calicoctl(store, argv, {name: json_text(value) for name, value in documents.items()})


def json_text(document: Any) -> str:
    """JSON in ASCII, but characters beyond the basic plane as they are: upstream's reader refuses surrogate pairs."""
    return SURROGATES.sub(lambda pair: str(json.loads(f'"{pair[0]}"')), json.dumps(document))


def _output_problem(entry: dict[str, Any], outcome: Outcome) -> str:
    if outcome.status != entry["exit"]:
        return f"exit {outcome.status}, expected {entry['exit']}: {(outcome.stderr or entry['stderr'])[:300]!r}"
    wanted_out = EMPTY_SUCCESS.sub("", entry["stdout"]) if entry["exit"] else entry["stdout"]
    if outcome.stdout != wanted_out:
        return f"stdout {outcome.stdout!r}, expected {wanted_out!r}"
    if mask(outcome.stderr) == mask(entry["stderr"]):
        return ""
    wanted = parse_fields(entry["stderr"])
    kind = entry["input"]["kind"]
    missing = missing_fields(kind, wanted, parse_fields(outcome.stderr))
    if missing:
        return f"errors lack {missing}: {outcome.stderr!r}"
    if not wanted and not _is_decode_error(entry["stderr"]):
        return f"stderr {outcome.stderr!r}, expected {entry['stderr']!r}"
    return ""


def _is_decode_error(text: str) -> bool:
    return "unmarshal" in text or "yaml:" in text


def _keys_problem(entry: dict[str, Any], before: dict[str, tuple[str, int]], written: dict[str, str]) -> str:
    wanted = {item["key"]: item for item in entry["etcd"]}
    if set(wanted) != set(written):
        return f"wrote {sorted(written)}, expected {sorted(wanted)}"
    for key, item in wanted.items():
        problem = _raw_problem(item, written[key])
        if problem:
            return problem
        if item.get("uid_and_time_kept") and _uid_and_time(written[key]) != _uid_and_time(before[key][0]):
            return f"{key}: uid or time did not stay"
    return ""


def _uid_and_time(text: str) -> tuple[str, str]:
    metadata = json.loads(text)["metadata"]
    return metadata["uid"], metadata["creationTimestamp"]


def _raw_problem(item: dict[str, Any], text: str) -> str:
    found, wanted = mask(text), mask(item["raw"])
    if found == wanted:
        return ""
    place = next(
        (n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
    )
    start = max(0, place - 60)
    return f"{item['key']}: stored ...{found[start : place + 80]!r}, expected ...{wanted[start : place + 80]!r}"


def _get_problem(store: MemoryDatastore, entry: dict[str, Any]) -> str:
    wanted = entry.get("get")
    if not wanted:
        return ""
    key = parse_path(entry["etcd"][-1]["key"]) if entry["etcd"] else None
    name = wanted["metadata"]["name"]
    argv = ["get", wanted["kind"], name, "-o", "json"]
    namespace = getattr(key, "namespace", "")
    outcome = run_calicoctl(store, [*argv, "-n", namespace] if namespace else argv, {})
    if outcome.status:
        return f"get: exit {outcome.status}: {outcome.stderr!r}"
    found = json.dumps(json.loads(mask(outcome.stdout)))
    return "" if found == json.dumps(wanted) else f"get shows {found}, expected {json.dumps(wanted)}"

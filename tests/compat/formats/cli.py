"""`golden/cli.json`: command lines with their exact output, exit status and keys (vectors/golden/README.md).

Played by running our `calicoctl` in this process on the datastore in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calicoctl.testing import ENVIRONMENT, Outcome, run_and_list, run_calicoctl
from libcalico.client.blocking import Client
from libcalico.datastore.memory import MemoryDatastore
from tests.compat.calicoctl_player import all_keys, lacking, put_all
from tests.compat.contract import Options, Result, Shape, judged, text_of, tree_differences, unknown_members
from tests.compat.ipam_judge import HANDLE, handle_differences, held_by, is_block, without_claim
from tests.compat.texts import mask, put_over, stream_problem

IPAM = "/calico/ipam/"
PUT: Shape = [{"key": None, "raw": None, "value": None}]
FILE: Shape = {
    "meta": None, "aliases": None,
    "datasets": None,
    "entries": [{
        "name": None, "note": None, "source": None, "needs": None, "decided": None, "gap": None, "dataset": None,
        "setup": [{"argv": None, "stdin": None}], "argv": None, "stdin": None, "files": None, "env": None,
        "stdout": None, "stderr": None, "stdout_normalised": None, "stderr_normalised": None, "exit": None,
        "etcd_put": PUT, "etcd_deleted": None, "files_made": None, "unordered": None, "upstream_bug": None,
        "variants": [{"stdout": None, "stderr": None, "exit": None}],
        "ours": {"stdout": None, "stderr": None, "stdout~": None, "stderr~": None, "exit": None, "etcd_put": PUT,
                 "etcd_deleted": None},
    }],
}  # fmt: skip

ABSENT: dict[str, Any] = {
    "name": "without a name", "setup": [], "stdin": "", "files": {}, "etcd_put": [], "etcd_deleted": [],
}  # fmt: skip
"""What an entry means that lacks a member which may be missing."""


def claims(_path: Path, head: bytes) -> bool:
    """An object with `datasets` and `aliases`."""
    return b'"datasets"' in head


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every entry."""
    golden = json.loads(text_of(path))
    of_file = {name: shape for name, shape in FILE.items() if name != "entries"}  # type: ignore[union-attr]
    problems = unknown_members({name: value for name, value in golden.items() if name != "entries"}, of_file)
    if problems:
        yield Result("file", tuple(problems))
    for given in golden["entries"]:
        entry = {**ABSENT, **given}
        if options.only in entry["name"]:
            skipped = lacking(entry.get("needs", ()))
            if skipped:
                yield Result(entry["name"], skipped=skipped)
            else:
                yield judged(entry["name"], lambda entry=entry: _play(golden, entry))  # type: ignore[misc]


def _play(golden: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    found = unknown_members(entry, FILE["entries"][0])  # type: ignore[index, call-overload]
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        for item in golden["datasets"][entry["dataset"]]["etcd"]:
            value = item["raw"] if "raw" in item else item["value"]
            put_all(
                client, store, [{"key": item["key"], "raw": value if isinstance(value, str) else json.dumps(value)}]
            )
        environment = entry.get("env", ENVIRONMENT)
        for line in entry["setup"]:
            prepared = run_calicoctl(store, line["argv"], entry["files"], line.get("stdin") or "", environment)
            if prepared.status:
                found.append(f"setup {line['argv']} failed: exit {prepared.status}, {prepared.stderr!r}")
        before = all_keys(client, store)
        outcome, made = run_and_list(store, entry["argv"], entry["files"], entry["stdin"] or "", environment)
        after = all_keys(client, store)
    wanted = put_over(entry)
    found += _output_differences(wanted, outcome)
    return found + _file_differences(wanted, made) + key_differences(wanted, before, after)


def _output_differences(wanted: dict[str, Any], outcome: Outcome) -> list[str]:
    """Against the recorded answer; an answer whose order is chance may also be one of the others that were seen."""
    variants = wanted.get("variants") or [] if wanted.get("unordered") else []
    answers = [wanted, *({**wanted, **variant, **wanted.get("ours", {})} for variant in variants)]
    problems = [_answer_differences(answer, outcome) for answer in answers]
    return [] if [] in problems else problems[0]


def _answer_differences(answer: dict[str, Any], outcome: Outcome) -> list[str]:
    found = [] if outcome.status == answer["exit"] else [f"exit {outcome.status}, expected {answer['exit']}"]
    texts = (stream_problem("stdout", outcome.stdout, answer), stream_problem("stderr", outcome.stderr, answer))
    return found + [text for text in texts if text]


def _file_differences(wanted: dict[str, Any], made: dict[str, str]) -> list[str]:
    recorded = wanted.get("files_made") or {}
    names = sorted(recorded)
    found = [] if sorted(made) == names else [f"made the files {sorted(made)}, expected {names}"]
    texts = recorded if isinstance(recorded, dict) else {}
    for name, text in texts.items():
        own = made.get(name)
        if isinstance(text, str) and own is not None and mask(own) != mask(text):
            found.append(f"file {name} is {own!r}, expected {text!r}")
    return found


Keys = dict[str, tuple[str, int]]


def key_differences(wanted: dict[str, Any], before: Keys, after: Keys) -> list[str]:
    """What the command wrote and deleted, against `etcd_put` and `etcd_deleted`."""
    written = {key: text for key, (text, revision) in after.items() if key not in before or before[key][1] != revision}
    deleted = sorted(before.keys() - after.keys())
    recorded = {item["key"]: item for item in wanted["etcd_put"]}
    found = []
    may_go = {key for key in recorded if key.startswith(HANDLE) and not held_by(_parsed(after), key[len(HANDLE) :])}
    if sorted(set(deleted) - may_go) != sorted(wanted["etcd_deleted"]):
        found.append(f"deleted {deleted}, expected {sorted(wanted['etcd_deleted'])}")
    for key in sorted(written.keys() - recorded.keys()):
        found.append(f"{key}: wrote {written[key]!r}, expected nothing")
    for key, item in recorded.items():
        if key in written:
            found += _value_differences(key, written[key], item, before, after)
        elif key not in may_go:
            found.append(f"{key}: wrote nothing, expected {item['raw']!r}")
    return found


def _parsed(keys: Keys) -> dict[str, Any]:
    return {key: json.loads(text) for key, (text, _revision) in keys.items() if is_block(key)}


def _value_differences(key: str, text: str, item: dict[str, Any], before: Keys, after: Keys) -> list[str]:
    recorded = item["raw"] if "raw" in item else json.dumps(item["value"], separators=(",", ":"))
    if mask(text) == mask(recorded):
        return []
    if not key.startswith(IPAM):
        return [f"{key}: wrote {mask(text)!r}, expected {mask(recorded)!r}"]
    mine, other = json.loads(mask(text)), json.loads(mask(recorded))
    if key.startswith(HANDLE):
        return handle_differences(key, mine, other, held_by(_parsed(after), key[len(HANDLE) :]))
    if not is_block(key):
        return tree_differences(mine, other, key)
    found = []
    former = json.loads(before[key][0]) if key in before else {}
    if mine.get("sequenceNumber", 0) <= former.get("sequenceNumber", -1):
        found.append(f"{key}: sequenceNumber {mine.get('sequenceNumber')} did not rise")
    return found + tree_differences(_without_numbers(mine, other), _without_numbers(other, mine), key)


def _without_numbers(block: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in block.items() if name != "sequenceNumber"}
    used = {str(n) for n, index in enumerate(block.get("allocations") or ()) if index is not None}
    numbers = block.get("sequenceNumberForAllocation") or {}
    rest["sequenceNumberForAllocation"] = sorted(used & numbers.keys())
    return without_claim({**rest, "attributes": block.get("attributes") or []}, other)

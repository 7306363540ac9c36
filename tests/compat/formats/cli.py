"""`golden/cli.json`: command lines with their exact output, exit status and keys (vectors/golden/README.md).

Played by running our `calicoctl` in this process on the datastore in memory. Entries about commands and kinds that
are not there, and those where the product decides otherwise (`DECIDED`), count as skipped.
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
from tests.compat.calicoctl_player import ENVIRONMENT, run_calicoctl
from tests.compat.contract import Options, Result

UNSUPPORTED = ("ipam release", "ipam configure", "ipam check", "ipam split", "datastore", "node", "version")
DECIDED = {
    "replace/": "'Partial success' is printed only for real successes (spec/calicoctl.md 3.3)",
    "get/template": "go-template is not there",
    "odd/template": "go-template is not there",
    "ipam/show-configuration": "a pointer is no value",
    "ipam/unknown": "help is not to be compared",
    "old/np-by-new-name": "old policy names are found by either name (spec/datastore.md 1.2)",
    "old/np-v330-by-name": "old policy names are found by either name (spec/datastore.md 1.2)",
    "old/profile-damaged-one": "the words of Go's JSON reader about damaged bytes",
    "odd/delete-yaml": "what is stored is printed, also a control character",
}
MASKS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r"(resourceVersion\"?: \"?)\d+"), r"\1<rv>"),
    (re.compile(r"(clusterGUID\"?: \"?)[0-9a-f]{32}"), r"\1<guid>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<guid>"),
    (re.compile(r"(?s)Usage:\n.*"), "Usage:\n<usage text>\n"),
)


def claims(_path: Path, head: bytes) -> bool:
    """An object with `datasets` and `aliases`."""
    return b'"datasets"' in head


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every entry."""
    golden = json.loads(path.read_text())
    for entry in golden["entries"]:
        if options.only in entry["name"]:
            skipped = _unsupported(entry)
            yield Result(entry["name"], "" if skipped else _play(golden, entry), skipped)


def _unsupported(entry: dict[str, Any]) -> str:
    line = " ".join(entry["argv"])
    for words in UNSUPPORTED:
        if line.startswith(words) or entry["name"].startswith(words):
            return f"'{words}' is not there"
    for prefix, why in DECIDED.items():
        if why and entry["name"].startswith(prefix):
            return why
    if entry.get("upstream_bug") or entry.get("unordered"):
        return "upstream's output is not to be compared"
    kinds = json.dumps([entry["argv"], entry["files"], entry["stdin"], entry["etcd_put"], entry["etcd_deleted"]])
    for kind in ("bgp", "hostendpoint", "hep", "staged", "sgnp", "snp", "sknp", "(ip)?reservation", "kubecontrollers"):
        if re.search(rf"\b{kind}", kinds, re.IGNORECASE):
            return f"kind {kind} is not there"
    return ""


def _play(golden: dict[str, Any], entry: dict[str, Any]) -> str:
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        for item in golden["datasets"][entry["dataset"]]["etcd"]:
            key, value = (item["key"], item["raw"]) if "raw" in item else (item["key"], item["value"])
            client._run(store.put(key.encode(), (value if isinstance(value, str) else json.dumps(value)).encode()))
        for line in entry["setup"]:
            run_calicoctl(store, line if isinstance(line, list) else line.split(), entry["files"])
        before = _keys(client, store)
        status, out, err = run_calicoctl(
            store, entry["argv"], entry["files"], entry["stdin"] or "", entry.get("env") or ENVIRONMENT
        )
        after = _keys(client, store)
    wanted_out, wanted_err = _normal(entry, "stdout"), _normal(entry, "stderr")
    if status != entry["exit"]:
        return f"exit {status}, expected {entry['exit']}; stderr {err[:200]!r}"
    if _mask(out) != _mask(wanted_out):
        return f"stdout {_mask(out)[:300]!r}, expected {_mask(wanted_out)[:300]!r}"
    if _mask(err).strip() != _mask(wanted_err).strip():
        return f"stderr {_mask(err)[:300]!r}, expected {_mask(wanted_err)[:300]!r}"
    return _key_problem(entry, before, after)


def _normal(entry: dict[str, Any], stream: str) -> str:
    return str(entry.get(f"{stream}_normalised", entry[stream]))


def _mask(text: str) -> str:
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _keys(client: Client, store: MemoryDatastore) -> dict[str, str]:
    return {kv.key.decode(): kv.value.decode() for kv in client._run(store.range(b"/calico/")).kvs}


def _key_problem(entry: dict[str, Any], before: dict[str, str], after: dict[str, str]) -> str:
    written = {key: value for key, value in after.items() if before.get(key) != value}
    deleted = sorted(set(before) - set(after))
    if entry["argv"][:1] and entry["argv"][0] in ("create", "apply") and not entry["etcd_put"]:
        written = {key: value for key, value in written.items() if not _is_initial(key)}
    wanted = {item["key"] for item in entry["etcd_put"]}
    if deleted != sorted(entry["etcd_deleted"]):
        return f"deleted {deleted}, expected {entry['etcd_deleted']}"
    missing = wanted - set(written) - set(after)
    if missing or set(written) - wanted:
        return f"wrote {sorted(written)}, expected {sorted(wanted)}"
    return ""


def _is_initial(key: str) -> bool:
    found = parse_path(key)
    return getattr(found, "kind", "") in ("Tier", "ClusterInformation") and "ClusterInformation" in STRUCTS

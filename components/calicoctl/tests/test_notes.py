"""What a person is told beside the bytes that scripts read: on a terminal (or with `-l error`), never in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calicoctl import failures, inputs
from calicoctl.stdio import CONTROL
from calicoctl.testing import ENVIRONMENT, Outcome, run_calicoctl
from libcalico import __version__
from libcalico.datastore.memory import MemoryDatastore
from libcalico.manifest import yaml_input
from libcalico.manifest.yaml_input import MOST_DOCUMENTS

RESOURCES = "/calico/resources/v3/projectcalico.org/"
SET = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: one}\nspec: {nets: [10.0.0.0/8]}\n"
POLICY = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {tier: guards, selector: all()}
"""
CONFIG = """\
apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
spec: {etcdEndpoints: "http://10.0.0.9:2379"}
"""


@pytest.fixture
def store() -> MemoryDatastore:
    return MemoryDatastore()


def quiet(store: MemoryDatastore, line: str, files: dict[str, str] | None = None) -> Outcome:
    """As in a pipe."""
    return run_calicoctl(store, line.split(), files or {})


def told(store: MemoryDatastore, line: str, files: dict[str, str] | None = None) -> Outcome:
    """With the notes."""
    return run_calicoctl(store, ["-l", "error", *line.split()], files or {})


def on_terminal(words: list[str], folder: Path) -> str:
    """What a person sees of a command."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "calicoctl.main", *words], stdin=follower, stdout=follower, stderr=follower, cwd=folder
    ):
        os.close(follower)
        seen = b""
        with contextlib.suppress(OSError):
            while data := os.read(leader, 65536):
                seen += data
        os.close(leader)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("verb", ["apply", "replace", "delete"])
def test_a_conflict_with_a_saved_file_says_what_to_do(store: MemoryDatastore, verb: str) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    saved = quiet(store, "get globalnetworkset one -o yaml").stdout
    quiet(store, "label globalnetworkset one a=b")
    refused = told(store, f"{verb} -f saved", {"saved": saved})
    assert refused.status == 1
    assert "update conflict: GlobalNetworkSet(one)" in refused.stderr
    assert "metadata.resourceVersion" in refused.stderr
    assert "delete that line to write over it" in refused.stderr
    assert "--export -o yaml" in refused.stderr
    assert "resourceVersion" not in quiet(store, f"{verb} -f saved", {"saved": saved}).stderr


def test_what_the_note_says_works(store: MemoryDatastore) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    saved = quiet(store, "get globalnetworkset one --export -o yaml").stdout
    quiet(store, "label globalnetworkset one a=b")
    assert quiet(store, "apply -f saved", {"saved": saved}).status == 0


def test_a_version_in_a_new_object_says_what_to_do(store: MemoryDatastore) -> None:
    refused = told(
        store, "create -f in.yaml", {"in.yaml": SET.replace("{name: one}", '{name: one, resourceVersion: "7"}')}
    )
    assert "delete the line metadata.resourceVersion" in refused.stderr


@pytest.mark.parametrize(
    ("verb", "text", "note"),
    [
        ("create", SET, "  'apply' changes what is there, --skip-exists leaves it as it is"),
        ("replace", SET.replace("one", "two"), "  'apply' creates what is not there"),
        ("apply", POLICY, "  spec.tier names a tier that is not there: create it first, or leave spec.tier out for the"
         " default one"),
    ],
)  # fmt: skip
def test_what_is_there_or_not_says_what_to_do(store: MemoryDatastore, verb: str, text: str, note: str) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    assert note in told(store, f"{verb} -f in.yaml", {"in.yaml": text}).stderr.splitlines()
    assert note not in quiet(store, f"{verb} -f in.yaml", {"in.yaml": text}).stderr


@pytest.mark.parametrize("line", ["get node --context=prod", "--context=prod get node", "--context prod ipam show",
                                  "version --context=prod"])  # fmt: skip
def test_a_context_is_answered_with_the_cluster_that_is_meant(store: MemoryDatastore, line: str) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    note = "--context=prod chooses nothing here: this is the cluster at http://127.0.0.1:2379 (ETCD_ENDPOINTS)"
    assert note in told(store, line).stderr.splitlines()
    assert quiet(store, line).stderr == ""


def test_the_cluster_of_a_file_is_named_with_the_file(store: MemoryDatastore) -> None:
    asked = told(store, "get node --context=prod -c ctl.cfg", {"ctl.cfg": CONFIG})
    assert "the cluster at http://10.0.0.9:2379 (etcdEndpoints in ctl.cfg)" in asked.stderr


def test_version_says_our_own(store: MemoryDatastore) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    lines = quiet(store, "version").stdout.splitlines()
    assert lines[0] == "Client Version:    v3.32.1"
    assert f"Program Version:   {__version__} (does as v3.32.1)" in lines


def test_what_cannot_be_read_is_counted_and_named(store: MemoryDatastore) -> None:
    quiet(store, "apply -f in.yaml", {"in.yaml": SET})
    for name in (b"bad", b"\xff"):
        asyncio.run(store.put(f"{RESOURCES}globalnetworksets/".encode() + name, b"{"))
    note = (
        "2 stored GlobalNetworkSet cannot be read, not shown:"
        f" {RESOURCES}globalnetworksets/bad, {RESOURCES}globalnetworksets/\\xff"
    )
    for line in ("get globalnetworksets", "get globalnetworksets -o yaml"):
        assert told(store, line).stderr.splitlines() == [note]
        assert quiet(store, line).stderr == ""
        assert told(store, line).stdout == quiet(store, line).stdout


def test_a_block_that_cannot_be_read_is_named_too(store: MemoryDatastore) -> None:
    path = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26"
    asyncio.run(store.put(path.encode(), b"{"))
    for line in ("ipam show", "ipam show --show-blocks", "ipam show --show-borrowed"):
        assert told(store, line).stderr.splitlines() == [f"1 stored block cannot be read, not shown: {path}"]
        assert quiet(store, line).stderr == ""


def test_many_notes_are_cut_and_the_last_stays(store: MemoryDatastore) -> None:
    bad = "\n---\n".join(SET.replace("10.0.0.0/8", "x").replace("one", f"s{number}") for number in range(300))
    lines = told(store, "apply -f in.yaml", {"in.yaml": bad}).stderr.splitlines()
    assert len(lines) == 1 + failures.MOST_NOTES
    assert lines[-2].startswith("... and ")
    assert lines[-1] == "applied: nothing"


def test_long_lists_and_words_are_cut() -> None:
    assert failures.several(["a", "b"]) == "a, b"
    assert failures.several([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert failures.several(["x" * 999]) == "x" * 200 + "..."


@pytest.mark.parametrize("where", ["file", "directory", "stdin"])
def test_too_much_input_is_refused_at_once(store: MemoryDatastore, where: str) -> None:
    text = SET + "#" * (inputs.MOST_BYTES + 1)
    begun_s = time.monotonic()
    if where == "stdin":
        refused = run_calicoctl(store, ["apply", "-f", "-"], {}, text, ENVIRONMENT)
    elif where == "file":
        refused = quiet(store, "apply -f in.yaml", {"in.yaml": text})
    else:
        half = text[: inputs.MOST_BYTES // 2 + 1]
        refused = quiet(store, "apply -f d", {"d/a.yaml": half, "d/b.yaml": half})
    name = {"file": "in.yaml", "directory": "d", "stdin": "-"}[where]
    text = f"failed to execute command: {name}: more than 16 MiB of input: give it in several parts\n"
    assert refused == (1, "", text)
    assert time.monotonic() - begun_s < 5


def test_an_endless_file_is_refused(store: MemoryDatastore) -> None:
    assert quiet(store, "validate -f /dev/zero").stderr.endswith(f"{inputs.TOO_MUCH}\n")


def test_a_million_separators_are_refused_at_once(store: MemoryDatastore) -> None:
    begun_s = time.monotonic()
    refused = quiet(store, "apply -f in.yaml", {"in.yaml": "---\n" * 1_000_000})
    assert (refused.status, refused.stdout) == (1, "")
    assert f"documents are too many: at most {MOST_DOCUMENTS} are read from one file" in refused.stderr
    assert time.monotonic() - begun_s < 15


def test_more_values_than_memory_holds_are_refused(store: MemoryDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    def big(name: str, nets: int) -> str:
        return SET.replace("one", name).replace("10.0.0.0/8", "10.0.0.0/8," * nets)

    monkeypatch.setattr(yaml_input._GoLoader, "nodes_left", 1_000)
    refused = quiet(store, "apply -f in.yaml", {"in.yaml": big("one", 1_000)})
    assert (refused.status, refused.stdout) == (1, "")
    assert "values in one document: give it in several parts" in refused.stderr
    both = quiet(store, "apply -f in.yaml", {"in.yaml": f"{big('a', 800)}---\n{big('b', 800)}"})
    assert both.status == 0, "each document counts for itself"


def test_many_separators_that_are_not_too_many_take_no_time(store: MemoryDatastore) -> None:
    begun_s = time.monotonic()
    refused = quiet(store, "validate -f in.yaml", {"in.yaml": "---\n" * 20_000})
    assert refused == (1, "", "failed to execute command: unknown resource type () and/or version ()\n")
    assert time.monotonic() - begun_s < 15


def test_a_terminal_obeys_nothing_that_is_stored(tmp_path: Path) -> None:
    (tmp_path / "in.yaml").write_text(SET.replace("{name: one}", '{name: "a\\e]0;owned\\a\\x9b"}'))
    seen = on_terminal(["validate", "-f", "in.yaml"], tmp_path)
    assert "a\\x1b]0;owned\\x07\\x9b" in seen
    assert CONTROL.search(seen.encode()) is None
    assert "in.yaml, line 1: GlobalNetworkSet(a" in seen
    piped = subprocess.run(
        [sys.executable, "-m", "calicoctl.main", "validate", "-f", "in.yaml"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert b"a\x1b]0;owned\x07\xc2\x9b" in piped.stderr

"""patch and label: what cannot be done is one line that says why; the stored object stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from calicoctl.testing import Outcome, run_calicoctl
from libcalico.client.blocking import Client
from libcalico.datastore.memory import MemoryDatastore

POLICY = {
    "kind": "GlobalNetworkPolicy",
    "metadata": {"name": "g1", "labels": {"zone": "a"}},
    "spec": {"order": 5, "selector": "all()", "types": ["Ingress"]},
}
TIER_LABEL = "projectcalico.org/tier"


@pytest.fixture
def store() -> Iterator[MemoryDatastore]:
    datastore = MemoryDatastore()
    with Client(datastore=datastore) as client:
        client.ensure_initialized()
        client.create(POLICY)
    yield datastore


def run(store: MemoryDatastore, *words: str) -> Outcome:
    """A command line, with the notes."""
    return run_calicoctl(store, ["-l", "error", *words], {})


def stored(store: MemoryDatastore) -> dict[str, object]:
    """Labels and spec of the policy, as `get` shows them."""
    shown = json.loads(run(store, "get", "gnp", "g1", "-o", "json").stdout)
    labels = {key: value for key, value in shown["metadata"]["labels"].items() if key != TIER_LABEL}
    return {"labels": labels, "spec": shown["spec"]}


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ('{"spec":{"order":NaN}}', "NaN is no number of JSON"),
        ('{"spec":{"order":-Infinity}}', "-Infinity is no number of JSON"),
        ('{"spec":{"order":1e999}}', "1e999 is too large"),
        ('{"spec":{"order":%s}}' % ("1" * 5000), f"{'1' * 20}... is too large"),
        ("[" * 100_000, "the patch is no JSON"),
        ("[]", "the patch must be an object"),
    ],
)
def test_a_patch_that_is_no_json_says_why(store: MemoryDatastore, patch: str, reason: str) -> None:
    outcome = run(store, "patch", "gnp", "g1", "-p", patch)
    first, second = outcome.stderr.splitlines()
    assert (outcome.status, first) == (1, "hit error: performing strategic merge patch: invalid JSON document")
    assert reason in second
    assert stored(store)["spec"] == {**POLICY["spec"], "tier": "default"}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("operation", "path", "reason"),
    [
        ("add", "/spec/selector/x", "Cannot apply token 'x'"),
        ("add", "/spec/order/x", "does not support indexing"),
        ("replace", "/spec/types/1", "can't replace outside of list"),
        ("remove", "/spec/types/1", "can't remove a non-existent object '1'"),
        ("remove", "/spec/types/-", "invalid array index '-'"),
        ("add", "/spec/types/2", "can't insert outside of list"),
        ("add", "/spec/types/1/x", "index '1' is out of bounds"),
        ("add", "/spec/types/\u00b2", "is not a valid sequence index"),
        ("remove", "/spec/absent", "can't remove a non-existent object 'absent'"),
        ("replace", "/spec/absent", "can't replace a non-existent object 'absent'"),
        ("test", "/spec/order", "is not equal to tested value"),
        ("change", "/spec/order", "Unknown operation 'change'"),
        ("replace", "", "path '' must be text that begins with '/'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(store: MemoryDatastore, operation: str, path: str, reason: str) -> None:
    patch = json.dumps([{"op": operation, "path": path, "value": "Egress"}])
    outcome = run(store, "patch", "gnp", "g1", "-t", "json", "-p", patch)
    assert outcome.status == 1
    assert outcome.stderr.startswith("hit error: json patch: ")
    assert reason in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["1", "-"])
def test_an_entry_may_be_added_behind_the_last(store: MemoryDatastore, place: str) -> None:
    patch = json.dumps([{"op": "add", "path": f"/spec/types/{place}", "value": "Egress"}])
    assert run(store, "patch", "gnp", "g1", "-t", "json", "-p", patch).status == 0
    assert stored(store)["spec"]["types"] == ["Ingress", "Egress"]  # type: ignore[index]


def test_all_operations_of_rfc_6902_are_there(store: MemoryDatastore) -> None:
    operations = [
        {"op": "test", "path": "/spec/order", "value": 5},
        {"op": "copy", "from": "/metadata/labels/zone", "path": "/metadata/labels/copy"},
        {"op": "move", "from": "/metadata/labels/zone", "path": "/metadata/labels/moved"},
        {"op": "add", "path": "/metadata/annotations/a~1b", "value": "c"},
        {"op": "remove", "path": "/spec/order"},
    ]
    assert run(store, "patch", "gnp", "g1", "-t", "json", "-p", json.dumps(operations)).status == 0
    assert stored(store)["labels"] == {"copy": "a", "moved": "a"}
    assert "order" not in stored(store)["spec"]  # type: ignore[operator]


def test_the_whole_word_is_the_key_of_a_label_to_remove(store: MemoryDatastore) -> None:
    outcome = run(store, "label", "gnp", "g1", "zone=wrong", "--remove")
    problem = "cannot remove label of gnp g1, key zone=wrong does not exist\n"
    assert (outcome.status, outcome.stderr) == (1, problem)
    assert stored(store)["labels"] == {"zone": "a"}
    assert (
        run(store, "label", "gnp", "g1", "zone", "--remove").stdout == "Successfully removed label zone from gnp g1\n"
    )
    assert stored(store)["labels"] == {}


@pytest.mark.parametrize("word", ["a", "a=b=c"])
def test_a_label_to_set_has_one_equals_sign(store: MemoryDatastore, word: str) -> None:
    outcome = run(store, "label", "gnp", "g1", word)
    assert outcome.stderr == f"invalid label {word}\nwrite key=value, or key --remove\n"


def test_a_label_that_cannot_be_written_says_why(store: MemoryDatastore) -> None:
    first, *notes = run(store, "label", "gnp", "g1", "a=-b").stderr.splitlines()
    assert first == "failed to update gnp g1, label not changed"
    assert "Metadata.Labels (value)" in "\n".join(notes)


def test_a_patch_with_another_revision_is_a_conflict(store: MemoryDatastore) -> None:
    metadata = json.loads(run(store, "get", "gnp", "g1", "-o", "json").stdout)["metadata"]
    assert run(store, "patch", "gnp", "g1", "-p", json.dumps({"metadata": metadata})).status == 0
    metadata["labels"] = {"zone": "b"}
    outcome = run(store, "patch", "gnp", "g1", "-p", json.dumps({"metadata": metadata}))
    assert (outcome.status, outcome.stderr) == (
        1,
        "hit error: updating existing resource: update conflict: GlobalNetworkPolicy(g1)\n",
    )
    assert stored(store)["labels"] == {"zone": "a"}
    without = json.dumps({"metadata": {"resourceVersion": None, "labels": {"zone": "b"}}})
    assert run(store, "patch", "gnp", "g1", "-p", without).status == 0

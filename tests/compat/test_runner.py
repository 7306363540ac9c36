"""What the runner of vector files must never do: pass over something that it did not understand."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from tests.compat import vectors
from tests.compat.contract import judged, limited, tree_differences, unknown_members
from tests.compat.private_host import laid_files

SELECTOR = {"n": 1, "selector": "all()", "labels": {}, "valid": False, "canonical": "all()", "id": "s:x", "match": True}
SEQUENCE: dict[str, Any] = {
    "name": "one", "note": "", "given": {"pools": [], "nodes": []}, "start": {},
    "steps": [{
        "op": "ipsbyhandle", "args": {"Handle": "h"}, "result": [], "error": "wrong",
        "keys": {"/calico/ipam/v2/x": {}},
    }],
}  # fmt: skip


def write(path: Path, *cases: Any) -> str:
    path.write_text("".join(f"{case if isinstance(case, str) else json.dumps(case)}\n" for case in cases))
    return str(path)


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main(["nowhere/cni.jsonl"]) == 1
    out = capsys.readouterr().out
    assert "no such file" in out
    assert out.endswith("0 passed, 1 failed, 0 skipped\n")


def test_a_file_of_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main([write(tmp_path / "odd.json", {"odd": 1})]) == 1
    assert "no format in tests/compat/formats claims this file" in capsys.readouterr().out


def test_nothing_to_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "ipam.jsonl", SEQUENCE)
    assert vectors.main(["--only", "no such name", path]) == 1
    assert "nothing was played" in capsys.readouterr().out


def test_every_difference_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main([write(tmp_path / "ipam.jsonl", SEQUENCE)]) == 1
    out = capsys.readouterr().out
    assert "expected 'wrong'" in out
    assert "/calico/ipam/v2/x is missing" in out


def test_what_is_not_known_of_a_case_fails_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step: dict[str, Any] = {"op": "frobnicate", "args": {}, "result": None, "error": None, "keys": {}}
    argument = {"op": "ipsbyhandle", "args": {"Handle": "h", "Colour": 1}, "result": None, "error": None, "keys": {}}
    case = {**SEQUENCE, "steps": [step, argument], "mood": "odd", "given": {"pools": [], "weather": {}}}
    assert vectors.main([write(tmp_path / "ipam.jsonl", case)]) == 1
    out = capsys.readouterr().out
    for text in ("unknown member mood", "given.weather", "operation is not known", "not passed on: Colour"):
        assert text in out, text


def test_a_case_that_crashes_harms_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {**SEQUENCE, "name": "broken", "start": None}
    fine = {**SEQUENCE, "name": "fine", "steps": []}
    assert vectors.main([write(tmp_path / "ipam.jsonl", broken, "{not JSON", fine)]) == 1
    out = capsys.readouterr().out
    assert "FAIL ipam.jsonl broken" in out
    assert "FAIL ipam.jsonl line 2" in out
    assert out.endswith("1 passed, 2 failed, 0 skipped\n")


def test_skips_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [{**SEQUENCE, "name": f"case {n}", "needs": ["Windows hosts"]} for n in range(3)]
    assert vectors.main([write(tmp_path / "ipam.jsonl", *cases)]) == 0
    out = capsys.readouterr().out
    assert "SKIP ipam.jsonl: 3 x needs Windows hosts" in out
    assert out.endswith("0 passed, 0 failed, 3 skipped\n")


def test_a_wrong_verdict_of_a_selector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main([write(tmp_path / "selectors.jsonl", SELECTOR)]) == 1
    assert "accepted as 'all()', but it is not valid" in capsys.readouterr().out


def test_a_case_that_does_not_end() -> None:
    def hang() -> list[str]:
        while True:
            pass

    assert judged("hanging", hang, timeout_s=1).differences == ("did not end within 1 s",)
    with limited(1):
        pass


def test_unknown_members_of_nested_shapes() -> None:
    shape: Any = {"a": [{"b": None}], "c": {"d": {"e": None}}}
    found = unknown_members({"a": [{"b": {"free": 1}}, {"x": 1}], "c": {"d": {"f": 1}}}, shape)
    assert found == ["unknown member a[1].x", "unknown member c.d.f"]


def test_tree_differences_name_every_place() -> None:
    found = tree_differences({"a": 1, "b": [1], "n": True}, {"a": 2, "c": None, "b": [1], "n": 1})
    assert found == ["/a is 1, expected 2", "/c is missing, expected null", "/n is true, expected 1"]


def test_files_outside_of_private_folders_are_as_they_were(tmp_path: Path) -> None:
    kept, made = tmp_path / "kept", tmp_path / "new" / "folder" / "made"
    kept.write_text("before")
    with laid_files({str(kept): "case", str(made): "case"}):
        assert (kept.read_text(), made.read_text()) == ("case", "case")
    assert kept.read_text() == "before"
    assert not (tmp_path / "new").exists()


PASSING = {
    **SEQUENCE,
    "steps": [{"op": "put", "args": {"Key": "/a", "Value": "b"}, "result": None, "error": None, "keys": {}}],
}
ENTRY: dict[str, Any] = {
    "name": "tiers", "dataset": "empty", "argv": ["get", "tier"], "stdout": "NAME   ORDER   \n\n",
    "stderr": "", "exit": 0,
}  # fmt: skip


def command_lines(*entries: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A file of command lines."""
    return {"entries": entries, **members, "datasets": {"empty": {"etcd": []}}}


def test_members_that_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "lines.json", command_lines(ENTRY, {**ENTRY, "name": "wrong", "argv": ["get", "node"]}))
    assert vectors.main([path]) == 1
    out = capsys.readouterr().out
    assert "FAIL lines.json wrong" in out
    assert out.endswith("1 passed, 1 failed, 0 skipped\n")


def test_what_a_format_is_known_by_may_stand_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {**ENTRY, "note": "x" * vectors.HEAD_BYTES}
    assert vectors.main([write(tmp_path / "lines.json", command_lines(long))]) == 0
    assert capsys.readouterr().out.endswith("1 passed, 0 failed, 0 skipped\n")


def test_a_file_that_is_packed_or_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps(PASSING)
    packed, marked = tmp_path / "some.jsonl.xz", tmp_path / "marked.jsonl"
    packed.write_bytes(lzma.compress(text.encode()))
    marked.write_text(f"\ufeff{text}\n")
    assert vectors.main([str(packed), str(marked)]) == 0
    assert capsys.readouterr().out.endswith("2 passed, 0 failed, 0 skipped\n")


def test_a_file_that_breaks_off_harms_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(command_lines(ENTRY))[:-3])
    damaged = tmp_path / "damaged.jsonl.xz"
    damaged.write_bytes(b"no xz")
    fine = write(tmp_path / "ipam.jsonl", PASSING)
    assert vectors.main([str(broken), str(damaged), fine]) == 1
    out = capsys.readouterr().out
    assert out.count("cannot be played to its end") == 2
    assert out.endswith("1 passed, 2 failed, 0 skipped\n")

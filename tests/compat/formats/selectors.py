"""`selectors.json` (a list with `matches`/`misses`) and `selectors-random.jsonl` (one case a line)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libcalico import selector
from tests.compat.contract import Options, Result, Shape, json_lines, judged, text_of, unknown_members

CASE: Shape = dict.fromkeys(
    ("n", "note", "selector", "labels", "valid", "canonical", "id", "match", "matches", "misses", "error")
)


def claims(_path: Path, head: bytes) -> bool:
    """Both formats give `selector`, `canonical` and `id` in their first entry."""
    first = head[:4096]
    return b'"selector"' in first and b'"canonical"' in first and b'"id"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Validity, canonical text, id and every evaluation."""
    for place, case, problem in _cases(path):
        name = str(case.get("n") or f"{place} {case.get('selector')!r}"[:120])
        if options.only in name:
            yield Result(name, (problem,)) if problem else judged(name, lambda case=case: _differences(case))  # type: ignore[misc]


def _cases(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    text = text_of(path)
    if not text.lstrip().startswith("["):
        yield from json_lines(path)
        return
    for number, case in enumerate(json.loads(text)):
        known = isinstance(case, dict) and "selector" in case
        yield f"#{number}", case if known else {}, "" if known else "is no case"


def _differences(case: dict[str, Any]) -> list[str]:
    found = unknown_members(case, CASE)
    try:
        parsed = selector.parse(case["selector"])
    except selector.SelectorError as error:
        return found + ([f"refused ({error}), but it is valid"] if case["valid"] else [])
    if not case["valid"]:
        return [*found, f"accepted as {parsed.text!r}, but it is not valid"]
    if parsed.text != case["canonical"]:
        found.append(f"canonical text {parsed.text!r}, expected {case['canonical']!r}")
    if parsed.id != case["id"]:
        found.append(f"id {parsed.id}, expected {case['id']}")
    for labels, expected in _evaluations(case):
        if parsed.evaluate(labels) != expected:
            found.append(f"evaluates to {not expected} on {labels}")
    return found


def _evaluations(case: dict[str, Any]) -> list[tuple[dict[str, str], bool]]:
    if "match" in case:
        return [(case["labels"], case["match"])]
    return [(labels, True) for labels in case["matches"]] + [(labels, False) for labels in case["misses"]]

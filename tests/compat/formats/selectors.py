"""`selectors.json` (a list with `matches`/`misses`) and `selectors-random.jsonl` (one case a line)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libcalico import selector
from tests.compat.contract import Options, Result


def claims(_path: Path, head: bytes) -> bool:
    """Both formats give `selector`, `canonical` and `id` in their first entry."""
    first = head[:4096]
    return b'"selector"' in first and b'"canonical"' in first and b'"id"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Validity, canonical text, id and every evaluation."""
    for number, case in enumerate(_cases(path.read_text(encoding="utf-8", errors="surrogatepass"))):
        name = str(case.get("n") or f"#{number} {case['selector']!r}"[:120])
        if options.only in name:
            yield Result(name, _failure(case))


def _cases(text: str) -> list[dict[str, Any]]:
    if text.lstrip().startswith("["):
        cases = json.loads(text)
        return [case for case in cases if isinstance(case, dict) and "selector" in case]
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _failure(case: dict[str, Any]) -> str:
    try:
        parsed = selector.parse(case["selector"])
    except selector.SelectorError as error:
        return f"refused ({error}), but it is valid" if case["valid"] else ""
    if not case["valid"]:
        return f"accepted as {parsed.text!r}, but it is not valid"
    if parsed.text != case["canonical"]:
        return f"canonical text {parsed.text!r}, expected {case['canonical']!r}"
    if parsed.id != case["id"]:
        return f"id {parsed.id}, expected {case['id']}"
    for labels, expected in _evaluations(case):
        if parsed.evaluate(labels) != expected:
            return f"evaluates to {not expected} on {labels}"
    return ""


def _evaluations(case: dict[str, Any]) -> list[tuple[dict[str, str], bool]]:
    if "match" in case:
        return [(case["labels"], case["match"])]
    return [(labels, True) for labels in case["matches"]] + [(labels, False) for labels in case["misses"]]

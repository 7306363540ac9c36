"""How what a command printed is compared with a recording (vectors/golden/README.md, "How texts are compared")."""

from __future__ import annotations

import re
from typing import Any

from calicoctl.testing import ETCD
from tests.compat.error_fields import missing_fields, parse_fields, surroundings

MASKS = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r'(resourceVersion"?: ?"?)\d+'), r"\1<rv>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<guid>"),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "<pointer>"),
    (re.compile(re.escape(ETCD)), "<etcd>"),
)
USAGE = re.compile(r"(?s)Usage:\n.*")
BACKEND = re.compile(r"(?m)(?<= with error: ).*$")
CUT = re.compile("<help text>|<stack trace>")
DECODE = re.compile(r"error unmarshaling JSON|error converting YAML|yaml: ")


def mask(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return text


def words_of(text: str) -> set[str]:
    """The words of a text whose order and column widths are chance."""
    return set(text.split())


def text_problem(stream: str, ours: str, wanted: str, unordered: bool = False) -> str:
    """Empty, or how a stream of output differs from the recorded text."""
    found, expected = (USAGE.sub("Usage:\n", mask(text)) for text in (ours, wanted))
    if unordered and words_of(found) == words_of(expected):
        return ""
    if found == expected or BACKEND.sub("", found) == BACKEND.sub("", expected):
        return ""
    pattern = ".*".join(re.escape(part) for part in CUT.split(expected))
    if CUT.search(expected) and re.fullmatch(pattern, found, re.DOTALL):
        return ""
    problem = _decode_problem(found, expected) or _fields_problem(found, expected)
    return f"{stream} {problem or f'is {found!r}, expected {expected!r}'}" if problem != "fits" else ""


def _decode_problem(found: str, expected: str) -> str:
    """`fits` for two errors about a document that stand in the same place; empty if it is no such error."""
    mark, own = DECODE.search(expected), DECODE.search(found)
    if mark is None or own is None:
        return ""
    same = found[: own.start()] == expected[: mark.start()]
    return "fits" if same else f"begins {found[: own.start()]!r}, expected {expected[: mark.start()]!r}"


def _fields_problem(found: str, expected: str) -> str:
    """`fits` when all that binds of the recorded fields is there; empty if it is no such error."""
    wanted = parse_fields(expected)
    if not wanted:
        return ""
    if surroundings(found) != surroundings(expected):
        return f"is {found!r}, expected {expected!r}: it begins or ends otherwise"
    missing = missing_fields(wanted, parse_fields(found))
    return f"lacks {missing}: {found!r}" if missing else "fits"


def words_problem(stream: str, ours: str, words: list[str]) -> str:
    """Empty, or which of the wanted words a stream lacks."""
    found = mask(ours)
    lacking = [word for word in words if word not in found and word not in ours]
    return f"{stream} lacks {lacking}: {ours!r}" if lacking else ""


def stream_problem(stream: str, ours: str, entry: dict[str, Any]) -> str:
    """How stdout or stderr of an entry, `ours` put over it, differs: by words where it has `<stream>~`."""
    if f"{stream}~" in entry:
        return words_problem(stream, ours, entry[f"{stream}~"])
    wanted = entry.get(f"{stream}_normalised", entry[stream])
    return text_problem(stream, ours, wanted, bool(entry.get("unordered")))


def put_over(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with the members of its `ours` in the place of the recorded ones."""
    ours = entry.get("ours", {})
    merged = {**entry, **ours}
    for stream in ("stdout", "stderr"):
        if stream in ours or f"{stream}~" in ours:
            merged.pop(f"{stream}_normalised", None)
        if stream in ours and f"{stream}~" not in ours:
            merged.pop(f"{stream}~", None)
    return merged

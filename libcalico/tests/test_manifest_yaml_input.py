"""Files are read as Go reads YAML 1.1: what would silently store something else is a case here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.errors import BadData
from libcalico.manifest.yaml_input import decode, load, load_objects, load_placed, split_documents


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20:25", "20:25"),
        ("22:23", "22:23"),
        ("80", 80),
        ("010", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b101", 5),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("12e3", 12000.0),
        ("1.50", 1.5),
        ("y", True),
        ("No", False),
        ("on", True),
        ("yEs", "yEs"),
        ("~", None),
        ("", None),
        ("2026-03-01", "2026-03-01"),
        ("=", "="),
        ("'80'", "80"),
        ('"yes"', "yes"),
        ("all()", "all()"),
        ("1.2.3", "1.2.3"),
        ("172.29.0.0/16", "172.29.0.0/16"),
        ("1e400", "1e400"),
        ("1" * 400, "1" * 400),
        ("1" * 5000, "1" * 5000),
        ("0x1FFFFFFFFFFFFFFFFFFF", "0x1FFFFFFFFFFFFFFFFFFF"),
        ("18446744073709551615", (1 << 64) - 1),
        ("+18446744073709551615", float(1 << 64)),
        ("0777777777777777777777777", 7.777777777777778e23),
        ("_1", "_1"),
        ("_1.5", "_1.5"),
        ("._5", "._5"),
        (".2_", ".2_"),
        (".5_0", 0.5),
        (".iNf", ".iNf"),
        ("!!str yes", "yes"),
        ("!!str 1.50", "1.50"),
        ("!!int '5'", 5),
        ("!!float 5", 5.0),
        ("!!timestamp 2026-03-01", "2026-03-01"),
        ("!!binary aGVsbG8=", "hello"),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    found = load(f"a: {text}\n")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_keys_become_text_and_merges_are_filled_in() -> None:
    assert load("no: 1\n5: x\n") == {"false": 1, "5": "x"}
    assert load("1.0: a\n1e3: b\n1e21: c\n") == {"1": "a", "1000": "b", "1e+21": "c"}
    assert load("base: &b {x: 1, y2: 2}\nuse:\n  <<: *b\n  x: 3\n")["use"] == {"x": 3, "y2": 2}


def test_a_repeated_member_is_an_error_with_its_line() -> None:
    with pytest.raises(BadData, match=r'line 3: key "cidr" already set in map'):
        load("spec:\n  cidr: 10.0.0.0/8\n  cidr: 10.1.0.0/16\n")


def test_a_tag_that_swallows_a_selector_names_line_and_fix() -> None:
    with pytest.raises(BadData, match=r"line 2: the YAML tag !has\(app\)"):
        load("spec:\n  selector: !has(app)\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nnull: 2", "line 2: a map's key must be text, not null"),
        ("a: 1\n? [b]\n: 2", "line 2: a map's key must be text, not a list"),
        ("a: 1\nb: !!int x", "line 2: cannot decode !!str `x` as a !!int"),
        ("a: !!binary '#'", "line 1: !!binary value contains invalid base64 data"),
        ("a: -.inf", "json: unsupported value: -.inf: put it in quotes"),
    ],
)
def test_what_json_cannot_hold_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadData, match=f"^error converting YAML to JSON: .*{problem}"):
        load(text)


def test_json_is_read_too_and_what_follows_a_document_is_ignored() -> None:
    assert load('{"a": [1, "\\u00e9", true, null,]} trailing') == {"a": [1, "é", True, None]}


@pytest.mark.parametrize("text", ["a: [1", "a:\n\tb: 1", "{", "a: b: c", "- x\n y: 1"])
def test_malformed_text_is_bad_data(text: str) -> None:
    with pytest.raises(BadData):
        load(text)


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a\n  b: *a\n", "<<: 1", "[" * 3000])
def test_documents_without_an_end_are_bad_data(text: str) -> None:
    with pytest.raises(BadData):
        load(text)


def test_a_few_lines_cannot_fill_the_memory() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(BadData, match="excessive aliasing"):
        load("\n".join(lines))


def test_documents_lists_and_lists_of_objects() -> None:
    assert load_objects("a: 1\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert load_objects("- a: 1\n- a: 2\n") == [{"a": 1}, {"a": 2}]
    assert load_objects("kind: IPPoolList\nitems:\n- kind: IPPool\n") == [{"kind": "IPPool"}]
    assert load_objects("a: 1\n---\n# nothing\n") == [{"a": 1}, None]
    assert split_documents("---\na: 1\n") == [(1, "---\na: 1\n")]


LINES = """\
# two objects
kind: A
spec:
  nets: [x]
  ingress:
  - source: {ports: [1]}
  - destination: {ports: [2]}
---
kind: BList
items:
- kind: B
- kind: B
  spec: {ports: 1}
--- # after CRLF\r
- kind: C
-
  kind: D
"""


def test_objects_and_their_members_are_found_again_by_line() -> None:
    placed = load_placed(LINES)
    assert [(one.value["kind"], one.line) for one in placed] == [("A", 2), ("B", 11), ("B", 12), ("C", 15), ("D", 17)]
    first, third = placed[0], placed[2]
    assert first.line_of(("spec", "ingress", "Destination", "ports")) == 7
    assert first.line_of(("nets",)) == 4
    assert first.line_of(("ports",)) == first.line_of(("absent",)) == 2
    assert third.line_of(("spec", "ports")) == 13


def test_a_document_that_cannot_be_read_says_where_it_begins() -> None:
    with pytest.raises(BadData, match="yaml: line 2") as caught:
        load_placed("a: 1\n---\nb: 2\nc: [\n---\nd: 1\n")
    assert caught.value.__notes__ == ["in the document that begins at line 3"]


@pytest.mark.parametrize("text", ["kind: AList\nitems: 3", "kind: AList\nitems: {a: b}", "kind: AList\nitems: abc"])
def test_items_must_be_a_list(text: str) -> None:
    with pytest.raises(BadData, match="the items of a AList must be a list"):
        load_objects(text)


def test_items_from_an_alias_or_a_merge_are_kept() -> None:
    assert load_objects("x: &x {items: [{a: 1}, {a: 2}]}\nkind: AList\n<<: *x\n") == [{"a": 1}, {"a": 2}]


def test_a_file_that_is_not_utf_8_names_the_line() -> None:
    assert decode(b"\xef\xbb\xbfa: \xc3\xa9\n") == "a: \u00e9\n"
    with pytest.raises(BadData, match="line 2: byte 0xe9 is not UTF-8 text"):
        decode(b"a: 1\nb: caf\xe9\n")


@given(st.text(alphabet="ab<:-[]{}!&*'\"#|>\n 0y,?%@`~.\\", max_size=40))
def test_any_text_is_read_or_is_bad_data(text: str) -> None:
    try:
        load_objects(text)
    except BadData:
        pass

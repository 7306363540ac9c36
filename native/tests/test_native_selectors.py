"""Selectors and the label index: one test for both builds, and the builds against each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_native import expression as compiled
from calico_native import label_index as compiled_index
from calico_native.py import expression as twin
from calico_native.py import label_index as twin_index

NAMES = st.sampled_from(["a", "b", "c.d/e-f", "projectcalico.org/namespace"])
VALUES = st.sampled_from(["", "1", "2", "12", "it's", "é", "x y"])
LABELS = st.dictionaries(NAMES, VALUES, max_size=4)


def quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


COMPARISON = st.builds(
    lambda name, op, value: f"{name} {op} {quoted(value)}",
    NAMES, st.sampled_from(["==", "!=", "contains", "starts with", "ends  with"]), VALUES,
)  # fmt: skip
MEMBERSHIP = st.builds(
    lambda name, op, values: f"{name} {op} {{{', '.join(map(quoted, values))}}}",
    NAMES, st.sampled_from(["in", "not in"]), st.lists(VALUES, max_size=3),
)  # fmt: skip
LEAVES = COMPARISON | MEMBERSHIP | NAMES.map(lambda name: f"has({name})") | st.just("all()")
SELECTORS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(lambda one: f"!({one})")
        | st.builds("({} && {})".format, inner, inner)
        | st.builds("({} || {})".format, inner, inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", "all()"),
        (" a=='1'&&has( b ) ", '(a == "1" && has(b))'),
        ("!!!has(a)", "!has(a)"),
        ("a in {'2', '1', '2',}", 'a in {"1", "2"}'),
        ("a not  in {}", "a not in {}"),
        ("a notin {}", "a not in {}"),
        ("((a == 'x\"'))", "a == 'x\"'"),
        ("all() || a != '1' && !has(b)", '(all() || (a != "1" && !has(b)))'),
    ],
)
def test_canonical_text(expression: Any, text: str, canonical: str) -> None:
    assert expression.render(expression.parse(text)) == canonical
    assert expression.render(expression.parse(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    ["a", "a =", "a = 'x'", "a == x", "a == 'x", "has(a", "has()", "a in 'x'", "a in {'x'", "a == '1' &", "! = 'x'",
     "a == '1' b", "a inside {'1'}", "(a == '1'", ")", "a == '1'\n", "(" * 600 + "all()" + ")" * 600,
     "x" * 513 + " == '1'"],
)  # fmt: skip
def test_what_is_no_selector_is_refused(expression: Any, text: str) -> None:
    with pytest.raises(expression.ParseError):
        expression.parse(text)


@pytest.mark.parametrize(
    ("text", "present", "absent"),
    [
        ("a == ''", False, False),
        ("a != '1'", True, True),
        ("a not in {'1'}", True, True),
        ("!has(a)", False, True),
        ("a starts with ''", True, False),
        ("a contains '2'", True, False),
    ],
)
def test_a_missing_label(expression: Any, text: str, present: bool, absent: bool) -> None:
    """With a = 2, and without a."""
    node = expression.parse(text)
    assert (expression.evaluate(node, {"a": "2"}), expression.evaluate(node, {})) == (present, absent)


@given(SELECTORS, LABELS)
def test_builds_agree(text: str, items: dict[str, str]) -> None:
    one, other = compiled.parse(text), twin.parse(text)
    assert compiled.render(one) == twin.render(other)
    assert compiled.evaluate(one, items) == twin.evaluate(other, items)
    assert compiled.evaluate(compiled.parse(compiled.render(one)), items) == compiled.evaluate(one, items)


@given(st.text(alphabet="ab=!'\"&|(){}, hasinot\t\n", max_size=30))
def test_builds_agree_on_garbage(text: str) -> None:
    def parse(module: Any) -> str:
        try:
            return str(module.render(module.parse(text)))
        except module.ParseError as error:
            return f"error: {error}"

    assert parse(compiled) == parse(twin)


@given(SELECTORS, LABELS)
def test_restrictions_are_necessary(text: str, items: dict[str, str]) -> None:
    node = compiled.parse(text)
    if not compiled.evaluate(node, items):
        return
    for name, one in compiled.restrictions(node).items():
        assert not one.present or name in items
        assert not one.absent or name not in items
        assert one.one_of is None or items[name] in one.one_of


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("item"), st.sampled_from("xyz"), LABELS, st.lists(st.sampled_from(["p", "q"]), unique=True)),
        st.tuples(st.just("drop item"), st.sampled_from("xyz")),
        st.tuples(st.just("selector"), st.sampled_from("ABC"), SELECTORS),
        st.tuples(st.just("drop selector"), st.sampled_from("ABC")),
        st.tuples(st.just("parent"), st.sampled_from("pq"), LABELS),
        st.tuples(st.just("drop parent"), st.sampled_from("pq")),
    ),
    max_size=25,
)


@pytest.mark.parametrize(
    ("language", "module"), [(compiled, compiled_index), (twin, twin_index)], ids=["compiled", "twin"]
)
@settings(max_examples=settings().max_examples * 3 // 2)
@given(steps=STEPS)
def test_index_is_evaluating_everything(language: Any, module: Any, steps: list[Any]) -> None:
    """After any updates the announced matches are those of every selector on every item's effective labels."""
    announced: set[tuple[str, str]] = set()

    def started(selector: str, item: str) -> None:
        assert (selector, item) not in announced
        announced.add((selector, item))

    def stopped(selector: str, item: str) -> None:
        announced.remove((selector, item))

    index = module.LabelIndex(started, stopped)
    items: dict[str, tuple[dict[str, str], list[str]]] = {}
    selectors: dict[str, str] = {}
    parents: dict[str, dict[str, str]] = {}
    for step in steps:
        if step[0] == "item":
            items[step[1]] = (step[2], step[3])
            index.update_labels(step[1], step[2], tuple(step[3]))
        elif step[0] == "drop item":
            items.pop(step[1], None)
            index.delete_labels(step[1])
        elif step[0] == "selector":
            selectors[step[1]] = step[2]
            index.update_selector(step[1], language.parse(step[2]))
        elif step[0] == "drop selector":
            selectors.pop(step[1], None)
            index.delete_selector(step[1])
        elif step[0] == "parent":
            parents[step[1]] = step[2]
            index.update_parent_labels(step[1], step[2])
        else:
            parents.pop(step[1], None)
            index.delete_parent(step[1])
        expected = set()
        for item, (own, of) in items.items():
            effective: dict[str, str] = {}
            for parent in of:
                effective = {**parents.get(parent, {}), **effective}
            effective.update(own)
            expected |= {
                (s, item) for s, text in selectors.items() if language.evaluate(language.parse(text), effective)
            }
        assert announced == expected
        for item in items:
            assert index.matches(item) == {selector for selector, matched in expected if matched == item}

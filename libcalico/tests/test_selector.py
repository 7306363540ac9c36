"""Selectors as the library gives them: ids, translation of v3 objects, restrictions, deep nesting."""

from __future__ import annotations

import pytest

from libcalico import selector
from libcalico.selector import identity, translate


@pytest.mark.parametrize(
    ("text", "canonical", "identifier"),
    [
        ("", "all()", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        (" (all() )", "all()", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("! (has( b)||! has(a ))", "!(has(b) || !has(a))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ('! (a == "b"&&! c != "d")', '!(a == "b" && !c != "d")', "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ],
)
def test_check_values(text: str, canonical: str, identifier: str) -> None:
    one = selector.parse(text)
    assert (str(one), one.id) == (canonical, identifier)


def test_a_longest_selector_of_parentheses_is_one() -> None:
    """A resource allows 1024 characters; on Python without recursion to spare it is refused, never a crash."""
    deep = "(" * 509 + "has(a)" + ")" * 509
    try:
        assert selector.parse(deep).text == "has(a)"
    except selector.SelectorError as error:
        assert "deep" in str(error)
        from calico_native import implementation

        assert implementation == "python"


@pytest.mark.parametrize("depth", [600, 100_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    assert not selector.is_valid("(" * depth + "has(a)" + ")" * depth)
    text = "has(a)"
    for _ in range(depth // 100):
        text = f"!({text} && a == '1' || has(b))"
    assert selector.is_valid(text) == (depth == 600)


def test_normalise_keeps_what_does_not_parse() -> None:
    assert selector.normalise("\n a=='1' ") == 'a == "1"'
    assert selector.normalise(" a = ") == "a ="


def test_length_limited_names() -> None:
    assert identity.length_limited_id("cali-", "x", 8) == "cali-x"
    assert identity.length_limited_id("cali-", "", 8) == "cali-_"
    assert identity.length_limited_id("cali-", "abc", 8) == "cali-abc"
    assert identity.length_limited_id("cali-", "_bc", 8) != "cali-_bc"
    long = identity.length_limited_id("cali-", "abcdefgh", 12)
    assert len(long) == 12 and long.startswith("cali-_")


NS = "projectcalico.org/namespace"
SA = "projectcalico.org/serviceaccount"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ns", ""), f"{NS} == 'ns'"),
        (("ns", "a == '1'"), f"(a == '1') && {NS} == 'ns'"),
        (("ns", "", "x == '1'"), f"({NS} == 'ns') && pcsa.x == \"1\""),
        (("ns", "", "x =="), f"{NS} == 'ns'"),
    ],
)
def test_network_policies(given: tuple[str, ...], expected: str) -> None:
    assert translate.network_policy_selector(*given) == expected
    assert selector.is_valid(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("", "", ""), ""),
        (("all()", "", ""), "all()"),
        (("", "all()", ""), f"has({NS})"),
        (("all()", "x == '1'", ""), f'(has({NS})) && pcns.x == "1"'),
        (("", "x == '1'", "all()"), f'(pcns.x == "1") && has({SA})'),
        (("a == '1'", "bad bad", ""), "a == '1'"),
        (("a == '1'", "", "bad bad"), "a == '1'"),
        (("", "bad bad", ""), ""),
    ],
)
def test_global_policies(given: tuple[str, ...], expected: str) -> None:
    assert translate.global_policy_selector(*given) == expected
    assert selector.is_valid(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ns", "", "", ""), ""),
        (("ns", "a == '1'", "", ""), f"({NS} == 'ns') && (a == '1')"),
        (("ns", "", "a == '1'", ""), f"{NS} == 'ns'"),
        (("", "a == '1'", "", ""), "a == '1'"),
        (("ns", "", "", "all()"), f"has({NS})"),
        (("", "", "", "global()"), f"!has({NS})"),
        (("ns", "", "", "x == '1'", ("b", "a"), "y == '2'"),
         f'(pcns.x == "1") && ((pcsa.y == "2") && ({SA} in {{"a", "b"}}))'),
        (("ns", "a == '1'", "", "", ("b",)), f"({NS} == 'ns') && (({SA} in {{\"b\"}}) && (a == '1'))"),
    ],
)  # fmt: skip
def test_rules(given: tuple[str, ...], expected: str) -> None:
    assert translate.rule_selector(*given) == expected
    assert selector.is_valid(expected)


def test_equal_selectors_have_equal_ids_and_prefixes_keep_the_rest() -> None:
    one, other = selector.parse("a  in {'2','1'}"), selector.parse('a in {"1", "2"}')
    assert one == other and one.id == other.id and hash(one) == hash(other)
    assert one.with_prefix("p.").text == 'p.a in {"1", "2"}'
    assert selector.parse("all() || !has(a)").with_prefix("p.").text == "(all() || !has(p.a))"

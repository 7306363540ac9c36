"""Regular expressions are those of Go (RE2): what Go takes and refuses, not Python."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.model.go_regex import LONGEST, is_go_regex

TAKEN = r"""
^eth.* \d+ (?i)eth a(?i)b a(?i-s:b)c (?) (?P<n>x) (?<n>x) (?P<n>a)(?P<n>b) (?P<9_a>x) [[:alpha:]] [[:^word:]_]
\p{Greek} \pL \P{^Lu} x{1000} x{,5} x{ x{a} x{2,} x{02} x{2}? x*? a|b| |a ()
()* (|a)* (a{10}){100} (a{0}){1000} (a{2,}){500} \Q(\E \Q( a\Q\E* ^* $+ \b* \A\z a*(?i)* [a] []a] [^]a] [a-]
[-a] [a-c-e] [\d-z] [[a] [[:a] [[:]] [a[:digit:]b] [\]] [\x41-\x{1F600}] \12 \0 \377 \x7f \x{10FFFF}
\a\f\n\r\t\v \_ \- \] ] } é [é-ü] [\pL\d.]
"""
REFUSED = r"""
( ) (a a) (a|b [a [a- [] [^] [a-z ([a-z) [b-a] [\x42-\x41] [a-\d] [\b] [a-\pL] a** a++ a*+ a*?* a?{2} a{2}{3}
a{2}* * +a (*) |* (?i)* \Q\E* {2} a{2,1} x{1001} x{1,1001} x{1001,} ((a{100}){100})
((a{2,100}){10}){2} (a{501,}){2} (a)\1 \8 \Z \G \K \c \e \h \R \X \q \é \ua000 \x \x1 \x{} \x{110000} \x{1g}
\ (?=x) (?!x) (?<=x)y (?<!x)y (?>a) (?#a) (?a:x) (?L)a (?u)a (?i-) (?-) (?i (?P<a>x)(?P=a) (?P>a) (?P<> (?P<>x)
(?P<x-y>a) (?<x (?P<n (?P'n'a) [[:foo:]] [[:^foo:]] [[:Alpha:]] \p \p{ \p{Foo} \p{} \pX [\p{Foo}] [\é]
"""


@pytest.mark.parametrize("text", ["", "a b", "(?s).\n", "\\ ", "[a\n]", "\\\t", *TAKEN.split()])
def test_what_go_takes(text: str) -> None:
    assert is_go_regex(text)


@pytest.mark.parametrize("text", [r"(?x)a b", r"\N{DIGIT ONE}", "a\\", *REFUSED.split()])
def test_what_go_refuses(text: str) -> None:
    assert not is_go_regex(text)


def test_what_is_too_deep_or_no_text_is_refused() -> None:
    assert is_go_regex("(" * 999 + ")" * 999)
    assert not is_go_regex("(" * 100_000)
    assert not is_go_regex("a\ud800")
    assert is_go_regex("a" * LONGEST)
    assert not is_go_regex("a" * (LONGEST + 1))


@given(st.text("ab1()[]{}|*+?\\^-:,.<>=!#PpQEdxzi0", max_size=16))
def test_any_text_is_taken_or_refused_without_a_word(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_go_regex(text) in (True, False)

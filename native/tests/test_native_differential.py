"""The two builds against each other on generated rules, packets and index histories; and the index's own promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_native import expression as compiled_expression
from calico_native import label_index as compiled_index
from calico_native import rules as compiled_rules
from calico_native.py import expression as twin_expression
from calico_native.py import label_index as twin_index
from calico_native.py import rules as twin_rules

FAMILIES = st.sampled_from([4, 6])
FULL = {4: 32, 6: 128}
PROTOCOLS = st.sampled_from([1, 6, 17, 58, 89, 132, 136, 255])
PORTS = st.sampled_from([0, 1, 79, 80, 81, 65535])
SET_NAMES = st.sampled_from(["s", "t", "gone"])
LENGTHS = st.integers(0, 32)


@st.composite
def nets(draw: st.DrawFn) -> tuple[int, int, int]:
    """A prefix near the ends and the middle of the address space, with no bits beyond its length."""
    family = draw(FAMILIES)
    full = FULL[family]
    length = draw(st.sampled_from([0, 1, 8, full // 2, full - 1, full]))
    address = draw(st.sampled_from([0, 1, 1 << (full - 1), (1 << full) - 1, 0x0A000001]))
    return family, address >> (full - length) << (full - length), length


RANGES = st.tuples(PORTS, PORTS).map(lambda pair: (min(pair), max(pair)))


def few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Mostly nothing: a rule with every criterion matches no packet."""
    return st.one_of(st.just(()), st.just(()), st.lists(strategy, min_size=1, max_size=2).map(tuple))


SIDES = st.tuples(
    few(nets()), few(nets()), few(SET_NAMES), few(SET_NAMES), few(RANGES), few(RANGES), few(SET_NAMES), few(SET_NAMES)
)
ICMP = st.none() | st.tuples(st.sampled_from([0, 8, 255]), st.sampled_from([-1, 0, 3]))
RULES = st.tuples(
    st.booleans(), st.sampled_from([0, 0, 4, 6]), st.just(-1) | PROTOCOLS, st.just(-1) | PROTOCOLS, ICMP, ICMP,
    SIDES, SIDES,
)  # fmt: skip


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, ...]:
    """A packet with addresses from the same few as the prefixes."""
    family, protocol = draw(FAMILIES), draw(PROTOCOLS)
    full = FULL[family]
    addresses = st.sampled_from([0, 1, 2, 1 << (full - 1), (1 << full) - 1, 0x0A000001])
    ports = (draw(PORTS), draw(PORTS)) if protocol in (6, 17, 132, 136) else (0, 0)
    icmp = (draw(st.sampled_from([0, 8, 255])), draw(st.sampled_from([0, 3]))) if protocol in (1, 58) else (-1, -1)
    return (family, protocol, draw(addresses), draw(addresses), *ports, *icmp)


MEMBERS = st.lists(st.tuples(st.sampled_from("st"), nets(), st.booleans()), max_size=12)
ENDPOINT_PORTS = st.lists(
    st.tuples(st.sampled_from("st"), FAMILIES, st.sampled_from([0, 1, 0x0A000001]), PROTOCOLS, PORTS), max_size=6
)


def decide(module: Any, rules: list[Any], packet: Any, members: list[Any], ports: list[Any]) -> int:
    """The whole question put to one build; `members` are put in, or taken out again."""
    sets = module.Sets()
    for name in "st":
        sets.addresses[name], sets.ports[name] = module.AddressSet(), module.PortSet()
    for name, net, stays in members:
        (sets.addresses[name].add if stays else sets.addresses[name].remove)(*net)
    for name, *port in ports:
        sets.ports[name].add(*port)
    made = [module.Rule(*rule[:6], module.Side(*rule[6]), module.Side(*rule[7])) for rule in rules]
    return int(module.first_decision(made, sets, module.Packet(*packet)))


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(RULES, max_size=5), packets(), MEMBERS, ENDPOINT_PORTS)
def test_both_matchers_decide_alike(rules: list[Any], packet: Any, members: list[Any], ports: list[Any]) -> None:
    assert decide(compiled_rules, rules, packet, members, ports) == decide(twin_rules, rules, packet, members, ports)


@given(nets(), MEMBERS, packets())
def test_membership_is_the_arithmetic_of_prefixes(net: Any, members: list[Any], packet: Any) -> None:
    """Against a plain list of ranges."""
    family, address = packet[0], packet[2]
    present = {net}
    for _, one, stays in members:
        (present.add if stays else present.discard)(one)
    expected = False
    for one_family, network, length in present:
        if one_family == family:
            expected |= network <= address < network + (1 << (FULL[family] - length))
    for module in (compiled_rules, twin_rules):
        addresses = module.AddressSet()
        addresses.add(*net)
        for _, one, stays in members:
            (addresses.add if stays else addresses.remove)(*one)
        assert addresses.contains(family, address) is expected


VALUES = st.sampled_from(["", "1", "2"])
LABELS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
TEXTS = st.sampled_from(
    ["a == '1'", "a == '1' && has(b)", "a in {'1', '2'} && b != '1'", "has(c) || a == '2'", "!has(a)", "all()",
     "a == '1' && a == '2'", "a in {}", "a == '1' && b == '2' && c == ''", "(a == '1' || a == '2') && has(c)", "!all()"]
)  # fmt: skip
HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("update_labels"), st.sampled_from("wxyz"), LABELS,
                  st.lists(st.sampled_from("pqr"), max_size=3).map(tuple)),
        st.tuples(st.just("delete_labels"), st.sampled_from("wxyz")),
        st.tuples(st.just("update_selector"), st.sampled_from("ABCDE"), TEXTS),
        st.tuples(st.just("delete_selector"), st.sampled_from("ABCDE")),
        st.tuples(st.just("update_parent_labels"), st.sampled_from("pqr"), LABELS),
        st.tuples(st.just("delete_parent"), st.sampled_from("pqr")),
    ),
    max_size=40,
)  # fmt: skip


COMPILED, TWIN = (compiled_expression, compiled_index), (twin_expression, twin_index)


def play(build: tuple[Any, Any], history: list[Any]) -> tuple[list[list[tuple[str, str, str]]], Any]:
    """What the index said at each step, in the order of its promise: starts, then stops; and the index."""
    said: list[tuple[str, str, str]] = []
    language, module = build
    index = module.LabelIndex(
        lambda selector, item: said.append(("start", selector, item)),
        lambda selector, item: said.append(("stop", selector, item)),
    )
    steps = []
    for verb, *arguments in history:
        if verb == "update_selector":
            arguments[1] = language.parse(arguments[1])
        getattr(index, verb)(*arguments)
        steps.append(list(said))
        said.clear()
    return steps, index


@settings(max_examples=2 * settings().max_examples)
@given(HISTORY)
def test_both_indexes_say_the_same(history: list[Any]) -> None:
    one, other = play(COMPILED, history)[0], play(TWIN, history)[0]
    assert [sorted(step) for step in one] == [sorted(step) for step in other]


@settings(max_examples=2 * settings().max_examples)
@given(HISTORY)
def test_no_item_loses_a_match_before_it_gains_one(history: list[Any]) -> None:
    """Within one step all starts of an item come before its stops, and nothing is said twice."""
    for step in play(COMPILED, history)[0]:
        assert len(set(step)) == len(step)
        stopped = set()
        for what, _, item in step:
            assert what == "stop" or item not in stopped
            if what == "stop":
                stopped.add(item)


@pytest.mark.parametrize("build", [COMPILED, TWIN], ids=["compiled", "twin"])
@settings(max_examples=settings().max_examples)
@given(history=HISTORY)
def test_an_index_that_lost_everything_keeps_nothing(build: tuple[Any, Any], history: list[Any]) -> None:
    _, index = play(build, history)
    for item in "wxyz":
        index.delete_labels(item)
    for selector in "ABCDE":
        index.delete_selector(selector)
    for parent in "pqr":
        index.delete_parent(parent)
    left = (index.items, index.selectors, index.children, index.by_value, index.named, index.buckets, index.unfiled)
    assert not any(left)
    assert not index.parents


@pytest.mark.parametrize("build", [COMPILED, TWIN], ids=["compiled", "twin"])
def test_a_shared_conjunct_does_not_make_updates_slow(build: tuple[Any, Any]) -> None:
    """1000 selectors share `alpha == "beta"`: an item meets at most those that its other labels name, and one more."""
    language, module = build
    index = module.LabelIndex(lambda *_: None, lambda *_: None)
    for number in range(1000):
        index.update_selector(number, language.parse(f"alpha == 'beta' && has(ipset-{number})"))
    assert max(len(bucket) for bucket in index.buckets.values()) == 1 and not index.unfiled
    index.update_labels("item", {"alpha": "beta", "ipset-7": "true"})
    assert index.matches("item") == {7}

"""A whole table as a value, and the commands that turn one table into another in a single transaction.

What elements cost (libnftables 1.0.6, Linux 6.18; docs/adr/0021-renewed-sets.md): a declaration that lists elements
adds them for 5 to 15 us each, however many the set has. `delete element` makes libnftables read all interval sets of
the table (4 us an element), and walk the whole set again for each element that an interval set loses (1.6 us an
element). So elements are added by declarations, and what loses many, or is small beside the interval sets, is flushed
and filled. A kernel that may miss an element while a transaction replaces it (`refills` is False: before 6.17) gets the
interval set made again under its name, with the rules that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from libcalico.net import Cidr, parse_cidrs
from libcalico.policy.nft.names import TABLE

FEW_REMOVALS = 2
MOST_STEPS = 10_000
"""Removals from an interval set times its elements (16 ms): a set that loses more than both say is filled again."""
MOST_PAIRS = 1_000
LARGE_READ = 1_000
"""Elements of interval sets whose reading (4 ms) is worth to be avoided."""


class Chain(NamedTuple):
    """Rules in order; `hook` is the declaration of a base chain."""

    rules: tuple[str, ...]
    hook: str = ""


class Set(NamedTuple):
    """A named set; with `interval` it holds networks, otherwise single values in a hash. Elements that are no text are
    written as text when they go to the kernel, which few of a large set do. `options` are further words of
    its declaration (a set that the kernel fills itself)."""

    type: str
    interval: bool = False
    elements: frozenset[str | Cidr] = frozenset()
    options: str = ""


class Map(NamedTuple):
    """A verdict map; elements are (key, verdict)."""

    type: str
    elements: frozenset[tuple[str, str]] = frozenset()


class ElementChange(NamedTuple):
    """Elements that one set or map gets, or (`add` is False) loses; None is all that it has."""

    add: bool
    name: str
    type: str
    interval: bool
    elements: list[str] | None


class Table:
    """Chains, sets and maps by name."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, Set] = {}
        self.maps: dict[str, Map] = {}

    def copy(self) -> Table:
        """One that can be changed without changing this one."""
        other = Table()
        other.chains, other.sets, other.maps = dict(self.chains), dict(self.sets), dict(self.maps)
        return other

    def render_replace(self) -> str:
        """Commands that make the kernel's table this one, whatever it was; one atomic transaction."""
        lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
        return "\n".join([*lines, *_delta(Table(), self, True)]) + "\n"

    def render_delta(self, former: Table, refills: bool = True) -> str:
        """Commands that turn `former` into this one; empty when they are equal."""
        lines = list(_delta(former, self, refills))
        return "\n".join(lines) + "\n" if lines else ""

    def element_changes(self, former: Table, refills: bool = True) -> list[ElementChange] | None:
        """What turns `former` into this one when nothing but elements differs; None when anything else does."""
        if (
            self.chains != former.chains
            or self.sets.keys() != former.sets.keys()
            or self.maps.keys() != former.maps.keys()
        ):
            return None
        changes: list[ElementChange] = []
        for name, one in self.sets.items():
            if one is not (known := former.sets[name]):
                if _is_made_again(known, one, refills):
                    return None
                changes += _element_changes(name, one.type, one.interval, known.elements, one.elements, refills)
        for name, verdicts in self.maps.items():
            if verdicts is not (standing := former.maps[name]):
                changes += _element_changes(name, verdicts.type, False, standing.elements, verdicts.elements, refills)
        return changes


class _Change(NamedTuple):
    """What a set or map loses (with `flush` all that it has), and the elements that its declaration lists, if any."""

    flush: bool
    gone: list[str]
    declared: list[str] | None


def _delta(old: Table, new: Table, refills: bool) -> Iterable[str]:
    """Names first, then what they hold; references go before what they refer to."""
    standing = [name for name in new.sets if name in old.sets]
    replaced = {name for name in standing if _is_made_again(old.sets[name], new.sets[name], refills)}
    to_read = sum(len(one.elements) for one in old.sets.values() if one.interval)
    sets = _changes({n: one for n, one in old.sets.items() if n not in replaced}, new.sets, to_read)
    maps = _changes(old.maps, new.maps, to_read)
    gone_sets = [name for name in old.sets if name not in new.sets or name in replaced]
    changed = [n for n, chain in new.chains.items() if old.chains.get(n) != chain]
    touched = [n for n in changed if n in old.chains]
    users = [n for n in old.chains if n in new.chains and n not in touched and _uses(new.chains[n], replaced)]
    gone_chains = [name for name in old.chains if name not in new.chains]
    for name, change in maps.items():
        yield from _removal("map", name, change)
    for name in (*touched, *users, *gone_chains):
        yield f"flush chain {TABLE} {name}"
    for name in gone_chains:
        yield f"delete chain {TABLE} {name}"
    for name in gone_sets:
        yield f"delete set {TABLE} {name}"
    for name, change in sets.items():
        yield from _removal("set", name, change)
        yield from _addition("set", name, _declaration(new.sets[name]), change)
    for name in changed:
        if name not in old.chains:
            hook = f" {{ {new.chains[name].hook} }}" if new.chains[name].hook else ""
            yield f"add chain {TABLE} {name}{hook}"
    for name, change in maps.items():
        yield from _addition("map", name, f"type {new.maps[name].type};", change)
    for name in (*changed, *users):
        for rule in new.chains[name].rules:
            yield f"add rule {TABLE} {name} {rule}"


def _declaration(one: Set) -> str:
    words = (f"type {one.type};", "flags interval;" if one.interval else "", one.options)
    return " ".join(filter(None, words))


def _is_made_again(old: Set, new: Set, refills: bool) -> bool:
    """A set of another type; without `refills` also an interval set from which too much would be deleted, or of which
    an address would go from one element to another. Each packet meets the old rules and set, or the new ones."""
    if _declaration(old) != _declaration(new):
        return True
    if refills or not old.interval or old.elements is new.elements:
        return False
    gone = old.elements - new.elements
    return bool(gone) and (_is_much(gone, old) or _overlap(gone, new.elements - old.elements))


def _is_much(gone: frozenset[Any], old: Set | Map) -> bool:
    return len(gone) > FEW_REMOVALS and len(gone) * len(old.elements) > MOST_STEPS


def _overlap(gone: frozenset[str | Cidr], fresh: frozenset[str | Cidr]) -> bool:
    """Does an address go from one element to another? Many against many count as if it did."""
    if len(gone) * len(fresh) > MOST_PAIRS:
        return True
    former, now = (parse_cidrs(_texts(elements))[0] for elements in (gone, fresh))
    return any(one.overlaps(net) for one in now for net in former)


def _changes(old: Mapping[str, Set | Map], new: Mapping[str, Set | Map], to_read: int) -> dict[str, _Change]:
    """`to_read`: elements that libnftables reads for one `delete element`."""
    changes = {}
    for name, one in new.items():
        known = old.get(name)
        if known is None:
            changes[name] = _Change(False, [], _texts(one.elements))
        elif known.elements is not one.elements and (known.elements != one.elements):
            gone, fresh = known.elements - one.elements, one.elements - known.elements
            intervals = isinstance(one, Set) and one.interval
            small = to_read > max(LARGE_READ, 2 * len(one.elements))
            if gone and (_is_much(gone, known) if intervals else small):
                changes[name] = _Change(True, [], _texts(one.elements) or None)
            else:
                changes[name] = _Change(False, _texts(gone), _texts(fresh) or None)
    return changes


def _element_changes(
    name: str, kind: str, interval: bool, old: frozenset[Any], new: frozenset[Any], refills: bool
) -> list[ElementChange]:
    gone, fresh = old - new, new - old
    if interval and refills and 2 * len(gone) > len(old):  # to flush costs a tenth
        emptied = ElementChange(False, name, kind, interval, None)
        return [emptied, ElementChange(True, name, kind, interval, _texts(new))] if new else [emptied]
    parts = ((False, gone), (True, fresh))
    return [ElementChange(add, name, kind, interval, _texts(elements)) for add, elements in parts if elements]


def _texts(elements: Iterable[str | Cidr | tuple[str, str]]) -> list[str]:
    return sorted(map(_text, elements))


def _text(element: str | Cidr | tuple[str, str]) -> str:
    if isinstance(element, Cidr):
        return element.brief
    return element if isinstance(element, str) else f"{element[0]} : {element[1]}"


def _removal(kind: str, name: str, change: _Change) -> Iterable[str]:
    if change.flush:
        yield f"flush {kind} {TABLE} {name}"
    elif change.gone:
        yield f"delete element {TABLE} {name} {{ {', '.join(change.gone)} }}"


def _addition(kind: str, name: str, declaration: str, change: _Change) -> Iterable[str]:
    if change.declared is not None:
        elements = f" elements = {{ {', '.join(change.declared)} }}" if change.declared else ""
        yield f"add {kind} {TABLE} {name} {{ {declaration}{elements} }}"


def _uses(chain: Chain, sets: set[str]) -> bool:
    return bool(sets) and any(word[1:] in sets for rule in chain.rules for word in rule.split() if word.startswith("@"))

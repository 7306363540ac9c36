"""A whole table as a value, and the commands that turn one table into another in a single transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from libcalico.policy.nft.names import TABLE

LARGEST_ELEMENT_LIST = 500


class Chain(NamedTuple):
    """Rules in order; `hook` is the declaration of a base chain."""

    rules: tuple[str, ...]
    hook: str = ""


class Set(NamedTuple):
    """A named set; with `interval` it holds prefixes, otherwise single values in a hash. `options` are further words of
    its declaration (a set that the kernel fills itself)."""

    type: str
    interval: bool = False
    elements: frozenset[str] = frozenset()
    options: str = ""


class Map(NamedTuple):
    """A verdict map; elements are (key, verdict)."""

    type: str
    elements: frozenset[tuple[str, str]] = frozenset()


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
        return "\n".join([*lines, *_delta(Table(), self)]) + "\n"

    def render_delta(self, former: Table) -> str:
        """Commands that turn `former` into this one; empty when they are equal."""
        lines = list(_delta(former, self))
        return "\n".join(lines) + "\n" if lines else ""


def _delta(old: Table, new: Table) -> Iterable[str]:
    """Names first, then what they hold; references go before what they refer to."""
    replaced = {n for n, s in new.sets.items() if n in old.sets and _declaration(old.sets[n]) != _declaration(s)}
    gone_sets = {name for name in old.sets if name not in new.sets}
    changed = [n for n, chain in new.chains.items() if old.chains.get(n) != chain]
    touched = [n for n in changed if n in old.chains]
    users = [n for n in old.chains if n in new.chains and n not in touched and _uses(new.chains[n], replaced)]
    gone_chains = [name for name in old.chains if name not in new.chains]
    for name, one in old.maps.items():
        yield from _elements("delete", name, _map_lines(one.elements - new.maps.get(name, Map("")).elements))
    for name in (*touched, *users, *gone_chains):
        yield f"flush chain {TABLE} {name}"
    for name in gone_chains:
        yield f"delete chain {TABLE} {name}"
    for name in (*gone_sets, *replaced):
        yield f"delete set {TABLE} {name}"
    for name, fresh in new.sets.items():
        known = old.sets.get(name) if name not in replaced else None
        if known is None:
            yield f"add set {TABLE} {name} {_declaration(fresh)}"
        have = frozenset() if known is None else known.elements
        if have is not fresh.elements:
            yield from _elements("delete", name, sorted(have - fresh.elements))
            yield from _elements("add", name, sorted(fresh.elements - have))
    for name in changed:
        if name not in old.chains:
            hook = f" {{ {new.chains[name].hook} }}" if new.chains[name].hook else ""
            yield f"add chain {TABLE} {name}{hook}"
    for name, one in new.maps.items():
        if name not in old.maps:
            yield f"add map {TABLE} {name} {{ type {one.type}; }}"
    for name in (*changed, *users):
        for rule in new.chains[name].rules:
            yield f"add rule {TABLE} {name} {rule}"
    for name, one in new.maps.items():
        yield from _elements("add", name, _map_lines(one.elements - old.maps.get(name, Map("")).elements))


def _declaration(one: Set) -> str:
    words = (f"type {one.type};", "flags interval;" if one.interval else "", one.options)
    return f"{{ {' '.join(filter(None, words))} }}"


def _uses(chain: Chain, sets: set[str]) -> bool:
    return bool(sets) and any(f"@{name}" in rule.split() for rule in chain.rules for name in sets)


def _map_lines(elements: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{key} : {verdict}" for key, verdict in sorted(elements)]


def _elements(verb: str, name: str, elements: list[str]) -> Iterable[str]:
    for start in range(0, len(elements), LARGEST_ELEMENT_LIST):
        yield f"{verb} element {TABLE} {name} {{ {', '.join(elements[start : start + LARGEST_ELEMENT_LIST])} }}"

"""A whole table as a value, and the commands that turn one table into another, in one transaction or two.

A kernel that keeps an interval set as an array (Linux 6.18) publishes it when its transaction ends, after the rules of
the same transaction act: a new interval set is empty for them for microseconds. So a new one goes into the kernel one
transaction before the rules that use it, under a name that no rule uses yet (docs/adr/0030-new-sets-go-first.md).

What elements cost (libnftables 1.0.6, Linux 6.18; docs/adr/0021-renewed-sets.md): a declaration that lists elements
adds them for 5 to 15 us each, however many the set has. `delete element` makes libnftables read all interval sets of
the table (4 us an element), and walk the whole set again for each element that an interval set loses (1.6 us an
element). So elements are added by declarations, and what loses many, or is small beside the interval sets, is flushed
and filled. A kernel that may miss an element while a transaction replaces it (`refills` is False: before 6.17) gets the
interval set made again under its name, with the rules that use it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from libcalico.net import Cidr, parse_cidrs
from libcalico.policy.nft.names import TABLE, next_set

FEW_REMOVALS = 2
MOST_STEPS = 10_000
"""Removals from an interval set times its elements (16 ms): a set that loses more than both say is filled again."""
MOST_PAIRS = 1_000
LARGE_READ = 1_000
"""Elements of interval sets whose reading (4 ms) is worth to be avoided."""
LARGE = 1_000
"""Elements of an interval set that are worth a transaction of their own (10 ms)."""
MOST_IN_BATCH = 100_000
"""Elements of an interval set in one batch (9 MB for IPv6)."""
REFERENCE = re.compile(r"@(\S+)")
"""A set or map in a rule."""
TARGET = re.compile(r"\b(?:jump|goto) (\S+)")
"""A chain in a rule."""


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

    @property
    def declaration(self) -> str:
        """Its type and flags as nft writes them."""
        words = (f"type {self.type};", "flags interval;" if self.interval else "", self.options)
        return " ".join(filter(None, words))

    @property
    def kind(self) -> str:
        """Its type and flags as a batch names them: all of its declaration where `options` say more."""
        return self.declaration if self.options else f"{self.type} interval" if self.interval else self.type


class Map(NamedTuple):
    """A verdict map; elements are (key, verdict)."""

    type: str
    elements: frozenset[tuple[str, str]] = frozenset()

    @property
    def declaration(self) -> str:
        """Its type as nft writes it."""
        return f"type {self.type};"

    @property
    def kind(self) -> str:
        """Its type as a batch names it."""
        return self.type


class ElementChange(NamedTuple):
    """Elements that one set or map gets, or (`add` is False) loses; None is all that it has."""

    add: bool
    name: str
    type: str
    interval: bool
    elements: list[str] | list[Cidr] | None

    @property
    def text(self) -> str:
        """The elements as nft writes them."""
        return ", ".join(map(element_text, self.elements or ()))


Part = tuple[str, str, str, str, ElementChange | None]
"""What a batch of netlink messages is made of: `calico_native.nfrule.Command`."""


class Command(NamedTuple):
    """One command of a transaction: as libnftables reads it, and as parts of a batch of our own."""

    text: str
    parts: tuple[Part, ...]


class Standing(NamedTuple):
    """Names of what a table of the kernel holds."""

    maps: list[str]
    chains: list[str]
    sets: list[str]


class Difference(NamedTuple):
    """Elements that a set or map loses, and those that it gets."""

    gone: frozenset[Any]
    fresh: frozenset[Any]


NONE = Difference(frozenset(), frozenset())


class Differences:
    """What the sets and maps of one table lose and get on the way to another's: each is computed once, when it is asked
    for. Of a set of 50,000 networks that takes milliseconds."""

    def __init__(self, old: Table, new: Table) -> None:
        self._old, self._new = old, new
        self._known: dict[str, Difference] = {}

    def of(self, name: str) -> Difference:
        """That of a set or map that is in both tables."""
        found = self._known.get(name)
        if found is None:
            old, new = (
                (table.sets[name] if name in table.sets else table.maps[name]).elements
                for table in (self._old, self._new)
            )
            found = NONE if old is new else Difference(old - new, new - old)
            self._known[name] = found
        return found


class Table:
    """Chains, sets and maps by name. `names`: what those sets are called in the kernel that have another name there;
    the rules here use the first."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.sets: dict[str, Set] = {}
        self.maps: dict[str, Map] = {}
        self.names: dict[str, str] = {}

    def copy(self) -> Table:
        """One that can be changed without changing this one."""
        other = Table()
        other.chains, other.sets, other.maps = dict(self.chains), dict(self.sets), dict(self.maps)
        other.names = dict(self.names)
        return other

    def render_replace(self) -> str:
        """Commands that make the kernel's table this one, whatever it was, in one transaction: for a kernel where none
        stands, or to read. Sets have the names of the rules in it."""
        plain = self.copy()
        plain.names = {}
        lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
        commands = _switch(Table(), plain, _Plan(list(plain.chains), [], set(), []))
        return "\n".join([*lines, *(one.text for one in commands)]) + "\n"

    def render_guard(self) -> str:
        """Commands that make the base chains in place of a table that is not there: without any endpoint they drop."""
        guard = Table()
        guard.chains = {name: chain for name, chain in self.chains.items() if chain.hook}
        guard.maps = {name: one._replace(elements=frozenset()) for name, one in self.maps.items()}
        used = {name for chain in guard.chains.values() for name in _sets_of(chain)}
        guard.sets = {name: one._replace(elements=frozenset()) for name, one in self.sets.items() if name in used}
        return guard.render_replace()

    def render_rewrite(self, standing: Standing, fills: list[ElementChange] | None = None) -> list[str]:
        """The transactions that make the kernel's table this one, of which nothing but names is known: interval sets
        under names that are free, then all else in place of all that stands. `fills` as for `render_steps`."""
        staged = [name for name, one in self.sets.items() if _is_staged(one)]
        self.names = {name: _free_name(name, set(standing.sets) | set(standing.maps)) for name in staged}
        self.names = {name: called for name, called in self.names.items() if name != called}
        first = [f"add table {TABLE}", *(one.text for one in self._staging(staged, fills))]
        lines = [f"flush table {TABLE}"]
        lines += [
            f"delete {kind} {TABLE} {name}"
            for kind, names in zip(("map", "chain", "set"), standing, strict=True)
            for name in names
        ]
        lines += [one.text for one in _switch(Table(), self, _Plan(list(self.chains), staged, set(), []))]
        return ["\n".join(part) + "\n" for part in (first, lines)]

    def render_delta(self, former: Table) -> str:
        """The commands of `render_steps` as one text, for a table that no packet meets."""
        return "".join(self.render_steps(former))

    def render_steps(
        self,
        former: Table,
        refills: bool = True,
        fills: list[ElementChange] | None = None,
        differences: Differences | None = None,
    ) -> list[str]:
        """The transactions of `steps` as texts."""
        return [text_of(step) for step in self.steps(former, refills, fills, differences)]

    def steps(
        self,
        former: Table,
        refills: bool = True,
        fills: list[ElementChange] | None = None,
        differences: Differences | None = None,
    ) -> list[list[Command]]:
        """The transactions that turn `former` into this one: none when they are equal, two when there are new interval
        sets. Takes over `former`'s names of sets. `fills`, when it is given, gets the elements of large new sets, to be
        added between the two: batches are faster than text."""
        differences = differences or Differences(former, self)
        plan = _plan(former, self, differences, refills)
        self.names = {name: called for name, called in former.names.items() if name in self.sets}
        for name in plan.replaced:
            self.names.pop(name, None)
        for name in plan.staged:
            if name in former.sets:
                self.names[name] = next_set(former.names.get(name, name))
        steps = list(self._staging(plan.staged, fills)), list(_switch(former, self, plan, differences))
        return [step for step in steps if step]

    def element_changes(
        self, former: Table, refills: bool = True, differences: Differences | None = None
    ) -> list[ElementChange] | None:
        """What turns `former` into this one when nothing but elements differs; None when anything else does. Takes over
        `former`'s names of sets."""
        if (
            self.chains != former.chains
            or self.sets.keys() != former.sets.keys()
            or self.maps.keys() != former.maps.keys()
        ):
            return None
        differences = differences or Differences(former, self)
        changes: list[ElementChange] = []
        for name, one in self.sets.items():
            if one is not (known := former.sets[name]):
                difference = differences.of(name)
                if _is_made_again(known, one, difference, refills):
                    return None
                changes += _element_changes(former.names.get(name, name), known, one, difference, refills)
        for name, verdicts in self.maps.items():
            if verdicts is not (standing := former.maps[name]):
                changes += _element_changes(name, standing, verdicts, differences.of(name), refills)
        self.names = former.names
        return changes

    def _staging(self, names: Iterable[str], fills: list[ElementChange] | None) -> Iterable[Command]:
        for name in names:
            one, called = self.sets[name], self.names.get(name, name)
            staged: list[str] = []
            if fills is not None and len(one.elements) > LARGE:
                elements = _sorted(one.elements)
                parts = (elements[start : start + MOST_IN_BATCH] for start in range(0, len(elements), MOST_IN_BATCH))
                fills += [ElementChange(True, called, one.type, True, part) for part in parts]
            else:
                staged = _texts(one.elements)
            yield from _addition("set", called, one, _Change(False, [], staged))


def text_of(commands: Iterable[Command]) -> str:
    """A transaction as libnftables reads it."""
    return "\n".join(one.text for one in commands) + "\n"


class _Plan(NamedTuple):
    """What is known before commands are written: chains that are new or `changed`; sets that are `staged`, one
    transaction before all else; those that stand and are `replaced`; and chains that stay and are `users` of those."""

    changed: list[str]
    staged: list[str]
    replaced: set[str]
    users: list[str]


class _Change(NamedTuple):
    """What a set or map loses (with `flush` all that it has), and the elements that its declaration lists, if any."""

    flush: bool
    gone: list[str]
    declared: list[str] | None


def _plan(old: Table, new: Table, differences: Differences, refills: bool) -> _Plan:
    """A set is made again when it is another's type, and when it changes together with a rule that uses it: a packet
    would meet the new rules and its former members."""
    standing = [name for name in new.sets if name in old.sets]
    sets = {n: (old.sets[n], new.sets[n], differences.of(n)) for n in standing if old.sets[n] is not new.sets[n]}
    replaced = {n for n, (was, one, difference) in sets.items() if _is_made_again(was, one, difference, refills)}
    altered = [name for name, (was, _one, difference) in sets.items() if was.interval and any(difference)]
    replaced |= {name for name in altered if _loses_many(*sets[name])}
    changed = {name: chain for name, chain in new.chains.items() if old.chains.get(name) != chain}
    if altered and changed:
        replaced |= _used_by(changed, old, new).intersection(altered)
    staged = [n for n, one in new.sets.items() if (n not in old.sets or n in replaced) and _is_staged(one)]
    stay = [n for n in old.chains if n in new.chains and n not in changed] if replaced else []
    return _Plan(list(changed), staged, replaced, [n for n in stay if not replaced.isdisjoint(_sets_of(new.chains[n]))])


def _used_by(changed: dict[str, Chain], old: Table, new: Table) -> set[str]:
    """The sets that packets may meet which did not meet them before: of chains that changed, and of those to which
    standing ones lead now."""
    targets = {name for of, chain in changed.items() if of in old.chains for name in _targets_of(chain)}
    chains = [*changed.values(), *(new.chains[name] for name in targets if name in new.chains)]
    return {name for chain in chains for name in _sets_of(chain)}


def _switch(old: Table, new: Table, plan: _Plan, differences: Differences | None = None) -> Iterable[Command]:
    """Names first, then what they hold; references go before what they refer to."""
    to_read = sum(len(one.elements) for one in old.sets.values() if one.interval)
    differences = differences or Differences(old, new)
    to_change = {name: one for name, one in new.sets.items() if name not in plan.staged}
    kept = {n: one for n, one in old.sets.items() if n not in plan.replaced}
    sets, maps = _changes(kept, to_change, differences, to_read), _changes(old.maps, new.maps, differences, to_read)
    gone_sets = [name for name in old.sets if name not in new.sets or name in plan.replaced]
    gone_chains = [name for name in old.chains if name not in new.chains]
    for name, change in maps.items():
        yield from _removal("map", name, new.maps[name], change)
    for name in (*(n for n in plan.changed if n in old.chains), *plan.users, *gone_chains):
        yield _plain("flush", "chain", name)
    for name in gone_chains:
        yield _plain("delete", "chain", name)
    for name in gone_sets:
        yield _plain("delete", "set", old.names.get(name, name))
    for name, change in sets.items():
        called = new.names.get(name, name)
        yield from _removal("set", called, new.sets[name], change)
        yield from _addition("set", called, new.sets[name], change)
    for name in plan.changed:
        if name not in old.chains:
            yield _plain("add", "chain", name, f"{{ {hook} }}" if (hook := new.chains[name].hook) else "")
    for name, change in maps.items():
        yield from _addition("map", name, new.maps[name], change)
    for name in (*plan.changed, *plan.users):
        for rule in new.chains[name].rules:
            yield _plain("add", "rule", name, _with_names(rule, new.names))


def _is_staged(one: Set) -> bool:
    """Does the kernel show its members only some time after the rules of the same transaction?"""
    return one.interval and bool(one.elements)


def _free_name(name: str, taken: Container[str]) -> str:
    called = name
    while called in taken:
        called = next_set(called)
    return called


def _with_names(rule: str, names: dict[str, str]) -> str:
    if not names or "@" not in rule:
        return rule
    return REFERENCE.sub(lambda found: "@" + names.get(found[1], found[1]), rule)


def _sets_of(chain: Chain) -> list[str]:
    """The sets and maps that its rules look into."""
    return [found for rule in chain.rules if "@" in rule for found in REFERENCE.findall(rule)]


def _targets_of(chain: Chain) -> list[str]:
    return [found for rule in chain.rules for found in TARGET.findall(rule)]


def _is_made_again(old: Set, new: Set, difference: Difference, refills: bool) -> bool:
    """A set of another type, and a large interval set of which more than half goes: to empty and fill it in one
    transaction takes the kernel twice as long as to fill another, or more. Without `refills` also an interval set from
    which too much would be deleted, or of which an address would go from one element to another."""
    if old.declaration != new.declaration:
        return True
    gone, fresh = difference
    if not old.interval or not gone:
        return False
    if refills:
        return len(gone) > LARGE and 2 * len(gone) > len(old.elements) and bool(new.elements)
    return _is_much(gone, old) or _overlap(gone, fresh)


def _is_much(gone: frozenset[Any], old: Set | Map) -> bool:
    return len(gone) > FEW_REMOVALS and len(gone) * len(old.elements) > MOST_STEPS


def _loses_many(old: Set, new: Set, difference: Difference) -> bool:
    """Of a large interval set, more than libnftables should delete."""
    return len(old.elements) > LARGE and bool(new.elements) and _is_much(difference.gone, old)


def _overlap(gone: frozenset[str | Cidr], fresh: frozenset[str | Cidr]) -> bool:
    """Does an address go from one element to another? Many against many count as if it did."""
    if len(gone) * len(fresh) > MOST_PAIRS:
        return True
    former, now = (parse_cidrs(_texts(elements))[0] for elements in (gone, fresh))
    return any(one.overlaps(net) for one in now for net in former)


def _changes(
    old: Mapping[str, Set | Map], new: Mapping[str, Set | Map], differences: Differences, to_read: int
) -> dict[str, _Change]:
    """`to_read`: elements that libnftables reads for one `delete element`."""
    changes = {}
    for name, one in new.items():
        known = old.get(name)
        if known is one:  # nearly all of them
            continue
        if known is None:
            changes[name] = _Change(False, [], _texts(one.elements))
        elif any(difference := differences.of(name)):
            gone, fresh = difference
            intervals = isinstance(one, Set) and one.interval
            small = to_read > max(LARGE_READ, 2 * len(one.elements))
            if gone and (_is_much(gone, known) if intervals else small):
                changes[name] = _Change(True, [], _texts(one.elements) or None)
            else:
                changes[name] = _Change(False, _texts(gone), _texts(fresh) or None)
    return changes


def _element_changes(
    name: str, old: Set | Map, new: Set | Map, difference: Difference, refills: bool
) -> list[ElementChange]:
    gone, fresh = difference
    interval = isinstance(new, Set) and new.interval
    if interval and refills and 2 * len(gone) > len(old.elements):  # it is small, or left empty
        emptied = ElementChange(False, name, new.type, interval, None)
        whole = ElementChange(True, name, new.type, interval, _sorted(new.elements))
        return [emptied, whole] if new.elements else [emptied]
    parts = ((False, gone), (True, fresh))
    return [ElementChange(add, name, new.type, interval, _sorted(elements)) for add, elements in parts if elements]


def _sorted(elements: frozenset[Any]) -> list[str] | list[Cidr]:
    """Networks as they are, since a batch needs no text of them; all else as text."""
    if all(isinstance(element, Cidr) for element in elements):
        return sorted(elements)
    return _texts(elements)


def _texts(elements: Iterable[str | Cidr | tuple[str, str]]) -> list[str]:
    return sorted(map(element_text, elements))


def element_text(element: str | Cidr | tuple[str, str]) -> str:
    """An element as nft writes it."""
    if isinstance(element, Cidr):
        return element.brief
    return element if isinstance(element, str) else f"{element[0]} : {element[1]}"


def _plain(verb: str, kind: str, name: str, rest: str = "") -> Command:
    text = f"{verb} {kind} {TABLE} {name} {rest}" if rest else f"{verb} {kind} {TABLE} {name}"
    return Command(text, ((verb, kind, name, rest, None),))


def _elements(add: bool, name: str, one: Set | Map, elements: list[str] | None) -> Part:
    interval = isinstance(one, Set) and one.interval
    return "add" if add else "delete", "element", name, "", ElementChange(add, name, one.type, interval, elements)


def _removal(kind: str, name: str, one: Set | Map, change: _Change) -> Iterable[Command]:
    if change.flush:
        yield Command(f"flush {kind} {TABLE} {name}", (_elements(False, name, one, None),))
    elif change.gone:
        text = f"delete element {TABLE} {name} {{ {', '.join(change.gone)} }}"
        yield Command(text, (_elements(False, name, one, change.gone),))


def _addition(kind: str, name: str, one: Set | Map, change: _Change) -> Iterable[Command]:
    """The declaration of a set that may stand, with the elements that it gets."""
    if change.declared is None:
        return
    elements = f" elements = {{ {', '.join(change.declared)} }}" if change.declared else ""
    declaration: Part = ("add", kind, name, one.kind, None)
    filled = (_elements(True, name, one, change.declared),) if change.declared else ()
    yield Command(f"add {kind} {TABLE} {name} {{ {one.declaration}{elements} }}", (declaration, *filled))

"""An index of which items match which selectors.

It files each selector under its rarest usable conjunct, so that an item's update meets only the selectors that one of
its labels can satisfy (spec/selectors.md 10-11).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from .expression import Node, render, restrictions


class _Item:
    """`matches` is None for the many that match nothing: an empty set takes 216 bytes."""

    def __init__(self, labels: dict[str, str], parents: tuple[str, ...]) -> None:
        self.labels = labels
        self.parents = parents
        self.effective = labels
        self.matches: set[Hashable] | None = None

    def add_match(self, selector_id: Hashable) -> None:
        """It matches one selector more."""
        if self.matches is None:
            self.matches = set()
        self.matches.add(selector_id)

    def drop_match(self, selector_id: Hashable) -> None:
        """It matches one selector less."""
        if self.matches is not None:
            self.matches.discard(selector_id)
            if not self.matches:
                self.matches = None


class _Filed:
    def __init__(self, node: Node, label: str, values: tuple[str, ...] | None, possible: bool) -> None:
        self.node = node
        self.label = label
        self.values = values
        self.possible = possible
        self.items: set[Hashable] = set()


class LabelIndex:
    """Which items match which selectors, kept up to date under every change of either.

    `on_started(selector_id, item_id)` and `on_stopped(...)` are called once for each change of a match; within
    one update all starts come before all stops, so that what stays allowed sees no gap. An item inherits the labels of
    its parents (profiles), its own first, then in list order. Labels are kept as they are given, so that many items
    may share them: whoever gives them does not change them afterwards."""

    def __init__(
        self, on_started: Callable[[Hashable, Hashable], None], on_stopped: Callable[[Hashable, Hashable], None]
    ) -> None:
        self.on_started = on_started
        self.on_stopped = on_stopped
        self.items: dict[Hashable, _Item] = {}
        self.selectors: dict[Hashable, _Filed] = {}
        self.parents: dict[str, dict[str, str]] = {}
        self.children: dict[str, dict[Hashable, None]] = {}
        self.by_value: dict[str, dict[str, set[Hashable]]] = {}
        self.named: dict[str, int] = {}
        self.buckets: dict[tuple[str, str | None], dict[Hashable, Node]] = {}
        self.unfiled: dict[Hashable, Node] = {}

    def update_labels(self, item_id: Hashable, fresh: dict[str, str], order: tuple[str, ...] = ()) -> None:
        """Add an item or replace its labels and parents, which are in order."""
        item = self.items.get(item_id)
        if item is None:
            item = self.items[item_id] = _Item({}, ())
        elif item.labels == fresh and item.parents == order:
            return
        if item.parents != order:
            self._leave_parents(item_id, item)
            for parent in order:
                self.children.setdefault(parent, {})[item_id] = None
            item.parents = order
        item.labels = fresh
        self._refresh(item_id, item)

    def delete_labels(self, item_id: Hashable) -> None:
        """Forget an item; its matches stop."""
        item = self.items.pop(item_id, None)
        if item is None:
            return
        self._leave_parents(item_id, item)
        self._reindex(item_id, item.effective, {})
        for selector_id in item.matches or ():
            self.selectors[selector_id].items.discard(item_id)
            self.on_stopped(selector_id, item_id)

    def update_parent_labels(self, parent_id: str, labels: Mapping[str, str]) -> None:
        """Set the labels that a parent hands down."""
        fresh = dict(labels)
        if self.parents.get(parent_id, {}) == fresh:
            self.parents[parent_id] = fresh
            return
        self.parents[parent_id] = fresh
        self._refresh_children(parent_id)

    def delete_parent(self, parent_id: str) -> None:
        """The parent hands down nothing any more; items may go on naming it."""
        if self.parents.pop(parent_id, None):
            self._refresh_children(parent_id)

    def update_selector(self, selector_id: Hashable, node: Node) -> None:
        """Add a selector or replace it."""
        filed = self.selectors.get(selector_id)
        if filed is not None and render(filed.node) == render(node):
            return
        former: set[Hashable] = set() if filed is None else filed.items
        if filed is not None:
            self._unfile(selector_id, filed)
        filed = self._file(selector_id, node)
        for item_id in self._candidates(filed):
            item = self.items[item_id]
            if node.evaluate(item.effective):
                filed.items.add(item_id)
                item.add_match(selector_id)
                if item_id not in former:
                    self.on_started(selector_id, item_id)
        for item_id in former:
            if item_id not in filed.items:
                self.items[item_id].drop_match(selector_id)
                self.on_stopped(selector_id, item_id)

    def delete_selector(self, selector_id: Hashable) -> None:
        """Forget a selector; its matches stop."""
        filed = self.selectors.get(selector_id)
        if filed is None:
            return
        self._unfile(selector_id, filed)
        for item_id in filed.items:
            self.items[item_id].drop_match(selector_id)
            self.on_stopped(selector_id, item_id)

    def matches(self, item_id: Hashable) -> frozenset[Hashable]:
        """The selectors that an item matches now."""
        item = self.items.get(item_id)
        return frozenset() if item is None or item.matches is None else frozenset(item.matches)

    def effective_labels(self, item_id: Hashable) -> dict[str, str]:
        """An item's own and inherited labels; empty when it is not there."""
        item = self.items.get(item_id)
        return {} if item is None else dict(item.effective)

    def _leave_parents(self, item_id: Hashable, item: _Item) -> None:
        for parent in item.parents:
            siblings = self.children.get(parent)
            if siblings is not None:
                siblings.pop(item_id, None)
                if not siblings:
                    del self.children[parent]

    def _refresh_children(self, parent_id: str) -> None:
        for item_id in list(self.children.get(parent_id, ())):
            self._refresh(item_id, self.items[item_id])

    def _refresh(self, item_id: Hashable, item: _Item) -> None:
        effective = item.labels
        for parent in item.parents:
            inherited = self.parents.get(parent)
            if inherited:
                effective = {**inherited, **effective}
        self._reindex(item_id, item.effective, effective)
        item.effective = effective
        found = [selector_id for selector_id, node in self.unfiled.items() if node.evaluate(effective)]
        for label, value in effective.items():
            if label not in self.named:
                continue
            for bucket in (self.buckets.get((label, value)), self.buckets.get((label, None))):
                if bucket is not None:
                    for selector_id, node in bucket.items():
                        if node.evaluate(effective):
                            found.append(selector_id)
        if found or item.matches is not None:
            self._announce(item_id, item, set(found))

    def _announce(self, item_id: Hashable, item: _Item, found: set[Hashable]) -> None:
        former: set[Hashable] = item.matches or set()
        if former == found:
            return
        item.matches = found or None
        for selector_id in found - former:
            self.selectors[selector_id].items.add(item_id)
            self.on_started(selector_id, item_id)
        for selector_id in former - found:
            self.selectors[selector_id].items.discard(item_id)
            self.on_stopped(selector_id, item_id)

    def _reindex(self, item_id: Hashable, old: dict[str, str], new: dict[str, str]) -> None:
        for label, value in old.items():
            if label in self.named and new.get(label) != value:
                values = self.by_value[label]
                values[value].discard(item_id)
                if not values[value]:
                    del values[value]
        for label, value in new.items():
            if label in self.named:
                self.by_value[label].setdefault(value, set()).add(item_id)

    def _name(self, label: str) -> None:
        count = self.named.get(label, 0)
        self.named[label] = count + 1
        if count == 0:
            values: dict[str, set[Hashable]] = {}
            for item_id, item in self.items.items():
                value = item.effective.get(label)
                if value is not None:
                    values.setdefault(value, set()).add(item_id)
            self.by_value[label] = values

    def _unname(self, label: str) -> None:
        self.named[label] -= 1
        if self.named[label] == 0:
            del self.named[label]
            del self.by_value[label]

    def _file(self, selector_id: Hashable, node: Node) -> _Filed:
        demands = restrictions(node)
        for one in demands.values():
            if one.impossible():
                filed = self.selectors[selector_id] = _Filed(node, "", (), False)
                return filed
        best: tuple[int, int, str] | None = None
        label, values = "", None
        for name, one in demands.items():
            if not one.present:
                continue
            wanted = None if one.one_of is None else tuple(one.one_of)
            score = (self._fullest(name, wanted), 0 if wanted is not None else 1, name)
            if best is None or score < best:
                best, label, values = score, name, wanted
        filed = self.selectors[selector_id] = _Filed(node, label, values, True)
        if not label:
            self.unfiled[selector_id] = node
            return filed
        self._name(label)
        for key in _bucket_keys(filed):
            self.buckets.setdefault(key, {})[selector_id] = node
        return filed

    def _fullest(self, label: str, values: tuple[str, ...] | None) -> int:
        """How many selectors an item would meet if one more were filed here: the fewest is the rarest conjunct."""
        keys = [(label, None)] if values is None else [(label, value) for value in values]
        return max([len(self.buckets.get(key, ())) for key in keys])

    def _unfile(self, selector_id: Hashable, filed: _Filed) -> None:
        del self.selectors[selector_id]
        if not filed.possible:
            return
        if not filed.label:
            del self.unfiled[selector_id]
            return
        for key in _bucket_keys(filed):
            bucket = self.buckets[key]
            del bucket[selector_id]
            if not bucket:
                del self.buckets[key]
        self._unname(filed.label)

    def _candidates(self, filed: _Filed) -> list[Hashable]:
        if not filed.possible:
            return []
        best: list[set[Hashable]] | None = None
        fewest = len(self.items)
        for label, one in restrictions(filed.node).items():
            if not one.present or label not in self.named:
                continue
            values = self.by_value[label]
            groups = list(values.values()) if one.one_of is None else [values[v] for v in one.one_of if v in values]
            total = sum([len(group) for group in groups])
            if best is None or total < fewest:
                best, fewest = groups, total
        if best is None:
            return list(self.items)
        return [item_id for group in best for item_id in group]


def _bucket_keys(filed: _Filed) -> list[tuple[str, str | None]]:
    if filed.values is None:
        return [(filed.label, None)]
    return [(filed.label, value) for value in filed.values]

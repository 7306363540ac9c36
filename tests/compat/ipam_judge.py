"""Compares what stands below `/calico/ipam/` with a recording (vectors/IPAM.md, "How to compare").

Sequence numbers are relative to a block's first one, free lists may differ in the order of what one call freed
together, handles may count less than upstream's. Everything else must be equal.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from tests.compat.contract import show, tree_differences

CONFIG = "/calico/ipam/v2/config"
HANDLE = "/calico/ipam/v2/handle/"
ASSIGNMENT = "/calico/ipam/v2/assignment/"
NOW = "<now>"
Keys = dict[str, Any]


def is_block(key: str) -> bool:
    """Is this the key of a block, not of a block's affinity?"""
    return key.startswith(ASSIGNMENT)


class IpamJudge:
    """Compares the keys of one sequence step by step; what it remembers is needed for relative numbers."""

    def __init__(self, has_config: bool = True) -> None:
        self._has_config = has_config
        self._bases: dict[str, int] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._in_use: dict[str, set[int]] = {}
        self._groups: dict[str, dict[int, str]] = {}
        self._step = 0

    def base_of(self, address: str) -> int:
        """Own sequence number less the recorded one, for the block with the address; 0 for none."""
        wanted = ipaddress.ip_interface(address).ip
        for key, base in self._bases.items():
            if wanted in ipaddress.ip_network(key.rpartition("/")[2].replace("-", "/")):
                return base
        return 0

    def differences(self, ours: Keys, theirs: Keys, operation: str, varies: Sequence[Sequence[str]]) -> list[str]:
        """Every difference after one step. `varies`: paths that differed from recording to recording."""
        self._step += 1
        theirs = dict(theirs)
        if not self._has_config and operation != "setipamconfig" and CONFIG not in ours:
            theirs.pop(CONFIG, None)
        self._remember_freed(ours, operation)
        by_chance = {path[1] for path in varies if len(path) == 2 and path[0] == "keys"}
        found = broken_invariants(ours) if by_chance else []
        for key in sorted(ours.keys() | theirs.keys()):
            members = [list(path[2:]) for path in varies if path[:2] == ["keys", key] and len(path) > 2]
            if key in by_chance or (by_chance and key not in theirs and key != CONFIG):
                continue
            found += self._key_differences(key, ours, theirs, members)
        self._last = {key: value for key, value in theirs.items() if is_block(key) and isinstance(value, dict)}
        return found

    def _remember_freed(self, ours: Keys, operation: str) -> None:
        """Ordinals that one `releaseips` freed together make a group, whose order in the free list is free."""
        for key in [key for key in self._groups if key not in ours]:
            del self._groups[key]
        for key, block in ours.items():
            if not is_block(key) or not isinstance(block, dict):
                continue
            used = {n for n, index in enumerate(block.get("allocations") or ()) if index is not None}
            freed = self._in_use.get(key, set()) - used
            groups = self._groups.setdefault(key, {})
            for ordinal in used:
                groups.pop(ordinal, None)
            if operation == "releaseips":
                groups.update(dict.fromkeys(freed, f"freed in step {self._step}"))
            self._in_use[key] = used

    def _key_differences(self, key: str, ours: Keys, theirs: Keys, varies: list[list[str]]) -> list[str]:
        if key not in theirs:
            return [f"{key} is {show(ours[key])}, expected absent"]
        if key not in ours:
            if key.startswith(HANDLE) and not held_by(ours, key.removeprefix(HANDLE)):
                return []
            return [f"{key} is missing, expected {show(theirs[key])}"]
        mine, other = ours[key], theirs[key]
        if not isinstance(mine, dict) or not isinstance(other, dict):
            return tree_differences(mine, other, key)
        if is_block(key):
            return [f"{key}{text}" for text in self._block_differences(key, mine, other, varies)]
        if key.startswith(HANDLE):
            return handle_differences(key, mine, other, held_by(ours, key.removeprefix(HANDLE)))
        return tree_differences(without_claim(mine, other), without_claim(other, mine), key)

    def _block_differences(
        self, key: str, mine: dict[str, Any], other: dict[str, Any], varies: list[list[str]]
    ) -> list[str]:
        mine, other = normal_block(mine), normal_block(other)
        base = self._base(key, mine, other)
        free = [path for path in varies if path[0] == "unallocated"]
        skipped = {path[0] for path in varies if path[0] != "unallocated"}
        found = self._free_list_differences(key, mine, other, bool(free))
        relative = {**mine, "sequenceNumber": _less(mine.get("sequenceNumber"), base)}
        relative["sequenceNumberForAllocation"] = _sequences(mine, base)
        other = {**other, "sequenceNumberForAllocation": _sequences(other, 0)}
        drop = skipped | {"unallocated"}
        return found + tree_differences(
            {name: value for name, value in without_claim(relative, other).items() if name not in drop},
            {name: value for name, value in without_claim(other, relative).items() if name not in drop},
        )

    def _base(self, key: str, mine: dict[str, Any], other: dict[str, Any]) -> int:
        """Taken when the block is first seen, when the recorded number falls, and when the block gets another owner."""
        last = self._last.get(key)
        number = other.get("sequenceNumber") or 0
        owners = [block.get("affinity") for block in (last, other) if block is not None]
        reclaimed = len(owners) == 2 and all(owners) and owners[0] != owners[1]
        if last is None or key not in self._bases or number < (last.get("sequenceNumber") or 0) or reclaimed:
            self._bases[key] = (mine.get("sequenceNumber") or 0) - number
        return self._bases[key]

    def _free_list_differences(
        self, key: str, mine: dict[str, Any], other: dict[str, Any], any_order: bool
    ) -> list[str]:
        own, wanted = mine.get("unallocated"), other.get("unallocated")
        groups = self._groups.get(key, {})
        if not isinstance(own, list) or not isinstance(wanted, list):
            equal = own == wanted
        else:
            same = sorted(own) == sorted(wanted)
            in_order = [groups.get(o, o) for o in own] == [groups.get(o, o) for o in wanted]
            equal = same and (any_order or in_order)
        return [] if equal else [f"/unallocated is {show(own)}, expected {show(wanted)}"]


def _less(number: Any, base: int) -> Any:
    return number - base if isinstance(number, int) else number


def _sequences(block: dict[str, Any], base: int) -> dict[str, Any]:
    """Those of the ordinals in use; upstream keeps some of free ones."""
    used = {str(n) for n, index in enumerate(block.get("allocations") or ()) if index is not None}
    numbers = block.get("sequenceNumberForAllocation") or {}
    return {ordinal: _less(number, base) for ordinal, number in numbers.items() if ordinal in used}


def without_claim(value: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The value with a claim time that can be compared: now is any time, null is absent."""
    claim = value.get("affinity_claim_time")
    now = claim is not None and other.get("affinity_claim_time") is not None
    now = now and NOW in (claim, other.get("affinity_claim_time"))
    rest = {name: one for name, one in value.items() if name != "affinity_claim_time"}
    return rest if claim is None else {**rest, "affinity_claim_time": NOW if now else claim}


def normal_block(block: dict[str, Any]) -> dict[str, Any]:
    """Equal attribute records are one, and none are an empty list."""
    attributes = block.get("attributes") or []
    allocations = block.get("allocations")
    firsts = [attributes.index(attribute) for attribute in attributes]
    kept = sorted(set(firsts))
    if isinstance(allocations, list):
        fits = [index if not _in(index, attributes) else kept.index(firsts[index]) for index in allocations]
        block = {**block, "allocations": fits}
    return {**block, "attributes": [attributes[index] for index in kept]}


def _in(index: Any, attributes: list[Any]) -> bool:
    return isinstance(index, int) and 0 <= index < len(attributes)


def held_by(keys: Keys, handle: str) -> dict[str, int]:
    """How many addresses the blocks say a handle has, by block."""
    found: dict[str, int] = {}
    for key, block in keys.items():
        if not is_block(key) or not isinstance(block, dict):
            continue
        attributes = block.get("attributes") or []
        for index in block.get("allocations") or ():
            if _in(index, attributes) and (attributes[index] or {}).get("handle_id") == handle:
                found[block["cidr"]] = found.get(block["cidr"], 0) + 1
    return found


def handle_differences(key: str, mine: dict[str, Any], other: dict[str, Any], held: dict[str, int]) -> list[str]:
    """A count must lie between what the blocks hold and what was recorded; other members are equal."""
    found = []
    counts, recorded = mine.get("block") or {}, other.get("block") or {}
    for cidr in sorted(counts.keys() | recorded.keys() | held.keys()):
        own, limits = counts.get(cidr, 0), sorted((held.get(cidr, 0), recorded.get(cidr, 0)))
        if not limits[0] <= own <= limits[1]:
            found.append(f"{key}/block/{cidr} is {own}, expected {limits[0]} to {limits[1]}")
    own_rest, rest = ({name: value for name, value in one.items() if name != "block"} for one in (mine, other))
    return found + tree_differences(own_rest, rest, key)


def broken_invariants(keys: Keys) -> list[str]:
    """spec/ipam.md 2.4, and handles that count what the blocks say."""
    found = []
    truth: dict[str, dict[str, int]] = {}
    for key, block in keys.items():
        if not is_block(key):
            continue
        attributes = block["attributes"] or []
        used = [index for index in block["allocations"] if index is not None]
        if set(used) != set(range(len(attributes))):
            found.append(f"{key}: allocations {used} of {len(attributes)} attributes")
        in_use = [ordinal for ordinal, index in enumerate(block["allocations"]) if index is not None]
        if sorted([*block["unallocated"], *in_use]) != list(range(len(block["allocations"]))):
            found.append(f"{key}: unallocated {block['unallocated']} beside {in_use} in use")
        for handle in {(attributes[index] or {}).get("handle_id") for index in used if _in(index, attributes)}:
            if handle is not None:
                truth[handle] = held_by(keys, handle)
    stored = {key.removeprefix(HANDLE): value["block"] for key, value in keys.items() if key.startswith(HANDLE)}
    return found if stored == truth else [*found, f"handles are {show(stored)}, the blocks say {show(truth)}"]

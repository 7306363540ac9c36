"""The ordinals of an IPAM block as a bitmap: which of its addresses are in use.

A block of 2^n addresses is one Python integer, bit i set = ordinal i in use, beside the number of ordinals. All
functions are pure: they take a bitmap and return a new one. Source of the semantics: spec/ipam.md 2.1.
"""

from __future__ import annotations


def from_allocations(allocations: list[int | None]) -> int:
    """Bitmap of a block's `allocations` array: None is free, anything else is in use."""
    bits = 0
    for ordinal, index in enumerate(allocations):
        if index is not None:
            bits |= 1 << ordinal
    return bits


def from_ordinals(ordinals: list[int]) -> int:
    """Bitmap with just these ordinals set."""
    bits = 0
    for ordinal in ordinals:
        bits |= 1 << ordinal
    return bits


def to_ordinals(bits: int) -> list[int]:
    """The set ordinals in ascending order."""
    ordinals = []
    while bits:
        lowest = bits & -bits
        ordinals.append(lowest.bit_length() - 1)
        bits ^= lowest
    return ordinals


def count(bits: int) -> int:
    """How many ordinals are in use."""
    return bits.bit_count()


def is_set(bits: int, ordinal: int) -> bool:
    """Is this ordinal in use?"""
    return bool(bits >> ordinal & 1)


def set_bit(bits: int, ordinal: int) -> int:
    """The bitmap with this ordinal in use."""
    return bits | 1 << ordinal


def clear_bit(bits: int, ordinal: int) -> int:
    """The bitmap with this ordinal free."""
    return bits & ~(1 << ordinal)


def first_free(bits: int, size: int, wanted: int = 1, reserved: int = 0) -> list[int]:
    """Up to `wanted` free ordinals below `size` in ascending order, none of them in `reserved`."""
    free = ~(bits | reserved) & ((1 << size) - 1)
    found: list[int] = []
    while free and len(found) < wanted:
        lowest = free & -free
        found.append(lowest.bit_length() - 1)
        free ^= lowest
    return found


def pick_free(
    unallocated: list[int], bits: int, size: int, wanted: int, reserved: int = 0
) -> tuple[list[int], list[int]]:
    """Take up to `wanted` ordinals off the front of a block's free list.

    Returns the ordinals taken and the list that remains. Reserved ordinals stay in the list; one that the bitmap
    shows in use, that lies beyond the block, or that was met before is dropped from it, never handed out."""
    taken: list[int] = []
    remaining: list[int] = []
    seen = bits
    for ordinal in unallocated:
        if not 0 <= ordinal < size or seen >> ordinal & 1:
            continue
        seen |= 1 << ordinal
        if len(taken) < wanted and not reserved >> ordinal & 1:
            taken.append(ordinal)
        else:
            remaining.append(ordinal)
    return taken, remaining

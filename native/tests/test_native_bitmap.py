"""Block bitmaps."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from calico_native import bitmap as compiled
from calico_native.py import bitmap as twin

ORDINALS = st.lists(st.integers(0, 63), max_size=64)


def test_there_and_back(bitmap: Any) -> None:
    bits = bitmap.from_allocations([None, 0, None, 3])
    assert bits == 0b1010 == bitmap.from_ordinals([3, 1])
    assert bitmap.to_ordinals(bits) == [1, 3]
    assert bitmap.count(bits) == 2
    assert bitmap.set_bit(bits, 0) == 0b1011 and bitmap.clear_bit(bits, 1) == 0b1000
    assert bitmap.is_set(bits, 3) and not bitmap.is_set(bits, 2)


def test_first_free_skips_reserved_and_stops_at_the_end(bitmap: Any) -> None:
    assert bitmap.first_free(0b0001, 4, 9, reserved=0b0100) == [1, 3]
    assert bitmap.first_free(0b1111, 4) == []


def test_pick_free_keeps_the_queue_and_drops_what_is_wrong(bitmap: Any) -> None:
    taken, remaining = bitmap.pick_free([5, 2, 2, 0, 99, -1, 7], bits=0b1, size=8, wanted=1, reserved=0b100000)
    assert (taken, remaining) == ([2], [5, 7])


def test_big_blocks(bitmap: Any) -> None:
    bits = bitmap.from_ordinals(list(range(4095)))
    assert bitmap.first_free(bits, 4096, 2) == [4095]
    assert bitmap.count(bits) == 4095


@given(st.lists(st.integers(-5, 70), max_size=70), ORDINALS, ORDINALS, st.integers(0, 70))
def test_builds_agree(free: list[int], used: list[int], reserved: list[int], wanted: int) -> None:
    bits, kept = twin.from_ordinals(used), twin.from_ordinals(reserved)
    assert compiled.from_ordinals(used) == bits
    assert compiled.to_ordinals(bits) == twin.to_ordinals(bits) == sorted(set(used))
    assert compiled.first_free(bits, 64, wanted, kept) == twin.first_free(bits, 64, wanted, kept)
    one, other = (m.pick_free(free, bits, 64, wanted, kept) for m in (compiled, twin))
    assert one == other
    assert not set(one[0]) & (set(used) | set(reserved)) and len(set(one[0])) == len(one[0]) <= wanted

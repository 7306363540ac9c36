"""Prefixes without overlaps: our own collapse is the standard library's."""

from __future__ import annotations

import ipaddress
import random

import pytest

from libcalico.policy.nets import FULL_LENGTH, Prefix, collapse


def reference(prefixes: list[Prefix], family: int) -> list[Prefix]:
    kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    nets = ipaddress.collapse_addresses([kind(prefix) for prefix in prefixes])  # type: ignore[type-var]
    return [(int(net.network_address), net.prefixlen) for net in nets]


@pytest.mark.parametrize("family", [4, 6])
def test_random_prefixes(family: int) -> None:
    dice, full = random.Random(5), FULL_LENGTH[family]
    for _ in range(500):
        prefixes = []
        for _ in range(dice.randrange(40)):
            length = full - dice.randrange(9)
            prefixes.append((dice.randrange(256) >> (full - length) << (full - length), length))
        assert collapse(prefixes, full) == reference(prefixes, family)


def test_the_ends() -> None:
    assert collapse([], 32) == []
    assert collapse([(0, 1), (1 << 31, 1)], 32) == [(0, 0)]
    assert collapse([(0, 0), (5, 32)], 32) == [(0, 0)]
    assert collapse([(0, 128)], 128) == [(0, 128)]

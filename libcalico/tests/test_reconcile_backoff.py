"""Pauses between tries."""

from __future__ import annotations

import pytest

from libcalico.reconcile import Backoff


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    [
        (Backoff(0.1, 1.0), [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        (Backoff(1.0, 2.0, growth=1.5), [1.0, 1.5, 2.0, 2.0]),
        (Backoff(3.0, 3.0), [3.0, 3.0]),
    ],
)
def test_pauses_grow_up_to_the_last(backoff: Backoff, pauses: list[float]) -> None:
    assert [backoff.pause_s(failures) for failures in range(1, len(pauses) + 1)] == pytest.approx(pauses)


def test_a_million_failures_are_no_overflow() -> None:
    assert Backoff(0.1, 30.0).pause_s(1_000_000) == 30.0


def test_spread_pauses_are_below_those_without() -> None:
    spread, plain = Backoff(0.1, 1.0, spread=True), Backoff(0.1, 1.0)
    drawn = [spread.pause_s(3) for _ in range(200)]
    assert all(0 <= pause <= plain.pause_s(3) for pause in drawn) and len(set(drawn)) > 100

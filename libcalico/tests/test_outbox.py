"""One pending change per object."""

from __future__ import annotations

from libcalico.calc.outbox import Pending


def test_the_newest_wins_and_equal_is_nothing() -> None:
    box: Pending[str, int] = Pending()
    box.put("a", 1)
    box.put("a", 2)
    assert box.current("a") == 2
    assert box.flush() == {"a": 2}
    box.put("a", 3)
    box.put("a", 2)
    assert box.flush() == {}


def test_what_came_and_went_leaves_no_trace() -> None:
    box: Pending[str, int] = Pending()
    box.put("a", 1)
    box.remove("a")
    assert box.flush() == {}
    box.put("a", 1)
    box.flush()
    box.remove("a")
    box.put("a", 1)
    assert box.flush() == {}
    box.remove("a")
    assert box.current("a") is None
    assert box.flush() == {"a": None}

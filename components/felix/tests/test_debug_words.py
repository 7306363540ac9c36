"""What the debug interface answers to a word that it does not know."""

from __future__ import annotations

import pytest

from calico_felix.dataplane.loop import Dataplane
from calico_felix.debug import _show


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "^show one of endpoints, policies, sets, routes, links$"),
        (["polcies"], "^there is no 'polcies' to show; show one of endpoints, policies, "),
    ],
)
def test_what_can_be_shown_is_listed(words: list[str], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        _show(words, Dataplane.__new__(Dataplane))

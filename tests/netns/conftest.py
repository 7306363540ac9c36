"""Fixtures of the tests that wire containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.spaces import Space


def _space(kind: str) -> Iterator[Space]:
    made = Space(kind)
    yield made
    made.close()


@pytest.fixture
def host() -> Iterator[Space]:
    """The host's namespace."""
    yield from _space("host")


@pytest.fixture
def box() -> Iterator[Space]:
    """A container's."""
    yield from _space("box")


@pytest.fixture
def other() -> Iterator[Space]:
    """Another container's."""
    yield from _space("other")

"""Every test here runs over both builds of a module."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import calico_native


def builds(name: str) -> list[Any]:
    """The compiled module and its pure-Python twin."""
    twin = importlib.import_module(f"calico_native.py.{name}")
    compiled: Any = importlib.import_module(f"calico_native.{name}")
    assert calico_native.implementation == "python" or compiled.__file__.endswith(".so")
    return [compiled, twin]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `expression`, `rules`, `bitmap` or `netns` gets each build of it."""
    for name in calico_native.MODULES:
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, builds(name), ids=[calico_native.implementation, "twin"])

"""Loads the library before pytest names its test modules after folders: `libcalico/` holds a package `libcalico`."""

import pytest

import libcalico  # noqa: F401

pytest_plugins = ["tests.services"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests; they must be known before any test folder is read."""
    parser.addoption("--packets", type=int, default=20_000, help="packets of the kernel = matcher test")
    parser.addoption("--seed", type=int, default=0, help="seed of random tests; 0 takes another one each time")

"""Loads the library before pytest names its test modules after folders: `libcalico/` holds a package `libcalico`."""

import os

import pytest
from hypothesis import HealthCheck, settings

import libcalico  # noqa: F401

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = (
    "0"  # else its threads come to life in a child between fork and exec, and abort
)

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["tests.services", "tests.certificates"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests; they must be known before any test folder is read."""
    parser.addoption("--packets", type=int, default=20_000, help="packets of the kernel = matcher test")
    parser.addoption("--seed", type=int, default=0, help="seed of random tests; 0 takes another one each time")

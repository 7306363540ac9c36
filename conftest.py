"""Options of single tests; they must be known before any test folder is read."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the command line may say of them."""
    parser.addoption("--packets", type=int, default=20_000, help="packets of the kernel = matcher test")
    parser.addoption("--seed", type=int, default=0, help="seed of random tests; 0 takes another one each time")

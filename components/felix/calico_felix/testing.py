"""Fixtures: a dataplane's surroundings without a kernel. One in memory prints its state, and tests move the clock.

A test module names this one in `pytest_plugins`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_felix.dataplane.backends.nft.programmer import NftHandles, Programmer
from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.handles import Handles
from calico_felix.dataplane.manager import Context, Failures
from libcalico.policy.nft.rules import NftOptions
from libcalico.testing.clock import ManualClock
from libcalico.testing.kernel import FakeKernel
from libcalico.testing.kernel_nft import FakeBatches, FakeNft, FakeReader


@pytest.fixture
def kernel() -> FakeKernel:
    """With the way out that a host has: eth0 172.16.0.1/24 and a default route."""
    made = FakeKernel()
    made.add_link("eth0")
    made.add_address("eth0", "172.16.0.1/24")
    made.add_route("0.0.0.0/0", "eth0", "172.16.0.254")
    made.take_events()
    return made


@pytest.fixture
def clock() -> ManualClock:
    """Stands at 100 s."""
    return ManualClock(100.0)


@pytest.fixture
def handles(kernel: FakeKernel) -> Iterator[Handles]:
    """What is open of it."""
    nft = kernel.nft

    def open_programmer() -> Programmer:
        return Programmer(NftHandles(FakeNft(nft), FakeBatches(nft, "calico"), FakeReader(nft), nft.monitor))

    made = Handles(
        kernel.netlink(), kernel.sysctl(), open_programmer, kernel.conntrack, lambda: FakeReader(nft)
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def context(handles: Handles, clock: ManualClock, tmp_path: Path) -> Context:
    """Of the node `here`."""
    config = DataplaneConfig("here", NftOptions(), mtu_file=str(tmp_path / "mtu"))
    return Context(config, handles, clock, asyncio.Event(), Failures())

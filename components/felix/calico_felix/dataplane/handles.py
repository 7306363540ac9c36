"""What is open of the kernel. Tests open a kernel in memory instead (`libcalico.testing.kernel`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from calico_felix.dataplane.backends.nft.programmer import Programmer
from libcalico.kernel import sysctl
from libcalico.kernel.conntrack import Conntrack
from libcalico.kernel.netlink import Netlink
from libcalico.kernel.nft_reader import NftReader

T = TypeVar("T")


class Sysctl(Protocol):
    """Settings below /proc/sys, as `libcalico.kernel.sysctl` has them."""

    def read(self, key: str) -> str:
        """The value; raises `KernelError`."""

    def ensure(self, key: str, value: str | int) -> bool:
        """Write what differs; raises `KernelError`."""

    def has_ipv6(self) -> bool:
        """The kernel knows IPv6."""


class Handles:
    """Route netlink, settings, and the thread on which nftables and conntrack are asked, one call after the other."""

    def __init__(
        self,
        netlink: Netlink | None = None,
        settings: Sysctl = sysctl,
        open_programmer: Callable[[], Programmer] = Programmer,
        open_conntrack: Callable[[], Conntrack] = Conntrack,
        open_reader: Callable[[], NftReader] = NftReader,
    ) -> None:
        self.netlink = netlink or Netlink()
        self.sysctl = settings
        self.programmer: Programmer | None = None
        self.open_conntrack = open_conntrack
        self.open_reader = open_reader
        self._open_programmer = open_programmer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nft")

    async def open(self) -> Programmer:
        """Open nftables, with its own thread for an owner; nothing is changed yet."""
        self.programmer = await self.run(self._open_programmer)
        return self.programmer

    def close(self) -> None:
        """Let go of the kernel, after the call at work; what was programmed stays."""
        self._thread.shutdown()
        self.netlink.close()

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """`call(*args)` on the thread of nftables and conntrack."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

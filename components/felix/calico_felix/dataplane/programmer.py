"""The one place that writes the nftables table, and that is told when somebody else does."""

from __future__ import annotations

import asyncio

from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_monitor import NftMonitor
from libcalico.policy.nft.names import TABLE


class Programmer:
    """Owns the handle of libnftables. `commit` blocks and belongs in one thread, `changes` on the event loop."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._nft.run("list tables")  # its socket has a port from its first use on
        self._monitor = NftMonitor(TABLE.removeprefix("inet "))

    def commit(self, text: str) -> None:
        """One transaction; raises `NftError`."""
        self._nft.run(text)

    @property
    def others(self) -> asyncio.Event:
        """Set whenever another process has changed any table of nftables, ours or not."""
        return self._monitor.others

    async def changes(self) -> list[str]:
        """What others did to the table since the last call; waits for the first of it."""
        return await self._monitor.changes()

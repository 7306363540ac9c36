"""The one place that writes the nftables table, and that is told when somebody else does."""

from __future__ import annotations

import asyncio
import os
import re

from calico_felix.dataplane.refusals import all_refusals
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nft import Nft, NftError
from libcalico.kernel.nft_elements import ElementBatches
from libcalico.kernel.nft_monitor import NftMonitor
from libcalico.policy.nft.names import TABLE
from libcalico.policy.nft.table import Table

NUMBER = re.compile(r"[0-9]+")
REFILLING_KERNEL = (6, 17)
"""From here on no packet misses an element that one transaction takes out of an interval set and puts in again."""


class Programmer:
    """Owns the handle of libnftables, and the socket for elements. `write` and `commit` block: in one thread. `changes`
    is for the event loop."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._nft.run("list tables")  # its socket has a port from its first use on
        self._elements = ElementBatches(TABLE.removeprefix("inet "))
        self._monitor = NftMonitor(TABLE.removeprefix("inet "))
        release = NUMBER.findall(os.uname().release)
        self._refills = tuple(map(int, release[:2])) >= REFILLING_KERNEL

    def write(self, wanted: Table, former: Table | None) -> None:
        """Make the kernel's table `wanted`, all of it or what is different from `former`, in one transaction; raises
        `NftError`, which names all that is refused when `former` is None."""
        if former is None:
            self._replace(wanted.render_replace())
        elif not self._write_elements(wanted, former) and (text := wanted.render_delta(former, self._refills)):
            self.commit(text)

    def _replace(self, text: str) -> None:
        try:
            self.commit(text)
        except NftError as error:
            error.refusals = all_refusals(lambda part: self._nft.run(part, check_only=True), text, error)
            raise

    def _write_elements(self, wanted: Table, former: Table) -> bool:
        """The usual case of a running agent: nothing but elements differs (docs/adr/0029-element-batches.md)."""
        changes = wanted.element_changes(former, self._refills)
        try:
            return changes is not None and self._elements.commit(changes)
        except KernelError as error:
            raise NftError(str(error), 0, "") from error

    def commit(self, text: str) -> None:
        """Commands as one transaction; raises `NftError`."""
        self._nft.run(text)

    @property
    def others(self) -> asyncio.Event:
        """Set whenever another process has changed any table of nftables, ours or not."""
        return self._monitor.others

    async def changes(self) -> list[str]:
        """What others did to the table since the last call; waits for the first of it."""
        return await self._monitor.changes()

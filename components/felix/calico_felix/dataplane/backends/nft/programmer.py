"""The one place that writes the nftables table, and that learns when another process does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from calico_felix.dataplane.backends.nft.refusals import all_refusals
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nft import Nft, NftError
from libcalico.kernel.nft_batches import NftBatches
from libcalico.kernel.nft_monitor import NftMonitor
from libcalico.kernel.nft_reader import NftReader
from libcalico.policy.nft.names import TABLE
from libcalico.policy.nft.table import Command, Differences, ElementChange, Standing, Table, text_of

NUMBER = re.compile(r"[0-9]+")
REFILLING_KERNEL = (6, 17)
"""From here on no packet misses an element that one transaction takes out of an interval set and puts in again."""


class NftHandles(NamedTuple):
    """What is open of nftables."""

    nft: Nft
    batches: NftBatches
    reader: NftReader
    monitor: NftMonitor


def open_handles() -> NftHandles:
    """Those of the kernel, for our table."""
    nft = Nft()
    nft.run("list tables")  # its socket has a port from its first use on
    name = TABLE.removeprefix("inet ")
    return NftHandles(nft, NftBatches(name), NftReader(), NftMonitor(name))


class Programmer:
    """Owns the handle of libnftables, and the socket for batches. `write` and `commit` block: in one thread. `changes`
    is for the event loop."""

    def __init__(self, handles: NftHandles | None = None) -> None:
        """Without `handles` those of the kernel are opened."""
        self._nft, self._batches, self._reader, self._monitor = handles or open_handles()
        release = NUMBER.findall(os.uname().release)
        self._refills = tuple(map(int, release[:2])) >= REFILLING_KERNEL

    def write(self, wanted: Table, former: Table | None) -> None:
        """Make the kernel's table `wanted`, all of it or what is different from `former`: in one transaction, or, where
        interval sets are new, in two, of which the first changes no verdict. Raises `NftError`, whose refusals
        are all that cannot be."""
        if former is None:
            self._rewrite(wanted)
            return
        differences = Differences(former, wanted)
        if not self._write_elements(wanted, former, differences):
            fills: list[ElementChange] = []
            steps = wanted.steps(former, self._refills, fills, differences)
            self._commit_all(wanted, steps, fills)

    def _rewrite(self, wanted: Table) -> None:
        """Where no table stands, one that drops new flows comes first: the sets may take their time."""
        if (standing := self._standing()) is None:
            self.commit(wanted.render_guard())
            standing = self._standing() or Standing([], [], [])
        fills: list[ElementChange] = []
        self._commit_all(wanted, wanted.render_rewrite(standing, fills), fills)

    def _commit_all(self, wanted: Table, steps: Sequence[str | list[Command]], fills: list[ElementChange]) -> None:
        """Texts, which are about the whole table, are for libnftables, and commands that no batch can do. `fills` come
        after the first of the transactions, in which their sets are made."""
        for number, step in enumerate(steps):
            if isinstance(step, str):
                self._commit_text(wanted, step, whole=True)
            elif not self._write_batch(step):
                self._commit_text(wanted, text_of(step), whole=False)
            if number == 0:
                for fill in fills:
                    self._fill(fill)

    def _commit_text(self, wanted: Table, text: str, whole: bool) -> None:
        try:
            self.commit(text)
        except NftError as error:
            error.refusals = all_refusals(self._check, wanted, text, error, whole)
            raise

    def _check(self, text: str) -> None:
        self._nft.run(text, check_only=True)

    def _fill(self, fill: ElementChange) -> None:
        """Elements of a set that no rule uses yet; what a batch cannot do, libnftables does, or says why not."""
        with contextlib.suppress(KernelError):
            if self._batches.commit([fill]):
                return
        self.commit(f"add set {TABLE} {fill.name} {{ type {fill.type}; flags interval; elements = {{ {fill.text} }} }}")

    def _standing(self) -> Standing | None:
        """None when there is no table, or one without a chain."""
        family, _, table = TABLE.partition(" ")
        try:
            chains = [one.name for one in self._reader.chains() if (one.family, one.table) == (family, table)]
            sets = self._reader.sets(family, table)
        except KernelError as error:
            raise NftError(str(error), 0, "") from error
        found = Standing([s.name for s in sets if s.is_map], chains, [s.name for s in sets if not s.is_map])
        return found if chains else None

    def _write_elements(self, wanted: Table, former: Table, differences: Differences) -> bool:
        """The usual case of a running agent: nothing but elements differs (docs/adr/0029-element-batches.md)."""
        changes = wanted.element_changes(former, self._refills, differences)
        try:
            return changes is not None and self._batches.commit(changes)
        except KernelError as error:
            raise NftError(str(error), 0, "") from error

    def _write_batch(self, step: list[Command]) -> bool:
        """What most transactions with rules are, a batch can do (docs/adr/0067-rule-batches.md)."""
        try:
            return self._batches.commit_commands([part for one in step for part in one.parts])
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

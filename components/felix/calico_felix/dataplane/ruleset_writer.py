"""Writes the wanted ruleset: transactions, refusals, repairs. The first of the managers: policy before everything else.

A ruleset that is refused is tried again without what is to blame for it (`quarantine`); one that is refused ten times
although nothing more can be closed ends the process, with the former rules in force. When another process changes the
table it is written again, all of it. `write_state` has the states.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from calico_felix.dataplane.backends.nft.ruleset import Ruleset
from calico_felix.dataplane.connections import Connections, addresses_of
from calico_felix.dataplane.manager import RETRY_S, Context, Manager
from calico_felix.dataplane.readiness import Readiness
from calico_felix.dataplane.write_state import WHOLE_ANYWAY, Event, Progress, State
from libcalico.calc.messages import Flush
from libcalico.errors import Bug
from libcalico.kernel.nft import NftError
from libcalico.policy.nft.table import Table

log = logging.getLogger(__name__)

RULESET_TRIES = 10
MOST_NAMED = 20  # refused chains and sets in one line of the log
REPAIR_INTERVAL_S = 0.1  # between two rewrites because of another process, however often it changes the table


class RulesetWriter(Manager):
    """Keeps the kernel's table equal to `ruleset`."""

    def __init__(self, context: Context, ruleset: Ruleset, connections: Connections, readiness: Readiness) -> None:
        self.ruleset = ruleset
        self.progress = Progress()
        self.repairs = 0
        self._context = context
        self._connections = connections
        self._readiness = readiness
        self._standing: Table | None = None
        """What the kernel holds; it counts in the states that know."""
        self._last_write_s = 0.0

    def on_flush(self, flush: Flush) -> None:
        """Take in what the graph has changed; there may be something to write."""
        self.ruleset.on_flush(flush)
        self.progress.on(Event.CHANGED)

    def next_try_s(self, now_s: float) -> float | None:
        """Soon, when something was left to be written."""
        return RETRY_S if self.progress.is_due else None

    @property
    def is_started(self) -> bool:
        """The graph's state has been taken in: before that, nothing of the kernel is touched."""
        return self.progress.state is not State.WAITING

    def spoil(self) -> None:
        """The kernel's table may be anything: write all of it at the next apply."""
        self.progress.on(Event.SPOILED)
        self._context.wake.set()

    async def apply(self, now_s: float) -> None:
        """Write what is due; raises `Bug` when the kernel keeps refusing."""
        if not self.progress.is_due:
            return
        tries, started_s = 0, self._context.clock.monotonic_s()
        while tries < RULESET_TRIES:
            error = await self._try()
            if error is None:
                self._last_write_s = self._context.clock.monotonic_s() - started_s
                if self.progress.is_clean:
                    self._readiness.on_clean()
                return
            if not self._quarantine(error):
                tries += 1
        raise Bug(f"nftables refused the ruleset {RULESET_TRIES} times: the former rules stay in force")

    async def _try(self) -> NftError | None:
        """One transaction. What it stands for is taken at its beginning: more may be wanted when it ends."""
        wanted, lost = self.ruleset.table.copy(), self._connections.take_lost()
        endpoints, revision = self.ruleset.owners.in_force(), self._readiness.revision
        former = self._standing if self.progress.state is State.DIRTY else None
        self.progress.on(Event.BEGUN)
        try:
            await self._write(wanted, former)
        except NftError as error:
            self._connections.take_back(lost)
            self.progress.on(Event.REFUSED)
            self._context.failures.count += 1
            log.error("nftables refused a transaction: %s", error)
            return error
        self._standing = wanted
        if unended := await self._connections.on_rules(lost):
            endpoints = {key: one for key, one in endpoints.items() if not addresses_of(one) & unended}
            self.progress.on(Event.CHANGED)  # to try again
        self.progress.on(Event.STANDS)
        self._readiness.on_rules(endpoints, revision)
        return None

    def _quarantine(self, error: NftError) -> bool:
        """True when the rest may be accepted now: a chain or a set more is closed."""
        closed = []
        for refusal in error.refusals:
            words = refusal.command.split()
            what, name = words[1:2], words[4] if len(words) > 4 else ""
            if (what == ["rule"] and self.ruleset.quarantine(name, refusal.text)) or (
                what == ["set"] and self.ruleset.quarantine_set(name, refusal.text)
            ):
                closed.append(f"{what[0]} {name} ({refusal.text})")
        if closed:
            more = f" and {len(closed) - MOST_NAMED} more" if len(closed) > MOST_NAMED else ""
            log.error("closed until their policies or members change: %s%s", ", ".join(closed[:MOST_NAMED]), more)
        return bool(closed)

    async def _write(self, wanted: Table, former: Table | None) -> None:
        """The thread renders, too: a big set costs tens of milliseconds."""
        assert self._context.handles.programmer is not None
        await self._context.handles.run(self._context.handles.programmer.write, wanted, former)

    async def commit(self, text: str) -> None:
        """A transaction about tables of other programs; raises `NftError`."""
        assert self._context.handles.programmer is not None
        await self._context.handles.run(self._context.handles.programmer.commit, text)

    async def watch(self) -> None:
        """For ever: whenever another process has changed our table (`nft flush ruleset`, say), write it again."""
        assert self._context.handles.programmer is not None
        while True:
            changes = await self._context.handles.programmer.changes()
            if self.progress.state not in WHOLE_ANYWAY:
                more = f"; {len(changes) - 1} more changes" if len(changes) > 1 else ""
                log.warning("the nftables table was changed (%s%s): writing it anew", changes[0], more)
                self.repairs += 1
                self.spoil()
            await self._context.clock.sleep(max(REPAIR_INTERVAL_S, self._last_write_s))

    def pending(self) -> list[str]:
        """Chains that wait for a better policy."""
        return [f"chain {chain}: {why}" for chain, why in self.ruleset.quarantined.items()]

    def figures(self) -> Mapping[str, float]:
        """What the table is made of."""
        return {
            "felix_active_local_endpoints": len(self.ruleset.owners.endpoints),
            "felix_active_local_policies": len(self.ruleset.policies),
            "felix_ruleset_chains": len(self.ruleset.table.chains),
            "felix_ipsets_calico": len(self.ruleset.table.sets),
            "felix_ruleset_repairs": self.repairs,
        }

"""Looks at other programs' packet filters and does what `foreign` plans: a loop of its own, beside the apply.

It looks once our own rules stand, whenever another program has changed nftables (the kernel reports it), and every
90 s. The kernel does not report changes of iptables' legacy tables: every 3 s their bytes are compared with those of
the last look (`legacy_state`), which costs a hundredth of a look. Reading happens in a thread; the apply never waits
for it, except for the rare transaction that changes something.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from calico_felix.dataplane import foreign
from calico_felix.dataplane.foreign import Change, Held
from calico_felix.dataplane.manager import Manager
from libcalico.errors import CalicoError
from libcalico.kernel.ipset import Ipset
from libcalico.kernel.iptables import Legacy, LegacyMissing, decode_save, legacy_tables
from libcalico.kernel.legacy_state import legacy_state
from libcalico.kernel.nft_reader import ChainSeen, NftReader, RuleSeen
from libcalico.policy.nft.names import TABLE

log = logging.getLogger(__name__)

REFRESH_S, LEGACY_REFRESH_S, RETRY_S = 90.0, 3.0, 5.0
SETTLE_S = 0.1
"""A program that sets its chains up runs many transactions in a row."""
PAUSE_S = 1.0
SHARE = 20
"""A look takes at most one part in so many of a core, however often others change their rules."""
SWEEPS = 3
"""Who writes the marks of Felix so often again is alive: it is named, and not fought."""
FAMILIES = ("ip", "ip6")

LegacyState = dict[str, dict[str, bytes]]
"""By family and table."""


class ForeignRules(Manager):
    """`changed` is set whenever another program has changed nftables."""

    def __init__(
        self,
        prefixes: Sequence[str],
        commit: Callable[[str], Awaitable[None]],
        open_reader: Callable[[], NftReader] = NftReader,
    ) -> None:
        """`commit(text)` runs one transaction of nftables. Without `prefixes` our accepts are taken away."""
        self._open_reader = open_reader
        self._prefixes = prefixes
        self._commit = commit
        self._legacy = {family: Legacy(family) for family in FAMILIES}
        self._legacy_seen: LegacyState | None = None
        self._obstacles: list[str] = []
        self._sweeps: dict[str, int] = {}
        self._named: set[str] = set()
        self.accepts = 0
        self.changed = asyncio.Event()

    async def run(self, standing: asyncio.Event) -> None:
        """For ever, from when `standing` is set: our own rules are in force."""
        await standing.wait()
        while True:
            self.changed.clear()
            started = time.perf_counter()
            pause_s = REFRESH_S
            self._legacy_seen = (
                await self._read_state()
            )  # before the look, which may change them: then there is another
            try:
                await self.look()
            except (CalicoError, OSError, TimeoutError) as error:
                self._name([f"other programs' rules cannot be looked at or changed: {error}"])
                pause_s = RETRY_S
            await asyncio.sleep(max(PAUSE_S, SHARE * (time.perf_counter() - started)))
            await self._wait(pause_s)

    async def _wait(self, pause_s: float) -> None:
        """Until another process changes nftables or a legacy table, or the time is over."""
        ends_s = time.monotonic() + pause_s
        while (left_s := ends_s - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left_s, LEGACY_REFRESH_S)):
                    await self.changed.wait()
                await asyncio.sleep(SETTLE_S)
                return
            except TimeoutError:
                if self._legacy_seen is None or await self._read_state() != self._legacy_seen:
                    return

    async def _read_state(self) -> LegacyState | None:
        """What legacy tables hold; None when it cannot be compared."""
        if not any(legacy_tables(family) for family in FAMILIES):
            return {}
        try:
            return await asyncio.to_thread(lambda: {family: legacy_state(family) for family in FAMILIES})
        except OSError as error:
            log.debug("legacy tables cannot be compared: %s", error)
            return None

    def pending(self) -> list[str]:
        """What others do to workloads' packets that a person must mend."""
        return list(self._obstacles)

    def figures(self) -> Mapping[str, float]:
        """Our accepts in chains of others."""
        return {"felix_foreign_accepts": self.accepts}

    async def look(self) -> None:
        """Read, mend, sweep, and remember what stays in the way."""
        chains, tables, obstacles = await asyncio.to_thread(_read, self._open_reader, self._prefixes)
        legacy, missing = await self._read_legacy()
        obstacles += missing
        found: set[str] = set()
        self.accepts = 0
        for held in (*tables, *legacy):
            if sweep := foreign.plan_sweep(held):
                what = f"{held.name}: {len(sweep.chains)} chains, {len(sweep.deletes)} rules"
                found.add(held.name)
                obstacles += await self._sweep(held.name, what, self._apply(held, sweep))
            elif held.table == "filter":
                await self._accept(held)
            if held.legacy:
                ways = [chain for chain in held.chains.values() if foreign.on_the_way(chain)]
                rules = [foreign.flatten(held.rules_of(chain.name), held.rules_of) for chain in ways]
                obstacles += [foreign.obstacle(c, r, self._prefixes, True) for c, r in zip(ways, rules, strict=True)]
        for family, table in foreign.former_tables(chains):
            name = f"nftables table {family} {table}"
            found.add(name)
            obstacles += await self._sweep(name, name, partial(self._commit, f"delete table {family} {table}\n"))
        await self._sweep_sets()
        self._sweeps = {name: count for name, count in self._sweeps.items() if name in found}
        self._name([line for line in obstacles if line])

    async def clear(self) -> None:
        """Take our accepts away, wherever they are; nothing else is touched. For one without prefixes."""
        _chains, tables, _obstacles = await asyncio.to_thread(_read, self._open_reader, self._prefixes)
        legacy, _missing = await self._read_legacy()
        for held in (*tables, *legacy):
            if held.table == "filter":
                await self._accept(held)

    async def _read_legacy(self) -> tuple[list[Held], list[str]]:
        found: list[Held] = []
        for family in FAMILIES:
            names = [name for name in legacy_tables(family) if name in foreign.IPTABLES_TABLES]
            for table in names:
                try:
                    text = await self._legacy[family].save(table)
                except LegacyMissing as error:
                    what = f"legacy tables of {family} ({', '.join(names)}) may drop workloads' packets"
                    return found, [f"{what}, and they cannot be read: {error}"]
                chains, rules = decode_save(text, family, table)
                if chains:
                    found.append(foreign.hold(True, chains, rules))
        return found, []

    def _apply(self, held: Held, change: Change) -> Callable[[], Awaitable[None]]:
        if held.legacy:
            return partial(self._legacy[held.family].restore, foreign.render_restore(held, change))
        return partial(self._commit, foreign.render_nft(held, change))

    async def _accept(self, held: Held) -> None:
        change = foreign.plan_accepts(held, self._prefixes)
        if change:
            await self._apply(held, change)()
            if change.inserts:
                chain = change.inserts[0].chain
                log.warning("%s drops what it does not know: accept for workloads in chain %s", held.name, chain)
            else:
                log.warning("%s: our accept for workloads is not needed any more: removed", held.name)
        ours = sum(rule.comment == foreign.ACCEPT_COMMENT for rules in held.rules.values() for rule in rules)
        self.accepts += ours - len(change.deletes) + len(change.inserts)

    async def _sweep(self, name: str, what: str, work: Callable[[], Awaitable[None]]) -> list[str]:
        """Returns the line for people when it is of no use."""
        count = self._sweeps.get(name, 0)
        if count >= SWEEPS:
            return [f"{name}: another Felix writes its rules again and again: stop that service"]
        self._sweeps[name] = count + 1
        await work()
        self.changed.set()  # what it hid shows at the next look
        log.warning("removed what a former Felix left: %s", what)
        return []

    async def _sweep_sets(self) -> None:
        gone = await asyncio.to_thread(_destroy_former_sets)
        if gone:
            log.warning("removed what a former Felix left: %d ipsets", len(gone))

    def _name(self, obstacles: list[str]) -> None:
        self._obstacles = obstacles
        for line in obstacles:
            if line not in self._named:
                log.warning("%s", line)
        self._named = set(obstacles)


def _read(
    open_reader: Callable[[], NftReader], prefixes: Sequence[str]
) -> tuple[list[ChainSeen], list[Held], list[str]]:
    """All chains; what iptables-nft's tables hold of ours and of a former Felix; the chains that cut workloads off."""
    with open_reader() as reader:
        chains = reader.chains(TABLE.removeprefix("inet "))
        by_table: dict[tuple[str, str], list[ChainSeen]] = {}
        for chain in chains:
            if chain.family in FAMILIES and chain.table in foreign.IPTABLES_TABLES:
                by_table.setdefault((chain.family, chain.table), []).append(chain)
        tables = [_read_table(reader, found) for found in by_table.values()]
        ways = [chain for chain in chains if foreign.on_the_way(chain)]
        lines = [foreign.obstacle(chain, _read_way(reader, chain, prefixes), prefixes) for chain in ways]
    return chains, tables, lines


def _read_way(reader: NftReader, chain: ChainSeen, prefixes: Sequence[str]) -> list[RuleSeen]:
    """The chain's rules; firewalld's are all over its table."""
    read = partial(reader.rules, chain.family, chain.table)
    rules = foreign.flatten(read(chain.name), read)
    if chain.table == foreign.FIREWALLD:
        rules += reader.rules(chain.family, chain.table, "", tuple(prefix.encode() for prefix in prefixes))
    return rules


def _read_table(reader: NftReader, chains: list[ChainSeen]) -> Held:
    family, table = chains[0].family, chains[0].table
    read = partial(reader.rules, family, table)
    names = {chain.name for chain in chains} if table == "filter" else set()
    rules = {name: read(name) for name in (foreign.FORWARD, foreign.DOCKER_USER) if name in names}

    def follow(chain: str) -> list[RuleSeen]:
        rules[chain] = rules[chain] if chain in rules else read(chain)
        return rules[chain]

    foreign.flatten(rules.get(foreign.FORWARD, ()), follow)
    marked = [rule for rule in read("", foreign.HOLDING) if rule.chain not in rules]
    return foreign.hold(False, chains, itertools.chain(marked, *rules.values()))


def _destroy_former_sets() -> list[str]:
    with Ipset() as ipset:
        return [name for name in ipset.names() if name.startswith(foreign.FORMER_SETS) and ipset.destroy(name)]

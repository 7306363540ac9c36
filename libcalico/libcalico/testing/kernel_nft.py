"""nftables of the fake kernel: tables, chains with rules, sets and maps with elements, as they were written.

It understands the commands that `policy.nft.table` and the foreign-rules watch write, one a line, and is as strict as
the kernel about names: what a rule refers to must be there, and what is referred to cannot be deleted. It does not
judge what a rule says.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from libcalico.kernel.errors import KernelError
from libcalico.kernel.nft import Nft, NftError, Refusal
from libcalico.kernel.nft_batches import Change, Command, NftBatches
from libcalico.kernel.nft_monitor import NftMonitor
from libcalico.kernel.nft_reader import ChainSeen, NftReader, RuleSeen, SetSeen
from libcalico.policy.nft.table import element_text

ELEMENTS = re.compile(r" elements = \{([^}]*)\}")
REFERENCE = re.compile(r"@(\S+)")
TARGET = re.compile(r"\b(?:jump|goto) (\S+)")
HOOK = re.compile(r"hook (\w+)")
COMMENT = re.compile(r'comment "([^"]*)"')
INTERFACE = re.compile(r'\b([io])ifname "([^"]*)"')
VERDICT = re.compile(r"\b(accept|drop|reject|return|jump|goto)\b")
PLAIN = re.compile(
    r'^(?:[io]ifname "[^"]*" )*(?:counter )?(?:accept|drop|reject|return|(?:jump|goto) \S+)?(?: ?comment "[^"]*")?$'
)
ENOENT, EBUSY, EEXIST = "No such file or directory", "Device or resource busy", "File exists"


class RefusedError(Exception):
    """A command that cannot be."""


class FakeChain:
    """Rules with their handles; `hook` declares a base chain."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.rules: list[tuple[int, str]] = []


class FakeSet(NamedTuple):
    """A set or map; `kind` is the word for it."""

    kind: str
    declaration: str
    elements: dict[str, None]


class FakeTable:
    """Chains, and sets and maps, by name."""

    def __init__(self) -> None:
        self.chains: dict[str, FakeChain] = {}
        self.sets: dict[str, FakeSet] = {}

    def uses(self, name: str) -> bool:
        """A rule or an element refers to it."""
        rules = (text for chain in self.chains.values() for _, text in chain.rules)
        verdicts = (element for one in self.sets.values() for element in one.elements if one.kind == "map")
        return any(name in [*REFERENCE.findall(text), *TARGET.findall(text)] for text in (*rules, *verdicts))


class FakeRuleset:
    """All tables. `ask(command)` notes each command and gives the number with which a test refuses it."""

    def __init__(self, ask: Callable[[str], int]) -> None:
        self.tables: dict[str, FakeTable] = {}
        self.transactions: list[str] = []
        self._ask = ask
        self._handle = 0
        self.monitor = FakeMonitor()

    def show(self) -> str:
        """Everything, in the order of names."""
        lines = []
        for name, table in sorted(self.tables.items()):
            lines.append(f"table {name}")
            for called, one in sorted(table.sets.items()):
                elements = f" = {{ {', '.join(sorted(one.elements))} }}" if one.elements else ""
                lines.append(f"  {one.kind} {called} {{ {one.declaration} }}{elements}")
            for called, chain in sorted(table.chains.items()):
                lines.append(f"  chain {called}" + (f" {{ {chain.hook} }}" if chain.hook else ""))
                lines += [f"    {text}" for _, text in chain.rules]
        return "".join(f"{line}\n" for line in lines)

    def by_another(self, text: str, program: str = "nft (process 1)") -> None:
        """Another process runs a transaction; the monitor learns of it."""
        self.run(text, asked=False)
        self.monitor.tell(f"{text.splitlines()[0]} by {program}")

    def run(self, text: str, *, check_only: bool = False, asked: bool = True) -> None:
        """All commands as one transaction; raises `NftError`, naming every command that cannot be."""
        tables, refusals = copy.deepcopy(self.tables), []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if asked and not check_only and (error := self._ask(f"nft {line}")):
                    raise RefusedError(f"refused ({error})")
                self._do(tables, line)
            except RefusedError as refused:
                refusals.append(Refusal(number, line[:200], str(refused)))
        if refusals:
            raise NftError(refusals[0].text, refusals[0].line, refusals[0].command, refusals)
        if not check_only:
            self.tables = tables
            self.transactions.append(text)

    def _do(self, tables: dict[str, FakeTable], line: str) -> None:
        words = line.split(" ", 5)
        if words[0] == "list":
            return
        if words[:2] == ["flush", "ruleset"]:
            tables.clear()
            return
        verb, kind, name = words[0], words[1], " ".join(words[2:4])
        if kind == "table":
            self._do_table(tables, verb, name)
            return
        if name not in tables:
            raise RefusedError(ENOENT)
        rest = words[5] if len(words) > 5 else ""
        match kind:
            case "chain":
                _do_chain(tables[name], verb, words[4], rest)
            case "rule":
                self._do_rule(tables[name], verb, words[4], rest)
            case _:
                _do_set(tables[name], verb, kind, words[4], rest)

    def _do_table(self, tables: dict[str, FakeTable], verb: str, name: str) -> None:
        if verb == "add":
            tables.setdefault(name, FakeTable())
        elif name not in tables:
            raise RefusedError(ENOENT)
        elif verb == "flush":
            for chain in tables[name].chains.values():
                chain.rules.clear()
        else:
            del tables[name]

    def _do_rule(self, table: FakeTable, verb: str, name: str, rest: str) -> None:
        chain = table.chains.get(name)
        if chain is None:
            raise RefusedError(ENOENT)
        if verb == "delete":
            handle = int(rest.split()[1])
            if handle not in {one for one, _ in chain.rules}:
                raise RefusedError(ENOENT)
            chain.rules = [one for one in chain.rules if one[0] != handle]
            return
        place = 0 if verb == "insert" else len(chain.rules)
        if rest.startswith("position "):
            _, position, rest = rest.split(" ", 2)
            place = [one for one, _ in chain.rules].index(int(position))
        if any(one not in table.sets for one in REFERENCE.findall(rest)):
            raise RefusedError(ENOENT)
        if any(one not in table.chains for one in TARGET.findall(rest)):
            raise RefusedError(ENOENT)
        self._handle += 1
        chain.rules.insert(place, (self._handle, rest))

    def commit(self, table: str, changes: Sequence[Change]) -> None:
        """Elements alone; raises `KernelError`."""
        tables = copy.deepcopy(self.tables)
        for add, name, _type, _interval, given in changes:
            elements = None if given is None else [element_text(one) for one in given]
            words = "all" if elements is None else ", ".join(elements)
            if error := self._ask(f"{'add' if add else 'delete'} elements of {name}: {words}"):
                raise KernelError(f"change elements of set {name}", error)
            one = tables[table].sets.get(name) if table in tables else None
            if one is None:
                raise KernelError(f"change elements of set {name}", errno.ENOENT)
            if elements is None:
                one.elements.clear()
            for element in elements or ():
                if add:
                    one.elements[element] = None
                elif one.elements.pop(element, 0) == 0:
                    raise KernelError(f"change elements of set {name}", errno.ENOENT)
        self.tables = tables
        self.transactions.append(f"elements of {', '.join(one[1] for one in changes)}")


def _do_chain(table: FakeTable, verb: str, name: str, rest: str) -> None:
    if verb == "add":
        table.chains.setdefault(name, FakeChain(rest.strip("{} ")))
    elif name not in table.chains:
        raise RefusedError(ENOENT)
    elif verb == "flush":
        table.chains[name].rules.clear()
    elif table.uses(name):
        raise RefusedError(EBUSY)
    else:
        del table.chains[name]


def _do_set(table: FakeTable, verb: str, kind: str, name: str, rest: str) -> None:
    elements = [one.strip() for found in ELEMENTS.findall(rest) for one in found.split(",")]
    if verb == "add":
        declaration = ELEMENTS.sub("", rest).strip("{} ")
        known = table.sets.setdefault(name, FakeSet(kind, declaration, {}))
        if known.declaration != declaration:
            raise RefusedError(EEXIST)
        if any(target not in table.chains for one in elements for target in TARGET.findall(one)):
            raise RefusedError(ENOENT)
        known.elements.update(dict.fromkeys(elements))
    elif name not in table.sets:
        raise RefusedError(ENOENT)
    elif kind == "element":
        for element in (one.strip() for one in rest.strip("{} ").split(",")):
            if table.sets[name].elements.pop(element, 0) == 0:
                raise RefusedError(ENOENT)
    elif verb == "flush":
        table.sets[name].elements.clear()
    elif table.uses(name):
        raise RefusedError(EBUSY)
    else:
        del table.sets[name]


class FakeNft(Nft):
    """libnftables over a `FakeRuleset`."""

    def __init__(self, ruleset: FakeRuleset) -> None:
        self._ruleset = ruleset

    def close(self) -> None:
        """Nothing is open."""

    def run(self, text: str, *, check_only: bool = False) -> str:
        """Commands as one transaction; what `list` prints is left out."""
        self._ruleset.run(text.rstrip("\n"), check_only=check_only)
        return ""


class FakeBatches(NftBatches):
    """Batches of elements of one `inet` table."""

    def __init__(self, ruleset: FakeRuleset, table: str) -> None:
        self._ruleset = ruleset
        self._name = f"inet {table}"

    def close(self) -> None:
        """Nothing is open."""

    def commit(self, changes: Sequence[Change]) -> bool:
        """All changes in one transaction."""
        if changes:
            self._ruleset.commit(self._name, changes)
        return True

    def commit_commands(self, commands: Sequence[Command]) -> bool:
        """None: all of them are libnftables' here."""
        return False


class FakeMonitor(NftMonitor):
    """What others do to the table: what a test says they did."""

    def __init__(self) -> None:
        self.others = asyncio.Event()
        self._found: list[str] = []
        self._arrived = asyncio.Event()

    def close(self) -> None:
        """Nothing is open."""

    def tell(self, change: str) -> None:
        """Another process has changed the table."""
        self._found.append(change)
        self._arrived.set()
        self.others.set()

    async def changes(self) -> list[str]:
        """What others did since the last call; waits for the first."""
        await self._arrived.wait()
        self._arrived.clear()
        found, self._found = self._found, []
        return found


class FakeReader(NftReader):
    """Reads chains, rules and sets, as `NftReader` understands them."""

    def __init__(self, ruleset: FakeRuleset) -> None:
        self._ruleset = ruleset

    def close(self) -> None:
        """Nothing is open."""

    def chains(self, without: str = "") -> list[ChainSeen]:
        """Every chain, without those of one `inet` table."""
        found = []
        for full, table in self._ruleset.tables.items():
            family, name = full.split(" ")
            if full != f"inet {without}":
                hooks = ((one, chain.hook, HOOK.search(chain.hook)) for one, chain in table.chains.items())
                found += [
                    ChainSeen(family, name, one, hook[1] if hook else "", "policy drop" in text)
                    for one, text, hook in hooks
                ]
        return found

    def rules(self, family: str, table: str, chain: str = "", holding: tuple[bytes, ...] = (b"",)) -> list[RuleSeen]:
        """The rules of a table or a chain whose text contains one of `holding`."""
        chains = self._ruleset.tables[f"{family} {table}"].chains
        rules = [(name, *rule) for name, one in chains.items() if chain in {"", name} for rule in one.rules]
        return [
            read_rule(name, str(handle), text)
            for name, handle, text in rules
            if any(part.decode() in text for part in holding)
        ]

    def sets(self, family: str, table: str) -> list[SetSeen]:
        """The sets and maps of a table."""
        found = self._ruleset.tables.get(f"{family} {table}")
        return [] if found is None else [SetSeen(name, one.kind == "map") for name, one in found.sets.items()]


def read_rule(chain: str, handle: str, text: str) -> RuleSeen:
    """A rule as far as the reader understands it."""
    comment, verdict, target = COMMENT.search(text), VERDICT.search(text), TARGET.search(text)
    interfaces = tuple(("in" if way == "i" else "out", name) for way, name in INTERFACE.findall(text))
    return RuleSeen(
        chain, handle, comment[1] if comment else "", interfaces, verdict[1] if verdict else "",
        target[1] if target else "", not PLAIN.match(text),
    )  # fmt: skip

"""The one place that writes the nftables table, and that notices when somebody else does.

`commit` and `audit` block and belong in one thread. The kernel counts transactions: as long as the count is what our
own commits make it, nobody has touched the ruleset and an audit costs one tiny request. Otherwise the table is listed
and compared with what was committed: chains by their rules' identities, sets and maps by their number of elements.
"""

from __future__ import annotations

import re
from typing import Any

from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_generation import NftGeneration, next_generation
from libcalico.policy.nft.names import TABLE
from libcalico.policy.nft.table import Table

Shape = dict[tuple[str, str], tuple[str, ...] | int]

_COMMENT = re.compile(r'comment "([^"]*)"$')


class Programmer:
    """Owns the handle of libnftables."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._generation = NftGeneration()
        self._number = 0
        self._foreign = False
        self._committed: Table | None = None

    def close(self) -> None:
        """Let go of the kernel."""
        self._nft.close()
        self._generation.close()

    def commit(self, text: str, table: Table) -> None:
        """One transaction, after which the kernel holds `table`; raises `NftError`."""
        before = self._generation.read()
        if self._committed is not None and before != self._number:
            self._foreign = True
        self._nft.run(text)
        self._number = self._generation.read()
        if self._number != next_generation(before):
            self._foreign = True
        self._committed = table

    def audit(self) -> str:
        """How the kernel's table differs from the committed one, because of somebody else; empty when it does not."""
        if self._committed is None:
            return ""
        number = self._generation.read()
        if number == self._number and not self._foreign:
            return ""
        listing = self._nft.list_json(f"table {TABLE}")
        self._number, self._foreign = number, False
        return difference(shape_of(self._committed), shape_listed(listing))


def shape_of(table: Table) -> Shape:
    """What a listing of this table must show."""
    shape: Shape = {("chain", name): tuple(map(_identity, chain.rules)) for name, chain in table.chains.items()}
    shape |= {("set", name): len(one.elements) for name, one in table.sets.items()}
    shape |= {("map", name): len(one.elements) for name, one in table.maps.items()}
    return shape


def shape_listed(listing: list[dict[str, Any]]) -> Shape:
    """The same of what the kernel holds."""
    rules: dict[str, list[str]] = {}
    shape: Shape = {}
    for ((kind, value),) in (item.items() for item in listing):
        if kind == "chain":
            rules.setdefault(value["name"], [])
        elif kind == "rule":
            rules.setdefault(value["chain"], []).append(value.get("comment", ""))
        elif kind in ("set", "map"):
            shape[(kind, value["name"])] = len(value.get("elem", ()))
    return shape | {("chain", name): tuple(found) for name, found in rules.items()}


def difference(wanted: Shape, found: Shape) -> str:
    """One clause about the first difference, empty when there is none."""
    if wanted and not found:
        return "the table is gone"
    for kind, name in sorted({*wanted, *found}):
        if wanted.get((kind, name)) != found.get((kind, name)):
            state = "is gone" if (kind, name) not in found else "is changed" if (kind, name) in wanted else "is foreign"
            return f"{kind} {name} {state}"
    return ""


def _identity(rule: str) -> str:
    found = _COMMENT.search(rule)
    return found[1] if found else ""

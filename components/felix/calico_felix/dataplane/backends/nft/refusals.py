"""Which commands of a refused batch are to blame: all of them, in one pass.

The kernel answers for each command. libnftables, which refuses what it cannot understand, stops at the tenth. So what
may be to blame is checked in pieces, each with no more than the chains, sets and maps that its rules name, in a table
of its own: a piece costs milliseconds whatever else there is, and what a standing table lacks is no rule's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libcalico.kernel.nft import NftError, Refusal
from libcalico.policy.nft.names import TABLE, wanted_set
from libcalico.policy.nft.table import REFERENCE, TARGET, Table

Check = Callable[[str], object]
"""Asks libnftables and the kernel, changes nothing, and raises `NftError`."""
MOST_ERRORS = 10
PIECE = 100
SCRATCH = f"{TABLE}-check"


def all_refusals(check: Check, wanted: Table, batch: str, error: NftError, whole: bool) -> list[Refusal]:
    """What `error` names, and what libnftables did not come to. Of a batch that is not the `whole` table only what is
    refused in an empty table, too: it may have been refused because the kernel's table was not what we took it for."""
    found = list(error.refusals)
    commands = batch.splitlines()
    rest = commands[max(one.line for one in found) :] if len(found) >= MOST_ERRORS else []
    if not whole:
        rest = [*(commands[one.line - 1] for one in found if 0 < one.line <= len(commands)), *rest]
        found = []
    rest = [line for line in rest if line.startswith("add rule ") or (line.startswith("add set ") and "= {" in line)]
    for start in range(0, len(rest), PIECE):
        found += _refused(check, wanted, rest[start : start + PIECE])
    return found


def _refused(check: Check, wanted: Table, commands: list[str]) -> Iterable[Refusal]:
    while commands:
        needs = _needs(wanted, commands)
        moved = [line.replace(f" {TABLE} ", f" {SCRATCH} ", 1) for line in commands]
        try:
            check("\n".join([*needs, *moved]))
            return
        except NftError as error:
            places = [one for one in error.refusals if 0 < one.line - len(needs) <= len(commands)]
            for one in places:
                yield one._replace(command=commands[one.line - len(needs) - 1][:200])
            if len(places) < MOST_ERRORS:
                return
            commands = commands[places[-1].line - len(needs) :]


def _needs(wanted: Table, commands: list[str]) -> list[str]:
    """Declarations of all that the commands' rules name and the wanted table has."""
    chains, sets = {}, {}
    for line in commands:
        if line.startswith("add rule "):
            name = line.split(" ", 5)[4]
            chains.update(dict.fromkeys([name, *TARGET.findall(line)]))
            sets.update(dict.fromkeys(REFERENCE.findall(line)))
    found = [f"add table {SCRATCH}"]
    for called in sets:
        name = wanted_set(called)
        if name in wanted.sets:
            found.append(f"add set {SCRATCH} {called} {{ {wanted.sets[name].declaration} }}")
        elif name in wanted.maps:
            found.append(f"add map {SCRATCH} {called} {{ type {wanted.maps[name].type}; }}")
    for name in chains:
        if name in wanted.chains:
            hook = wanted.chains[name].hook
            found.append(f"add chain {SCRATCH} {name}" + (f" {{ {hook} }}" if hook else ""))
    return found

"""Which commands of a refused batch are to blame: all of them, in one pass.

The kernel answers for each command. libnftables, which refuses what it cannot understand, stops at the tenth: what
follows is checked piece by piece, each with the declarations that its rules may need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libcalico.kernel.nft import NftError, Refusal

MOST_ERRORS = 10
PIECE = 500


def all_refusals(check: Callable[[str], object], batch: str, error: NftError) -> list[Refusal]:
    """What `error` names, and what libnftables did not come to; `check` raises `NftError` for a batch, and changes
    nothing."""
    found = list(error.refusals)
    if len(found) < MOST_ERRORS:
        return found
    lines = batch.splitlines()
    names = [_without_elements(line) for line in lines if not line.startswith("add rule ")]
    rules = [line for line in lines[max(one.line for one in found) :] if line.startswith("add rule ")]
    for start in range(0, len(rules), PIECE):
        found += _refused(check, names, rules[start : start + PIECE])
    return found


def _refused(check: Callable[[str], object], names: list[str], rules: list[str]) -> Iterable[Refusal]:
    while rules:
        try:
            check("\n".join([*names, *rules]))
            return
        except NftError as error:
            located = [one for one in error.refusals if one.line > len(names)]
            yield from located
            if len(located) < MOST_ERRORS:
                return
            rules = rules[located[-1].line - len(names) :]


def _without_elements(line: str) -> str:
    declaration, elements, _ = line.partition(" elements = {")
    return f"{declaration} }}" if elements else line

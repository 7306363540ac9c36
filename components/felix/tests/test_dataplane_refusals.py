"""Which commands of a refused batch are to blame, when libnftables stops at the tenth."""

from __future__ import annotations

import pytest

from calico_felix.dataplane.backends.nft.refusals import MOST_ERRORS, PIECE, SCRATCH, all_refusals
from libcalico.kernel.nft import NftError, Refusal
from libcalico.policy.nft.table import Chain, Map, Set, Table

BAD = "icmp type 300"
CHAINS, EVERY = 150, 4


def check(text: str) -> None:
    """As libnftables: refuses bad commands, and names ten of them."""
    refused = [
        Refusal(number, line, "no") for number, line in enumerate(text.splitlines(), 1) if BAD in line or "/33" in line
    ]
    if refused:
        raise NftError("no", refused[0].line, refused[0].command, refused[:MOST_ERRORS])


def table(bad: int = EVERY) -> Table:
    made = Table()
    made.sets["s"] = Set("ipv4_addr", elements=frozenset({"10.0.0.1"}))
    made.maps["m"] = Map("ifname : verdict")
    made.chains["base"] = Chain(("iifname vmap @m",), "type filter hook forward priority filter; policy accept;")
    for number in range(CHAINS):
        rule = f"ip saddr @s {BAD}" if number % bad == 0 else "ip saddr @s jump base"
        made.chains[f"c{number}"] = Chain((rule,))
    return made


def refusals_of(text: str, wanted: Table, whole: bool) -> list[Refusal]:
    with pytest.raises(NftError) as error:
        check(text)
    return all_refusals(check, wanted, text, error.value, whole)


def test_of_a_whole_table_all_are_found() -> None:
    wanted = table()
    found = refusals_of(wanted.render_replace(), wanted, whole=True)
    names = {one.command.split()[4] for one in found if one.command.startswith("add rule ")}
    assert names == {f"c{number}" for number in range(0, CHAINS, EVERY)}
    assert len(found) == len(names) > MOST_ERRORS and CHAINS > PIECE


def test_of_a_difference_each_is_tried_in_a_table_that_holds_nothing_else() -> None:
    """It may have been refused because the kernel's table was not what we took it for."""
    wanted = table()
    text = "add rule inet calico c1 ip saddr @s jump base\nadd set inet calico s { type ipv4_addr; elements = { x } }"
    seen: list[str] = []

    def tried(piece: str) -> None:
        seen.append(piece)

    error = NftError("gone", 1, text.splitlines()[0], [Refusal(1, text.splitlines()[0], "No such file or directory")])
    assert all_refusals(tried, wanted, text, error, whole=False) == []
    assert seen == [
        f"add table {SCRATCH}\nadd set {SCRATCH} s {{ type ipv4_addr; }}\nadd chain {SCRATCH} c1\n"
        f"add chain {SCRATCH} base {{ type filter hook forward priority filter; policy accept; }}\n"
        f"add rule {SCRATCH} c1 ip saddr @s jump base"
    ]


def test_a_map_that_a_rule_looks_into_is_declared_without_its_elements() -> None:
    wanted = table()
    seen: list[str] = []
    command = "add rule inet calico base iifname vmap @m"
    error = NftError("gone", 1, command)
    assert all_refusals(seen.append, wanted, command, error, whole=False) == []
    assert f"add map {SCRATCH} m {{ type ifname : verdict; }}" in seen[0]


def test_a_refused_set_among_the_rest_is_found() -> None:
    wanted = table(bad=10)
    lines = wanted.render_replace().splitlines()
    lines.append("add set inet calico t { type ipv4_addr; flags interval; elements = { 10.0.0.0/33 } }")
    found = refusals_of("\n".join(lines), wanted, whole=True)
    assert [one.command.split()[4] for one in found if one.command.startswith("add set")] == ["t"]

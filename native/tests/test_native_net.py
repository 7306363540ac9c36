"""Addresses and networks: what is read, against `ipaddress`; how they are written, ordered and collapsed."""

from __future__ import annotations

import copy
import ipaddress
import pickle
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calico_native import net as compiled
from calico_native.py import net as twin

FULL = {4: 32, 6: 128}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str) -> Network | None:
    """What a text means, by the standard library."""
    address, slash, length = text.partition("/")
    if len(text) > twin.LONGEST_TEXT or "%" in address or (slash and not (length.isascii() and length.isdigit())):
        return None
    try:
        found = ipaddress.ip_network(f"{address}/{int(length)}" if slash else address, strict=False)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped and found.prefixlen >= 96:
        return ipaddress.IPv4Network((found.network_address.ipv4_mapped, found.prefixlen - 96))
    return found


def both() -> list[ModuleType]:
    return [compiled, twin]


def triple(found: Network) -> tuple[int, int, int]:
    return found.version, int(found.network_address), found.prefixlen


def numbers(family: int) -> st.SearchStrategy[int]:
    """All addresses, more of them near the ends and with runs of zeros."""
    full = FULL[family]
    whole = st.integers(0, (1 << full) - 1)
    groups = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0xABC]), min_size=full // 16, max_size=full // 16)
    return whole | groups.map(lambda parts: sum(part << 16 * place for place, part in enumerate(parts)))


@st.composite
def nets(draw: st.DrawFn, family: int = 0) -> tuple[int, int, int]:
    """(family, number, length), no bits beyond the length."""
    family = family or draw(st.sampled_from([4, 6]))
    length = draw(st.integers(0, FULL[family]))
    shift = FULL[family] - length
    return family, draw(numbers(family)) >> shift << shift, length


GROUP = st.sampled_from(
    ["0", "1", "ffff", "FFFF", "00a", "0000", "12345", "g", "", "fe80", "1.2.3.4", "255.255.255.255"]
)
OCTET = st.sampled_from(["0", "1", "01", "10", "255", "256", "00", "", "1a", "\u0661", "0255", " 1", "-1"])
LENGTH = st.sampled_from(["", "/", "/0", "/8", "/24", "/32", "/33", "/64", "/96", "/112", "/128", "/129", "/08", "/-1"])
LENGTHS = LENGTH | st.sampled_from(
    ["/255.0.0.0", "/1/2", "/99999999999999999999", "/\u0661", "/ 8", "/+8", "%1", "%eth0/64"]
)
TEXTS = st.one_of(
    st.text(),
    st.text("0123456789abcdefABCDEF:./%", max_size=70),
    st.builds(lambda parts, end: ".".join(parts) + end, st.lists(OCTET, min_size=3, max_size=5), LENGTHS),
    st.builds(lambda parts, end: ":".join(parts) + end, st.lists(GROUP, min_size=1, max_size=10), LENGTHS),
    st.builds(lambda a, b, end: f"{a}::{b}{end}", st.lists(GROUP, max_size=8).map(":".join),
              st.lists(GROUP, max_size=8).map(":".join), LENGTHS),
    st.builds(lambda octets, end: f"::ffff:{'.'.join(octets)}{end}", st.lists(OCTET, min_size=4, max_size=4), LENGTHS),
    st.builds(lambda number, end: f"{ipaddress.IPv6Address(number).exploded}{end}", numbers(6), LENGTHS),
    st.builds(lambda number, end: f"{ipaddress.IPv6Address(number)}{end}", numbers(6), LENGTHS),
    st.builds(lambda number, end: f"{ipaddress.IPv4Address(number)}{end}", numbers(4), LENGTHS),
)  # fmt: skip


@settings(max_examples=30 * settings().max_examples)
@given(TEXTS)
@example("::")
@example("1::2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:7::")
@example("::2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("1:2:3:4:5::1.2.3.4/128")
@example("::ffff:10.0.0.1/95")
@example("::ffff:10.0.0.1/96")
@example("0::ffff:10.0.0.1/120")
@example("10.0.0.0/" + 54 * "0" + "8")
@example("10.0.0.0/" + 55 * "0" + "8")
@example("1.2.3.4::")
@example("::1.2.3.4:5")
@example("\ud800::1")
def test_a_text_means_what_the_standard_library_says(text: str) -> None:
    wanted = network(text)
    for module in both():
        found = module.parse_cidr(text)
        assert (found is None) == (wanted is None), text
        if found is not None and wanted is not None:
            assert (found.family, found.number, found.length) == triple(wanted)
            assert str(found) == str(wanted)
        address = module.parse_address(text)
        assert (address is None) == (wanted is None or "/" in text)
        if address is not None and wanted is not None:
            assert (address.family, address.number) == triple(wanted)[:2]
            assert str(address) == str(wanted.network_address)
        assert module.parse_cidrs([text, "10.0.0.1/8"]) == (
            [one for one in (found, module.Cidr(4, 10 << 24, 8)) if one is not None],
            [] if wanted is not None else [text],
        )


@given(nets(), nets())
def test_values_compare_as_their_triples_do(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    for module in both():
        a, b = module.Cidr(*one), module.Cidr(*other)
        assert (a == b, a < b, a <= b, a > b, a >= b) == (
            one == other, one < other, one <= other, one > other, one >= other,
        )  # fmt: skip
        assert a == module.Cidr(*one) and hash(a) == hash(module.Cidr(*one))
        assert a != one and a != a.address
        x, y = a.address, b.address
        assert (x == y, x < y, x <= y) == (one[:2] == other[:2], one[:2] < other[:2], one[:2] <= other[:2])
        assert (x > y, x >= y, hash(x)) == (one[:2] > other[:2], one[:2] >= other[:2], hash(module.Address(*one[:2])))
        first, second = (ipaddress.ip_network((n, length)) if f == 4 else ipaddress.IPv6Network((n, length))
                         for f, n, length in (one, other))  # fmt: skip
        assert a.overlaps(b) == (first.version == second.version and first.overlaps(second))


@given(numbers(6))
@example(0xFFFF << 32)
def test_ipv6_is_written_as_the_standard_library_does(number: int) -> None:
    wanted = ipaddress.IPv6Address(number)
    text = f"::ffff:{wanted.ipv4_mapped}" if wanted.ipv4_mapped else str(wanted)
    for module in both():
        assert str(module.Address(6, number)) == module.Cidr(6, number, 128).brief == text


@given(st.lists(nets(4) | nets(6) | st.tuples(st.just(4), st.integers(0, 20), st.just(32)), max_size=40))
def test_collapse_covers_the_same_with_the_fewest(triples: list[tuple[int, int, int]]) -> None:
    wanted = []
    for family, kind in ((4, ipaddress.IPv4Network), (6, ipaddress.IPv6Network)):
        of_family = [kind((n, length)) for f, n, length in triples if f == family]
        wanted += [triple(one) for one in ipaddress.collapse_addresses(of_family)]  # type: ignore[type-var]
    for module in both():
        found = module.collapse([module.Cidr(*one) for one in triples])
        assert [(one.family, one.number, one.length) for one in found] == wanted


@pytest.mark.parametrize(
    ("family", "number", "length", "why"),
    [
        (5, 0, 0, "5 is no family"),
        (4, 1 << 32, 32, "no IPv4 address"),
        (6, -1, 32, "no IPv6 address"),
        (4, 0, 33, "length 33 of an IPv4 network is not between 0 and 32"),
        (6, 1, 127, "::1/127 has host bits set"),
    ],
)
def test_what_cannot_be_is_refused(net: ModuleType, family: int, number: int, length: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        net.Cidr(family, number, length)


def test_values_are_copied_pickled_and_kept(net: ModuleType) -> None:
    for value in (net.Address(6, 1 << 64), net.Cidr(6, 1 << 64, 120)):
        assert copy.deepcopy(value) == value and str(value) in repr(value)
        assert not hasattr(value, "__dict__")
        with pytest.raises(AttributeError):
            value.length = 3
    value = compiled.Cidr(4, 1 << 24, 8)
    assert pickle.loads(pickle.dumps(value)) == value
    assert (value.brief, net.Cidr(4, 1, 32).brief, net.Cidr(6, 0, 0).brief) == ("1.0.0.0/8", "0.0.0.1", "::/0")


def test_hashes_of_neighbours_differ(net: ModuleType) -> None:
    """What a set makes of 4096 networks of one length: they use nearly all of the lowest bits."""
    for family, length in ((4, 24), (4, 32), (6, 64), (6, 128)):
        step = FULL[family] - length
        hashes = {hash(net.Cidr(family, number << step, length)) & 0xFFFF for number in range(4096)}
        assert len(hashes) > 3500

"""IP addresses and networks as values, from text and back.

A value is its family, and its bits as two halves of 64 (IPv4 has its 32 in the lower one), so that a set of 50,000
networks is compared and hashed without an integer of Python's. Text is read as Go's clients of upstream read it:
IPv4 in four decimal numbers without leading zeros, IPv6 in all forms of RFC 4291 2.2 without a zone, an IPv4-mapped one
becomes IPv4, host bits are dropped. It is written as RFC 5952 says, as Go does.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_TEXT = 64
"""No text of a network is longer."""

ONES = 0xFFFF_FFFF_FFFF_FFFF
_FIRST_FACTOR, _SECOND_FACTOR = 0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F
_SIZES = tuple(1 << bits for bits in range(129))


class Address:
    """An IPv4 or IPv6 address; `number` is the address as an integer. Raises ValueError for one that cannot be."""

    __slots__ = ("_family", "_high", "_low")

    def __init__(self, family: int, number: int) -> None:
        _check(family, number, 0)
        self._family = family
        self._high = number >> 64
        self._low = number & ONES

    @property
    def family(self) -> int:
        """4 or 6."""
        return self._family

    @property
    def number(self) -> int:
        """The address as an integer."""
        return _number(self._high, self._low)

    def __str__(self) -> str:
        return _address_text(self._family, self._high, self._low)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __hash__(self) -> int:
        return _hash(self._family, self._high, self._low, 128)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and _compare_addresses(self, other) == 0

    def __lt__(self, other: Address) -> bool:
        return _compare_addresses(self, other) < 0

    def __le__(self, other: Address) -> bool:
        return _compare_addresses(self, other) <= 0

    def __gt__(self, other: Address) -> bool:
        return _compare_addresses(self, other) > 0

    def __ge__(self, other: Address) -> bool:
        return _compare_addresses(self, other) >= 0

    def __reduce__(self) -> tuple[type[Address], tuple[int, int]]:
        return Address, (self._family, self.number)


class Cidr:
    """A network: no bits are set beyond its `length`. A single address is one of full length. They are ordered by
    family, address and length. Raises ValueError for one that cannot be, or that has host bits."""

    __slots__ = ("_family", "_high", "_length", "_low")

    def __init__(self, family: int, number: int, length: int) -> None:
        _check(family, number, length)
        self._family = family
        self._high = number >> 64
        self._low = number & ONES
        self._length = length
        _mask(self)
        if self.number != number:
            raise ValueError(f"{_address_text(family, number >> 64, number & ONES)}/{length} has host bits set")

    @property
    def family(self) -> int:
        """4 or 6."""
        return self._family

    @property
    def number(self) -> int:
        """The first address as an integer."""
        return _number(self._high, self._low)

    @property
    def length(self) -> int:
        """The prefix's length in bits."""
        return self._length

    @property
    def is_single(self) -> bool:
        """Is it one address?"""
        return self._length == (32 if self._family == 4 else 128)

    @property
    def address(self) -> Address:
        """The first address."""
        return Address(self._family, self.number)

    @property
    def brief(self) -> str:
        """The text, without the length for a single address."""
        text = _address_text(self._family, self._high, self._low)
        return text if self.is_single else f"{text}/{self._length}"

    @property
    def bounds(self) -> tuple[bytes, bytes]:
        """The first address, and the first one after the network, in network order; the second is empty where there is
        none."""
        size = 4 if self._family == 4 else 16
        number = _number(self._high, self._low)
        after = number + _SIZES[size * 8 - self._length]
        return number.to_bytes(size, "big"), b"" if after == _SIZES[size * 8] else after.to_bytes(size, "big")

    def overlaps(self, other: Cidr) -> bool:
        """Is there an address in both?"""
        return _covers(self, other) or _covers(other, self)

    def __str__(self) -> str:
        return f"{_address_text(self._family, self._high, self._low)}/{self._length}"

    def __repr__(self) -> str:
        return f"Cidr({str(self)!r})"

    def __hash__(self) -> int:
        return _hash(self._family, self._high, self._low, self._length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cidr) and _compare(self, other) == 0

    def __lt__(self, other: Cidr) -> bool:
        return _compare(self, other) < 0

    def __le__(self, other: Cidr) -> bool:
        return _compare(self, other) <= 0

    def __gt__(self, other: Cidr) -> bool:
        return _compare(self, other) > 0

    def __ge__(self, other: Cidr) -> bool:
        return _compare(self, other) >= 0

    def __reduce__(self) -> tuple[type[Cidr], tuple[int, int, int]]:
        return Cidr, (self._family, self.number, self._length)


def parse_cidr(text: str) -> Cidr | None:
    """The network of a CIDR or a bare address, without its host bits; None if the text is neither."""
    net: Cidr = Cidr.__new__(Cidr)
    return net if _read(net, text, True) else None


def parse_address(text: str) -> Address | None:
    """A bare address; None if the text is none."""
    net: Cidr = Cidr.__new__(Cidr)
    return net.address if _read(net, text, False) else None


def parse_cidrs(texts: list[str]) -> tuple[list[Cidr], list[str]]:
    """The networks of a list, as `parse_cidr` reads them, and the texts that are none. 50,000 take 10 ms."""
    found: list[Cidr] = []
    refused: list[str] = []
    for text in texts:
        net: Cidr = Cidr.__new__(Cidr)
        if _read(net, text, True):
            found.append(net)
        else:
            refused.append(text)
    return found, refused


def collapse(nets: Iterable[Cidr]) -> list[Cidr]:
    """The fewest networks that cover the same addresses, sorted, without overlaps."""
    found: list[Cidr] = []
    for net in sorted(nets):
        if found and _covers(found[-1], net):
            continue
        found.append(net)
        while len(found) > 1 and _are_halves(found[-2], found[-1]):
            found.pop()
            found[-1] = _doubled(found[-1])
    return found


def _check(family: int, number: int, length: int) -> None:
    full = {4: 32, 6: 128}.get(family)
    if full is None:
        raise ValueError(f"{family} is no family of addresses: 4 or 6")
    if not 0 <= number < 1 << full:
        raise ValueError(f"{number} is no IPv{family} address")
    if not 0 <= length <= full:
        raise ValueError(f"length {length} of an IPv{family} network is not between 0 and {full}")


def _number(high: int, low: int) -> int:
    if high:
        number: int = high
        return number << 64 | low
    return low


def _hash(family: int, high: int, low: int, length: int) -> int:
    mixed = ((high ^ high >> 29 ^ length) * _FIRST_FACTOR) & ONES
    mixed = ((low ^ low >> 29 ^ mixed >> 31 ^ mixed ^ family) * _SECOND_FACTOR) & ONES
    return (mixed ^ mixed >> 32) >> 1


def _compare(one: Cidr, other: Cidr) -> int:
    if one._family != other._family:
        return -1 if one._family < other._family else 1
    if one._high != other._high:
        return -1 if one._high < other._high else 1
    if one._low != other._low:
        return -1 if one._low < other._low else 1
    return one._length - other._length


def _compare_addresses(one: Address, other: Address) -> int:
    if one._family != other._family:
        return -1 if one._family < other._family else 1
    if one._high != other._high:
        return -1 if one._high < other._high else 1
    return 0 if one._low == other._low else -1 if one._low < other._low else 1


def _mask(net: Cidr) -> None:
    """Clear the host bits."""
    length = net._length
    if net._family == 4:
        length += 96
    if length == 0:
        net._high = net._low = 0
    elif length <= 64:
        net._high &= ONES << (64 - length) & ONES
        net._low = 0
    elif length < 128:
        net._low &= ONES << (128 - length) & ONES


def _covers(one: Cidr, other: Cidr) -> bool:
    length = one._length
    if one._family != other._family or length > other._length:
        return False
    if one._family == 4:
        length += 96
    if length == 0:
        return True
    if length <= 64:
        return (one._high ^ other._high) >> (64 - length) == 0
    return one._high == other._high and (one._low ^ other._low) >> (128 - length) == 0


def _are_halves(first: Cidr, second: Cidr) -> bool:
    """Are these, in order, the two halves of one network?"""
    length = first._length
    if first._family != second._family or length != second._length or length == 0:
        return False
    if first._family == 4:
        length += 96
    bit: int = 1
    if length <= 64:
        bit <<= 64 - length
        return first._high ^ second._high == bit and not first._high & bit
    bit <<= 128 - length
    return first._high == second._high and first._low ^ second._low == bit and not first._low & bit


def _doubled(first: Cidr) -> Cidr:
    """The network whose first half this is."""
    net: Cidr = Cidr.__new__(Cidr)
    net._family, net._high, net._low, net._length = first._family, first._high, first._low, first._length - 1
    return net


def _read(net: Cidr, text: str, may_have_length: bool) -> bool:
    """Fill a network from text; False if it is none."""
    end = len(text)
    if end > LONGEST_TEXT:
        return False
    is_v6 = False
    stop = 0
    while stop < end:
        character = text[stop]
        if character == "/":
            break
        if character == ":":
            is_v6 = True
        stop += 1
    full = 128 if is_v6 else 32
    length = full
    if stop < end:
        length = _read_length(text, stop + 1, end) if may_have_length else -1
        if length < 0 or length > full:
            return False
    if is_v6:
        if not _read_v6(net, text, stop):
            return False
    else:
        number = _read_v4(text, 0, stop)
        if number < 0:
            return False
        net._high, net._low = 0, number
    net._family = 6 if is_v6 else 4
    net._length = length
    if is_v6 and length >= 96 and net._high == 0 and net._low >> 32 == 0xFFFF:
        net._family = 4
        net._low &= 0xFFFF_FFFF
        net._length = length - 96
    _mask(net)
    return True


def _read_length(text: str, place: int, end: int) -> int:
    """The decimal number at the end of a text; -1 if it is none, 129 if it is larger than a length can be."""
    if place == end:
        return -1
    length = 0
    while place < end:
        character = text[place]
        if not "0" <= character <= "9":
            return -1
        length = min(length * 10 + ord(character) - 48, 129)
        place += 1
    return length


def _read_v4(text: str, place: int, end: int) -> int:
    """Four decimal numbers; -1 if they are none."""
    number: int = 0
    value = digits = dots = 0
    while place < end:
        character = text[place]
        if "0" <= character <= "9":
            if digits and value == 0:
                return -1
            value = value * 10 + ord(character) - 48
            digits += 1
            if value > 255:
                return -1
        elif character == "." and digits and dots < 3:
            number = number << 8 | value
            value = digits = 0
            dots += 1
        else:
            return -1
        place += 1
    return number << 8 | value if dots == 3 and digits else -1


def _read_v6(net: Cidr, text: str, end: int) -> bool:
    """Groups of hexadecimal digits, `::` for a run of zeros, IPv4 at the end; False if they are no address."""
    place = groups = 0
    before = -1  # how many groups stand before the `::`
    high = low = high_before = low_before = 0
    if end >= 2 and text[0] == ":" and text[1] == ":":
        before, place = 0, 2
    while place < end:
        start = place
        group = _read_group(text, place, end)
        if group < 0:
            return False
        place += group >> 16
        if place < end and text[place] == ".":
            number = _read_v4(text, start, end)
            if number < 0 or groups > 6:
                return False
            high, low = (high << 32 | low >> 32) & ONES, (low << 32 | number) & ONES
            groups += 2
            break
        high, low = (high << 16 | low >> 48) & ONES, (low << 16 | group & 0xFFFF) & ONES
        groups += 1
        if groups > 8:
            return False
        if place == end:
            break
        if text[place] != ":" or place + 1 == end:
            return False
        place += 1
        if text[place] == ":":
            if before >= 0:
                return False
            before, high_before, low_before = groups, high, low
            high = low = 0
            place += 1
    if (groups != 8) if before < 0 else (groups > 7):
        return False
    if before > 4:
        high |= high_before << (128 - 16 * before) & ONES | low_before >> (16 * before - 64)
        low |= low_before << (128 - 16 * before) & ONES
    elif before > 0:
        high |= low_before << (64 - 16 * before) & ONES
    net._high, net._low = high, low
    return True


def _read_group(text: str, place: int, end: int) -> int:
    """One to four hexadecimal digits: the value, and their number above bit 16; -1 if there are none or more."""
    value = digits = 0
    while place < end:
        character = text[place]
        if "0" <= character <= "9":
            value = value << 4 | ord(character) - 48
        elif "a" <= character <= "f":
            value = value << 4 | ord(character) - 87
        elif "A" <= character <= "F":
            value = value << 4 | ord(character) - 55
        else:
            break
        digits += 1
        if digits > 4:
            return -1
        place += 1
    return digits << 16 | value if digits else -1


def _address_text(family: int, high: int, low: int) -> str:
    if family == 4:
        return f"{low >> 24}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"
    if high == 0 and low >> 32 == 0xFFFF:
        return f"::ffff:{_address_text(4, 0, low & 0xFFFF_FFFF)}"
    first = count = run = 0  # the first of the longest runs of zeros
    texts = []
    for place in range(8):
        group = (high if place < 4 else low) >> (48 - 16 * (place & 3)) & 0xFFFF
        texts.append(f"{group:x}")
        run = 0 if group else run + 1
        if run > count:
            first, count = place - run + 1, run
    if count < 2:
        return ":".join(texts)
    return f"{':'.join(texts[:first])}::{':'.join(texts[first + count :])}"

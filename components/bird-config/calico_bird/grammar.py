"""Texts of the datastore as words of BIRD's language (spec/bgp.md 4.6, 7.2, 12.4, 12.9).

BIRD's strings have no escapes, and its names few characters. So each function here either answers with text that is
one word of that grammar, or raises `NotBird`: nothing else of what a user stored gets into a configuration.
"""

from __future__ import annotations

import hashlib
import re

from libcalico.errors import BadData
from libcalico.net import Address, Cidr, parse_address
from libcalico.text import shown

PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,44}", re.ASCII)
"""Names that stand in a function's name as they are. Capitals are left to the hashes, so the two never meet."""
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
INTERFACE = re.compile(r"[a-zA-Z0-9_.*-]{1,15}", re.ASCII)
SHORT_COMMUNITY = re.compile(r"([0-9]{1,10}):([0-9]{1,10})", re.ASCII)
LARGE_COMMUNITY = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})", re.ASCII)
PASSWORD = re.compile(r'[^"\x00-\x1f\x7f]{1,80}')
KEPT_OF_A_NAME, HASH_DIGITS = 28, 16
LONGEST_PASSWORD_BYTES = 80
NO_NEIGHBORS = (
    Cidr(4, 0, 32), Cidr(4, 0xE0000000, 4), Cidr(4, 0xFFFFFFFF, 32), Cidr(6, 0, 128),
    Cidr(6, 0xFE80 << 112, 10), Cidr(6, 0xFF00 << 112, 8),
)  # fmt: skip
"""No address, multicast, broadcast, and link-local: it needs an interface, which no object names."""


class NotBird(BadData):
    """The text cannot be said in BIRD's language; the message names it."""


def filter_symbol(name: str, direction: str, family: int) -> str:
    """The function of a BGPFilter, without quotes, at most 64 characters; `direction` is `import` or `export`."""
    if not PLAIN_NAME.fullmatch(name):
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS].upper()
        name = f"{NOT_IN_NAMES.sub('_', name[:KEPT_OF_A_NAME])}_{digest}"
    return f"bgp_{name}_{direction}FilterV{family}"


def interface_pattern(text: str) -> str:
    """A pattern of interface names, quoted."""
    if not INTERFACE.fullmatch(text):
        raise NotBird(f'"{shown(text)}" is no interface pattern')
    return f'"{text}"'


def community(text: str) -> tuple[int, ...]:
    """The numbers of `aa:nn` (16 bits each) or `aa:nn:mm` (32 bits each)."""
    for form, bits in ((SHORT_COMMUNITY, 16), (LARGE_COMMUNITY, 32)):
        found = form.fullmatch(text)
        if found:
            numbers = tuple(int(part) for part in found.groups())
            if all(number < 1 << bits for number in numbers):
                return numbers
    raise NotBird(f'"{shown(text)}" is no community')


def community_match(text: str) -> str:
    """The condition that a route has a community."""
    numbers = community(text)
    return f"({', '.join(map(str, numbers))}) ~ {_attribute(numbers)}"


def community_add(text: str) -> str:
    """The statement that adds a community to a route."""
    numbers = community(text)
    return f"{_attribute(numbers)}.add(({', '.join(map(str, numbers))}));"


def _attribute(numbers: tuple[int, ...]) -> str:
    return "bgp_community" if len(numbers) == 2 else "bgp_large_community"


def password(text: str) -> str:
    """A password, quoted. TCP's MD5 option takes 80 bytes at most. The message never shows it."""
    if not PASSWORD.fullmatch(text) or len(text.encode("utf-8", "surrogatepass")) > LONGEST_PASSWORD_BYTES:
        reason = "it must have 1 to 80 bytes without double quotes and control characters"
        raise NotBird(f"the password cannot be written: {reason}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotBird("the password cannot be written: it is no UTF-8") from None
    return f'"{text}"'


def router_id(text: str) -> str:
    """A router or cluster id: a dotted quad, not 0.0.0.0."""
    address = parse_address(text)
    if address is None or address.family != 4 or not address.number:
        raise NotBird(f'"{shown(text)}" is no id of a router: an IPv4 address')
    return str(address)


def hashed_router_id(node: str) -> str:
    """The router id of a node without IPv4 address: of its name's SHA-256, never of a multicast or reserved range."""
    first, *rest = hashlib.sha256(node.encode("utf-8", "surrogatepass")).digest()[:4]
    return ".".join(map(str, (first - 32 if first > 223 else first, *rest)))


def neighbor_address(text: str) -> Address:
    """An address that one end of a session can have."""
    address = parse_address(text)
    if address is None:
        raise NotBird(f'"{shown(text)}" is no address')
    single = Cidr(address.family, address.number, 32 if address.family == 4 else 128)
    if any(net.overlaps(single) for net in NO_NEIGHBORS):
        raise NotBird(f"{address} cannot be an end of a session")
    return address

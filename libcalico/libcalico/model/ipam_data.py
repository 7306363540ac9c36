"""The stored values of IPAM, member for member as upstream writes them (spec/ipam.md 2).

Integers are exact (sequence numbers exceed 2^53); members that we do not know survive a rewrite.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Any, NamedTuple, TypeVar

import msgspec

from libcalico.errors import ParsingDatastoreEntry
from libcalico.model import codec
from libcalico.model.codec import escape
from libcalico.model.keys import LONGEST_CIDR, BlockKey, HandleKey, IPAMConfigKey, Key
from libcalico.model.scalars import IPNetwork

_BLOCK_MEMBERS = frozenset(
    ("cidr", "affinity", "affinity_claim_time", "allocations", "unallocated", "attributes", "sequenceNumber",
     "sequenceNumberForAllocation", "deleted", "hostAffinity")
)  # fmt: skip

_SHAPES: dict[type, str] = {bool: "true or false", int: "a whole number", str: "text"}
M = TypeVar("M", bool, int, str)
LONGEST_COOLDOWN_S = 100 * 365 * 86400
"""Longer than anything that is meant, and short enough to be subtracted from a date."""


class Attribute(NamedTuple):
    """What is known about an allocation; `secondary` are the owner's attributes, sorted pairs. Shared by index."""

    handle: str | None = None
    secondary: tuple[tuple[str, str], ...] = ()
    alternate: tuple[tuple[str, str], ...] = ()
    released_at: str | None = None


class Block(NamedTuple):
    """A block. `allocations[i]` is the index of ordinal i's attribute or None; `unallocated` is a queue."""

    cidr: str
    affinity: str | None
    claim_time: str | None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...]
    sequence: int
    sequences: tuple[tuple[int, int], ...]
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def network(self) -> IPNetwork:
        """The block's network."""
        return _network(self.cidr)

    def address(self, ordinal: int) -> str:
        """The address of an ordinal, without a length."""
        return str(self.network[ordinal])

    def ordinal(self, address: str) -> int:
        """The ordinal of an address that lies in the block."""
        return int(ipaddress.ip_address(address)) - int(self.network.network_address)

    def attribute(self, ordinal: int) -> Attribute | None:
        """What is known about an ordinal's allocation, None when it is free."""
        index = self.allocations[ordinal]
        return None if index is None else self.attributes[index]


def _network(cidr: str) -> IPNetwork:
    """The network of a block; raises `ValueError`."""
    if len(cidr) > LONGEST_CIDR:
        raise ValueError("its CIDR is longer than any")
    return _known_network(cidr)


@functools.lru_cache(16384)
def _known_network(cidr: str) -> IPNetwork:
    return ipaddress.ip_network(cidr)


class Config(NamedTuple):
    """The configuration of IPAM."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    persistence: str | None = "Enabled"
    cooldown_s: int = 0


def decode_block(key: Key, value: bytes) -> Block:
    """Raises `ParsingDatastoreEntry` for anything that is not a sound block."""
    return codec.parsed(key, value, lambda: _decode_block(key, msgspec.json.decode(value)))


def _decode_block(key: Key, raw: dict[str, Any]) -> Block:
    network = _network(_text(raw["cidr"]))
    if isinstance(key, BlockKey) and network != _network(key.cidr):
        raise ValueError(f"it is stored as {key.cidr} and says that it is {raw['cidr']}")
    attributes = tuple(_attribute(entry) for entry in raw.get("attributes") or ())
    allocations = tuple(None if index is None else _whole(index) for index in raw["allocations"])
    if any(index is not None and not 0 <= index < len(attributes) for index in allocations):
        raise ValueError("an allocation names an attribute that is not there")
    if network.num_addresses != len(allocations):
        raise ValueError("the number of allocations is not the block's size")
    return Block(
        cidr=raw["cidr"],
        affinity=_optional_text(raw.get("affinity")),
        claim_time=_optional_text(raw.get("affinity_claim_time")),
        allocations=allocations,
        unallocated=tuple(map(_whole, raw.get("unallocated") or ())),
        attributes=attributes,
        sequence=_whole(raw.get("sequenceNumber") or 0),
        sequences=tuple((int(o), _whole(n)) for o, n in (raw.get("sequenceNumberForAllocation") or {}).items()),
        extra=tuple(
            (name, msgspec.json.encode(member).decode()) for name, member in raw.items() if name not in _BLOCK_MEMBERS
        ),
    )


def _whole(value: Any) -> int:
    """A number as Go reads a 64-bit integer."""
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{value!r:.40} is not a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _attribute(raw: dict[str, Any]) -> Attribute:
    handle = raw.get("handle_id")
    return Attribute(
        handle=handle.partition("\r")[0] if isinstance(handle, str) else None,
        secondary=_texts(raw.get("secondary")),
        alternate=_texts(raw.get("alternateOwnerAttrs")),
        released_at=_optional_text(raw.get("releasedAt")),
    )


def _texts(members: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, _text(text)) for name, text in (members or {}).items()))


def encode_block(block: Block) -> bytes:
    """The bytes to store."""
    raw: dict[str, Any] = {"cidr": block.cidr, "affinity": block.affinity}
    if block.claim_time:
        raw["affinity_claim_time"] = block.claim_time
    raw["allocations"] = block.allocations
    raw["unallocated"] = block.unallocated
    raw["attributes"] = [_raw_attribute(attribute) for attribute in block.attributes]
    raw["sequenceNumber"] = block.sequence
    raw["sequenceNumberForAllocation"] = {str(o): n for o, n in sorted(block.sequences, key=lambda pair: str(pair[0]))}
    raw["deleted"] = False
    for name, member in block.extra:
        raw[name] = msgspec.Raw(member.encode())
    return escape(msgspec.json.encode(raw))


def _raw_attribute(attribute: Attribute) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    if attribute.handle is not None:
        raw["handle_id"] = attribute.handle
    if attribute.secondary:
        raw["secondary"] = dict(attribute.secondary)
    if attribute.alternate:
        raw["alternateOwnerAttrs"] = dict(attribute.alternate)
    if attribute.released_at:
        raw["releasedAt"] = attribute.released_at
    return raw


def decode_handle(value: bytes) -> dict[str, int]:
    """Block CIDR -> number of addresses; a damaged handle is an empty one."""
    try:
        return codec.parsed(HandleKey(""), value, lambda: _decode_handle(msgspec.json.decode(value)))
    except ParsingDatastoreEntry:
        return {}


def _decode_handle(raw: dict[str, Any]) -> dict[str, int]:
    return {cidr: _whole(count) for cidr, count in (raw.get("block") or {}).items()}


def encode_handle(blocks: dict[str, int]) -> bytes:
    """The bytes to store."""
    return msgspec.json.encode({"block": dict(sorted(blocks.items())), "deleted": False})


def decode_affinity(value: bytes) -> str:
    """The state: `pending`, `confirmed` or `pendingDeletion`; what is none of them counts as confirmed."""
    try:
        state = msgspec.json.decode(value).get("state") if value else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, AttributeError):
        return "confirmed"
    return state if isinstance(state, str) and state else "confirmed"


CONFIRMED = b'{"state":"confirmed","deleted":false}'


def decode_config(value: bytes | None) -> Config:
    """The configuration; an absent key means the defaults, a missing member false or zero (spec/ipam.md 3).

    Raises `ParsingDatastoreEntry`, which names the key, the member and its value, for one that cannot be read."""
    if value is None:
        return Config()
    return codec.parsed(IPAMConfigKey(), value, lambda: _decode_config(msgspec.json.decode(value)))


def _decode_config(raw: Any) -> Config:
    if not isinstance(raw, dict):
        raise ValueError("it is not an object")
    return Config(
        strict_affinity=_member(raw, "strict_affinity", False),
        auto_allocate_blocks=_member(raw, "auto_allocate_blocks", False),
        max_blocks_per_host=_member(raw, "maxBlocksPerHost", 0),
        persistence=_member(raw, "kubeVirtVMAddressPersistence", "") or None,
        cooldown_s=min(_member(raw, "ipCooldownSeconds", 0), LONGEST_COOLDOWN_S),
    )


def decode_cooldown_s(value: bytes) -> int:
    """The cooldown in seconds that a damaged configuration still names; 0 if it names none."""
    try:
        raw = msgspec.json.decode(value)
        return min(_member(raw, "ipCooldownSeconds", 0), LONGEST_COOLDOWN_S) if isinstance(raw, dict) else 0
    except (ValueError, RecursionError):  # msgspec's and UnicodeDecodeError are ValueErrors
        return 0


def _member(raw: dict[str, Any], name: str, default: M) -> M:
    """A member of the default's type; `default` without one."""
    value = raw.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise ValueError(f"{name} = {value!r:.40}: it must be {_SHAPES[type(default)]}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name} = {value!r:.40}: it is out of range")
    return value


def encode_config(config: Config) -> bytes:
    """The bytes to store: members that are false or zero are left out."""
    raw: dict[str, Any] = {}
    if config.strict_affinity:
        raw["strict_affinity"] = True
    if config.auto_allocate_blocks:
        raw["auto_allocate_blocks"] = True
    if config.max_blocks_per_host:
        raw["maxBlocksPerHost"] = config.max_blocks_per_host
    if config.persistence:
        raw["kubeVirtVMAddressPersistence"] = config.persistence
    if config.cooldown_s:
        raw["ipCooldownSeconds"] = config.cooldown_s
    return msgspec.json.encode(raw)

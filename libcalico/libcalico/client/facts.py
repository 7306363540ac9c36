"""What a write depends on, read at one revision with one request (spec/resources.md 1.4, 5, 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libcalico.client import checks, initialise, peer_rules, policy_names
from libcalico.client.checks import Known
from libcalico.client.policy_names import Place
from libcalico.datastore.contract import Datastore, Get, KeyValue
from libcalico.errors import ParsingDatastoreEntry
from libcalico.model import codec, defaults
from libcalico.model.bgp import BGPPeer
from libcalico.model.keys import BLOCKS, ResourceKey, key_path, list_prefix, parse_key
from libcalico.model.resources import GlobalNetworkPolicy, IPPool, NetworkPolicy, Resource
from libcalico.model.scalars import parse_net

Answers = Sequence[tuple[KeyValue, ...]]


class Facts(NamedTuple):
    """What the checks ask for, where the objects of the given keys are, and what makes a cluster ready."""

    known: Known
    places: dict[ResourceKey, Place]
    initial: Answers


class _Reads:
    """Reads that are made with one request. A part that was added is found again by its slice."""

    def __init__(self) -> None:
        self._gets: list[Get] = []
        self._answers: Answers = ()

    def add(self, *gets: Get) -> slice:
        start = len(self._gets)
        self._gets += gets
        return slice(start, len(self._gets))

    async def run(self, datastore: Datastore) -> None:
        """No request is made when there is nothing to read."""
        if self._gets:
            self._answers = (await datastore.txn([], self._gets)).responses

    def answers(self, part: slice) -> Answers:
        return self._answers[part]


async def read(
    datastore: Datastore,
    filled: Resource,
    keys: Sequence[ResourceKey] = (),
    *,
    is_new: bool = True,
    initial: bool = False,
) -> Facts:
    """What `checks.checked` needs for an object with its defaults, and the places of `keys`.

    `is_new`: the object may not be there yet. `initial`: also what `initialise.ensure_initialized` looks at."""
    reads = _Reads()
    parts = {key: reads.add(*policy_names.lookups(key)) for key in keys}
    first = reads.add(*(initialise.lookups() if initial else ()))
    tier = reads.add(*_tier_of(filled))
    pools = reads.add(*([Get(list_prefix("IPPool").encode(), prefix=True)] if _is_new_pool(filled, is_new) else ()))
    blocks = reads.add(*(_blocks_like(filled) if _is_new_pool(filled, is_new) else ()))
    filters = reads.add(*_filters_of(filled))
    await reads.run(datastore)
    known = Known(
        has_tier=all(reads.answers(tier)),
        pools=[pool for kvs in reads.answers(pools) for kv in kvs for pool in _readable_pool(kv)],
        blocks=[kv for kvs in reads.answers(blocks) for kv in kvs],
        filters=[kv for kvs in reads.answers(filters) for kv in kvs],
    )
    places = {key: policy_names.place_of(key, reads.answers(part)) for key, part in parts.items()}
    return Facts(known, places, reads.answers(first))


def _tier_of(filled: Resource) -> list[Get]:
    """The tier of a policy; the default one need not be stored."""
    if not isinstance(filled, (NetworkPolicy, GlobalNetworkPolicy)) or not checks.needs_tier(filled):
        return []
    if filled.spec.tier == defaults.DEFAULT_TIER:
        return []
    return [Get(key_path(ResourceKey("Tier", filled.spec.tier)).encode("utf-8", "surrogatepass"))]


def _filters_of(filled: Resource) -> list[Get]:
    """The filters that a BGP peer names."""
    names = dict.fromkeys(filled.spec.filters) if isinstance(filled, BGPPeer) else ()
    return [Get(peer_rules.filter_path(name), keys_only=True) for name in names]


def _is_new_pool(filled: Resource, is_new: bool) -> bool:
    return is_new and isinstance(filled, IPPool)


def _blocks_like(filled: Resource) -> list[Get]:
    """The keys of all blocks of a pool's IP version."""
    assert isinstance(filled, IPPool)
    net = parse_net(filled.spec.cidr)
    return [] if net is None else [Get(f"{BLOCKS}ipv{net.version}/block/".encode(), prefix=True, keys_only=True)]


def _readable_pool(stored: KeyValue) -> list[IPPool]:
    """The pool, none when the key or the value is not one."""
    try:
        key = parse_key(stored.key)
        pool = codec.decode(key, stored.value) if isinstance(key, ResourceKey) and key.kind == "IPPool" else None
    except (ParsingDatastoreEntry, UnicodeDecodeError):
        return []
    return [pool] if isinstance(pool, IPPool) else []

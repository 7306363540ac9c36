"""What the agent streams to the daemon that writes BIRD's configuration."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from calico_felix import routing_feed
from calico_felix.routing_feed import RoutingFeed
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.model.keys import AffinityKey, ResourceKey, key_path

NODE = key_path(ResourceKey("Node", "h1")).encode()
PEER = key_path(ResourceKey("BGPPeer", "p")).encode()
OWN = key_path(AffinityKey("h1", "10.88.1.0/26")).encode()
FOREIGN = key_path(AffinityKey("h10", "10.88.2.0/26")).encode()
POLICY = key_path(ResourceKey("GlobalNetworkPolicy", "default.p")).encode()


def batch(revision: int, *values: tuple[bytes, bytes | None], status: Status = Status.IN_SYNC) -> Batch:
    return Batch(tuple(Update(key, value, revision) for key, value in values), status, revision)


def said(part: Any) -> tuple[dict[bytes, bytes | None], bool]:
    return {one.key: None if one.gone else one.value for one in part.changes}, part.whole


@contextlib.asynccontextmanager
async def reading(feed: RoutingFeed) -> AsyncIterator[AsyncIterator[Any]]:
    async with contextlib.aclosing(feed.watch()) as parts:  # type: ignore[type-var]
        yield parts


async def test_the_state_comes_first_and_then_what_changes_and_concerns_this_node() -> None:
    feed = RoutingFeed("h1")
    feed.on_batch(batch(3, (NODE, b"n"), (OWN, b"o"), (FOREIGN, b"f"), (POLICY, b"p")))
    async with reading(feed) as parts:
        assert said(await anext(parts)) == ({NODE: b"n", OWN: b"o"}, True)
        feed.on_batch(batch(4, (POLICY, b"q")))
        feed.on_batch(batch(5, (PEER, b"1")))
        feed.on_batch(batch(6, (PEER, b"2"), (OWN, None)))
        part = await anext(parts)
        assert said(part) == ({PEER: b"2", OWN: None}, True)
        assert part.revision == 6


async def test_nothing_is_whole_while_a_snapshot_is_read() -> None:
    feed = RoutingFeed("h1")
    feed.on_batch(batch(3, (NODE, b"n"), status=Status.RESYNC))
    async with reading(feed) as parts:
        assert said(await anext(parts)) == ({}, False)
        feed.on_batch(batch(3, (PEER, b"1"), status=Status.RESYNC))
        feed.on_batch(batch(3))
        assert said(await anext(parts)) == ({NODE: b"n", PEER: b"1"}, True)
        feed.on_batch(batch(3, status=Status.RESYNC))
        assert said(await anext(parts)) == ({}, False)
        feed.on_batch(batch(9, (PEER, None)))
        assert said(await anext(parts)) == ({PEER: None}, True)


async def test_a_reader_that_does_not_read_costs_its_keys_and_gets_the_newest_values() -> None:
    feed = RoutingFeed("h1")
    feed.on_batch(batch(1, (NODE, b"n")))
    async with reading(feed) as parts:
        await anext(parts)
        for number in range(2, 1000):
            feed.on_batch(batch(number, (PEER, str(number).encode())))
        assert said(await anext(parts)) == ({PEER: b"999"}, True)


async def test_large_states_come_in_parts_and_the_last_one_makes_them_whole() -> None:
    feed = RoutingFeed("h1")
    values = {key_path(ResourceKey("BGPPeer", f"p{number}")).encode(): b"x" * 300_000 for number in range(10)}
    feed.on_batch(batch(7, *values.items()))
    found: dict[bytes, bytes | None] = {}
    async with reading(feed) as parts:
        for _ in range(4):
            part = await anext(parts)
            found |= said(part)[0]
            assert part.ByteSize() < routing_feed.LARGEST_PART
            assert part.whole == (len(found) == 10)
    assert found == values


async def test_a_heartbeat_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_feed, "HEARTBEAT_S", 0.01)
    feed = RoutingFeed("h1")
    feed.on_batch(batch(1, (NODE, b"n")))
    async with reading(feed) as parts:
        await anext(parts)
        feed.on_batch(batch(8, (POLICY, b"p")))
        part = await anext(parts)
        assert (said(part), part.revision) == (({}, True), 8)
        feed.close()
        assert [part async for part in parts] == []

"""Docker Engine's API on its UNIX socket: who is who, and what has just happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from libcalico.errors import Unavailable

log = logging.getLogger(__name__)

ANSWER_S = 2.0
LONGEST_EVENT = 1 << 20
DAEMON_FILE = "/etc/docker/daemon.json"
CONNECT, DISCONNECT = "connect", "disconnect"
NO_CONTAINER = "ep-"
"""What the key of an endpoint begins with in a network's list as long as no container has it."""


class EngineError(Unavailable):
    """The engine does not answer, or not as asked."""


class NetworkFacts(NamedTuple):
    """A network as the engine knows it. `containers`: container id by endpoint id, "" where none has it yet;
    `addresses`: bare, of its endpoints and those that were set aside for other things."""

    id: str
    name: str
    driver: str
    containers: Mapping[str, str]
    addresses: frozenset[str]


class Connected(NamedTuple):
    """A container has joined a network."""

    network: str
    container: str


class Engine:
    """A client of the engine. Every call is bounded, and raises `EngineError`."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()

    async def version(self) -> tuple[int, int]:
        """Major and minor."""
        text = str((await self._get("/version")).get("Version", ""))
        numbers = [int(part) if part.isdecimal() else 0 for part in text.split(".")[:2]]
        return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)

    async def has_cluster_store(self) -> bool:
        """The engine shares networks with others by a store."""
        return bool((await self._get("/info")).get("ClusterStore"))

    async def network(self, network: str) -> NetworkFacts | None:
        """None when the engine has no such network. Answers while a container of it is being started."""
        found = await self._get(f"/networks/{network}", missing=None)
        return None if found is None else _network(found)

    async def networks(self, driver: str) -> list[NetworkFacts]:
        """All networks of a driver, with their endpoints."""
        filters = json.dumps({"driver": [driver]})
        listed = await self._get("/networks", filters=filters)
        found = [await self.network(str(one["Id"])) for one in listed]
        return [one for one in found if one is not None and one.driver == driver]

    async def labels(self, container: str) -> dict[str, str] | None:
        """A container's labels, None when it is not there. Answers while it is being started."""
        filters = json.dumps({"id": [container]})
        for one in await self._get("/containers/json", all="1", filters=filters):
            if one.get("Id") == container:
                return dict(one.get("Labels") or {})
        return None

    async def connects(self) -> AsyncIterator[Connected]:
        """Containers that join a network from now on; ends, or raises `EngineError`, with the engine."""
        filters = json.dumps({"type": ["network"], "event": [CONNECT]})
        try:
            async with self._open().get(
                "http://docker/events", params={"filters": filters}, timeout=aiohttp.ClientTimeout(connect=ANSWER_S)
            ) as answer:
                if answer.status != 200:
                    raise EngineError(f"the engine at {self._socket} refuses /events: {await answer.text()}")
                async for line in answer.content:
                    if (found := _connected(line)) is not None:
                        yield found
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise EngineError(f"the engine at {self._socket}: {error}") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=LONGEST_EVENT)
        return self._session

    async def _get(self, path: str, *, missing: Any = EngineError, **query: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S), self._open().get(f"http://docker{path}", params=query) as answer:
                body = await answer.json(content_type=None)
                if answer.status == 404 and missing is not EngineError:
                    return missing
                if answer.status != 200:
                    raise EngineError(f"the engine at {self._socket} refuses {path}: {body.get('message', body)}")
                return body
        except TimeoutError:
            raise EngineError(f"the engine at {self._socket} does not answer {path} within {ANSWER_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, AttributeError) as error:
            raise EngineError(f"the engine at {self._socket}: {error}") from None


def _network(found: Mapping[str, Any]) -> NetworkFacts:
    containers, addresses = {}, set[str]()
    for key, one in (found.get("Containers") or {}).items():
        containers[str(one.get("EndpointID", ""))] = "" if key.startswith(NO_CONTAINER) else str(key)
        addresses |= {str(one.get(name, "")).partition("/")[0] for name in ("IPv4Address", "IPv6Address")}
    for pool in (found.get("IPAM") or {}).get("Config") or ():
        addresses |= {str(one).partition("/")[0] for one in (pool.get("AuxiliaryAddresses") or {}).values()}
    return NetworkFacts(
        str(found["Id"]), str(found["Name"]), str(found["Driver"]), containers, frozenset(addresses - {""})
    )


def _connected(line: bytes) -> Connected | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        actor = json.loads(line)["Actor"]
        return Connected(str(actor["ID"]), str(actor["Attributes"]["container"]))
    return None


def configured_store(path: str = DAEMON_FILE) -> bool:
    """The engine's file names a store for networks; asked while the engine itself does not answer."""
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and bool(found.get("cluster-store"))

"""Health checks for probes: silence and status 0 are good, else one line and status 1 (spec/node-startup.md 9).

BIRD is asked on its control socket; a BIRD of version 1 that runs for IPv6 alone has a socket of its own."""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from calico_felix.configuration import AgentConfiguration
from libcalico.bird import control
from libcalico.bird.confd_status import STATUS_FILE, read_confd_status
from libcalico.bird.names import LOCAL_WORKLOAD, parse_session_name
from libcalico.bird.replies import Protocol
from libcalico.clock import Clock
from libcalico.errors import CalicoError, Unavailable

PREFIX = "calico/node is not ready: "
GOOD = range(200, 400)
ESTABLISHED = "Established"


class Unhealthy(CalicoError):
    """A check has failed; the text is what it prints."""


class Place(NamedTuple):
    """Where the agent and BIRD are asked."""

    health: tuple[str, int]
    bird: str
    bird6: str
    nodename_file: Path
    confd: str = STATUS_FILE
    """Where dcos-calico-confd says how it is."""


def places(configuration: AgentConfiguration, nodename_file: str) -> Place:
    """Where they are on this host. Raises `Unhealthy` for an address of the agent that cannot be used."""
    for warning in configuration.warnings:
        if warning.startswith(("parameter HealthPort ", "parameter HealthHost ")):
            raise Unhealthy(f"{PREFIX}{warning}: correct it")
    health = (configuration["HealthHost"], configuration["HealthPort"])
    bird, bird6 = control.find_socket(), control.find_socket(control.SOCKETS_V6)
    return Place(health, bird, bird6 if os.path.exists(bird6) else bird, Path(nodename_file))


async def check(names: Sequence[str], place: Place, clock: Clock, threshold_s: float) -> None:
    """Run these checks at once. Raises `Unhealthy` for the first in their order that fails, after `threshold_s` at
    most."""

    async def run(name: str) -> None:
        try:
            async with asyncio.timeout(threshold_s):
                await CHECKS[name](place, clock, threshold_s)
        except TimeoutError:
            raise Unhealthy(f"{PREFIX}{name}: no answer within {threshold_s:g} s") from None

    for outcome in await asyncio.gather(*map(run, names), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _felix(page: str, failure: str) -> Callable[[Place, Clock, float], Awaitable[None]]:
    async def run(place: Place, _clock: Clock, threshold_s: float) -> None:
        try:
            status = await asyncio.to_thread(_status_of, *place.health, f"/{page}", threshold_s)
        except (OSError, http.client.HTTPException) as error:
            host, port = place.health
            raise Unhealthy(
                f"{PREFIX}{failure}: GET http://{host}:{port}/{page}: {error or type(error).__name__}"
            ) from None
        if status not in GOOD:
            raise Unhealthy(f"{PREFIX}{failure}: {page} probe reporting {status}")

    return run


def _status_of(host: str, port: int, path: str, timeout_s: float) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _bird_live(version: int) -> Callable[[Place, Clock, float], Awaitable[None]]:
    name = "bird" if version == 4 else "bird6"

    async def run(place: Place, _clock: Clock, threshold_s: float) -> None:
        try:
            _expect_confd(place.confd)
            await control.show_status(_socket(place, version), threshold_s)
        except CalicoError as error:
            raise Unhealthy(f"{PREFIX}{name}/confd is not live: {error}") from None

    return run


def _expect_confd(path: str) -> None:
    """The process that wrote the file lives. Raises `CalicoError`."""
    status = read_confd_status(path)
    if status is None:
        raise Unavailable(f"dcos-calico-confd has not run: there is no {path}")
    if not os.path.isdir(f"/proc/{status.pid}"):
        raise Unavailable(f"dcos-calico-confd, process {status.pid}, has ended")


def _bird_ready(version: int) -> Callable[[Place, Clock, float], Awaitable[None]]:
    name = "BIRD" if version == 4 else "BIRD6"

    async def run(place: Place, clock: Clock, threshold_s: float) -> None:
        try:
            reason = await _not_ready(place, version, clock, threshold_s)
        except CalicoError as error:
            reason = str(error)
        if reason:
            raise Unhealthy(f"{PREFIX}{name} is not ready: {reason}")

    return run


async def _not_ready(place: Place, version: int, clock: Clock, threshold_s: float) -> str:
    """Why BIRD is not ready; empty when it is. A young node needs all its sessions, an older one any of them."""
    try:
        age_s = clock.now().timestamp() - place.nodename_file.stat().st_mtime
    except OSError as error:
        raise Unavailable(f"failed to stat() nodename file: {error}") from None
    socket = _socket(place, version)
    sessions = peers(await control.show_protocols(socket, threshold_s), version)
    away = [address for address, is_up in sessions if not is_up]
    if age_s >= threshold_s:
        return _missing(away) if sessions and len(away) == len(sessions) else ""
    if away:
        return _missing(away)
    return "graceful restart in progress" if (await control.show_status(socket, threshold_s)).graceful_restart else ""


def peers(protocols: Sequence[Protocol], version: int) -> list[tuple[str, bool]]:
    """The peers of a family, and whether their sessions are up."""
    found = []
    for protocol in protocols:
        name = parse_session_name(protocol.name) if protocol.kind == "BGP" else None
        if name is not None and name.scope != LOCAL_WORKLOAD and name.family == version:
            found.append((name.peer, protocol.info.startswith(ESTABLISHED)))
    return found


def _missing(away: Sequence[str]) -> str:
    return f"BGP not established with {','.join(away)}"


def _socket(place: Place, version: int) -> str:
    return place.bird if version == 4 else place.bird6


CHECKS: Mapping[str, Callable[[Place, Clock, float], Awaitable[None]]] = {
    "felix-live": _felix("liveness", "Felix is not live"),
    "felix-ready": _felix("readiness", "felix is not ready"),
    "bird-live": _bird_live(4),
    "bird6-live": _bird_live(6),
    "bird-ready": _bird_ready(4),
    "bird6-ready": _bird_ready(6),
}

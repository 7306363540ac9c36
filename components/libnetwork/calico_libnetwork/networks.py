"""What is remembered of networks: Docker describes a network once, when it is created, to one engine.

A network's record is the body of that call, at upstream's place in etcd and in a file of this host. The annotations
that DC/OS's fork keeps on pools are written too, and read where there is no record (spec/libnetwork.md 4.2, 4.11).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import random
import re
from pathlib import Path

import msgspec

from calico_libnetwork.protocol import CreateNetwork, DriverError, Malformed, decode, flat_options
from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Delete
from libcalico.errors import DatastoreError, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.files import read_small, write_atomically
from libcalico.model.resources import IPPool

log = logging.getLogger(__name__)

PREFIX = b"/calico/libnetwork/v1/"
PROFILE_OPTION = "org.projectcalico.profile"
ANNOTATIONS = "org.projectcalico.label."
NETWORK_ID, PROFILE = f"{ANNOTATIONS}network.ID", f"{ANNOTATIONS}profile"
SUBNET = "The requested subnet must match the CIDR of a configured Calico IP Pool."
TRIES = 20
LONGEST_PAUSE_S = 0.05
"""Times the number of the try: many hosts create a network at once."""
LONGEST_NAME = 63
"""Of what becomes the key of a label: the profile's name."""
_ID = re.compile(r"[A-Za-z0-9]{1,128}", re.ASCII)
_RUN = re.compile(r"[-.]+", re.ASCII)
_FOREIGN = re.compile(r"[^a-z0-9.-]", re.ASCII)

_replace = msgspec.structs.replace


def checked_id(text: str) -> str:
    """A network's or an endpoint's id, which becomes part of keys and paths. Raises `DriverError`."""
    if not _ID.fullmatch(text):
        raise DriverError(f"{text[:80]!r} is not an id of Docker's: letters and digits")
    return text


def profile_name(network: str) -> str:
    """The profile of a network without a subnet, by the network's name in Docker: the same, or a legal one made of it
    and a digest."""
    clean = _FOREIGN.sub("-", network.lower().replace("/", "."))
    clean = _RUN.sub(lambda run: "." if "." in run[0] else run[0], clean).strip("-.")
    if clean == network and len(clean) <= LONGEST_NAME:
        return clean
    digest = hashlib.sha1(network.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{clean[: LONGEST_NAME - 9].strip('-.') or 'network'}-{digest}"


class Records:
    """The records by network id, here and in etcd."""

    def __init__(self, client: AsyncClient, folder: str) -> None:
        self._client = client
        self._folder = Path(folder)
        self._known: dict[str, CreateNetwork] = {}

    async def put(self, call: CreateNetwork, body: bytes) -> None:
        """Remember a network. Raises `DatastoreError`."""
        await self._client.datastore.put(PREFIX + call.network.encode(), body)
        self._known[call.network] = call
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / call.network, body, 0o600)
        except OSError as error:
            log.warning("%s: %s: the network is known in etcd alone", self._folder / call.network, error)

    async def get(self, network: str) -> CreateNetwork | None:
        """What is remembered of a network: in this process, in etcd, or while that does not answer on this host."""
        if network not in self._known:
            try:
                stored = await self._client.datastore.get(PREFIX + network.encode())
                body = None if stored is None else stored.value
            except DatastoreError:
                body = self._read(network)
                if body is None:
                    raise
            if body is None:
                return None
            try:
                self._known[network] = decode(body, CreateNetwork)
            except Malformed as error:
                log.warning("the record of network %s cannot be read: %s", network, error)
                return None
        return self._known[network]

    async def delete(self, network: str) -> None:
        """Forget a network. Raises `DatastoreError`."""
        await self._client.datastore.txn([], [Delete(PREFIX + network.encode())])
        self._known.pop(network, None)
        with contextlib.suppress(OSError):
            (self._folder / network).unlink()

    def _read(self, network: str) -> bytes | None:
        try:
            return read_small(str(self._folder / network))
        except OSError:
            return None


class Pools:
    """Pools as networks see them."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def all(self) -> list[IPPool]:
        """Raises `DatastoreError`."""
        return list((await self._client.list(IPPool)).items)

    async def of_subnet(self, cidr: str) -> IPPool:
        """The pool of exactly this CIDR. Raises `DriverError`."""
        wanted = parse_subnet(cidr)
        for pool in await self.all():
            if _is_net(pool.spec.cidr, wanted):
                return pool
        raise DriverError(SUBNET)

    async def named(self, name: str) -> IPPool:
        """Raises `DriverError`."""
        try:
            return await self._client.get(IPPool, name)
        except ResourceDoesNotExist as error:
            raise DriverError(f"Invalid Pool - {name}: {error}") from None

    async def of_address(self, address: str) -> IPPool | None:
        """The pool that contains a bare address."""
        wanted = ipaddress.ip_address(address)
        for pool in await self.all():
            net = ipaddress.ip_network(pool.spec.cidr, strict=False)
            if net.version == wanted.version and wanted in net:
                return pool
        return None

    async def annotated(self, network: str) -> IPPool | None:
        """The pool that was annotated with the network last."""
        for pool in await self.all():
            if pool.metadata.annotations.get(NETWORK_ID) == network:
                return pool
        return None

    async def annotate(self, call: CreateNetwork) -> None:
        """Note a network at the pools of its subnets."""
        wanted = [parse_subnet(subnet) for subnet in call.subnets]
        notes = {NETWORK_ID: call.network}
        if profile := flat_options(call).get(PROFILE_OPTION):
            notes[PROFILE] = str(profile)
        for pool in await self.all():
            if any(_is_net(pool.spec.cidr, net) for net in wanted):
                await self._change(pool.metadata.name, {}, notes)

    async def forget(self, network: str) -> None:
        """Remove a network's notes."""
        for pool in await self.all():
            if pool.metadata.annotations.get(NETWORK_ID) == network:
                await self._change(pool.metadata.name, {NETWORK_ID: network}, {})

    async def _change(self, name: str, only_if: dict[str, str], notes: dict[str, str]) -> None:
        for attempt in range(TRIES):
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_S * attempt))
            with contextlib.suppress(ResourceUpdateConflict):
                pool = await self._client.get(IPPool, name)
                found = pool.metadata.annotations
                if not only_if.items() <= found.items():
                    return
                kept = {key: value for key, value in found.items() if not key.startswith(ANNOTATIONS)}
                await self._client.update(_replace(pool, metadata=_replace(pool.metadata, annotations=kept | notes)))
                return
        raise DriverError(f"IPPool {name} is being changed all the time: try again later")


def parse_subnet(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A subnet that a user typed, masked. Raises `DriverError`."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise DriverError(f"Invalid CIDR: {text[:80]!r}: a subnet is written as 172.29.0.0/16") from None


def _is_net(cidr: str, wanted: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_network(cidr, strict=False) == wanted
    except ValueError:
        return False

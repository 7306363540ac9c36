"""This host's Node with its addresses: stored when new, changed only where it differs (spec/node-startup.md 3.1)."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from typing import NamedTuple

import msgspec

from calico_felix.startup import detection
from calico_felix.startup.detection import NotFound
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.variables import AUTODETECT, NONE, Variables
from libcalico.client.objects import AsyncClient
from libcalico.config import shown
from libcalico.errors import BadData, ResourceAlreadyExists, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.model import Metadata, Node, NodeBGPSpec
from libcalico.net import bare_address

log = logging.getLogger(__name__)

VARIABLES = {4: "IP", 6: "IP6"}
TRIES = 5
CONFLICT_PAUSE_S = 0.05
NO_ADDRESS = "no IPv4 or IPv6 addresses configured or detected, required for Calico networking: set IP or IP6"

_replace = msgspec.structs.replace


class Taken(BadData):
    """Another Node has the address."""


class Addresses(NamedTuple):
    """A node's addresses with the lengths of their networks; empty where it has none."""

    v4: str
    v6: str

    def of(self, version: int) -> str:
        """That of a family."""
        return self.v4 if version == 4 else self.v6


NOWHERE = Addresses("", "")


async def ensure_node(
    client: AsyncClient, name: str, variables: Variables, network: HostNetwork, *, create: bool = True
) -> bool:
    """Store this host's Node as the environment wants it; was anything written?

    Raises `BadData` when no address is found, or when another Node has it; `ResourceDoesNotExist` when it is not there
    and shall not be created."""
    for attempt in range(TRIES):
        if attempt:
            await client.clock.sleep(CONFLICT_PAUSE_S * attempt)
        stored = await _stored(client, name, create)
        node = stored or Node(metadata=Metadata(name=name))
        former = addresses_of(node)
        wanted = former if _is_policy_only(variables) else choose(variables, former, network)
        changed = with_addresses(node, wanted, variables["AS"])
        if stored is not None and changed == stored:
            return False
        if wanted != former:
            await _check_unique(client, node, wanted, variables)
        try:
            written = await (client.create(changed) if stored is None else client.update(changed))
        except (ResourceAlreadyExists, ResourceUpdateConflict, ResourceDoesNotExist):
            continue
        if wanted != former:
            await _check_first(client, written, former, variables)
        for old, new in zip(former, wanted, strict=True):
            if old and old != new:
                log.warning("this node's address changes from %s to %s", old, new or "none")
        return True
    raise ResourceUpdateConflict(f"Node({name}): {TRIES} other writers were faster; start again")


async def _stored(client: AsyncClient, name: str, may_lack: bool) -> Node | None:
    try:
        return await client.get(Node, name)
    except ResourceDoesNotExist:
        if not may_lack:
            raise
        return None


def addresses_of(node: Node) -> Addresses:
    """The addresses that a Node is stored with."""
    routing = node.spec.bgp
    return NOWHERE if routing is None else Addresses(routing.ipv4_address, routing.ipv6_address)


def with_addresses(node: Node, wanted: Addresses, number: int | None) -> Node:
    """The Node with these addresses, and with an AS number unless that is None."""
    current = node.spec.bgp or NodeBGPSpec()
    changed = _replace(current, ipv4_address=wanted.v4, ipv6_address=wanted.v6)
    if number is not None:
        changed = _replace(changed, as_number=number)
    return _replace(node, spec=_replace(node.spec, bgp=None if changed == NodeBGPSpec() else changed))


def _is_policy_only(variables: Variables) -> bool:
    return variables["CALICO_NETWORKING_BACKEND"] == NONE or not variables["CALICO_NETWORKING"]


def choose(variables: Variables, former: Addresses, network: HostNetwork) -> Addresses:
    """This host's addresses, from the environment, what the Node has, and what the kernel says."""
    interfaces = network.interfaces()
    chosen = []
    for version, variable in VARIABLES.items():
        text, old = variables[variable], former.of(version)
        if text == NONE or (not text and (old or version == 6)):
            chosen.append(old)
        elif text and text != AUTODETECT:
            chosen.append(_with_length(variable, text, interfaces))
        else:
            chosen.append(_detected(variables, variable, version, old, network, interfaces))
    found = Addresses(*chosen)
    if found == NOWHERE:
        raise BadData(NO_ADDRESS)
    return found


def _with_length(variable: str, text: str, interfaces: list[detection.Interface]) -> str:
    """An address that is given, with its own length or that of the interface which has it."""
    found = detection.cidr_of(bare_address(text), interfaces)
    if found is None:
        log.warning("%s=%s: no interface of this host has this address", variable, text)
    if "/" in text:
        return text
    return found[0] if found else str(ipaddress.ip_interface(text))


def _detected(
    variables: Variables,
    variable: str,
    version: int,
    former: str,
    network: HostNetwork,
    interfaces: list[detection.Interface],
) -> str:
    method = variables[f"{variable}_AUTODETECTION_METHOD"]
    try:
        found, interface = detection.detect(method, version, interfaces, network.source_to)
    except NotFound as error:
        if former:
            log.warning("%s: the Node keeps %s", error, former)
            return former
        raise BadData(
            f"{variable}_AUTODETECTION_METHOD={error}: choose another method, or set {variable} to this host's address"
        ) from None
    if found != former:
        log.info("using the IPv%d address %s of %s, found by %s", version, found, interface, method)
    return found


async def _check_unique(client: AsyncClient, node: Node, wanted: Addresses, variables: Variables) -> None:
    """Raises `Taken` when another Node has one of the addresses. An autodetected address that the own Node has is
    cleared first: it is this host's no more."""
    if variables["DISABLE_NODE_IP_CHECK"]:
        return
    for other in await _others(client, node):
        version, error = _conflict(wanted, other)
        if error is not None:
            await _clear(client, node, version, variables[VARIABLES[version]] == AUTODETECT)
            raise error


async def _check_first(client: AsyncClient, written: Node, former: Addresses, variables: Variables) -> None:
    """Two hosts that start at once both found the address free. Raises `Taken` in the one that was written later; its
    Node is as it was."""
    if variables["DISABLE_NODE_IP_CHECK"]:
        return
    for other in await _others(client, written):
        _, error = _conflict(addresses_of(written), other)
        if error is not None and int(other.metadata.resource_version) < int(written.metadata.resource_version):
            with contextlib.suppress(ResourceUpdateConflict, ResourceDoesNotExist):
                await client.update(with_addresses(written, former, None))
            raise error


async def _others(client: AsyncClient, node: Node) -> list[Node]:
    return [one for one in (await client.list(Node)).items if one.metadata.name != node.metadata.name]


def _conflict(wanted: Addresses, other: Node) -> tuple[int, Taken | None]:
    """The family in which another Node has the same address, and what to say of it."""
    for version, variable in VARIABLES.items():
        address = bare_address(wanted.of(version))
        if address and bare_address(addresses_of(other).of(version)) == address:
            return version, Taken(
                f"IPv{version} address conflict: Calico node {shown(other.metadata.name)} is already using the"
                f" IPv{version} address {address}: give one of the hosts another address ({variable}), delete that"
                " Node if its host is gone, or set DISABLE_NODE_IP_CHECK=true"
            )
    return 0, None


async def _clear(client: AsyncClient, node: Node, version: int, is_detected: bool) -> None:
    former = addresses_of(node)
    if not is_detected or not former.of(version) or not node.metadata.resource_version:
        return
    left = former._replace(**{f"v{version}": ""})
    try:
        await client.update(with_addresses(node, left, None))
    except (ResourceUpdateConflict, ResourceDoesNotExist):
        return
    log.warning("this node's former IPv%d address %s is taken out of its Node", version, former.of(version))

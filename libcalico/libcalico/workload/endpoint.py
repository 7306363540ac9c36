"""The WorkloadEndpoint and Profile of a CNI attachment: names, look-up, writing (spec/cni.md 4.4, 5.6, 5.7).

Endpoints are written here and not through `AsyncClient.create`: upstream's rule for `spec.containerID` refuses the
dot of Mesos' nested ids (`parent.child`), which must work. All other rules hold.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.clock import rfc3339
from libcalico.datastore.contract import Compare, Delete, Get, Put, Target
from libcalico.errors import (
    FieldError,
    ParsingDatastoreEntry,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
    ValidationError,
)
from libcalico.model import codec, defaults
from libcalico.model.base import API_VERSION, Metadata
from libcalico.model.keys import (
    ResourceKey,
    key_path,
    list_prefix,
    parse_path,
    split_workload_endpoint_name,
    workload_endpoint_name,
    workload_endpoint_prefix,
)
from libcalico.model.resources import EntityRule, Profile, ProfileSpec, Rule, WorkloadEndpoint, WorkloadEndpointSpec
from libcalico.model.validation.objects import validate

ORCHESTRATOR = "cni"
KIND = "WorkloadEndpoint"
LEFT = "projectcalico.org/left-networks"
"""Annotation of an endpoint: the networks that shared its interface until their DEL."""
_NESTED_ID = re.compile(r"[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?")
_ENDPOINT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NO_SEGMENT = re.compile(r"[^a-z0-9]+")
_NO_NAMESPACE = re.compile(r"[^a-z0-9-]+")
_SHARED = 11

_replace = msgspec.structs.replace


def endpoint_segment(interface: str) -> str:
    """The interface's name as endpoint names allow it: the same, or a legal one made of it and a digest."""
    if _ENDPOINT.fullmatch(interface):
        return interface
    clean = _NO_SEGMENT.sub("-", interface.lower()).strip("-") or "if"
    return f"{clean}-{hashlib.sha1(interface.encode(), usedforsecurity=False).hexdigest()[:7]}"


def legal_namespace(text: str) -> str:
    """A namespace's name of a cleaned label: the same when it is legal, else lower case and dashes."""
    return _NO_NAMESPACE.sub("-", text.lower())[:63].strip("-")


def endpoint_key(node: str, namespace: str, container_id: str, interface: str) -> ResourceKey:
    """The endpoint of an attachment."""
    name = workload_endpoint_name(node, ORCHESTRATOR, container_id, endpoint_segment(interface))
    return ResourceKey(KIND, name, namespace)


def build_endpoint(
    node: str,
    namespace: str,
    container_id: str,
    interface: str,
    network: str,
    labels: dict[str, str],
    addresses: Sequence[str],
    host_interface: str,
    mac: str,
) -> WorkloadEndpoint:
    """The endpoint; `addresses` are bare."""
    endpoint = endpoint_segment(interface)
    return WorkloadEndpoint(
        kind=KIND,
        api_version=API_VERSION,
        metadata=Metadata(
            name=workload_endpoint_name(node, ORCHESTRATOR, container_id, endpoint), namespace=namespace, labels=labels
        ),
        spec=WorkloadEndpointSpec(
            orchestrator=ORCHESTRATOR,
            node=node,
            container_id=container_id,
            endpoint=endpoint,
            ip_networks=[f"{address}/{128 if ':' in address else 32}" for address in addresses],
            profiles=[network],
            interface_name=host_interface,
            mac=mac,
        ),
    )


def build_profile(network: str) -> Profile:
    """The profile of a network that has none: its endpoints may connect to each other, and outwards."""
    return Profile(
        kind="Profile",
        api_version=API_VERSION,
        metadata=Metadata(name=network),
        spec=ProfileSpec(
            ingress=[Rule(action="Allow", source=EntityRule(selector=f"has({network})"))],
            egress=[Rule(action="Allow")],
            labels_to_apply={network: ""},
        ),
    )


def check_endpoint(endpoint: WorkloadEndpoint) -> None:
    """Raise `ValidationError` for an endpoint that may not be stored."""
    problems = [error for error in validate(endpoint) if not _is_nested_id(endpoint, error)]
    if problems:
        raise ValidationError(problems)


@functools.lru_cache(maxsize=64)
def check_profile(network: str) -> None:
    """Raise `ValidationError` for a network whose name cannot name a profile. Good names, which are short, are kept."""
    problems = validate(build_profile(network))
    if problems:
        raise ValidationError(problems)


def _is_nested_id(endpoint: WorkloadEndpoint, error: FieldError) -> bool:
    return error.field.endswith("ContainerID") and _NESTED_ID.fullmatch(endpoint.spec.container_id) is not None


async def find_related(
    client: AsyncClient, namespace: str, node: str, container_id: str
) -> tuple[list[WorkloadEndpoint], list[WorkloadEndpoint]]:
    """The container's own endpoints, and those of containers that share the first eleven characters of its id."""
    own: list[WorkloadEndpoint] = []
    others: list[WorkloadEndpoint] = []
    for endpoint in (await client.list(WorkloadEndpoint, namespace, _names_alike(node, container_id))).items:
        parts = split_workload_endpoint_name(endpoint.metadata.name)
        if parts is None or parts[:2] != (node, ORCHESTRATOR):
            continue
        (own if parts[2] == container_id else others).append(endpoint)
    return own, others


async def find_elsewhere(
    client: AsyncClient, namespace: str, container_id: str, interface: str
) -> list[WorkloadEndpoint]:
    """The endpoints that have this container id and interface, under whatever node name.

    Lists the names of all endpoints of the namespace."""
    part = f"-{ORCHESTRATOR}-{container_id.replace('-', '--')}-".encode()
    listed = await client.datastore.range(list_prefix(KIND, namespace).encode(), keys_only=True)
    found = []
    for path in (kv.key for kv in listed.kvs if part in kv.key):
        key = parse_path(path.decode("utf-8", "replace"))
        if not isinstance(key, ResourceKey):
            continue
        parts = split_workload_endpoint_name(key.name)
        if parts is None or parts[1:] != (ORCHESTRATOR, container_id, endpoint_segment(interface)):
            continue
        with contextlib.suppress(ResourceDoesNotExist, ParsingDatastoreEntry):
            found.append(await client.get(WorkloadEndpoint, key.name, key.namespace))
    return found


async def is_name_held(
    client: AsyncClient, node: str, container_id: str, host_interface: str, own: ResourceKey
) -> bool:
    """An endpoint other than `own` of a container whose id begins alike, in whatever namespace, has this host end.

    Lists the names of all endpoints: for callers that know no better."""
    alike = _names_alike(node, container_id).encode()
    listed = await client.datastore.range(list_prefix(KIND).encode(), keys_only=True)
    for path in (kv.key for kv in listed.kvs if kv.key.rpartition(b"/")[2].startswith(alike)):
        key = parse_path(path.decode("utf-8", "replace"))
        if not isinstance(key, ResourceKey) or key == own:
            continue
        with contextlib.suppress(ResourceDoesNotExist, ParsingDatastoreEntry):
            found = await client.get(WorkloadEndpoint, key.name, key.namespace)
            if found.spec.node == node and found.spec.interface_name == host_interface:
                return True
    return False


def _names_alike(node: str, container_id: str) -> str:
    """What the names of endpoints begin with whose containers share the first eleven characters."""
    prefix = workload_endpoint_prefix(node, ORCHESTRATOR) + container_id[:_SHARED].replace("-", "--")
    return prefix.removesuffix("-")


class NewEndpoint(NamedTuple):
    """An endpoint that is ready to be stored, with where and as what."""

    endpoint: WorkloadEndpoint
    path: str
    value: bytes

    def at(self, revision: int) -> WorkloadEndpoint:
        """The endpoint as stored at a revision."""
        metadata = _replace(self.endpoint.metadata, resource_version=str(revision))
        return _replace(self.endpoint, metadata=metadata)


def new_endpoint(endpoint: WorkloadEndpoint, now: datetime) -> NewEndpoint:
    """With uid and time; raises `ValidationError` for an endpoint that may not be stored."""
    check_endpoint(endpoint)
    uid = uuid.UUID(int=random.getrandbits(128), version=4)  # no system call: it is nobody's secret
    metadata = _replace(endpoint.metadata, uid=str(uid), creation_timestamp=rfc3339(now), resource_version="")
    fresh = _replace(endpoint, metadata=metadata)
    return NewEndpoint(fresh, endpoint_path(fresh), codec.encode(defaults.for_storage(fresh)))


def endpoint_path(endpoint: WorkloadEndpoint) -> str:
    """The datastore key."""
    return key_path(ResourceKey(KIND, endpoint.metadata.name, endpoint.metadata.namespace))


async def revision_of(client: AsyncClient, new: NewEndpoint) -> int:
    """The revision at which this very endpoint (by its uid) is stored now, 0 when it is not."""
    found = await client.datastore.range(new.path.encode())
    uid = new.endpoint.metadata.uid.encode()
    return next((kv.mod_revision for kv in found.kvs if kv.key == new.path.encode() and uid in kv.value), 0)


async def create_endpoint(client: AsyncClient, endpoint: WorkloadEndpoint) -> WorkloadEndpoint:
    """Store a new endpoint; returns it as stored. `ResourceAlreadyExists` when there is one."""
    new = new_endpoint(endpoint, client.clock.now())
    path = new.path.encode()
    answer = await client.datastore.txn([Compare(path, Target.VERSION, 0)], [Put(path, new.value)])
    if not answer.succeeded:
        raise ResourceAlreadyExists(new.path)
    return new.at(answer.revision)


async def update_endpoint(client: AsyncClient, endpoint: WorkloadEndpoint) -> WorkloadEndpoint:
    """Write over the version that the endpoint was read as; returns it with its new version."""
    check_endpoint(endpoint)
    key = ResourceKey(KIND, endpoint.metadata.name, endpoint.metadata.namespace)
    path = key_path(key).encode()
    metadata = _replace(endpoint.metadata, resource_version="")
    stored = codec.encode(defaults.for_storage(_replace(endpoint, metadata=metadata)))
    revision = int(endpoint.metadata.resource_version)
    answer = await client.datastore.txn(
        [Compare(path, Target.MOD_REVISION, revision)], [Put(path, stored)], [Get(path)]
    )
    if not answer.succeeded:
        raise ResourceUpdateConflict(key) if answer.responses[0] else ResourceDoesNotExist(key)
    return _replace(endpoint, metadata=_replace(metadata, resource_version=str(answer.revision)))


def networks_that_left(endpoint: WorkloadEndpoint) -> list[str]:
    """The networks that shared the endpoint's interface until their DEL."""
    return [name for name in endpoint.metadata.annotations.get(LEFT, "").split(",") if name]


def with_network(endpoint: WorkloadEndpoint, network: str) -> WorkloadEndpoint:
    """The network shares the endpoint's interface."""
    profiles = endpoint.spec.profiles
    profiles = profiles if network in profiles else [*profiles, network]
    return _with_networks(endpoint, profiles, [name for name in networks_that_left(endpoint) if name != network])


def without_network(endpoint: WorkloadEndpoint, network: str) -> WorkloadEndpoint:
    """The network shares it no more. That is noted: a repeated DEL of it must not be taken for that of a network which
    was renamed, and takes the endpoint (spec/cni.md 12)."""
    profiles = [profile for profile in endpoint.spec.profiles if profile != network]
    return _with_networks(endpoint, profiles, [*networks_that_left(endpoint), network])


def _with_networks(endpoint: WorkloadEndpoint, profiles: list[str], left: list[str]) -> WorkloadEndpoint:
    annotations = {name: value for name, value in endpoint.metadata.annotations.items() if name != LEFT}
    if left:
        annotations[LEFT] = ",".join(left)
    metadata = _replace(endpoint.metadata, annotations=annotations)
    return _replace(endpoint, metadata=metadata, spec=_replace(endpoint.spec, profiles=profiles))


async def delete_endpoint(client: AsyncClient, endpoint: WorkloadEndpoint) -> None:
    """Delete the endpoint; one that is gone is fine."""
    await client.datastore.txn([], [Delete(endpoint_path(endpoint).encode())])


async def ensure_profile(client: AsyncClient, network: str) -> None:
    """The network's profile is there; one that is there already stays as it is."""
    try:
        await client.get(Profile, network)
    except ResourceDoesNotExist:
        with contextlib.suppress(ResourceAlreadyExists):
            await client.create(build_profile(network))


def bare_addresses(endpoint: WorkloadEndpoint) -> list[str]:
    """The endpoint's addresses without their lengths."""
    return [cidr.partition("/")[0] for cidr in endpoint.spec.ip_networks]

"""The WorkloadEndpoint and Profile of an attachment: look-up, writing (spec/cni.md 4.4, 5.6, 5.7).

Endpoints are written here and not through `AsyncClient.create`: upstream's rule for `spec.containerID` refuses the
dot of Mesos' nested ids (`parent.child`), which must work. All other rules hold.
"""

from __future__ import annotations

import contextlib
import functools
import random
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.clock import rfc3339
from libcalico.conventions import CLOSED
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
    workload_endpoint_prefix,
)
from libcalico.model.resources import EntityRule, Profile, ProfileSpec, Rule, WorkloadEndpoint, WorkloadEndpointSpec
from libcalico.model.validation.objects import validate
from libcalico.net import bare_address
from libcalico.workload.names import KIND
from libcalico.workload.request import CNI, Attachment, Identity

LEFT = "projectcalico.org/left-networks"
"""Annotation of an endpoint: the networks that shared its interface until their DEL."""
_NESTED_ID = re.compile(r"[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?")
_SHARED = 11

_replace = msgspec.structs.replace


def build_endpoint(attachment: Attachment, host_interface: str, addresses: Sequence[str], mac: str) -> WorkloadEndpoint:
    """The endpoint of an attachment; `addresses` are bare."""
    identity = attachment.identity
    is_container = identity.orchestrator == CNI
    return WorkloadEndpoint(
        kind=KIND,
        api_version=API_VERSION,
        metadata=Metadata(
            name=identity.key.name,
            namespace=identity.namespace,
            labels=dict(attachment.labels),
            annotations={CLOSED: "true"} if attachment.is_closed else {},
        ),
        spec=WorkloadEndpointSpec(
            orchestrator=identity.orchestrator,
            node=identity.node,
            workload="" if is_container else identity.workload,
            container_id=identity.workload if is_container else "",
            endpoint=identity.segment,
            ip_networks=[host_cidr(address) for address in addresses],
            profiles=[attachment.network],
            interface_name=host_interface,
            mac=mac,
            ports=list(attachment.ports),
        ),
    )


def completed(endpoint: WorkloadEndpoint, host_interface: str, addresses: Sequence[str], mac: str) -> WorkloadEndpoint:
    """The endpoint with another host interface, bare addresses and MAC."""
    cidrs = [host_cidr(address) for address in addresses]
    spec = _replace(endpoint.spec, interface_name=host_interface, ip_networks=cidrs, mac=mac)
    return _replace(endpoint, spec=spec)


def host_cidr(address: str) -> str:
    """A bare address as /32 or /128."""
    return f"{address}/{128 if ':' in address else 32}"


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
    client: AsyncClient, identity: Identity
) -> tuple[list[WorkloadEndpoint], list[WorkloadEndpoint]]:
    """The workload's own endpoints on the node, and those of workloads that share the first eleven characters."""
    own: list[WorkloadEndpoint] = []
    others: list[WorkloadEndpoint] = []
    for endpoint in (await client.list(WorkloadEndpoint, identity.namespace, _names_alike(identity))).items:
        parts = split_workload_endpoint_name(endpoint.metadata.name)
        if parts is None or parts[:2] != (identity.node, identity.orchestrator):
            continue
        (own if parts[2] == identity.workload else others).append(endpoint)
    return own, others


async def find_elsewhere(client: AsyncClient, identity: Identity) -> list[WorkloadEndpoint]:
    """The endpoints of this workload and interface under other node names.

    Lists the names of all endpoints of the namespace."""
    rest = (identity.orchestrator, identity.workload, identity.segment)
    part = f"-{identity.orchestrator}-{identity.workload.replace('-', '--')}-".encode()
    listed = await client.datastore.range(list_prefix(KIND, identity.namespace).encode(), keys_only=True)
    found = []
    for path in (kv.key for kv in listed.kvs if part in kv.key):
        key = parse_path(path.decode("utf-8", "replace"))
        if not isinstance(key, ResourceKey):
            continue
        parts = split_workload_endpoint_name(key.name)
        if parts is None or parts[1:] != rest:
            continue
        with contextlib.suppress(ResourceDoesNotExist, ParsingDatastoreEntry):
            found.append(await client.get(WorkloadEndpoint, key.name, key.namespace))
    return [item for item in found if item.spec.node != identity.node]


async def is_name_held(client: AsyncClient, identity: Identity, host_interface: str) -> bool:
    """Another endpoint of the node, of a workload whose name begins alike, in whatever namespace, has this host
    interface.

    Lists the names of all endpoints: for callers that know no better."""
    alike = _names_alike(identity).encode()
    listed = await client.datastore.range(list_prefix(KIND).encode(), keys_only=True)
    for path in (kv.key for kv in listed.kvs if kv.key.rpartition(b"/")[2].startswith(alike)):
        key = parse_path(path.decode("utf-8", "replace"))
        if not isinstance(key, ResourceKey) or key == identity.key:
            continue
        with contextlib.suppress(ResourceDoesNotExist, ParsingDatastoreEntry):
            found = await client.get(WorkloadEndpoint, key.name, key.namespace)
            if found.spec.node == identity.node and found.spec.interface_name == host_interface:
                return True
    return False


def _names_alike(identity: Identity) -> str:
    """What the names of endpoints begin with whose host interfaces may be called alike: of containers, those that share
    the first eleven characters of the id; of an engine's workloads, all on the node."""
    prefix = workload_endpoint_prefix(identity.node, identity.orchestrator)
    if identity.orchestrator != CNI:
        return prefix
    return (prefix + identity.workload[:_SHARED].replace("-", "--")).removesuffix("-")


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
    """With uid and time. It, or one that differs in addresses, MAC and host interface only, has been checked."""
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
    """Store a new endpoint, which has been checked; returns it as stored. `ResourceAlreadyExists` when there is one."""
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
    await delete_key(client, ResourceKey(KIND, endpoint.metadata.name, endpoint.metadata.namespace))


async def delete_key(client: AsyncClient, key: ResourceKey) -> None:
    """Delete the endpoint of this key; one that is gone is fine."""
    await client.datastore.txn([], [Delete(key_path(key).encode())])


async def keys_of_node(client: AsyncClient, node: str) -> list[ResourceKey]:
    """The keys of a node's endpoints. Lists the names of all endpoints: for callers that know no better."""
    listed = await client.datastore.range(list_prefix(KIND).encode(), keys_only=True)
    keys = (parse_path(kv.key.decode("utf-8", "replace")) for kv in listed.kvs)
    found = [key for key in keys if isinstance(key, ResourceKey)]
    return [key for key in found if (split_workload_endpoint_name(key.name) or ("",))[0] == node]


async def ensure_profile(client: AsyncClient, network: str) -> None:
    """The network's profile is there; one that is there already stays as it is."""
    try:
        await client.get(Profile, network)
    except ResourceDoesNotExist:
        with contextlib.suppress(ResourceAlreadyExists):
            await client.create(build_profile(network))


def bare_addresses(endpoint: WorkloadEndpoint) -> list[str]:
    """The endpoint's addresses without their lengths."""
    return [bare_address(cidr) for cidr in endpoint.spec.ip_networks]

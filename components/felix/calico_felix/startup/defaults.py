"""The settings that every host finds: FelixConfiguration `default` and this host's own (spec/node-startup.md 3.3).

Each is made when it is missing, and gets a field that it does not have; a value that is there stays. An update that
another host was faster with is left to that host. The BGPConfiguration `default` is empty: it is there to be changed.
ClusterInformation is `libcalico.client.initialise`'s; an IPAMConfiguration is not made, since allocation does not read
it (spec/ipam.md 3)."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.errors import ResourceAlreadyExists, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.model import FelixConfiguration, IPPool, Metadata, Profile, ProfileSpec, Rule
from libcalico.model.bgp import BGPConfiguration

PROFILE = "calico"
CLUSTER = {"reportingInterval": "0s", "logSeverityScreen": "Info"}
OWN = {"defaultEndpointToHostAction": "Return"}
"""Else the agent's default, Drop, would cut tasks off from their own host."""
ENCAPSULATIONS = {"vxlanEnabled": "vxlan_mode", "ipipEnabled": "ipip_mode"}

_replace = msgspec.structs.replace


async def ensure_settings(client: AsyncClient, host: str, made_pool: bool) -> None:
    """`made_pool`: this run has made a pool, so the field of its encapsulation is written too, as upstream's client of
    the time does."""
    cluster = await _stored(client, "default")
    wanted: dict[str, Any] = dict(CLUSTER)
    if made_pool or cluster is None:
        pools = (await client.list(IPPool)).items
        for member, field in ENCAPSULATIONS.items():
            if any(getattr(pool.spec, field) not in ("", "Never") for pool in pools):
                wanted[member] = True
    await _ensure(client, "default", cluster, wanted)
    await _ensure_bgp(client)
    own = f"node.{host}"
    await _ensure(client, own, await _stored(client, own), OWN)


async def _ensure_bgp(client: AsyncClient) -> None:
    try:
        await client.get(BGPConfiguration, "default")
    except ResourceDoesNotExist:
        with contextlib.suppress(ResourceAlreadyExists):
            await client.create(BGPConfiguration(metadata=Metadata(name="default")))


async def _stored(client: AsyncClient, name: str) -> FelixConfiguration | None:
    try:
        return await client.get(FelixConfiguration, name)
    except ResourceDoesNotExist:
        return None


async def _ensure(client: AsyncClient, name: str, stored: FelixConfiguration | None, wanted: dict[str, Any]) -> None:
    if stored is None:
        try:
            await client.create(FelixConfiguration(metadata=Metadata(name=name), spec=wanted))
            return
        except ResourceAlreadyExists:
            stored = await _stored(client, name)
    if stored is None or not wanted.keys() - stored.spec.keys():
        return
    try:
        await client.update(_replace(stored, spec={**wanted, **stored.spec}))
    except (ResourceUpdateConflict, ResourceDoesNotExist):
        pass


async def ensure_profile(client: AsyncClient) -> None:
    """The profile that lets everything through until a policy selects the container (spec/dcos.md 3.1)."""
    allow = [Rule(action="Allow")]
    spec = ProfileSpec(ingress=allow, egress=allow, labels_to_apply={PROFILE: ""})
    try:
        await client.create(Profile(metadata=Metadata(name=PROFILE), spec=spec))
    except ResourceAlreadyExists:
        pass

"""The cluster's datastore must say that it is ready before anything is stored in it."""

from __future__ import annotations

import asyncio

from libcalico.client.objects import AsyncClient
from libcalico.errors import CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.model.keys import ROOT
from libcalico.model.resources import ClusterInformation
from libcalico.workload.errors import NotReady, Refused, TryAgain

TIMEOUT_S = 15.0
"""More than the datastore goes on connecting: its own error, which names the address, comes first."""


async def check_ready(client: AsyncClient, timeout_s: float = TIMEOUT_S, *, empty_will_do: bool = False) -> None:
    """`NotReady`, `TryAgain` or `Refused` unless the datastore says that it is ready (one that says nothing is).

    `empty_will_do`: so is one that holds nothing at all; nothing of a container has to be removed from there."""
    try:
        async with asyncio.timeout(timeout_s):
            try:
                cluster = await client.get(ClusterInformation, "default")
            except ResourceDoesNotExist:
                if empty_will_do and not (await client.datastore.range(ROOT.encode(), limit=1, keys_only=True)).kvs:
                    return
                raise
    except TimeoutError:
        text = f"error getting ClusterInformation: no answer in {timeout_s:.0f} s: try again later"
        raise TryAgain(text) from None
    except DatastoreError as error:
        raise TryAgain(f"error getting ClusterInformation: {error}") from error
    except CalicoError as error:
        raise Refused(f"error getting ClusterInformation: {error}") from error
    if cluster.spec.datastore_ready is False:
        raise NotReady

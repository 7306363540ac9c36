"""What the client checks of a BGPPeer against the rest of the cluster (spec/resources.md 7.3)."""

from __future__ import annotations

from libcalico.datastore.contract import Datastore
from libcalico.errors import FieldError
from libcalico.model.bgp import BGPPeer
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.validation.rules import go_list


async def missing_filters(datastore: Datastore, peer: BGPPeer) -> list[FieldError]:
    """The error that names the filters that are not there; it comes before, and instead of, those of validation."""
    missing = [name for name in peer.spec.filters if not await _is_there(datastore, name)]
    if not missing:
        return []
    return [FieldError("BGPPeer.Spec.Filters", go_list(missing), "BGPFilter(s) not found")]


async def _is_there(datastore: Datastore, name: str) -> bool:
    return await datastore.get(key_path(ResourceKey("BGPFilter", name)).encode()) is not None
